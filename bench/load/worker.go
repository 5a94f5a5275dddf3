// Package load is the load generator: thousands of WebSocket clients on one thread per CPU.
//
// It knows the wire (RFC 6455 and the relay's v1 messages) and nothing of scenarios or of the relay's insides. Rooms are
// entirely within one worker, so it sees every copy of every message and checks all of them (ledger.go).
//
// The walk: epoll → readable → consume → frame → arrived → ledger.arrive → (last copy) → send → flush at the end of the
// round, one write per socket. After the connections are open nothing on that way allocates.
package load

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// worker is one thread and its clients. Everything in it belongs to that thread; others come in by call.
type worker struct {
	id         int // among the fleet's
	cpu        int
	ep         int
	wake       int // eventfd: there are calls
	calls      chan func()
	events     []unix.EpollEvent
	buf        []byte
	base       time.Time
	now        int64 // nanoseconds since base, as of the last read
	conns      []conn
	led        *ledger
	shape      Shape
	dirty      []int32
	dialer     dialer
	traffic    traffic
	marks      Marks
	away       int   // peers that left and are not back
	leaver     int32 // who left last
	unanswered int   // pings of Greet
	latency    *hdrhistogram.Histogram
	lag        *hdrhistogram.Histogram
	progress   int64 // when a copy or a handshake last arrived
	over       bool
}

// histogram covers a nanosecond to ten minutes at three digits. What takes longer has long been given up.
func histogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(10*time.Minute), 3) }

func newWorker(id, cpu int, base time.Time) (*worker, error) {
	ep, err1 := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	wake, err2 := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}
	if err := errors.Join(err1, err2, unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, wake, &ev)); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	w := &worker{
		id: id, cpu: cpu, ep: ep, wake: wake, calls: make(chan func(), 16), base: base,
		events: make([]unix.EpollEvent, 256), buf: make([]byte, MaxSize+2*readSize), led: newLedger(),
		latency: histogram(), lag: histogram(),
	}
	w.led.first = uint32(id) << 24
	return w, nil
}

// call has a function run on the worker's thread, soon.
func (w *worker) call(f func()) {
	w.calls <- f
	one := [8]byte{1}
	unix.Write(w.wake, one[:])
}

func (w *worker) clock() int64 { return int64(time.Since(w.base)) }

// run is the thread: pinned to its CPU, it serves its sockets until it is over. The thread ends with it.
func (w *worker) run() {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(w.cpu)
	unix.SchedSetaffinity(0, &set)
	// Timers of the open loop should fire when they are due, not up to 50 µs later.
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	defer func() {
		for i := range w.conns {
			w.closeSocket(&w.conns[i], true)
		}
		unix.Close(w.ep)
		unix.Close(w.wake)
	}()
	for !w.over {
		w.dial()
		next := w.due()
		w.flush()
		for _, ev := range w.events[:w.poll(next)] {
			w.event(ev)
		}
		w.flush()
	}
}

func (w *worker) event(ev unix.EpollEvent) {
	i := ev.Fd
	if i < 0 {
		var b [8]byte
		unix.Read(w.wake, b[:])
		for len(w.calls) > 0 {
			(<-w.calls)()
		}
		return
	}
	c := &w.conns[i]
	if c.fd < 0 {
		return
	}
	last := ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	switch {
	case c.state == dialing:
		w.upgrade(i)
		return
	case ev.Events&unix.EPOLLIN != 0 || last:
		w.readable(i, last)
	}
	if ev.Events&unix.EPOLLOUT != 0 && len(c.out) > 0 {
		w.writeOut(i)
	}
}

// poll waits for events until the given time. A first look that does not wait saves the scheduler's attention under load.
func (w *worker) poll(until int64) int {
	at := uintptr(unsafe.Pointer(&w.events[0]))
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.ep), at, uintptr(len(w.events)), 0, 0, 0)
	if n == 0 && e == 0 {
		var limit *unix.Timespec
		if until != math.MaxInt64 {
			ts := unix.NsecToTimespec(max(until-w.clock(), 0))
			limit = &ts
		}
		n, _, e = syscall.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(w.ep), at, uintptr(len(w.events)), uintptr(unsafe.Pointer(limit)), 0, 0)
	}
	if e == unix.EINTR {
		return 0
	}
	if e != 0 {
		panic(fmt.Sprintf("epoll_pwait2 (Linux 5.11 or newer): %v", e))
	}
	return int(n)
}
