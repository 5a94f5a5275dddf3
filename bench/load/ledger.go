package load

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// What a relay must never do. A run with any of it is a failure.
const (
	Lost         = "lost"               // never arrived at a recipient that stayed connected
	Duplicated   = "doubled"            // arrived twice
	Reordered    = "out of order"       // arrived after a later one of the same sender
	Stranger     = "to a stranger"      // arrived at a peer it was not for
	Corrupted    = "corrupted"          // bytes changed, or a frame that is no WebSocket frame
	Disconnected = "peers disconnected" // by the relay, without cause
)

// Violations counts it, and keeps the first few in words: they say what is wrong, the counts how much.
type Violations struct {
	Counts   map[string]uint64 `json:"counts,omitempty"`
	Examples []string          `json:"examples,omitempty"`
}

const maxExamples = 5

func (v *Violations) add(kind string, n int, format string, args ...any) {
	if v.Counts == nil {
		v.Counts = map[string]uint64{}
	}
	v.Counts[kind] += uint64(n)
	if len(v.Examples) < maxExamples {
		v.Examples = append(v.Examples, fmt.Sprintf(format, args...))
	}
}

// Total is the number of violations of all kinds.
func (v *Violations) Total() (total uint64) {
	for _, n := range v.Counts {
		total += n
	}
	return total
}

// merge adds another worker's.
func (v *Violations) merge(w Violations) {
	for kind, n := range w.Counts {
		if v.Counts == nil {
			v.Counts = map[string]uint64{}
		}
		v.Counts[kind] += n
	}
	v.Examples = append(v.Examples, w.Examples...)
	v.Examples = v.Examples[:min(len(v.Examples), maxExamples)]
}

// String names what was broken, with an example.
func (v *Violations) String() string {
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(v.Counts)) {
		out = append(out, fmt.Sprintf("%d %s", v.Counts[kind], kind))
	}
	return strings.Join(append(out, "e.g. "+v.Examples[0]), ", ")
}

// everyone is a stream's target when it broadcasts.
const everyone = -1

// stream is a numbered sequence of messages from one peer to its room or to one peer of it.
type stream struct {
	room   uint32
	slot   int32 // index into each member's expectations
	sender int32 // peer index
	target int32 // peer index, or everyone
	then   int32 // the stream whose next message follows a completed one: itself, or its answer
	copies int32 // recipients whose copies complete a message
	first  int32 // who should receive it: peers from first
	past   int32 // to before past, the sender excepted
	next   uint32
	left   []int32 // copies still out, by sequence number modulo the window; means nothing in an open loop
	stamp  stamp
}

// member is what the ledger knows of a peer.
type member struct {
	room uint32
	// steady peers have been connected since their first handshake.
	steady bool
	// loose peers leave and come back, so no message waits for them.
	loose bool
	// seen is the last sequence number by the stream's slot; 0: none since the handshake.
	seen []uint32
}

// gap is a message that was skipped at a peer.
type gap struct{ peer, stream, seq uint32 }

// ledger checks every arrival: room, recipient, sequence. It is only ever touched by the worker's loop.
type ledger struct {
	streams []stream
	members []member
	gaps    map[gap]struct{}
	due     uint64 // copies that should arrive of what was sent so far
	got     uint64 // copies that did
	v       Violations
}

func newLedger() *ledger { return &ledger{gaps: map[gap]struct{}{}} }

// arrive checks one received message. counts is true for a valid first arrival; completed when it was the last copy out.
func (l *ledger) arrive(peer int32, h *msgHead) (counts, completed bool) {
	m := &l.members[peer]
	if h.room != m.room || int(h.stream) >= len(l.streams) {
		l.v.add(Stranger, 1, "peer %d of room %d got a message of room %d, stream %d", peer, m.room, h.room, h.stream)
		return false, false
	}
	s := &l.streams[h.stream]
	if s.room != m.room || s.sender == peer && s.target != peer || s.target != everyone && s.target != peer {
		l.v.add(Stranger, 1, "peer %d got message %d of stream %d (from peer %d to %d)", peer, h.seq, h.stream, s.sender, s.target)
		return false, false
	}
	if h.seq == 0 || h.seq >= s.next {
		l.v.add(Corrupted, 1, "peer %d got message %d of stream %d, which was never sent", peer, h.seq, h.stream)
		return false, false
	}
	want := m.seen[s.slot] + 1
	if m.loose && want == 1 {
		want = h.seq // it has joined amid the stream
	}
	if h.seq != want && !l.outOfTurn(peer, h, want) {
		return false, false
	}
	m.seen[s.slot] = max(m.seen[s.slot], h.seq)
	if m.loose {
		return true, false
	}
	l.got++
	left := &s.left[h.seq%uint32(len(s.left))]
	*left--
	return true, *left == 0
}

// outOfTurn notes a gap, or tells a late arrival from a second one; it returns whether the message is new.
func (l *ledger) outOfTurn(peer int32, h *msgHead, want uint32) bool {
	if h.seq > want {
		for seq := want; seq < h.seq; seq++ {
			l.gaps[gap{uint32(peer), h.stream, seq}] = struct{}{}
		}
		return true
	}
	g := gap{uint32(peer), h.stream, h.seq}
	if _, missing := l.gaps[g]; missing {
		delete(l.gaps, g)
		l.v.add(Reordered, 1, "peer %d got message %d of stream %d after later ones", peer, h.seq, h.stream)
		return true
	}
	l.v.add(Duplicated, 1, "peer %d got message %d of stream %d again", peer, h.seq, h.stream)
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
			want := m.seen[s.slot] + 1
			if missing := s.next - want; missing > 0 {
				l.v.add(Lost, int(missing), "peer %d never got messages %d to %d of stream %d", p, want, s.next-1, i)
			}
		}
	}
	for g := range l.gaps {
		l.v.add(Lost, 1, "peer %d never got message %d of stream %d", g.peer, g.seq, g.stream)
	}
	clear(l.gaps)
}
