package load

import (
	"encoding/json"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bench/mini"
)

// rig is a worker in this process, connected to a relay over real sockets.
type rig struct {
	t       *testing.T
	in      *os.File
	out     *json.Decoder
	address string
	done    chan error
}

func newRig(t *testing.T, fault string) *rig {
	t.Helper()
	srv := httptest.NewServer(mini.New(fault))
	in, commands, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, out := io.Pipe()
	w, err := newWorker(own(t, in), out)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, in: commands, out: json.NewDecoder(answers), address: strings.TrimPrefix(srv.URL, "http://"), done: make(chan error, 1)}
	go func() { r.done <- w.loop() }()
	t.Cleanup(func() {
		commands.Close()
		if err := <-r.done; err != nil {
			t.Errorf("worker: %v", err)
		}
		w.close()
		srv.CloseClientConnections()
		srv.Close()
	})
	return r
}

// own gives a descriptor away: the worker closes it.
func own(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return fd
}

func (r *rig) do(c Command) Reply {
	r.t.Helper()
	if c.Timeout == 0 {
		c.Timeout = int64(10 * time.Second)
	}
	if err := json.NewEncoder(r.in).Encode(c); err != nil {
		r.t.Fatal(err)
	}
	var reply Reply
	if err := r.out.Decode(&reply); err != nil {
		r.t.Fatal(err)
	}
	if reply.Error != "" {
		r.t.Fatalf("%s: %s", c.Do, reply.Error)
	}
	return reply
}

func (r *rig) connect(s Shape) Reply {
	r.t.Helper()
	c := r.do(Command{
		Do: DoConnect, Shape: &s, Host: r.address, Path: "/v1", Relay: "test", Parallel: 8,
		Routes: []Route{{Source: "127.0.0.1", Target: r.address, Count: s.Conns()}},
	})
	r.greet(s.Conns())
	return c
}

func (r *rig) greet(peers int) {
	r.t.Helper()
	if g := r.do(Command{Do: DoGreet}); g.Opened != peers || g.Failed != 0 {
		r.t.Fatalf("%d of %d pings answered", g.Opened, peers)
	}
}

// until asks for the counters until a condition holds.
func (r *rig) until(what string, ok func(Marks) bool) {
	r.t.Helper()
	for range 20000 {
		if ok(r.do(Command{Do: DoMark}).Marks) {
			return
		}
		time.Sleep(500 * time.Microsecond)
	}
	r.t.Fatalf("waited in vain for %s", what)
}

func TestWorkerTraffic(t *testing.T) {
	f := func(name string, s Shape, perRound uint64) {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, mini.None)
			if c := r.connect(s); c.Opened != s.Conns() || c.Failed != 0 {
				t.Fatalf("opened %d, failed %d (%s)", c.Opened, c.Failed, c.Why)
			}
			r.do(Command{Do: DoStart})
			r.until("deliveries", func(m Marks) bool { return m.Delivered >= 5*perRound })
			h := r.do(Command{Do: DoHalt})
			if h.Violations.Total() != 0 {
				t.Errorf("violations %+v", h.Violations)
			}
			if h.Marks.Open != s.Conns() || h.Marks.Bytes != h.Marks.Delivered*uint64(s.Size) {
				t.Errorf("marks %+v", h.Marks)
			}
		})
	}
	f("broadcast", Shape{Rooms: 2, Peers: 4, Senders: 2, Window: 3, Size: 128}, 12)
	f("direct", Shape{Rooms: 2, Peers: 3, Senders: 3, Window: 1, Size: 128, Pattern: Direct}, 6)
	f("star", Shape{Rooms: 1, Peers: 5, Senders: 1, Window: 1, Size: 128, Pattern: Star}, 8)
	f("big", Shape{Rooms: 1, Peers: 3, Senders: 1, Window: 1, Size: 300 << 10, Binary: true}, 2)
	f("smallest", Shape{Rooms: 1, Peers: 2, Senders: 2, Window: 1, Size: MinSize, Pattern: Direct}, 2)
}

func TestWorkerOpenLoop(t *testing.T) {
	r := newRig(t, mini.None)
	r.connect(Shape{Rooms: 2, Peers: 3, Senders: 1, Window: 1, Size: 128})
	r.do(Command{Do: DoStart, Rate: 2000})
	r.until("deliveries", func(m Marks) bool { return m.Delivered >= 100 })
	m := r.do(Command{Do: DoMark}).Marks
	if len(m.Latency) == 0 || len(m.Lag) == 0 {
		t.Error("no histograms")
	}
	if v := r.do(Command{Do: DoHalt}).Violations; v.Total() != 0 {
		t.Errorf("violations %+v", v)
	}
}

func TestWorkerChurnAndStorm(t *testing.T) {
	r := newRig(t, mini.None)
	r.connect(Shape{Rooms: 2, Peers: 4, Loose: 1, Senders: 1, Window: 1, Size: 128})
	r.do(Command{Do: DoStart, Churn: 500})
	r.until("peers that came back", func(m Marks) bool { return m.Joins >= 8+10 })
	if h := r.do(Command{Do: DoHalt}); h.Violations.Total() != 0 || h.Marks.Cut != 0 {
		t.Errorf("after churn: violations %+v, cut %d", h.Violations, h.Marks.Cut)
	}
}

func TestWorkerStormServesEverybody(t *testing.T) {
	r := newRig(t, mini.None)
	r.connect(Shape{Rooms: 3, Peers: 4, Senders: 1, Window: 1, Size: 128})
	r.do(Command{Do: DoDrop})
	if c := r.do(Command{Do: DoRedial}); c.Opened != 12 {
		t.Fatalf("%d of 12 came back: %s", c.Opened, c.Why)
	}
	r.greet(12)
	if c := r.do(Command{Do: DoOnce}); c.Opened != 12 {
		t.Errorf("%d of 12 peers served", c.Opened)
	}
}

func TestWorkerCatchesFaults(t *testing.T) {
	f := func(fault string, s Shape, seen func(Violations) uint64) {
		t.Run(fault, func(t *testing.T) {
			r := newRig(t, fault)
			r.connect(s)
			r.do(Command{Do: DoStart})
			r.until("traffic", func(m Marks) bool { return m.Sent >= 4 && m.Delivered >= 3 })
			v := r.do(Command{Do: DoHalt, Timeout: int64(500 * time.Millisecond)}).Violations
			if seen(v) == 0 {
				t.Errorf("not noticed: %+v", v)
			}
			if len(v.Examples) == 0 {
				t.Error("no example")
			}
		})
	}
	// Two senders, so that traffic goes on when one of them waits for ever; a window, so that later messages overtake.
	chat := Shape{Rooms: 2, Peers: 3, Senders: 2, Window: 4, Size: 128}
	f(mini.Lose, chat, func(v Violations) uint64 { return v.Lost })
	f(mini.Double, chat, func(v Violations) uint64 { return v.Duplicated })
	f(mini.Corrupt, chat, func(v Violations) uint64 { return v.Corrupted })
	f(mini.Close, chat, func(v Violations) uint64 { return v.Disconnected })
	f(mini.WrongRoom, chat, func(v Violations) uint64 { return v.Stranger })
	f(mini.Reorder, Shape{Rooms: 1, Peers: 2, Senders: 1, Window: 4, Size: 128}, func(v Violations) uint64 { return v.Reordered })
	f(mini.Stranger, Shape{Rooms: 1, Peers: 3, Senders: 3, Window: 1, Size: 128, Pattern: Direct}, func(v Violations) uint64 { return v.Stranger })
}

func TestWorkerRefusals(t *testing.T) {
	r := newRig(t, mini.None)
	s := Shape{Rooms: 1, Peers: 2, Senders: 1, Window: 1, Size: 128}
	c := r.do(Command{
		Do: DoConnect, Shape: &s, Host: "x", Path: "/v1", Query: "peerId=", Relay: "", Parallel: 1,
		Routes: []Route{{Target: "127.0.0.1:1", Count: 2}},
	})
	if c.Opened != 0 || c.Failed != 2 || c.Why == "" {
		t.Errorf("nobody listens there: %+v", c)
	}
}

// TestReceivingAllocatesNothing runs the receiving half on a frame as it comes from a socket.
func TestReceivingAllocatesNothing(t *testing.T) {
	in, commands, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer commands.Close()
	w, err := newWorker(own(t, in), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if err := w.build(Shape{Rooms: 1, Peers: 2, Senders: 1, Window: 1, Size: 128}, 0); err != nil {
		t.Fatal(err)
	}
	for i := range w.conns {
		w.conns[i].fd, w.conns[i].state = 1<<30, open
	}
	s := &w.led.streams[0]
	payload := appendMessage(nil, 128, 0, 0, everyone)
	frame := serverFrame(0x81, payload)
	w.dirty = make([]int32, 0, 4)
	w.traffic.running = true
	w.conns[0].out = make([]byte, 0, 4096)
	w.send(0, 0)
	seq := s.next - 1
	got := testing.AllocsPerRun(200, func() {
		putHex8(frame[len(frame)-128+seqAt:], seq)
		if err := w.consume(1, frame); err != nil {
			t.Fatal(err)
		}
		seq++
		w.conns[0].out = w.conns[0].out[:0]
	})
	if got != 0 {
		t.Errorf("%v allocations per message, want 0", got)
	}
	if v := w.led.v; v.Total() != 0 || w.marks.Delivered < 200 {
		t.Errorf("delivered %d, violations %+v", w.marks.Delivered, v)
	}
	for i := range w.conns {
		w.conns[i].fd = -1
	}
}
