package load

import (
	"maps"
	"testing"
)

// room makes a ledger with rooms of n peers, of which the first one's first sends to all, with a window of two.
func room(n int) *ledger {
	l := newLedger()
	l.peers = int32(n)
	seen := make([]uint32, 2*n)
	for i := range seen {
		l.members = append(l.members, member{steady: true, seen: seen[i : i+1]})
	}
	l.streams = []stream{{target: everyone, copies: int32(n - 1), next: 1, left: make([]int32, 2)}}
	l.streams[0].message, l.numbers = newMessage(128, 0, everyone)
	return l
}

// gets lets a message arrive at a peer.
func (l *ledger) gets(peer int32, h msgHead) (counts, completed bool) {
	s, completed := l.arrive(peer, h, l.streams[0].message)
	return s != nil, completed
}

func (l *ledger) sendAll(n int) {
	for range n {
		l.begin(&l.streams[0])
	}
}

func (l *ledger) finish() Violations {
	l.settle()
	return l.v
}

func TestLedgerFindsNothingWrong(t *testing.T) {
	l := room(3)
	l.sendAll(2)
	for seq := uint32(1); seq <= 2; seq++ {
		for p := int32(1); p < 3; p++ {
			counts, completed := l.gets(p, msgHead{seq: seq})
			if !counts || completed != (p == 2) {
				t.Errorf("message %d at peer %d: counts %v, completed %v", seq, p, counts, completed)
			}
		}
	}
	if v := l.finish(); v.Total() != 0 {
		t.Errorf("got %+v, want nothing", v)
	}
	if l.due != 4 || l.got != 4 {
		t.Errorf("due %d, got %d; want 4 and 4", l.due, l.got)
	}
}

func TestLedgerFindsWhatIsWrong(t *testing.T) {
	type at struct {
		peer int32
		head msgHead
	}
	f := func(name string, want map[string]uint64, arrivals ...at) {
		t.Helper()
		l := room(2)
		l.sendAll(2)
		for _, a := range arrivals {
			l.gets(a.peer, a.head)
		}
		if got := l.finish(); !maps.Equal(got.Counts, want) || len(got.Examples) == 0 {
			t.Errorf("%s: got %+v, want %v and an example", name, got, want)
		}
	}
	one, two := at{1, msgHead{seq: 1}}, at{1, msgHead{seq: 2}}
	f("last one lost", map[string]uint64{Lost: 1}, one)
	f("first one lost", map[string]uint64{Lost: 1}, two)
	f("all lost", map[string]uint64{Lost: 2})
	f("twice", map[string]uint64{Duplicated: 1}, one, one, two)
	f("out of order", map[string]uint64{Reordered: 1}, two, one)
	f("out of order, then twice", map[string]uint64{Reordered: 1, Duplicated: 1}, two, one, one)
	f("back at its sender", map[string]uint64{Stranger: 1}, one, two, at{0, one.head})
	f("of another room", map[string]uint64{Stranger: 1}, one, two, at{2, one.head})
	f("of a stream that is none", map[string]uint64{Stranger: 1}, one, two, at{1, msgHead{stream: 9, seq: 1}})
	f("never sent", map[string]uint64{Corrupted: 1}, one, two, at{1, msgHead{seq: 3}})
}

func TestLedgerTargeted(t *testing.T) {
	l := room(3)
	s := &l.streams[0]
	s.target, s.copies = 1, 1
	l.sendAll(1)
	if counts, completed := l.gets(1, msgHead{seq: 1}); !counts || !completed {
		t.Error("the target's copy does not complete the message")
	}
	if counts, _ := l.gets(2, msgHead{seq: 1}); counts {
		t.Error("a stranger's copy counts")
	}
	if v := l.finish(); v.Counts[Stranger] != 1 || v.Total() != 1 {
		t.Errorf("got %+v, want one stranger", v)
	}
}

// TestLedgerLoose: nobody waits for a peer that comes and goes, but what it gets from its first message on is checked.
func TestLedgerLoose(t *testing.T) {
	l := room(3)
	l.members[2].loose, l.streams[0].copies, l.streams[0].left = true, 1, make([]int32, 5)
	l.sendAll(5)
	for _, seq := range []uint32{2, 4, 4} {
		l.gets(2, msgHead{seq: seq})
	}
	for seq := range uint32(5) {
		if _, completed := l.gets(1, msgHead{seq: seq + 1}); !completed {
			t.Errorf("message %d waits for a loose peer", seq+1)
		}
	}
	if v := l.finish(); !maps.Equal(v.Counts, map[string]uint64{Lost: 1, Duplicated: 1}) || l.got != l.due {
		t.Errorf("got %+v, want one lost and one doubled; %d of %d copies", v, l.got, l.due)
	}
}

func TestViolationsMerge(t *testing.T) {
	a, b := Violations{Counts: map[string]uint64{}}, Violations{Counts: map[string]uint64{}}
	a.add(Lost, 1, "a")
	b.add(Disconnected, 2, "b")
	b.add(Lost, 3, "c")
	a.merge(b)
	if a.Total() != 6 || a.String() != "4 lost, 2 peers disconnected, e.g. a" || len(a.Examples) != 3 {
		t.Errorf("got %+v: %s", a, a.String())
	}
}
