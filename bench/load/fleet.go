package load

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// Shape is a set of rooms and the traffic in them. A room is entirely within one worker, which so can check every copy.
type Shape struct {
	Rooms   int  `json:"rooms"`
	Peers   int  `json:"peers"`           // per room
	Loose   int  `json:"loose,omitempty"` // per room: the last ones, which leave and join or stop reading
	Senders int  `json:"senders"`
	Window  int  `json:"window"` // messages a sender keeps in flight (closed loop)
	Size    int  `json:"size"`   // bytes of payload
	Binary  bool `json:"binary,omitempty"`
	Direct  bool `json:"direct,omitempty"` // each sender has one recipient, named by targetPeerId; else its whole room
}

// Conns is the number of connections of the whole shape.
func (s Shape) Conns() int { return s.Rooms * s.Peers }

// Target is where connections go to. One source address serves PerSource connections, then the next one's turn comes.
type Target struct {
	Host      string // of the Host header
	Path      string // of the request, such as /v1
	Query     string // kept in front of relayId and peerId
	Secret    string
	Addr      netip.AddrPort
	Sources   []netip.Addr // none: the kernel picks
	PerSource int
}

// Marks are counters since the fleet started.
type Marks struct {
	Wall      time.Duration
	CPU       time.Duration // this process's
	ServerCPU time.Duration // 0 without a process id
	Delivered uint64        // valid copies received, loose peers' included
	Joins     uint64        // handshakes completed
	Pings     uint64        // the relay's heartbeats, all answered
	Dropped   uint64        // loose peers that the relay closed
}

// Edge says what a Mark means for the histograms, which hold the messages that were due between begin and end.
type Edge int

const (
	Within Edge = iota
	Begin
	End
)

// Handshakes is the outcome of connecting.
type Handshakes struct {
	Opened, Failed int
	Why            string // the first failure
	Took           time.Duration
}

// Fleet is the clients of one measurement, on one thread for each of its CPUs.
type Fleet struct {
	workers []*worker
	ended   chan struct{}
	prefix  string // of the relay ids
	rooms   int
	conns   int
}

var fleets atomic.Int64 // keeps the relay ids of a process's fleets apart

// Start starts a worker on each of the CPUs.
func Start(cpus []int) (*Fleet, error) {
	debug.SetGCPercent(400)
	f := &Fleet{ended: make(chan struct{}, len(cpus)), prefix: fmt.Sprintf("bench-%d-%d", os.Getpid(), fleets.Add(1))}
	base := time.Now()
	for _, cpu := range cpus {
		w, err := newWorker(cpu, base)
		if err != nil {
			f.Close()
			return nil, err
		}
		f.workers = append(f.workers, w)
		go func() { w.run(); f.ended <- struct{}{} }()
	}
	return f, nil
}

// Close resets all sockets, so that no port waits in TIME_WAIT, and ends the threads.
func (f *Fleet) Close() {
	for _, w := range f.workers {
		w.call(func() { w.over = true })
	}
	for range f.workers {
		<-f.ended
	}
}

// do runs something on every worker's thread.
func (f *Fleet) do(act func(w *worker)) {
	over := make(chan struct{}, len(f.workers))
	for _, w := range f.workers {
		w.call(func() { act(w); over <- struct{}{} })
	}
	for range f.workers {
		<-over
	}
}

// await lets every worker begin something, and waits until all are done, the limit is reached or ctx ends. The
// condition is looked at on the worker's thread.
func (f *Fleet) await(ctx context.Context, limit time.Duration, begin func(w *worker) (done func() bool)) error {
	over := make(chan struct{}, len(f.workers))
	for _, w := range f.workers {
		w.call(func() {
			w.waiting = &wait{done: begin(w), until: w.clock() + int64(limit), over: over}
		})
	}
	for range f.workers {
		select {
		case <-over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Connect opens the rooms of a shape, spread over the workers, at most parallel handshakes at a time.
func (f *Fleet) Connect(ctx context.Context, limit time.Duration, t *Target, shape Shape, parallel int) (Handshakes, error) {
	n := len(f.workers)
	failed := make(chan error, n)
	begin := map[*worker]func(){}
	for i, w := range f.workers {
		part := shape
		part.Rooms = shape.Rooms*(i+1)/n - shape.Rooms*i/n
		room, conn := f.rooms, f.conns
		f.rooms += part.Rooms
		f.conns += part.Conns()
		begin[w] = func() {
			w.dialer.prepare(t, f.prefix, max(parallel/n, 1))
			if part.Rooms == 0 {
				return
			}
			if err := w.build(part, uint32(room), int32(conn)); err != nil {
				failed <- err
			}
		}
	}
	h, err := f.handshakes(ctx, limit, func(w *worker) { begin[w]() })
	select {
	case err = <-failed:
	default:
	}
	return h, err
}

// Storm resets every connection, opens all of them again and tells how that went.
func (f *Fleet) Storm(ctx context.Context, limit time.Duration) (Handshakes, error) {
	f.do(func(w *worker) {
		for i := range w.conns {
			w.closeSocket(&w.conns[i], true)
		}
	})
	return f.handshakes(ctx, limit, func(w *worker) {
		for i := range w.conns {
			w.rejoin(int32(i))
		}
	})
}

// handshakes waits until every queued connection is open or has failed.
func (f *Fleet) handshakes(ctx context.Context, limit time.Duration, begin func(w *worker)) (h Handshakes, err error) {
	began := time.Now()
	err = f.await(ctx, limit, func(w *worker) func() bool {
		d := &w.dialer
		d.opened, d.failed, d.why, d.awaited = 0, 0, "", true
		begin(w)
		return func() bool { return len(d.queue) == 0 && d.flying == 0 }
	})
	h.Took = time.Since(began)
	if err != nil {
		return h, err
	}
	f.do(func(w *worker) {
		d := &w.dialer
		d.awaited = false
		if n := len(d.queue) + d.flying; n > 0 && d.why == "" {
			d.why = fmt.Sprintf("%d handshakes not complete after %s", n, limit)
		}
	})
	for _, w := range f.workers {
		d := &w.dialer
		h.Opened += d.opened
		h.Failed += d.failed + len(d.queue) + d.flying
		if h.Why == "" {
			h.Why = d.why
		}
	}
	if h.Failed > 0 {
		err = fmt.Errorf("%d of %d connections failed: %s", h.Failed, h.Opened+h.Failed, h.Why)
	}
	return h, err
}

// Greet lets every peer send a ping and waits for the pongs. A handshake's answer may reach us before the relay has put
// the peer into its room; a pong comes after that, so nothing sent from then on can miss it.
func (f *Fleet) Greet(ctx context.Context, limit time.Duration) error {
	var asked, answered atomic.Int64
	err := f.await(ctx, limit, func(w *worker) func() bool {
		n := 0
		w.pongs = 0
		for i := range w.conns {
			if x := &w.conns[i]; x.state == open {
				x.out = appendClientFrame(x.out, opText, x.key, []byte("ping"))
				w.touch(int32(i))
				n++
			}
		}
		asked.Add(int64(n))
		return func() bool { return w.pongs >= n }
	})
	f.do(func(w *worker) { answered.Add(int64(w.pongs)) })
	if err == nil && answered.Load() < asked.Load() {
		err = fmt.Errorf("%d of %d pings were not answered", asked.Load()-answered.Load(), asked.Load())
	}
	return err
}

// Begin starts traffic: a closed loop, or rate messages per second in all, while churn loose peers per second leave
// and come back.
func (f *Fleet) Begin(rate, churn float64) {
	n := float64(len(f.workers))
	f.do(func(w *worker) { w.start(rate/n, churn/n) })
}

// Stick makes the loose peers stop reading, or read again.
func (f *Fleet) Stick(on bool) { f.do(func(w *worker) { w.stick(on) }) }

// Mark reads the counters and, in the same moment, the CPU clocks of this process and of the server's.
func (f *Fleet) Mark(pid int, at Edge) Marks {
	parts := make(chan Marks, len(f.workers))
	f.do(func(w *worker) {
		m := w.marks
		m.Wall = time.Duration(w.clock())
		if w == f.workers[0] {
			m.CPU = CPUClock(os.Getpid())
			m.ServerCPU = CPUClock(pid)
		}
		w.edge(at, int64(m.Wall))
		parts <- m
	})
	var t Marks
	for range f.workers {
		m := <-parts
		t.Wall = max(t.Wall, m.Wall)
		t.CPU += m.CPU
		t.ServerCPU += m.ServerCPU
		t.Delivered += m.Delivered
		t.Joins += m.Joins
		t.Pings += m.Pings
		t.Dropped += m.Dropped
	}
	return t
}

// Histograms are the latencies recorded so far, in nanoseconds from the intended send times, and how late the load
// itself was with sending.
func (f *Fleet) Histograms() (latency, lag *hdrhistogram.Histogram) {
	latency, lag = histogram(), histogram()
	parts := make(chan func(), len(f.workers))
	f.do(func(w *worker) {
		x, y := w.latency.Export(), w.lag.Export()
		parts <- func() {
			latency.Merge(hdrhistogram.Import(x))
			lag.Merge(hdrhistogram.Import(y))
		}
	})
	for range f.workers {
		(<-parts)()
	}
	return latency, lag
}

// quiet is how long nothing may arrive before the rest counts as lost.
const quiet = 2 * time.Second

// Halt stops sending and waits until all copies have arrived and all who left are back, or nothing has happened for a
// while. What broke the contract so far is the result.
func (f *Fleet) Halt(ctx context.Context, limit time.Duration) (Violations, error) {
	err := f.await(ctx, limit, func(w *worker) func() bool {
		w.traffic.running = false
		got, joins, last := w.led.got, w.marks.Joins, w.clock()
		return func() bool {
			if w.led.got != got || w.marks.Joins != joins {
				got, joins, last = w.led.got, w.marks.Joins, w.clock()
			}
			return w.led.got >= w.led.due && w.away() == 0 || w.clock()-last > int64(quiet)
		}
	})
	parts := make(chan Violations, len(f.workers))
	f.do(func(w *worker) {
		if n := w.away(); n > 0 {
			w.led.v.add(Refused, n, "%d peers left and did not come back: no answer to their close frame or to their handshake", n)
		}
		w.led.settle()
		parts <- w.led.v
	})
	var v Violations
	for range f.workers {
		v.merge(<-parts)
	}
	return v, err
}

// onceWindow bounds the messages of Once that are under way: tens of thousands at once would test the length of the
// kernel's queue for loopback packets, and its retransmissions.
const onceWindow = 64

// Once sends one message on every stream and waits for the copies.
func (f *Fleet) Once(ctx context.Context, limit time.Duration) error {
	return f.await(ctx, limit, func(w *worker) func() bool {
		w.now = w.clock()
		w.once = len(w.led.streams)
		for i := 0; i < onceWindow && w.once > 0; i++ {
			w.once--
			w.send(int32(w.once), w.now)
		}
		return func() bool { return w.once == 0 && w.led.got >= w.led.due }
	})
}

// CPUClock is the CPU time a process has used, in nanoseconds where /proc counts in ticks of 10 ms: Linux makes the
// clock's number of the process id's complement. It is 0 for no process and for one that has ended.
func CPUClock(pid int) time.Duration {
	var ts unix.Timespec
	if pid == 0 || unix.ClockGettime(int32(^pid<<3|2), &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
