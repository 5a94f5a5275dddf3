package load

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/prometheus/procfs"
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

// Target is where connections go to.
type Target struct {
	Host    string // of the Host header
	Path    string // of the request, up to relayId: /v1? or with a query of its own /v1?key=value&
	Secret  string
	Addr    netip.AddrPort // IPv4
	Sources []netip.Addr   // take turns; none: the kernel picks
}

// Marks are counters since the fleet started, and CPU seconds.
type Marks struct {
	Seconds   float64
	CPU       float64 // this process's
	ServerCPU float64 // 0 without a process id
	AllCPU    float64 // the machine's: of all processes together, and taken by the hypervisor for others
	Delivered float64 // valid copies received
	Reads     float64 // reads that brought something: how far the relay batched
	Joins     float64 // handshakes completed
	Pings     float64 // the relay's heartbeats, all answered
}

// Add adds another's counters, or with -1 takes them away.
func (m *Marks) Add(o Marks, sign float64) {
	m.Seconds += sign * o.Seconds
	m.CPU += sign * o.CPU
	m.ServerCPU += sign * o.ServerCPU
	m.AllCPU += sign * o.AllCPU
	m.Delivered += sign * o.Delivered
	m.Reads += sign * o.Reads
	m.Joins += sign * o.Joins
	m.Pings += sign * o.Pings
}

// Fleet is the clients of one measurement, on one thread for each of its CPUs.
type Fleet struct {
	workers []*worker
	running sync.WaitGroup
	prefix  string // of the relay ids
}

var fleets atomic.Int64 // keeps the relay ids of a process's fleets apart

// Start starts a worker on each of the CPUs.
func Start(cpus []int) (*Fleet, error) {
	debug.SetGCPercent(400)
	f := &Fleet{prefix: fmt.Sprintf("bench-%d-%d", os.Getpid(), fleets.Add(1))}
	base := time.Now()
	for i, cpu := range cpus {
		w, err := newWorker(i, cpu, base)
		if err != nil {
			f.Close()
			return nil, err
		}
		f.workers = append(f.workers, w)
		f.running.Go(w.run)
	}
	return f, nil
}

// Close resets all sockets, so that no port waits in TIME_WAIT, and ends the threads.
func (f *Fleet) Close() {
	f.do(func(w *worker) { w.over = true })
	f.running.Wait()
}

// do runs something on every worker's thread, on one at a time.
func (f *Fleet) do(act func(w *worker)) {
	var one sync.Mutex
	var over sync.WaitGroup
	for _, w := range f.workers {
		over.Add(1)
		w.call(func() {
			one.Lock()
			act(w)
			one.Unlock()
			over.Done()
		})
	}
	over.Wait()
}

// await waits until something holds for all workers, the limit is reached or ctx ends, which alone is an error.
func (f *Fleet) await(ctx context.Context, limit time.Duration, holds func(w *worker) bool) error {
	for until := time.Now().Add(limit); ; {
		all := true
		f.do(func(w *worker) { all = all && holds(w) })
		if all || time.Now().After(until) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// Connect opens the rooms of a shape, spread over the workers, at most parallel handshakes at a time, and tells how long
// that took. It fails if any of them does.
func (f *Fleet) Connect(ctx context.Context, limit time.Duration, t *Target, shape Shape, parallel int) (time.Duration, error) {
	n := len(f.workers)
	began := time.Now()
	f.do(func(w *worker) {
		part := shape
		part.Rooms = shape.Rooms*(w.id+1)/n - shape.Rooms*w.id/n
		w.dialer.prepare(t, fmt.Sprintf("%s-%d", f.prefix, w.id), max(parallel/n, 1))
		w.build(part)
	})
	err := f.await(ctx, limit, func(w *worker) bool { return w.dialer.waiting() == 0 })
	took := time.Since(began)
	f.do(func(w *worker) {
		if n := w.dialer.waiting(); n > 0 && err == nil {
			err = fmt.Errorf("%d handshakes not complete after %s", n, limit)
		}
		if w.dialer.failed > 0 && err == nil {
			err = fmt.Errorf("%d of %d connections failed: %w", w.dialer.failed, shape.Conns(), w.dialer.err)
		}
	})
	return took, err
}

// Greet lets every peer send a ping and waits for the pongs. A handshake's answer may reach us before the relay has put
// the peer into its room; a pong comes after that, so nothing sent from then on can miss it.
func (f *Fleet) Greet(ctx context.Context, limit time.Duration) error {
	f.do(func(w *worker) {
		w.unanswered = 0
		for i := range w.conns {
			if w.conns[i].state == open {
				w.queue(int32(i), opText, []byte("ping"))
				w.unanswered++
			}
		}
	})
	err := f.await(ctx, limit, func(w *worker) bool { return w.unanswered <= 0 })
	f.do(func(w *worker) {
		if w.unanswered > 0 && err == nil {
			err = fmt.Errorf("%d pings were not answered", w.unanswered)
		}
	})
	return err
}

// Begin starts traffic: a closed loop, or rate messages per second in all. Where a shape has loose peers the loop is
// closed, and rate is how many of them leave per second.
func (f *Fleet) Begin(rate float64) {
	f.do(func(w *worker) { w.start(rate / float64(len(f.workers))) })
}

// Mark reads the counters and, in the same moment, the CPU clocks of this process, of the server's and of the machine.
func (f *Fleet) Mark(pid int) (m Marks) {
	f.do(func(w *worker) {
		if w.id == 0 {
			m.Seconds = time.Duration(w.clock()).Seconds()
			m.CPU, m.ServerCPU, m.AllCPU = CPUSeconds(os.Getpid()), CPUSeconds(pid), allCPUSeconds()
		}
		m.Add(w.marks, 1)
	})
	return m
}

// Forget empties the histograms.
func (f *Fleet) Forget() {
	f.do(func(w *worker) { w.latency.Reset(); w.lag.Reset() })
}

// Histograms are the latencies recorded since Forget, in nanoseconds from the intended send times, and how late the load
// itself was with sending.
func (f *Fleet) Histograms() (latency, lag *hdrhistogram.Histogram) {
	latency, lag = histogram(), histogram()
	f.do(func(w *worker) { latency.Merge(w.latency); lag.Merge(w.lag) })
	return latency, lag
}

// quiet is how long nothing may arrive before the rest counts as lost.
const quiet = 2 * time.Second

// Halt stops sending and waits until all copies have arrived and all who left are back, or nothing has happened for a
// while. What broke the contract so far is the result.
func (f *Fleet) Halt(ctx context.Context, limit time.Duration) (Violations, error) {
	f.do(func(w *worker) { w.traffic.running, w.progress = false, w.clock() })
	err := f.await(ctx, limit, func(w *worker) bool {
		return w.led.got >= w.led.due && w.away == 0 || w.clock()-w.progress > int64(quiet)
	})
	v := Violations{Counts: map[string]uint64{}}
	f.do(func(w *worker) {
		if w.away > 0 {
			w.led.v.add(Disconnected, w.away, "%d peers that left are not back: no answer to their close frame or their handshake", w.away)
		}
		w.led.settle()
		v.merge(w.led.v)
	})
	return v, err
}

// CPUSeconds is the CPU time a process has used, by a clock in nanoseconds where /proc counts in ticks of 10 ms: Linux makes
// the clock's number of the process id's complement. It is 0 for no process and for one that has ended.
func CPUSeconds(pid int) float64 {
	var ts unix.Timespec
	if pid == 0 || unix.ClockGettime(int32(^pid<<3|2), &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano()).Seconds()
}

// allCPUSeconds is the machine's.
func allCPUSeconds() float64 {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return 0
	}
	s, _ := fs.Stat()
	t := s.CPUTotal
	return t.User + t.Nice + t.System + t.IRQ + t.SoftIRQ + t.Steal
}
