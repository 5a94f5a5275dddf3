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
		v.Counts[kind] += n
	}
	v.Examples = append(v.Examples, w.Examples[:min(len(w.Examples), maxExamples-len(v.Examples))]...)
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
	slot    int32 // index into each member's expectations
	sender  int32 // peer index
	target  int32 // peer index, or everyone
	then    int32 // the stream whose next message follows a completed one: itself, or its answer
	copies  int32 // recipients whose copies complete a message
	next    uint32
	left    []int32 // copies still out, by sequence number modulo the window; means nothing in an open loop
	message []byte  // as last sent
}

// member is what the ledger knows of a peer.
type member struct {
	// steady peers have been connected since their first handshake.
	steady bool
	// loose peers leave and come back, so no message waits for them.
	loose bool
	// seen is the last sequence number by the stream's slot; 0: none since the handshake.
	seen []uint32
}

// gap is a message that was skipped at a peer.
type gap struct {
	peer        int32
	stream, seq uint32
}

// ledger checks every arrival: bytes, recipient, sequence. It is only ever touched by the worker's loop.
type ledger struct {
	first   uint32 // number of the first stream, which tells this worker's from others'
	peers   int32  // per room; the members of a room stand beside each other
	numbers int    // where they begin in each message
	streams []stream
	members []member
	gaps    map[gap]struct{}
	due     uint64 // copies that should arrive of what was sent so far
	got     uint64 // copies that did
	v       Violations
}

func newLedger() *ledger {
	return &ledger{gaps: map[gap]struct{}{}, v: Violations{Counts: map[string]uint64{}}}
}

// recipients are the peers from first to before past, the sender excepted.
func (l *ledger) recipients(s *stream) (first, past int32) {
	if s.target != everyone {
		return s.target, s.target + 1
	}
	first = s.sender - s.sender%l.peers
	return first, first + l.peers
}

// arrive checks one received message, of which the numbers have been read, and returns its stream if it is a valid first
// arrival. completed is true when it was the last copy out.
func (l *ledger) arrive(peer int32, h msgHead, b []byte) (s *stream, completed bool) {
	m, n := &l.members[peer], h.stream-l.first
	if n >= uint32(len(l.streams)) {
		l.v.add(Stranger, 1, "peer %d got a message of stream %x, which is of no room of its thread", peer, h.stream)
		return nil, false
	}
	s = &l.streams[n]
	if first, past := l.recipients(s); peer < first || peer >= past || peer == s.sender && s.target != peer {
		l.v.add(Stranger, 1, "peer %d got message %d of stream %d (from peer %d to %d)", peer, h.seq, n, s.sender, s.target)
		return nil, false
	}
	if !same(b, s.message, l.numbers) {
		l.v.add(Corrupted, 1, "peer %d got %d bytes that nobody sent: %.60q", peer, len(b), b)
		return nil, false
	}
	if h.seq == 0 || h.seq >= s.next {
		l.v.add(Corrupted, 1, "peer %d got message %d of stream %d, which was never sent", peer, h.seq, n)
		return nil, false
	}
	want := m.seen[s.slot] + 1
	if m.loose && want == 1 {
		want = h.seq // it has joined amid the stream
	}
	if h.seq != want && !l.outOfTurn(peer, n, h.seq, want) {
		return nil, false
	}
	m.seen[s.slot] = max(m.seen[s.slot], h.seq)
	if m.loose {
		return s, false
	}
	l.got++
	left := &s.left[h.seq%uint32(len(s.left))]
	*left--
	return s, *left == 0
}

// outOfTurn notes a gap, or tells a late arrival from a second one; it returns whether the message is new.
func (l *ledger) outOfTurn(peer int32, stream, seq, want uint32) bool {
	if seq > want {
		for ; want < seq; want++ {
			l.gaps[gap{peer, stream, want}] = struct{}{}
		}
		return true
	}
	g := gap{peer, stream, seq}
	if _, missing := l.gaps[g]; missing {
		delete(l.gaps, g)
		l.v.add(Reordered, 1, "peer %d got message %d of stream %d after later ones", peer, seq, stream)
		return true
	}
	l.v.add(Duplicated, 1, "peer %d got message %d of stream %d again", peer, seq, stream)
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
		first, past := l.recipients(s)
		for p := first; p < past; p++ {
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
