package load

import (
	"fmt"
	"math"
)

// build adds the rooms of a shape, their peers and the streams between them, and queues the peers for their handshakes.
// nth is the first peer's number among all of the fleet, which decides its addresses.
func (w *worker) build(s Shape, firstRoom uint32, nth int32) error {
	if s.Rooms < 1 || s.Peers < 2 || s.Senders < 1 || s.Senders > s.Peers-s.Loose || s.Star && s.Senders == s.Peers {
		return fmt.Errorf("a shape of %d rooms with %d peers, %d senders makes no sense", s.Rooms, s.Peers, s.Senders)
	}
	if s.Size < MinSize || s.Size > MaxSize || w.shape.Size != 0 && w.shape.Size != s.Size {
		return fmt.Errorf("messages of %d bytes: want %d to %d, and one size in a fleet", s.Size, MinSize, MaxSize)
	}
	w.shape = s
	pairs := s.pairs()
	for r := range s.Rooms {
		room, first := firstRoom+uint32(r), int32(len(w.conns))
		seen := make([]uint32, len(pairs)*s.Peers)
		for p := range s.Peers {
			i := int32(len(w.conns))
			key := [4]byte{byte(i>>24) ^ 0x5a, byte(i>>16) ^ 0xa5, byte(i>>8) ^ 0x3c, byte(i) | 1}
			w.conns = append(w.conns, conn{fd: -1, key: key, nth: nth})
			w.led.members = append(w.led.members, member{
				room: room, steady: true, loose: p >= s.Peers-s.Loose, seen: seen[p*len(pairs) : (p+1)*len(pairs)],
			})
			w.dialer.queue = append(w.dialer.queue, i)
			nth++
		}
		for slot, pair := range pairs {
			w.addStream(&s, room, first, int32(slot), pair[0], pair[1])
		}
	}
	return nil
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
func (w *worker) addStream(s *Shape, room uint32, first, slot, from, to int32) {
	n := int32(len(w.led.streams))
	x := stream{
		room: room, slot: slot, sender: first + from, target: everyone, then: n, copies: int32(s.Peers - s.Loose - 1), next: 1,
		first: first, past: first + int32(s.Peers), left: make([]int32, max(s.Window, 1)),
	}
	if to != everyone {
		x.target = first + to
		x.copies, x.first, x.past = 1, x.target, x.target+1
	}
	if s.Star {
		x.then = n ^ 1 // question and answer stand beside each other
	}
	payload := appendMessage(nil, s.Size, room, uint32(n), int(x.target))
	x.stamp = newStamp(s.opcode(), w.conns[x.sender].key, payload, to != everyone)
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
	for range max(w.shape.Window, 1) {
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
		if w.records(at) {
			_ = w.lag.RecordValue(w.now - at)
		}
		w.send(int32(t.sent%n), at)
	}
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
	w.touch(s.sender)
}

// arrived is called for each complete message at a peer.
func (w *worker) arrived(i int32, h *msgHead) {
	counts, completed := w.led.arrive(i, h)
	if !counts {
		return
	}
	w.marks.Delivered++
	if !w.traffic.closed && w.records(h.sent) {
		_ = w.latency.RecordValue(w.now - h.sent)
	}
	if !completed {
		return
	}
	if w.traffic.running && w.traffic.closed {
		w.send(w.led.streams[h.stream].then, w.now)
	} else if w.once > 0 {
		w.once--
		w.send(int32(w.once), w.now)
	}
}

// leave lets the next loose peer that is there go, with a close frame as a browser sends it. The relay's answer brings it
// back.
func (w *worker) leave() {
	for range w.conns {
		w.leaver = (w.leaver + 1) % int32(len(w.conns))
		m, c := &w.led.members[w.leaver], &w.conns[w.leaver]
		if m.loose && c.state == open {
			c.out = AppendClientFrame(c.out, opClose, c.key, []byte{0x03, 0xe8})
			c.state, m.steady = leaving, false
			w.away++
			w.touch(w.leaver)
			return
		}
	}
}
