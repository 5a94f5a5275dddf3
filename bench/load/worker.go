// Package load is one process of the load generator: a few thousand WebSocket clients on one thread.
//
// It knows the wire (RFC 6455 and the relay's v1 messages) and nothing of the relay's insides, nothing of scenarios and
// nothing of other workers. The orchestrator tells it which rooms to open and what traffic to make (protocol.go); rooms
// are entirely within one worker, so it sees every copy of every message and checks all of them (ledger.go).
//
// The walk: epoll → readable → consume → frame → arrived → ledger.arrive → (last copy) → send → flush at the end of the
// round, one write per socket. After the connections are open nothing on that way allocates.
package load

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

type worker struct {
	ep        int
	events    []unix.EpollEvent
	buf       []byte
	base      time.Time
	now       int64 // nanoseconds since base, as of the last read
	conns     []conn
	rooms     map[uint32]span
	led       *ledger
	shape     Shape
	starters  []int32 // streams that begin by themselves
	dirty     []int32
	dialer    dialer
	traffic   traffic
	marks     Marks
	completed uint64  // messages whose last copy arrived
	pongs     uint64  // answers to doGreet
	leaving   int     // peers whose close frame is written
	once      []int32 // streams that doOnce has still to send on
	latency   *hdrhistogram.Histogram
	lag       *hdrhistogram.Histogram

	// Of which messages latency and lag are recorded, by the time they were due.
	recordFrom, recordTo int64

	commands *os.File
	input    []byte // received, not yet a whole line
	answers  *bufio.Writer
	waiting  *wait
	over     bool
}

// wait is a command that is answered when something has happened, or its time is up.
type wait struct {
	done  func() bool
	reply func() Reply
	since int64
	until int64
}

// histogram covers a nanosecond to ten minutes at three digits. What takes longer has long been given up.
func histogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(10*time.Minute), 3) }

// Run is the process's main: commands from fd (standard input, the worker's own from now on), answers to out, until the
// input ends.
func Run(fd int, out io.Writer) error {
	debug.SetGCPercent(400)
	// Timers of the open loop should fire when they are due, not up to 50 µs later.
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	w, err := newWorker(fd, out)
	if err != nil {
		return err
	}
	defer w.close()
	return w.loop()
}

func newWorker(fd int, out io.Writer) (*worker, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	w := &worker{
		ep: ep, events: make([]unix.EpollEvent, 256), buf: make([]byte, 128<<10), base: time.Now(),
		rooms: map[uint32]span{}, led: newLedger(), latency: histogram(), lag: histogram(), recordTo: math.MaxInt64,
		commands: os.NewFile(uintptr(fd), "commands"), answers: bufio.NewWriter(out),
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("watch commands: %w", err)
	}
	return w, nil
}

func (w *worker) close() {
	for i := range w.conns {
		w.closeSocket(&w.conns[i], true)
	}
	unix.Close(w.ep)
	w.commands.Close()
}

func (w *worker) clock() int64 { return int64(time.Since(w.base)) }

// loop runs until the command stream ends.
func (w *worker) loop() error {
	for !w.over {
		w.dial()
		next := w.due()
		w.flush()
		if w.waiting != nil {
			if err := w.checkWait(); err != nil {
				return err
			}
			if w.waiting != nil {
				// Conditions such as "quiet for a second" are looked at now and then.
				next = min(next, w.clock()+int64(20*time.Millisecond))
			}
		}
		n, err := w.poll(next)
		if err != nil {
			return err
		}
		for _, ev := range w.events[:n] {
			if ev.Fd < 0 {
				if err := w.receive(); err != nil {
					return err
				}
				continue
			}
			w.event(ev)
		}
		w.flush()
	}
	return nil
}

func (w *worker) event(ev unix.EpollEvent) {
	i := ev.Fd
	c := &w.conns[i]
	if c.fd < 0 || c.life != ev.Pad {
		return
	}
	last := ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	if c.stuck {
		if ev.Events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			w.ended(i, io.EOF)
		}
		return
	}
	if c.state == dialing {
		w.upgrade(i)
		return
	}
	if ev.Events&unix.EPOLLIN != 0 || last {
		w.readable(i, last)
	}
	if ev.Events&unix.EPOLLOUT != 0 && len(c.out) > 0 {
		w.writeOut(i)
	}
}

// poll waits for events until the given time. A first look that does not wait saves the scheduler's attention under load.
func (w *worker) poll(until int64) (int, error) {
	n, err := rawPoll(w.ep, w.events)
	if n != 0 || err != nil {
		return n, err
	}
	var limit *unix.Timespec
	if until != math.MaxInt64 {
		ts := unix.NsecToTimespec(max(until-w.clock(), 0))
		limit = &ts
	}
	return blockingPoll(w.ep, w.events, limit)
}

func (w *worker) checkWait() error {
	p := w.waiting
	if !p.done() && w.clock() < p.until {
		return nil
	}
	w.waiting = nil
	r := p.reply()
	r.Took = w.clock() - p.since
	return w.answer(r)
}

func (w *worker) answer(r Reply) error {
	if err := json.NewEncoder(w.answers).Encode(r); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return w.answers.Flush()
}
