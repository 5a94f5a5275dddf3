package load

import (
	"context"
	"errors"
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
	Peers   int  `json:"peers"` // per room
	Senders int  `json:"senders"`
	Window  int  `json:"window"` // messages a sender keeps in flight (closed loop)
	Size    int  `json:"size"`   // bytes of payload
	Binary  bool `json:"binary,omitempty"`
	Direct  bool `json:"direct,omitempty"` // each sender has one recipient, named by targetPeerId; else its whole room
	Star    bool `json:"star,omitempty"`   // senders send to the room's first peer, which answers each, both by targetPeerId
	Loose   int  `json:"loose,omitempty"`  // peers per room, the last ones, which leave and come back
}

// Conns is the number of connections of the whole shape.
func (s Shape) Conns() int { return s.Rooms * s.Peers }

// Target is where connections go to. One source address serves PerSource connections, then the next one's turn comes.
type Target struct {
	Host      string // of the Host header
	Path      string // of the request, such as /v1
	Query     string // kept in front of relayId and peerId
	Secret    string
	Addr      netip.AddrPort // IPv4
	Sources   []netip.Addr   // none: the kernel picks
	PerSource int
}

// Marks are counters since the fleet started.
type Marks struct {
	Wall      time.Duration
	CPU       time.Duration // this process's
	ServerCPU time.Duration // 0 without a process id
	Delivered uint64        // valid copies received
	Reads     uint64        // reads that brought something: how far the relay batched
	Joins     uint64        // handshakes completed
	Pings     uint64        // the relay's heartbeats, all answered
}

// Edge says what a Mark means for the histograms, which hold the messages that were due between begin and end.
type Edge int

const (
	Within Edge = iota
	Begin
	End
)

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

// gather asks every worker for something, on its own thread.
func gather[T any](f *Fleet, ask func(w *worker) T) (out []T) {
	parts := make(chan T, len(f.workers))
	f.do(func(w *worker) { parts <- ask(w) })
	for range f.workers {
		out = append(out, <-parts)
	}
	return out
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

// Connect opens the rooms of a shape, spread over the workers, at most parallel handshakes at a time, and tells how long
// that took. It fails if any of them does.
func (f *Fleet) Connect(ctx context.Context, limit time.Duration, t *Target, shape Shape, parallel int) (time.Duration, error) {
	n := len(f.workers)
	type part struct {
		Shape
		room, conn int // the first ones
	}
	parts := map[*worker]part{}
	for i, w := range f.workers {
		p := part{shape, f.rooms, f.conns}
		p.Rooms = shape.Rooms*(i+1)/n - shape.Rooms*i/n
		parts[w] = p
		f.rooms += p.Rooms
		f.conns += p.Conns()
	}
	began := time.Now()
	err := f.await(ctx, limit, func(w *worker) func() bool {
		d := &w.dialer
		d.prepare(t, f.prefix, max(parallel/n, 1))
		if p := parts[w]; p.Rooms > 0 {
			d.err = w.build(p.Shape, uint32(p.room), int32(p.conn))
		}
		return func() bool { return len(d.queue) == 0 && d.flying == 0 }
	})
	took := time.Since(began)
	if err != nil {
		return took, err
	}
	return took, errors.Join(gather(f, func(w *worker) error {
		d := &w.dialer
		if n := len(d.queue) + d.flying; n > 0 {
			return fmt.Errorf("%d handshakes not complete after %s", n, limit)
		}
		if d.failed > 0 {
			return fmt.Errorf("%d of %d connections failed: %w", d.failed, parts[w].Conns(), d.err)
		}
		return d.err
	})...)
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
				x.out = AppendClientFrame(x.out, opText, x.key, []byte("ping"))
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

// Begin starts traffic: a closed loop, or rate messages per second in all. Where a shape has loose peers the loop is
// closed, and rate is how many of them leave per second.
func (f *Fleet) Begin(rate float64) {
	f.do(func(w *worker) { w.start(rate / float64(len(f.workers))) })
}

// Mark reads the counters and, in the same moment, the CPU clocks of this process and of the server's.
func (f *Fleet) Mark(pid int, at Edge) Marks {
	var t Marks
	for _, m := range gather(f, func(w *worker) Marks {
		m := w.marks
		m.Wall = time.Duration(w.clock())
		if w == f.workers[0] {
			m.CPU = CPUClock(os.Getpid())
			m.ServerCPU = CPUClock(pid)
		}
		w.edge(at, int64(m.Wall))
		return m
	}) {
		t.Wall = max(t.Wall, m.Wall)
		t.CPU += m.CPU
		t.ServerCPU += m.ServerCPU
		t.Delivered += m.Delivered
		t.Reads += m.Reads
		t.Joins += m.Joins
		t.Pings += m.Pings
	}
	return t
}

// Histograms are the latencies recorded so far, in nanoseconds from the intended send times, and how late the load
// itself was with sending.
func (f *Fleet) Histograms() (latency, lag *hdrhistogram.Histogram) {
	latency, lag = histogram(), histogram()
	for _, pair := range gather(f, func(w *worker) [2]*hdrhistogram.Snapshot {
		return [2]*hdrhistogram.Snapshot{w.latency.Export(), w.lag.Export()}
	}) {
		latency.Merge(hdrhistogram.Import(pair[0]))
		lag.Merge(hdrhistogram.Import(pair[1]))
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
		progress := func() uint64 { return w.led.got + w.marks.Joins }
		at, last := progress(), w.clock()
		return func() bool {
			if progress() != at {
				at, last = progress(), w.clock()
			}
			return w.led.got >= w.led.due && w.away == 0 || w.clock()-last > int64(quiet)
		}
	})
	var v Violations
	for _, part := range gather(f, func(w *worker) Violations {
		if w.away > 0 {
			w.led.v.add(Disconnected, w.away, "%d peers that left are not back: no answer to their close frame or their handshake", w.away)
		}
		w.led.settle()
		return w.led.v
	}) {
		v.merge(part)
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
