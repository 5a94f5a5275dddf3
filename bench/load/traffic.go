package load

import (
	"fmt"
	"math"
)

// build adds the rooms of a shape, their peers and the streams between them, and queues the peers for their handshakes.
// nth is the first peer's number among all of the fleet, which decides its addresses.
func (w *worker) build(s Shape, firstRoom uint32, nth int32) error {
	if s.Rooms < 1 || s.Peers < 2 || s.Senders < 1 || s.Senders > s.Peers {
		return fmt.Errorf("a shape of %d rooms with %d peers, %d senders makes no sense", s.Rooms, s.Peers, s.Senders)
	}
	if s.Size < MinSize || s.Size > MaxSize || w.shape.Size != 0 && w.shape.Size != s.Size {
		return fmt.Errorf("messages of %d bytes: want %d to %d, and one size in a fleet", s.Size, MinSize, MaxSize)
	}
	w.shape = s
	for r := range s.Rooms {
		room, first := firstRoom+uint32(r), int32(len(w.conns))
		seen := make([]uint32, s.Senders*s.Peers)
		for p := range s.Peers {
			i := int32(len(w.conns))
			key := [4]byte{byte(i>>24) ^ 0x5a, byte(i>>16) ^ 0xa5, byte(i>>8) ^ 0x3c, byte(i) | 1}
			w.conns = append(w.conns, conn{fd: -1, key: key, nth: nth})
			w.led.members = append(w.led.members, member{room: room, steady: true, seen: seen[p*s.Senders : (p+1)*s.Senders]})
			w.dialer.queue = append(w.dialer.queue, i)
			nth++
		}
		w.addStreams(s, room, first)
	}
	return nil
}

// addStreams makes the streams of one room, whose peers start at first.
func (w *worker) addStreams(s Shape, room uint32, first int32) {
	peers := int32(s.Peers)
	for p := range int32(s.Senders) {
		x := stream{
			room: room, slot: p, sender: first + p, target: everyone, copies: peers - 1, next: 1,
			first: first, past: first + peers, left: make([]int32, max(s.Window, 1)),
		}
		if s.Direct {
			x.target = first + (p+1)%peers
			x.copies, x.first, x.past = 1, x.target, x.target+1
		}
		payload := appendMessage(nil, s.Size, room, uint32(len(w.led.streams)), int(x.target))
		x.stamp = newStamp(s.opcode(), w.conns[x.sender].key, payload, s.Direct)
		w.led.streams = append(w.led.streams, x)
	}
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
	rate    float64 // messages per second, 0: closed loop
	began   int64   // first message's intended time
	sent    uint64  // messages since then
}

// start begins the traffic. In a closed loop every stream puts its window on the way and then follows completions.
func (w *worker) start(rate float64) {
	w.now = w.clock()
	w.traffic = traffic{running: true, rate: rate, began: w.now}
	if rate > 0 {
		return
	}
	for range max(w.shape.Window, 1) {
		for n := range w.led.streams {
			w.send(int32(n), w.now)
		}
	}
}

// due sends what the open loop's clock asks for and returns the time of the next message. A message keeps its intended
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
	if w.traffic.rate > 0 && w.records(h.sent) {
		_ = w.latency.RecordValue(w.now - h.sent)
	}
	if !completed {
		return
	}
	if w.traffic.running && w.traffic.rate == 0 {
		w.send(int32(h.stream), w.now)
	} else if w.once > 0 {
		w.once--
		w.send(int32(w.once), w.now)
	}
}
