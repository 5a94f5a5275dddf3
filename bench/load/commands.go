package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// receive reads the command stream; its end ends the worker.
func (w *worker) receive() error {
	var b [64 << 10]byte
	n, err := w.commands.Read(b[:])
	if err == io.EOF || n == 0 {
		w.over = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("read commands: %w", err)
	}
	w.input = append(w.input, b[:n]...)
	for {
		line, rest, found := bytes.Cut(w.input, []byte("\n"))
		if !found {
			return nil
		}
		var c Command
		if err := json.Unmarshal(line, &c); err != nil {
			return fmt.Errorf("command %q: %w", line, err)
		}
		w.input = append([]byte(nil), rest...)
		if err := w.obey(&c); err != nil {
			if err := w.answer(Reply{Error: err.Error()}); err != nil {
				return err
			}
		}
	}
}

// obey answers a command at once, or sets w.waiting to answer it later.
func (w *worker) obey(c *Command) error {
	switch c.Do {
	case DoConnect:
		return w.doConnect(c)
	case DoStart:
		w.start(c.Rate, c.Churn)
		return w.answer(Reply{Marks: w.mark(c)})
	case DoMark:
		return w.answer(Reply{Marks: w.mark(c)})
	case DoStick, DoUnstick:
		w.stick(c.Do == DoStick)
		return w.answer(Reply{Marks: w.mark(c)})
	case DoHalt:
		w.doHalt(c)
	case DoGreet:
		w.doGreet(c)
	case DoOnce:
		w.doOnce(c)
	case DoDrop:
		for i := range w.conns {
			w.closeSocket(&w.conns[i], true)
		}
		w.marks.Open = 0
		return w.answer(Reply{Marks: w.mark(c)})
	case DoRedial:
		for i := range w.conns {
			w.rejoin(int32(i))
		}
		w.awaitConnections(c)
	default:
		return fmt.Errorf("unknown command %q", c.Do)
	}
	return nil
}

func (w *worker) doConnect(c *Command) error {
	if c.Shape == nil {
		return fmt.Errorf("connect without a shape")
	}
	before := len(w.conns)
	if err := w.build(*c.Shape, c.First); err != nil {
		return err
	}
	w.dialer.prepare(c)
	i := before
	for _, r := range c.Routes {
		ready, err := newRoute(r)
		if err != nil {
			return err
		}
		w.dialer.routes = append(w.dialer.routes, ready)
		for range r.Count {
			if i < len(w.conns) {
				w.conns[i].route = int32(len(w.dialer.routes) - 1)
				w.dialer.queue = append(w.dialer.queue, int32(i))
				i++
			}
		}
	}
	if i < len(w.conns) {
		return fmt.Errorf("routes for %d of %d connections", i-before, len(w.conns)-before)
	}
	w.awaitConnections(c)
	return nil
}

// awaitConnections answers when every queued connection is open or has failed.
func (w *worker) awaitConnections(c *Command) {
	d := &w.dialer
	d.opened, d.failed, d.why, d.awaited = 0, 0, "", true
	since := w.clock()
	w.waiting = &wait{
		since: since, until: since + c.Timeout,
		done: func() bool { return len(d.queue) == 0 && d.flying == 0 },
		reply: func() Reply {
			d.awaited = false
			r := Reply{Opened: d.opened, Failed: d.failed, Why: d.why, Marks: w.mark(c)}
			if n := len(d.queue) + d.flying; n > 0 {
				r.Failed += n
				r.Why = fmt.Sprintf("%d handshakes not complete after %s", n, time.Duration(c.Timeout))
			}
			return r
		},
	}
}

// quiet is how long nothing may arrive before the rest counts as lost.
const quiet = 2 * time.Second

// doHalt stops sending and answers when all copies have arrived and all who left are back, or nothing has happened for a
// while.
func (w *worker) doHalt(c *Command) {
	w.traffic.running = false
	since := w.clock()
	got, joins, last := w.led.got, w.marks.Joins, since
	w.waiting = &wait{
		since: since, until: since + c.Timeout,
		done: func() bool {
			if w.led.got != got || w.marks.Joins != joins {
				got, joins, last = w.led.got, w.marks.Joins, w.clock()
			}
			return w.led.got >= w.led.due && w.away() == 0 || w.clock()-last > int64(quiet)
		},
		reply: func() Reply {
			if n := w.away(); n > 0 {
				w.led.v.Refused += uint64(n)
				w.led.v.example("%d peers left and did not come back: no answer to their close frame or to their handshake", n)
			}
			w.led.settle(func(room uint32) (int32, int32) {
				s := w.rooms[room]
				return s.first, s.past
			}, func(peer int32) bool { return w.conns[peer].steady })
			return Reply{Opened: w.marks.Open, Violations: w.led.v, Marks: w.mark(c)}
		},
	}
}

// away is how many peers have left and are on their way back.
func (w *worker) away() int { return w.leaving + len(w.dialer.queue) + w.dialer.flying }

// doGreet lets every peer send a ping. A handshake's answer may reach us before the relay has put the peer into its room;
// a pong comes after that, so nothing sent from then on can miss it.
func (w *worker) doGreet(c *Command) {
	since := w.clock()
	var asked uint64
	w.pongs = 0
	for i := range w.conns {
		if x := &w.conns[i]; x.state == open {
			x.out = appendClientFrame(x.out, opText, x.key, []byte("ping"))
			w.touch(int32(i))
			asked++
		}
	}
	w.waiting = &wait{
		since: since, until: since + c.Timeout,
		done:  func() bool { return w.pongs >= asked },
		reply: func() Reply { return Reply{Opened: int(w.pongs), Failed: int(asked - w.pongs), Marks: w.mark(c)} },
	}
}

// onceWindow bounds the messages of doOnce that are under way: tens of thousands at once would test the length of the
// kernel's queue for loopback packets, and its retransmissions.
const onceWindow = 64

// doOnce sends one message on every stream and answers how many peers were served: recipients with their copies, and
// senders whose message reached everyone.
func (w *worker) doOnce(c *Command) {
	w.now = w.clock()
	since := w.now
	got, completed := w.led.got, w.completed
	first := min(onceWindow, len(w.starters))
	w.once = w.starters[first:]
	for _, s := range w.starters[:first] {
		w.send(s, w.now)
	}
	w.waiting = &wait{
		since: since, until: since + c.Timeout,
		done: func() bool { return len(w.once) == 0 && w.led.got >= w.led.due },
		reply: func() Reply {
			return Reply{Opened: int(w.led.got - got + w.completed - completed), Marks: w.mark(c)}
		},
	}
}

// mark reads the counters and, in the same moment, the CPU clocks.
func (w *worker) mark(c *Command) Marks {
	m := w.marks
	m.Wall = w.clock()
	m.CPU = cpuClock(unix.CLOCK_PROCESS_CPUTIME_ID)
	if c.PID > 0 {
		m.ServerCPU = cpuClock(int32(^c.PID)<<3 | 2)
	}
	if c.Until {
		w.recordTo = m.Wall
	}
	if c.Reset {
		w.latency.Reset()
		w.lag.Reset()
		w.recordFrom, w.recordTo = m.Wall, math.MaxInt64
	} else if w.traffic.rate > 0 {
		m.Latency = encode(w.latency)
		m.Lag = encode(w.lag)
	}
	return m
}

func encode(h *hdrhistogram.Histogram) []byte {
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return nil
	}
	return b
}

// cpuClock reads a clock in nanoseconds, 0 if there is none (the process is gone).
func cpuClock(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}
