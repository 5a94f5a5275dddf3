package load

import "math"

// build adds the rooms of a shape, their peers and the streams between them, and queues the peers for their handshakes. All
// shapes of one worker have as many peers in a room, and messages of one size.
func (w *worker) build(s Shape) {
	w.shape, w.led.peers = s, int32(s.Peers)
	pairs := s.pairs()
	for range s.Rooms {
		first := int32(len(w.conns))
		seen := make([]uint32, len(pairs)*s.Peers)
		for p := range s.Peers {
			w.dialer.queue = append(w.dialer.queue, int32(len(w.conns)))
			w.conns = append(w.conns, conn{fd: -1})
			w.led.members = append(w.led.members, member{
				steady: true, loose: p >= s.Peers-s.Loose, seen: seen[p*len(pairs) : (p+1)*len(pairs)],
			})
		}
		for slot, pair := range pairs {
			w.addStream(&s, first, int32(slot), pair[0], pair[1])
		}
	}
}

// pairs are the sender and the target, or everyone, of each of a room's streams.
func (s *Shape) pairs() (out [][2]int32) {
	for p := range int32(s.Senders) {
		switch {
		case s.Star:
			out = append(out, [2]int32{p + 1, 0}, [2]int32{0, p + 1})
		case s.Direct:
			out = append(out, [2]int32{p, (p + 1) % int32(s.Peers)})
		default:
			out = append(out, [2]int32{p, everyone})
		}
	}
	return out
}

// addStream makes one stream of a room, whose peers start at first.
func (w *worker) addStream(s *Shape, first, slot, from, to int32) {
	n := int32(len(w.led.streams))
	x := stream{
		slot: slot, sender: first + from, target: everyone, then: n, copies: int32(s.Peers - s.Loose - 1), next: 1,
		left: make([]int32, s.Window),
	}
	if to != everyone {
		x.target, x.copies = first+to, 1
	}
	if s.Star {
		x.then = n ^ 1 // question and answer stand beside each other
	}
	x.message, w.led.numbers = newMessage(s.Size, w.led.first+uint32(n), x.target)
	w.led.streams = append(w.led.streams, x)
}

// opcode is that of the shape's messages.
func (s *Shape) opcode() byte {
	if s.Binary {
		return opBinary
	}
	return opText
}

// traffic is what the worker is sending, and when the next message is due.
type traffic struct {
	running bool
	closed  bool    // a message follows the completed one before
	rate    float64 // else messages per second; of a closed loop the peers that leave
	began   int64   // first message's intended time
	sent    uint64  // messages, or peers that left, since then
}

// start begins the traffic. In a closed loop every stream puts its window on the way and then follows completions.
func (w *worker) start(rate float64) {
	w.now = w.clock()
	w.traffic = traffic{running: true, closed: rate == 0 || w.shape.Loose > 0, rate: rate, began: w.now}
	if !w.traffic.closed {
		return
	}
	for range w.shape.Window {
		for n := range w.led.streams {
			if w.led.streams[n].then >= int32(n) { // an answer has to wait
				w.send(int32(n), w.now)
			}
		}
	}
}

// due sends what the clock asks for, or lets peers leave, and returns the time of the next one. A message keeps its intended
// time, however late it is sent: waiting in the load counts as the relay's latency would.
func (w *worker) due() int64 {
	t := &w.traffic
	n := uint64(len(w.led.streams))
	if !t.running || t.rate == 0 || n == 0 {
		return math.MaxInt64
	}
	for w.now = w.clock(); ; t.sent++ {
		at := t.began + int64(float64(t.sent)*1e9/t.rate)
		if at > w.now {
			return at
		}
		if t.closed {
			w.leave()
			continue
		}
		_ = w.lag.RecordValue(w.now - at)
		w.send(int32(t.sent%n), at)
	}
}

// send puts a stream's next message into its sender's buffer.
func (w *worker) send(n int32, intended int64) {
	s := &w.led.streams[n]
	if w.conns[s.sender].state != open {
		return
	}
	stamp(s.message[w.led.numbers:], w.led.begin(s), intended)
	w.queue(s.sender, w.shape.opcode(), s.message)
}

// arrived is called for each complete message at a peer.
func (w *worker) arrived(i int32, b []byte) {
	head := readNumbers(b[w.led.numbers:])
	s, completed := w.led.arrive(i, head, b)
	if s == nil {
		return
	}
	w.marks.Delivered++
	w.progress = w.now
	if !w.traffic.closed {
		_ = w.latency.RecordValue(w.now - head.sent)
	}
	if completed && w.traffic.running && w.traffic.closed {
		w.send(s.then, w.now)
	}
}

// leave lets the next loose peer that is there go, with a close frame as a browser sends it. The relay's answer brings it
// back.
func (w *worker) leave() {
	for range w.conns {
		w.leaver = (w.leaver + 1) % int32(len(w.conns))
		m, c := &w.led.members[w.leaver], &w.conns[w.leaver]
		if m.loose && c.state == open {
			w.queue(w.leaver, opClose, []byte{0x03, 0xe8})
			c.state, m.steady = leaving, false
			w.away++
			return
		}
	}
}
