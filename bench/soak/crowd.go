package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// crowd is the healthy peers: they talk, answer pings, come back as README.md's client does, and keep the ledger.
type crowd struct {
	*fleet
	led     ledger
	members []*member
	doors   []*target // the balancers, taken in turn
	paused  bool
	over    bool // nobody comes back
	rate    float64
	begun   int64 // when the traffic was begun, and how much was sent since
	due     uint64
	turn    int // whose turn it is to send
	pattern []byte
	scratch []byte

	latency         *hdrhistogram.Histogram // of the phase, in nanoseconds, messages of usual size
	lag             *hdrhistogram.Histogram // of the phase: how late the load itself was with sending; a part of latency
	sent, delivered uint64
	unanswered      int64 // handshakes that ended without an answer
	openMembers     int

	// Which server of the balancers serves which source, and which process is behind that server.
	servers  map[netip.Addr]int
	epochs   [2]int32
	changing [2]bool // a roll or a drain: either of two processes may serve it
}

// member is one peer of the crowd.
type member struct {
	crowd      *crowd
	c          *conn
	room, seat int32
	failures   int
	size       int  // of its messages
	loose      bool // it comes and goes
	leaving    bool // its close frame is sent
	begun      place
}

// headSize is the fixed part of a message: room, sender, the sender's connection, number, and time of sending.
const headSize = 28

func newCrowd(f *fleet, doors []*target, servers map[netip.Addr]int) *crowd {
	w := &crowd{fleet: f, doors: doors, servers: servers}
	w.latency, w.lag = hdrhistogram.New(1, int64(10*time.Minute), 3), hdrhistogram.New(1, int64(10*time.Minute), 3)
	w.pattern = bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog; "), maxFrame/45+1)
	return w
}

// addRoom adds a room of n peers from one source, the last loose of which come and go.
func (w *crowd) addRoom(n, loose, size int, from netip.Addr) (relayID string, added []*member) {
	room := w.led.addRoom(n)
	relayID = fmt.Sprintf("soak-%d", room)
	for i := range n {
		m := &member{crowd: w, room: room, seat: int32(i), size: size, loose: i >= n-loose}
		m.c = w.add(&conn{
			client: m, to: w.doors[i%len(w.doors)], from: from,
			first: request("/v1", relayID, fmt.Sprintf("p%d", i)),
		})
		added = append(added, m)
	}
	w.members = append(w.members, added...)
	return relayID, added
}

// place is the process that serves a source at the moment.
func (w *crowd) place(from netip.Addr) place {
	s := w.servers[from]
	if w.changing[s] {
		return unknown
	}
	return place(1 + s + 2*int(w.epochs[s]))
}

func (m *member) dial() {
	w := m.crowd
	if w.over || m.c.state != gone {
		return
	}
	m.begun = w.place(m.c.from)
	if err := w.begin(m.c); err != nil {
		w.surprise("client failed", "%v", err)
		w.drop(m.c, false)
		m.back()
	}
}

// back connects again after a pause, as README.md's client does: random, and up to twice as long after each failure.
func (m *member) back() {
	pause := min(30*time.Second, 500*time.Millisecond<<min(m.failures, 6))
	m.failures++
	m.crowd.after(time.Duration(m.crowd.rng.Int64N(int64(pause))), m.dial)
}

func (m *member) opened(c *conn) {
	w := m.crowd
	w.counts["upgraded"]++
	w.openMembers++
	m.failures, m.leaving = 0, false
	at := w.place(c.from)
	if at != m.begun {
		at = unknown
	}
	w.led.open(m.room, m.seat, at)
}

func (m *member) text(c *conn, b []byte) {
	if string(b) == "ping" {
		c.frame(opText, []byte("pong"))
		m.crowd.touch(c)
	}
}

// message checks every byte.
func (m *member) message(_ *conn, b []byte) {
	w := m.crowd
	if len(b) < headSize || int32(binary.LittleEndian.Uint32(b)) != m.room || !bytes.Equal(b[headSize:], w.pattern[:len(b)-headSize]) {
		w.led.wrong(&w.led.strange, 1, "room %d: peer %d got %d bytes that nobody sent to it: %.40q", m.room, m.seat, len(b), b)
		return
	}
	from, nth, seq := int32(binary.LittleEndian.Uint32(b[4:])), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	if !w.led.arrive(m.room, m.seat, from, nth, seq) {
		return
	}
	w.delivered++
	if len(b) == usualSize {
		_ = w.latency.RecordValue(max(1, w.now-int64(binary.LittleEndian.Uint64(b[20:]))))
	}
}

func (m *member) closing(*conn, *ending) {}

// stopping is the reason in the close frame of a relay that stops.
const stopping = "server is stopping"

func (m *member) ended(_ *conn, how ending) {
	w := m.crowd
	if how.opened {
		w.openMembers--
		properly := m.leaving && how.code == 1000
		w.led.close(m.room, m.seat, properly)
		switch {
		case properly:
			w.counts["closed.peer"]++
			m.failures = 0
			w.after(time.Duration(w.rng.Int64N(int64(time.Second))), m.dial)
			return
		case how.code == 1001 && how.text == stopping:
			w.counts["closed.drain"]++
		default:
			w.surprise("healthy peer disconnected", "room %d, peer %d: %v %s", m.room, m.seat, how, how.text)
		}
	} else if reason := busyReason(how); reason != "" {
		w.counts["refused."+reason]++
		w.counts["closed.http"]++
	} else if how.status != 0 {
		w.surprise("healthy peer refused", "room %d, peer %d: %v", m.room, m.seat, how)
	} else {
		w.unanswered++
	}
	m.back()
}

// busyReason is the relay's counter of an answer that asks to come back later.
func busyReason(how ending) string {
	if how.status != 503 {
		return ""
	}
	for text, reason := range map[string]string{
		"the relay is stopping": "draining", "too many connections are waiting": "connect_rate",
		"the relay is full": "connections", "the relay is short of memory": "memory",
	} {
		if strings.Contains(how.text, text) {
			return reason
		}
	}
	return ""
}

// usualSize is the size of a message, but of those that are meant to fill a slow reader's queue.
const usualSize = 128

// send sends a member's next message. at is when it was due.
func (m *member) send(at int64) {
	w := m.crowd
	if m.c.state != open || m.leaving {
		return
	}
	nth, seq := w.led.send(m.room, m.seat)
	b := binary.LittleEndian.AppendUint32(w.scratch[:0], uint32(m.room))
	b = binary.LittleEndian.AppendUint32(b, uint32(m.seat))
	b = binary.LittleEndian.AppendUint32(b, nth)
	b = binary.LittleEndian.AppendUint32(b, seq)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(at))
	b = append(b, w.pattern[:m.size-headSize]...)
	w.scratch = b
	m.c.frame(opBinary, b)
	w.sent++
	w.touch(m.c)
}

// talk starts the traffic: rate messages per second in all, each member in its turn. A message keeps the time at which
// it was due, however late it is sent: waiting in the load counts as the relay's latency would.
func (w *crowd) talk(rate float64) {
	w.rate, w.begun, w.due = rate, w.clock(), 0
	w.every(time.Millisecond, func() bool {
		for ; ; w.due++ {
			at := w.begun + int64(float64(w.due)*1e9/w.rate)
			if at > w.now || w.over {
				return !w.over
			}
			w.turn = (w.turn + 1) % len(w.members)
			if m := w.members[w.turn]; !w.paused && m.size == usualSize {
				_ = w.lag.RecordValue(max(1, w.now-at))
				m.send(at)
			}
		}
	})
}

// churn has loose members leave, so many per second, until stop is set.
func (w *crowd) churn(perSecond float64, stop *bool) {
	next := 0
	w.every(time.Duration(float64(time.Second)/perSecond), func() bool {
		for range w.members {
			next = (next + 1) % len(w.members)
			if m := w.members[next]; m.loose && m.c.state == open && !m.leaving {
				m.c.frame(opClose, []byte{0x03, 0xe8})
				m.leaving = true
				w.touch(m.c)
				break
			}
		}
		return !*stop
	})
}

// cutsPerStep bounds how many members are cut off in a millisecond, so that the load's thread does not stall itself.
const cutsPerStep = 100

// cut cuts off every n-th member, half of them with a reset. It counts them in cut, and sets done after the last.
func (w *crowd) cut(n int, cut *int, done *bool) {
	at := 0
	w.every(time.Millisecond, func() bool {
		for end := *cut + cutsPerStep; at < len(w.members) && *cut < end; at += n {
			m := w.members[at]
			if m.c.state != open || m.leaving || m.size != usualSize {
				continue
			}
			w.drop(m.c, *cut%2 == 0)
			w.openMembers--
			w.counts["closed.gone"]++
			w.led.close(m.room, m.seat, false)
			m.failures = 0
			m.back()
			*cut++
		}
		*done = at >= len(w.members)
		return !*done
	})
}

// allOpen tells whether every member is there, but for those that come and go.
func (w *crowd) allOpen() bool {
	for _, m := range w.members {
		if !m.loose && m.c.state != open {
			return false
		}
	}
	return true
}
