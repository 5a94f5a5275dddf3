package load

import (
	"fmt"
	"strings"
)

// Violations counts what a relay must never do. A run with any of them is a failure.
type Violations struct {
	Lost         uint64   `json:"lost"`         // never arrived at a recipient that stayed connected
	Duplicated   uint64   `json:"duplicated"`   // arrived twice
	Reordered    uint64   `json:"reordered"`    // arrived after a later one of the same sender
	Stranger     uint64   `json:"stranger"`     // arrived at a peer it was not for
	Corrupted    uint64   `json:"corrupted"`    // bytes changed, or a frame that is no WebSocket frame
	Disconnected uint64   `json:"disconnected"` // peers that the relay closed without cause
	Refused      uint64   `json:"refused"`      // peers that left and were not let in again, or whose close frame met no answer
	Examples     []string `json:"examples,omitempty"`
}

// Total is the number of violations of all kinds.
func (v *Violations) Total() uint64 {
	return v.Lost + v.Duplicated + v.Reordered + v.Stranger + v.Corrupted + v.Disconnected + v.Refused
}

// Add sums another worker's counts into v.
func (v *Violations) Add(w Violations) {
	v.Lost += w.Lost
	v.Duplicated += w.Duplicated
	v.Reordered += w.Reordered
	v.Stranger += w.Stranger
	v.Corrupted += w.Corrupted
	v.Disconnected += w.Disconnected
	v.Refused += w.Refused
	for _, e := range w.Examples {
		v.example("%s", e)
	}
}

// String names what was broken, with an example.
func (v *Violations) String() string {
	var out []string
	count := func(n uint64, what string) {
		if n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, what))
		}
	}
	count(v.Lost, "lost")
	count(v.Duplicated, "doubled")
	count(v.Reordered, "out of order")
	count(v.Stranger, "to a stranger")
	count(v.Corrupted, "corrupted")
	count(v.Disconnected, "peers disconnected")
	count(v.Refused, "peers not let in again")
	if len(v.Examples) > 0 {
		out = append(out, "e.g. "+v.Examples[0])
	}
	return strings.Join(out, ", ")
}

// maxExamples bounds the text: the first few say what is wrong, the counts how much.
const maxExamples = 5

func (v *Violations) example(format string, args ...any) {
	if len(v.Examples) < maxExamples {
		v.Examples = append(v.Examples, fmt.Sprintf(format, args...))
	}
}

// everyone is a stream's target when it broadcasts.
const everyone = -1

// stream is a numbered sequence of messages from one peer to its room or to one peer of it.
type stream struct {
	room   uint32
	slot   int32 // index into each member's expectations
	sender int32 // peer index
	target int32 // peer index, or everyone
	copies int32 // recipients whose copies complete a message
	then   int32 // the stream whose next message follows a completed one: itself, or its partner's
	first  int32 // who should receive it: peers from first
	past   int32 // to before past, the sender excepted
	next   uint32
	left   []int32 // copies still out, by sequence number modulo the window; means nothing in an open loop
	stamp  stamp
}

// member is what the ledger knows of a peer.
type member struct {
	room uint32
	// late peers joined while traffic was flowing: their first message of a stream sets where counting begins.
	late bool
	// loose peers may miss messages (they leave, or do not read), so no message waits for them.
	loose bool
	// stuck peers stopped reading: the relay may close them, so what they miss is not counted.
	stuck bool
	// steady peers have been connected since their first handshake.
	steady bool
	// expect is the next sequence number by the stream's slot; 0 is "none seen yet" and means 1 unless the peer is late.
	expect []uint32
}

// gap is a message that was skipped at a peer.
type gap struct{ peer, stream, seq uint32 }

// ledger checks every arrival: room, recipient, sequence. It is only ever touched by the worker's loop.
type ledger struct {
	streams []stream
	members []member
	gaps    map[gap]struct{}
	due     uint64 // copies that firm recipients should get of what was sent so far
	got     uint64 // copies they did get
	v       Violations
}

func newLedger() *ledger { return &ledger{gaps: map[gap]struct{}{}} }

// arrive checks one received message. counts is true for a valid first arrival; completed when it was the last copy out.
func (l *ledger) arrive(peer int32, h *msgHead) (counts, completed bool) {
	m := &l.members[peer]
	if h.room != m.room || int(h.stream) >= len(l.streams) {
		l.v.Stranger++
		l.v.example("peer %d of room %d got a message of room %d, stream %d", peer, m.room, h.room, h.stream)
		return false, false
	}
	s := &l.streams[h.stream]
	if s.room != m.room || s.sender == peer && s.target != peer || s.target != everyone && s.target != peer {
		l.v.Stranger++
		l.v.example("peer %d got message %d of stream %d (from peer %d to %d)", peer, h.seq, h.stream, s.sender, s.target)
		return false, false
	}
	if h.seq == 0 || h.seq >= s.next {
		l.v.Corrupted++
		l.v.example("peer %d got message %d of stream %d, which was never sent", peer, h.seq, h.stream)
		return false, false
	}
	want := m.expect[s.slot]
	if want == 0 {
		want = 1
		if m.late {
			want = h.seq
		}
	}
	if h.seq != want && !l.outOfTurn(peer, h, m, want) {
		return false, false
	}
	if h.seq >= want {
		m.expect[s.slot] = h.seq + 1
	}
	if m.loose {
		return true, false
	}
	l.got++
	left := &s.left[h.seq%uint32(len(s.left))]
	*left--
	return true, *left == 0
}

// outOfTurn notes a gap, or tells a late arrival from a second one; it returns whether the message is new.
func (l *ledger) outOfTurn(peer int32, h *msgHead, m *member, want uint32) bool {
	if h.seq > want {
		if !m.stuck {
			for seq := want; seq < h.seq; seq++ {
				l.gaps[gap{uint32(peer), h.stream, seq}] = struct{}{}
			}
			l.v.example("peer %d got message %d of stream %d when %d was next", peer, h.seq, h.stream, want)
		}
		return true
	}
	g := gap{uint32(peer), h.stream, h.seq}
	if _, missing := l.gaps[g]; missing {
		delete(l.gaps, g)
		l.v.Reordered++
		l.v.example("peer %d got message %d of stream %d after later ones", peer, h.seq, h.stream)
		return true
	}
	l.v.Duplicated++
	l.v.example("peer %d got message %d of stream %d again", peer, h.seq, h.stream)
	return false
}

// begin hands out the next sequence number of a stream.
func (l *ledger) begin(s *stream) uint32 {
	seq := s.next
	s.next++
	s.left[seq%uint32(len(s.left))] = s.copies
	l.due += uint64(s.copies)
	return seq
}

// settle ends a run: what has not arrived by now is lost. What a peer missed that was disconnected is counted by its
// disconnection alone.
func (l *ledger) settle() {
	for i := range l.streams {
		s := &l.streams[i]
		for p := s.first; p < s.past; p++ {
			m := &l.members[p]
			if m.loose || p == s.sender && s.target != p || !m.steady || !l.members[s.sender].steady {
				continue
			}
			want := max(m.expect[s.slot], 1)
			if missing := s.next - want; missing > 0 {
				l.v.Lost += uint64(missing)
				l.v.example("peer %d never got messages %d to %d of stream %d", p, want, s.next-1, i)
			}
		}
	}
	l.v.Lost += uint64(len(l.gaps))
	clear(l.gaps)
}
