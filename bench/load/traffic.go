package load

import "math"

// traffic is what the worker is sending, and when the next message is due.
type traffic struct {
	running bool
	rate    float64 // messages per second, 0: closed loop
	began   int64   // first message's intended time
	sent    uint64  // messages since then
	churn   float64 // departures per second
	left    uint64  // departures since began
	leaver  int32   // who left last
}

// start begins the traffic. In a closed loop every stream puts its window on the way and then follows completions.
func (w *worker) start(rate, churn float64) {
	w.now = w.clock()
	w.traffic = traffic{running: true, rate: rate, churn: churn, began: w.now}
	if rate > 0 {
		return
	}
	for range max(w.shape.Window, 1) {
		for _, s := range w.starters {
			w.send(s, w.now)
		}
	}
}

// due sends what the open loop's clock asks for and lets churning peers leave; it returns the time of the next event.
// A message keeps its intended time, however late it is sent: waiting in the load counts as the relay's latency would.
func (w *worker) due() int64 {
	t := &w.traffic
	next := int64(math.MaxInt64)
	if !t.running || t.rate == 0 && t.churn == 0 {
		return next
	}
	w.now = w.clock()
	if t.rate > 0 {
		for {
			at := t.began + int64(float64(t.sent)*1e9/t.rate)
			if at > w.now {
				next = at
				break
			}
			if w.records(at) {
				w.lag.RecordValue(w.now - at)
			}
			w.send(w.starters[t.sent%uint64(len(w.starters))], at)
			t.sent++
		}
	}
	if t.churn > 0 {
		for {
			at := t.began + int64(float64(t.left)*1e9/t.churn)
			if at > w.now {
				return min(next, at)
			}
			t.left++
			w.leave()
		}
	}
	return next
}

// send puts a stream's next message into its sender's buffer.
func (w *worker) send(n int32, intended int64) {
	s := &w.led.streams[n]
	c := &w.conns[s.sender]
	if c.state != open {
		return
	}
	s.stamp.set(w.led.begin(s), intended)
	c.out = append(c.out, s.stamp.frame...)
	w.marks.Sent++
	w.touch(s.sender)
}

// arrived is called for each complete message at a peer.
func (w *worker) arrived(i int32, h *msgHead) {
	counts, completed := w.led.arrive(i, h)
	if !counts {
		return
	}
	w.marks.Delivered++
	w.marks.Bytes += uint64(w.shape.Size)
	if w.traffic.rate > 0 && !w.led.members[i].stuck && w.records(h.sent) {
		w.latency.RecordValue(w.now - h.sent)
	}
	if completed {
		w.completed++
		if w.traffic.running && w.traffic.rate == 0 {
			w.send(w.led.streams[h.stream].then, w.now)
		} else if len(w.once) > 0 {
			n := w.once[0]
			w.once = w.once[1:]
			w.send(n, w.now)
		}
	}
}

// records tells whether a message that was due at a time belongs to the measurement.
func (w *worker) records(due int64) bool { return due >= w.recordFrom && due < w.recordTo }

// leave lets the next loose peer that is there go, with a close frame as a browser sends it.
func (w *worker) leave() {
	for range w.conns {
		w.traffic.leaver = (w.traffic.leaver + 1) % int32(len(w.conns))
		i := w.traffic.leaver
		if c := &w.conns[i]; w.led.members[i].loose && c.state == open {
			c.out = appendClientFrame(c.out, opClose, c.key, []byte{0x03, 0xe8})
			c.state = leaving
			w.leaving++
			w.touch(i)
			return
		}
	}
}

// stick makes the loose peers stop reading, or read again.
func (w *worker) stick(on bool) {
	for i := range w.conns {
		m, c := &w.led.members[i], &w.conns[i]
		if !m.loose {
			continue
		}
		c.stuck = on
		m.stuck = m.stuck || on
		if !on && c.fd >= 0 {
			w.readable(int32(i), true)
		}
	}
}
