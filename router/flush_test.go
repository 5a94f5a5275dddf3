package router

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

func TestFlushIsChunked(t *testing.T) {
	f := func(members int, wantCalls int, wantHelp bool) {
		t.Helper()
		all, s := joinMany(NewTable(), members), new(Scratch)
		r := all[0].Room()
		r.Publish(&all[0].Member, []byte("x"))
		for call := 1; call <= wantCalls; call++ {
			left, help := r.Flush(s)
			again := left != Flushed
			if want := call < wantCalls; again != want {
				t.Fatalf("room of %d, call %d: again %v, want %v", members, call, again, want)
			}
			if want := call == 1 && wantHelp; help != want {
				t.Fatalf("room of %d, call %d: help %v, want %v", members, call, help, want)
			}
			heard := 0
			for _, m := range all {
				heard += m.heard.Len()
			}
			if want := min(call*maxChunk, members) - 1; heard != want {
				t.Fatalf("room of %d: %d have heard after call %d, want %d", members, heard, call, want)
			}
		}
		wantIdle(t, r)
	}
	f(2, 1, false)
	f(maxChunk, 1, false)
	f(maxChunk+1, 2, false)
	f(2*maxChunk, 2, false)
	f(helpAbove, helpAbove/maxChunk, false)
	f(helpAbove+7, helpAbove/maxChunk+1, true)
}

func TestFlushOfNothing(t *testing.T) {
	a, s := joinRoom(NewTable(), "r", "a"), new(Scratch)
	if left, help := a.Room().Flush(s); left != Flushed || help {
		t.Errorf("Flush: again %v, help %v; want neither", left, help)
	}
	if a.Room().Drain(s) {
		t.Error("Drain wants another flush")
	}
	wantIdle(t, a.Room())
}

func TestRoomEmptiesBeforeTheTick(t *testing.T) {
	table := NewTable()
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	r := a.Room()
	r.Publish(&a.Member, []byte("x"))
	table.Leave(&a.Member)
	table.Leave(&b.Member)
	if left, _ := r.Flush(new(Scratch)); left != Flushed {
		t.Error("an empty room wants another flush")
	}
	wantIdle(t, r)
	b.wantHeard(t, "")
}

// gate is a member whose writes wait until somebody opens it.
type gate struct {
	ear
	reached, open chan struct{}
}

// joinGate puts a gate in the room "r", which is made if it is the first.
func joinGate(table *Table, id string) *gate {
	g := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	g.Init(id, g)
	table.Join([]byte("r"), &g.Member)
	return g
}

func (g *gate) Write(frames []byte) {
	g.reached <- struct{}{}
	<-g.open
	g.ear.Write(frames)
}

// The next log is not begun before the last is out, whoever flushes, and the one who
// finishes goes on.
func TestNextLogWaits(t *testing.T) {
	table := NewTable()
	slow, fast := joinGate(table, "slow"), joinRoom(table, "r", "fast")
	from := joinRoom(table, "r", "from")
	r := from.Room()
	r.Publish(&from.Member, []byte("1"))
	again := make(chan bool)
	go func() {
		left, _ := r.Flush(new(Scratch))
		again <- left == Another
	}()
	<-slow.reached
	if note, _ := r.Publish(&from.Member, []byte("2")); note {
		t.Error("a message beside a flush obliges to note the room, where who flushes goes on")
	}
	if left, _ := r.Flush(new(Scratch)); left != Flushed {
		t.Error("another flusher is to come again, with nothing for it to do")
	}
	fast.wantHeard(t, "")
	slow.open <- struct{}{}
	if !<-again {
		t.Fatal("whoever finished is not to come again, and a message waits")
	}
	fast.wantHeard(t, "1")
	go func() { <-slow.reached; slow.open <- struct{}{} }()
	flushAll(r, new(Scratch))
	fast.wantHeard(t, "2")
	slow.wantHeard(t, "12")
	wantIdle(t, r)
}

// Members come and go while a batch is on its way: who comes hears what is said
// from then on, who goes disturbs nobody.
func TestJoinAndLeaveBesideFlush(t *testing.T) {
	table := NewTable()
	slow := joinGate(table, "slow")
	from, leaver, stays := joinRoom(table, "r", "from"), joinRoom(table, "r", "x"), joinRoom(table, "r", "x")
	r := from.Room()
	r.Publish(&from.Member, []byte("1"))
	r.PublishTo(&from.Member, []byte("x"), []byte("2"))
	done := make(chan struct{})
	go func() { flushAll(r, new(Scratch)); close(done) }()
	<-slow.reached
	table.Leave(&leaver.Member)
	table.Leave(&slow.Member) // while it is written to
	comer := joinRoom(table, "r", "x")
	r.PublishTo(&from.Member, []byte("x"), []byte("3"))
	r.Publish(&stays.Member, []byte("4"))
	slow.open <- struct{}{}
	<-done
	comer.wantHeard(t, "34")
	stays.wantHeard(t, "123")
	from.wantHeard(t, "4")
	for _, m := range []*Member{&slow.Member, &leaver.Member, &from.Member, &stays.Member, &comer.Member} {
		if m.mark != 0 {
			t.Errorf("%s is still marked", m.ID())
		}
	}
	wantIdle(t, r)
}

// Two write to different parts of one batch at the same time.
func TestFlushersShareABatch(t *testing.T) {
	table := NewTable()
	first := joinGate(table, "first")
	others := joinMany(table, 3*maxChunk-1)
	r := first.Room()
	r.Publish(&first.Member, []byte("-")) // first is not written what it said
	r.PublishTo(&first.Member, []byte("first"), []byte("x"))
	done := make(chan bool)
	go func() { left, _ := r.Flush(new(Scratch)); done <- left != Flushed }()
	<-first.reached // one goroutine is stuck in the first part
	s := new(Scratch)
	for part, want := range []bool{true, false} {
		if left, help := r.Flush(s); (left != Flushed) != want || help {
			t.Errorf("part %d: again %v, help %v; want %v and no help", part+2, left, help, want)
		}
	}
	for i, m := range others[maxChunk-1:] {
		if got, _ := m.take(); got != "-" {
			t.Fatalf("member %d heard %q beside the first part, want %q", i+maxChunk-1, got, "-")
		}
	}
	first.open <- struct{}{}
	if <-done {
		t.Error("the last to finish is to come again, and nothing is left")
	}
	first.wantHeard(t, "x")
	wantIdle(t, r)
}

func TestDrain(t *testing.T) {
	f := func(members int) {
		t.Helper()
		all, s := joinMany(NewTable(), members), new(Scratch)
		r := all[0].Room()
		r.Publish(&all[0].Member, []byte("1"))
		if members > maxChunk {
			r.Flush(s) // a part is out
			r.Publish(&all[0].Member, []byte("2"))
		} else {
			r.Publish(&all[0].Member, []byte("2"))
		}
		if r.Drain(s) {
			t.Errorf("room of %d: is to be flushed at the next tick", members)
		}
		for i, m := range all[1:] {
			if got, _ := m.take(); got != "12" {
				t.Fatalf("room of %d: member %d heard %q, want %q", members, i+1, got, "12")
			}
		}
		wantIdle(t, r)
	}
	f(2)
	f(maxChunk + 1)
	f(3*maxChunk + 1)
}

// speaker answers what it is written with a message of its own, as a peer would
// while the room is drained.
type speaker struct {
	Member
	limit int
}

func (s *speaker) Write([]byte) {
	if s.limit--; s.limit >= 0 {
		s.Room().Publish(&s.Member, []byte("+"))
	}
}

// Drain ends, though there is always more; the rest is for the next tick.
func TestDrainEnds(t *testing.T) {
	table := NewTable()
	from, hears := joinRoom(table, "r", "from"), joinRoom(table, "r", "hears")
	var chatter [2]speaker
	for i := range chatter {
		chatter[i].limit = 1000
		chatter[i].Init("chatter", &chatter[i])
		table.Join([]byte("r"), &chatter[i].Member)
	}
	r := from.Room()
	r.Publish(&from.Member, []byte("1"))
	if !r.Drain(new(Scratch)) {
		t.Fatal("a message waits, and the room is not to be flushed at the next tick")
	}
	if got, _ := hears.take(); !strings.HasPrefix(got, "1") || len(got) > 10 {
		t.Errorf("heard %.20q (%d messages), want 1 and what was said meanwhile", got, len(got))
	}
	flushAll(r, new(Scratch))
	wantIdle(t, r)
}

// Drain comes back when what was published before is out, also what others are
// writing, and no earlier.
func TestDrainWaitsForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable()
		slow, from := joinGate(table, "slow"), joinRoom(table, "r", "from")
		hears := joinRoom(table, "r", "hears")
		r := from.Room()
		r.Publish(&from.Member, []byte("1"))
		var flushed, drained bool
		go func() { flushAll(r, new(Scratch)); flushed = true }()
		<-slow.reached
		r.Publish(&from.Member, []byte("2"))
		go func() { r.Drain(new(Scratch)); drained = true }()
		synctest.Wait()
		if drained {
			t.Error("drained while the message before is being written")
		}
		slow.open <- struct{}{}
		<-slow.reached
		synctest.Wait()
		if drained {
			t.Error("drained while the message is being written")
		}
		hears.wantHeard(t, "1")
		slow.open <- struct{}{}
		synctest.Wait()
		if !flushed || !drained {
			t.Errorf("flushed %v, drained %v, want both", flushed, drained)
		}
		hears.wantHeard(t, "2")
		slow.wantHeard(t, "12")
		wantIdle(t, r)
	})
}

// A log of many bytes is flushed to few at a time, so that no call copies more than
// some MiB; but never to none.
func TestChunksOfBytes(t *testing.T) {
	f := func(size, want int) {
		t.Helper()
		all := joinMany(NewTable(), 2*maxChunk)
		r := all[0].Room()
		r.Publish(&all[0].Member, make([]byte, size))
		b, part, _ := r.claim(false)
		if len(part) != want {
			t.Errorf("a log of %d bytes is flushed to %d at a time, want %d", size, len(part), want)
		}
		r.deliver(b, part, new(Scratch))
	}
	f(1, maxChunk)
	f(maxChunkBytes/maxChunk-1, maxChunk)
	f(maxChunkBytes/50-1, 50)
	f(LogLimit, 3)
	f(64<<20, 1)

	// Direct messages: everyone gets a share.
	all := joinMany(NewTable(), 2*maxChunk)
	r := all[0].Room()
	for _, m := range all {
		r.PublishTo(&all[0].Member, []byte(m.ID()), make([]byte, LogLimit/len(all)))
	}
	b, part, _ := r.claim(false)
	if len(part) != maxChunk {
		t.Errorf("direct messages to all, %d bytes: %d at a time, want %d", LogLimit, len(part), maxChunk)
	}
	r.deliver(b, part, new(Scratch))
}

// A panic on the way to one member costs nobody else the room.
func TestPanicInFlush(t *testing.T) {
	table, s := NewTable(), new(Scratch)
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	bad := new(mine)
	bad.Init("bad", bad)
	table.Join([]byte("r"), &bad.Member)
	r := a.Room()
	r.Publish(&a.Member, []byte("1"))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		r.Flush(s)
	}()
	wantIdle(t, r)
	table.Leave(&bad.Member)
	b.take()
	r.Publish(&a.Member, []byte("2"))
	flushAll(r, s)
	b.wantHeard(t, "2")
}

// A panic on the way into a room leaves no lock behind.
func TestPanicInJoin(t *testing.T) {
	table, s := NewTable(), new(Scratch)
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	r := a.Room()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		table.Join([]byte("r"), nil)
	}()
	for what, mu := range map[string]*sync.Mutex{"the room": &r.mu, "its shard": &table.shards[r.shard].mu} {
		if !mu.TryLock() {
			t.Fatalf("%s is still locked", what)
		}
		mu.Unlock()
	}
	wantTable(t, table, 1, 2)
	c := joinRoom(table, "r", "c")
	r.Publish(&a.Member, []byte("1"))
	flushAll(r, s)
	b.wantHeard(t, "1")
	c.wantHeard(t, "1")
}

// mine is a member whose writes panic.
type mine struct{ Member }

func (*mine) Write([]byte) { panic("stepped on") }

// Several drain and flush a large room at once, each stuck in turn in a slow
// member. A deadlock would end the test: nothing but they is in its bubble.
func TestDrainsAndFlushesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rounds = 20
		table := NewTable()
		var gates []*gate
		var rest []*ear
		for i := range 4 {
			gates = append(gates, joinGate(table, fmt.Sprint("gate", i)))
			rest = append(rest, joinMany(table, maxChunk-1)...)
		}
		r := gates[0].Room()
		ended := make(chan struct{})
		for _, g := range gates {
			go func() {
				for {
					select {
					case <-g.reached:
						g.open <- struct{}{}
					case <-ended:
						return
					}
				}
			}()
		}
		from := joinRoom(table, "r", "from")
		var want strings.Builder
		var flushers sync.WaitGroup
		for round := range rounds {
			frame := fmt.Sprintf("%d;", round)
			want.WriteString(frame)
			r.Publish(&from.Member, []byte(frame))
			flushers.Go(func() { flushAll(r, new(Scratch)) })
			flushers.Go(func() {
				if r.Drain(new(Scratch)) {
					flushAll(r, new(Scratch))
				}
			})
		}
		flushers.Wait()
		close(ended)
		for _, m := range rest {
			if got, _ := m.take(); got != want.String() {
				t.Fatalf("%s heard %q, want %q", m.ID(), got, want.String())
			}
		}
		for _, g := range gates {
			g.wantHeard(t, want.String())
		}
		wantIdle(t, r)
	})
}
