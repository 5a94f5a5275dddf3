package router

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"
)

func TestWhoGetsWhat(t *testing.T) {
	// f publishes what script says, in one tick: "a:1" is a broadcast of a's, "a>b:1"
	// a direct message. want is what a, b, c and the two members called d hear.
	f := func(script string, want ...string) {
		t.Helper()
		table, s := NewTable(), new(Scratch)
		var members []*ear
		for _, id := range []string{"a", "b", "c", "d", "d"} {
			members = append(members, joinRoom(table, "r", id))
		}
		r := members[0].Room()
		for word := range strings.FieldsSeq(script) {
			who, frame, _ := strings.Cut(word, ":")
			from := &members[who[0]-'a'].Member
			if _, target, direct := strings.Cut(who, ">"); direct {
				r.PublishTo(from, []byte(target), []byte(frame))
			} else {
				r.Publish(from, []byte(frame))
			}
		}
		flushAll(r, s)
		for i, m := range members {
			got, writes := m.take()
			if got != want[i] {
				t.Errorf("%s: member %d (%s) heard %q, want %q", script, i, m.ID(), got, want[i])
			}
			if most := min(len(want[i]), 1); writes != most {
				t.Errorf("%s: member %d (%s) was written to %d times, want %d", script, i, m.ID(), writes, most)
			}
		}
	}

	// Broadcasts.
	f("a:1", "", "1", "1", "1", "1")
	f("a:1 a:2", "", "12", "12", "12", "12")
	f("a:1 b:2", "2", "1", "12", "12", "12")
	f("a:1 b:2 a:3", "2", "13", "123", "123", "123")
	f("a:1 b:2 c:3 d:4", "234", "134", "124", "123", "1234")
	f("a:1 a:2 b:3 b:4 a:5", "34", "125", "12345", "12345", "12345")
	f("a:one b:two a:three", "two", "onethree", "onetwothree", "onetwothree", "onetwothree")

	// Direct messages.
	f("a>b:1", "", "1", "", "", "")
	f("a>a:1", "1", "", "", "", "")
	f("a>d:1", "", "", "", "1", "1")
	f("d>d:1", "", "", "", "1", "1")
	f("a>x:1", "", "", "", "", "")
	f("a>b:1 a>c:2 a>b:3", "", "13", "2", "", "")
	f("a>d:1 b>a:2 c>d:3", "2", "", "", "13", "13")
	f("a>b:1 b>b:2 c>b:3", "", "123", "", "", "")

	// Both.
	f("a:1 a>b:2", "", "12", "1", "1", "1")
	f("a>b:1 a:2", "", "12", "2", "2", "2")
	f("a:1 a>a:2 a:3", "2", "13", "13", "13", "13")
	f("a:1 b>d:2 a:3", "", "13", "13", "123", "123")
	f("a>d:1 b:2 c>a:3 d:4 d>d:5", "234", "4", "24", "125", "1245")
	f("a>x:1 b:2", "2", "", "2", "2", "2")
	f("a:1 a>c:2 a>c:3 b:4", "4", "1", "1234", "14", "14")
	f("b>c:1 a:2 b>c:3 a:4 b>c:5", "", "24", "12345", "24", "24")
}

// where is a member that notes where in memory it is written from.
type where struct {
	Member
	at *byte
}

func (w *where) Write(frames []byte) { w.at = unsafe.SliceData(frames) }

// All who neither spoke nor were named get the very same bytes.
func TestOneBufferForAll(t *testing.T) {
	f := func(what string, publish func(r *Room, first, second *Member)) {
		t.Helper()
		table := NewTable()
		members := make([]where, 20)
		for i := range members {
			members[i].Init(fmt.Sprint(i), &members[i])
			table.Join([]byte("r"), &members[i].Member)
		}
		r := members[0].Room()
		publish(r, &members[0].Member, &members[1].Member)
		flushAll(r, new(Scratch))
		for i := 3; i < len(members); i++ {
			if members[i].at == nil || members[i].at != members[2].at {
				t.Fatalf("%s: member %d was written to from %p, member 2 from %p", what, i, members[i].at, members[2].at)
			}
		}
	}
	f("broadcasts", func(r *Room, first, second *Member) {
		r.Publish(first, []byte("1"))
		r.Publish(second, []byte("2"))
	})
	f("a mixture", func(r *Room, first, second *Member) {
		r.Publish(first, []byte("1"))
		r.PublishTo(first, []byte("1"), []byte("2"))
		r.Publish(first, []byte("3"))
	})
}

// A direct message concerns few, and the others are not even looked at.
func TestDirectMessagesTouchTheirTargetsAlone(t *testing.T) {
	members := joinMany(NewTable(), 10)
	r := members[0].Room()
	r.PublishTo(&members[0].Member, []byte("3"), []byte("x"))
	r.PublishTo(&members[0].Member, []byte("3"), []byte("y"))
	r.PublishTo(&members[0].Member, []byte("4"), []byte("z"))
	b, part, _ := r.claim(false)
	if len(part) != 2 || part[0] != &members[3].Member || part[1] != &members[4].Member {
		t.Errorf("%d recipients, want members 3 and 4", len(part))
	}
	b.deliver(part, new(Scratch))
	r.finish(b, len(part), new(Traffic))
	members[3].wantHeard(t, "xy")
	members[4].wantHeard(t, "z")
}

// A message that waits while its target leaves goes to nobody, whatever else the
// log holds.
func TestNothingAfterLeaving(t *testing.T) {
	f := func(what string, publish func(r *Room, from *Member)) {
		t.Helper()
		table := NewTable()
		a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
		c := joinRoom(table, "r", "c")
		r := a.Room()
		publish(r, &a.Member)
		table.Leave(&b.Member)
		flushAll(r, new(Scratch))
		if heard, writes := b.take(); writes != 0 {
			t.Errorf("%s: a member that had left was written %q", what, heard)
		}
		if heard, _ := c.take(); heard != "c" {
			t.Errorf("%s: one that stays heard %q, want %q", what, heard, "c")
		}
		wantIdle(t, r)
	}
	f("broadcast", func(r *Room, from *Member) { r.Publish(from, []byte("c")) })
	f("direct messages", func(r *Room, from *Member) {
		r.PublishTo(from, []byte("b"), []byte("b"))
		r.PublishTo(from, []byte("c"), []byte("c"))
	})
	f("both", func(r *Room, from *Member) {
		r.PublishTo(from, []byte("b"), []byte("b"))
		r.Publish(from, []byte("c"))
	})
}

// What a sender said before it left is said.
func TestSenderLeaves(t *testing.T) {
	table := NewTable()
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	r := a.Room()
	r.Publish(&a.Member, []byte("1"))
	r.PublishTo(&a.Member, []byte("b"), []byte("2"))
	r.PublishTo(&a.Member, []byte("a"), []byte("3"))
	r.Publish(&a.Member, []byte("4"))
	table.Leave(&a.Member)
	flushAll(r, new(Scratch))
	a.wantHeard(t, "")
	b.wantHeard(t, "124")
}

// A pooled batch is anybody's: it must know no member, and hold no more memory
// than the next log is likely to need.
func TestRecycledBatch(t *testing.T) {
	members, s := deafRoom(100), new(Scratch)
	r := members[0].Room()
	flushed := func() *batch {
		b := r.log
		flushAll(r, s)
		return b
	}
	f := func(what string, b *batch) {
		t.Helper()
		for _, e := range b.entries[:cap(b.entries)] {
			if e != (entry{}) {
				t.Fatalf("%s: a pooled batch has the entry %v", what, e)
			}
		}
		for _, v := range b.participants[:cap(b.participants)] {
			if v != (participant{}) {
				t.Fatalf("%s: a pooled batch still has %v", what, v)
			}
		}
		for _, m := range b.recipients[:cap(b.recipients)] {
			if m != nil {
				t.Fatalf("%s: a pooled batch has a recipient", what)
			}
		}
		if len(b.buf)+len(b.mixed)+len(b.shared)+len(b.entries)+b.directs+b.next+b.written != 0 || b.done != nil {
			t.Errorf("%s: a pooled batch is not empty", what)
		}
		if n := max(cap(b.buf), cap(b.mixed)); n > maxKeepBytes {
			t.Errorf("%s: a pooled batch has place for %d bytes, want at most %d", what, n, maxKeepBytes)
		}
		if n := max(cap(b.entries), cap(b.participants), cap(b.recipients)); n > maxKeepElems {
			t.Errorf("%s: a pooled batch has place for %d elements, want at most %d", what, n, maxKeepElems)
		}
		for _, m := range members {
			if m.mark != 0 {
				t.Fatalf("%s: member %s is still marked", what, m.id)
			}
		}
	}

	for _, m := range members {
		r.Publish(&m.Member, []byte("x"))
		r.PublishTo(&m.Member, []byte("7"), []byte("y"))
	}
	f("a mixture", flushed())

	for range 2 * maxKeepElems {
		r.Publish(&members[0].Member, []byte("y"))
	}
	f("many messages", flushed())

	r.PublishTo(&members[0].Member, []byte("7"), []byte("y"))
	r.Publish(&members[0].Member, make([]byte, 2*maxKeepBytes))
	f("a large message", flushed())
}

// A full room's log is kept for the next one: a flood grows it once.
func TestFullLogIsKept(t *testing.T) {
	if raceEnabled {
		return // the race detector makes sync.Pool forget at random
	}
	f := func(what string, publish func(r *Room, from *Member)) {
		t.Helper()
		members, s := deafRoom(100), new(Scratch)
		r := members[0].Room()
		once := func() {
			for !r.Full() {
				publish(r, &members[0].Member)
			}
			flushAll(r, s)
		}
		once()
		if allocs := testing.AllocsPerRun(50, once); allocs != 0 {
			t.Errorf("a room full of %s: %v allocations, want 0", what, allocs)
		}
	}
	frame := make([]byte, 1000)
	f("broadcasts", func(r *Room, from *Member) { r.Publish(from, frame) })
	f("direct messages", func(r *Room, from *Member) { r.PublishTo(from, []byte("7"), frame) })
	f("both", func(r *Room, from *Member) {
		r.Publish(from, frame)
		r.PublishTo(from, []byte("7"), frame[:50])
	})
	f("empty messages", func(r *Room, from *Member) { r.Publish(from, frame[:2]) })
}

func TestScratchIsBounded(t *testing.T) {
	table, s := NewTable(), new(Scratch)
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	large := make([]byte, maxKeepBytes)
	a.Room().Publish(&a.Member, large)
	a.Room().Publish(&b.Member, []byte("x"))
	a.Room().Publish(&a.Member, large)
	flushAll(a.Room(), s)
	if heard, _ := b.take(); len(heard) != 2*len(large) {
		t.Errorf("heard %d bytes, want %d", len(heard), 2*len(large))
	}
	if c := cap(s.buf); c > maxKeepBytes {
		t.Errorf("scratch holds on to %d bytes, want at most %d", c, maxKeepBytes)
	}
}
