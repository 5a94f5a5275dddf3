package router

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// ear records what a member is written. Its zero value is ready.
type ear struct {
	Member
	mu     sync.Mutex
	heard  bytes.Buffer
	writes int
}

func (e *ear) Write(frames []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard.Write(frames)
	e.writes++
}

// take returns what was heard since the last call.
func (e *ear) take() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.heard.String()
	e.heard.Reset()
	return s
}

func joinRoom(table *Table, relayID, id string) *ear {
	e := new(ear)
	e.Init(id, e)
	table.Join([]byte(relayID), &e.Member)
	return e
}

func flushAll(r *Room, s *Scratch) {
	for again := true; again; {
		again, _ = r.Flush(s)
	}
}

func TestPublish(t *testing.T) {
	table := NewTable()
	a, b, c := joinRoom(table, "r", "a"), joinRoom(table, "r", "b"), joinRoom(table, "r", "b")
	stranger := joinRoom(table, "other", "b")
	r := a.Room()
	if must := r.Publish(&a.Member, []byte("1")); !must.Note() || must.Drain() {
		t.Errorf("the first message obliges to %v, want to note the room", must)
	}
	if must := r.Publish(&b.Member, []byte("2")); must.Note() {
		t.Error("the second message obliges to note the room again")
	}
	if _, found := r.PublishTo(&c.Member, []byte("b"), []byte("3")); !found {
		t.Error("no b was found")
	}
	if _, found := r.PublishTo(&c.Member, []byte("nobody"), []byte("4")); found {
		t.Error("a peer called nobody was found")
	}
	r.Publish(&a.Member, []byte("5"))
	flushAll(r, new(Scratch))
	for _, x := range []struct {
		e    *ear
		want string
	}{{a, "2"}, {b, "135"}, {c, "1235"}, {stranger, ""}} {
		if got := x.e.take(); got != x.want {
			t.Errorf("%s heard %q, want %q", x.e.ID(), got, x.want)
		}
		if x.e.writes > 1 {
			t.Errorf("%s was written to %d times in one tick", x.e.ID(), x.e.writes)
		}
	}
	if must := r.Publish(&a.Member, []byte("6")); !must.Note() {
		t.Error("a message after the flush does not oblige to note the room")
	}
}

func TestPublishAlone(t *testing.T) {
	table := NewTable()
	a := joinRoom(table, "r", "a")
	if must := a.Room().Publish(&a.Member, []byte("x")); must != 0 {
		t.Errorf("a message that nobody can hear obliges to %v", must)
	}
	if _, found := a.Room().PublishTo(&a.Member, []byte("a"), []byte("me")); !found {
		t.Error("a peer that names itself is not found")
	}
	flushAll(a.Room(), new(Scratch))
	if got := a.take(); got != "me" {
		t.Errorf("heard %q, want %q", got, "me")
	}
}

func TestLogLimit(t *testing.T) {
	table := NewTable()
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	r := a.Room()
	if r.Publish(&a.Member, make([]byte, LogLimit)).Drain() {
		t.Error("a log at its limit is to be drained")
	}
	if !r.Publish(&a.Member, []byte("x")).Drain() {
		t.Fatal("a log past its limit is not to be drained")
	}
	r.Drain(new(Scratch))
	if got := len(b.take()); got != LogLimit+1 {
		t.Errorf("heard %d bytes, want %d", got, LogLimit+1)
	}
}

func TestEmptyRoomDisappears(t *testing.T) {
	table := NewTable()
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	first := a.Room()
	table.Leave(&a.Member)
	table.Leave(&a.Member) // it is out already
	if rooms, members := table.Rooms(), table.Members(); rooms != 1 || members != 1 {
		t.Errorf("%d rooms, %d members; want 1 and 1", rooms, members)
	}
	first.Publish(&a.Member, []byte("late"))
	table.Leave(&b.Member)
	if rooms, members := table.Rooms(), table.Members(); rooms != 0 || members != 0 || len(table.All()) != 0 {
		t.Errorf("%d rooms, %d members; want none", rooms, members)
	}
	flushAll(first, new(Scratch))
	if got := b.take(); got != "" {
		t.Errorf("a member that has left heard %q", got)
	}
	if c := joinRoom(table, "r", "c"); c.Room() == first {
		t.Error("a room that was empty came back")
	}
}

func TestIndexByPeerID(t *testing.T) {
	table := NewTable()
	var members []*ear
	for i := range 3 * indexAbove {
		members = append(members, joinRoom(table, "r", fmt.Sprint(i%10)))
	}
	r := members[0].Room()
	s := new(Scratch)
	heardBy := func(id string) int {
		r.PublishTo(&members[0].Member, []byte(id), []byte("x"))
		flushAll(r, s)
		n := 0
		for _, m := range members {
			n += len(m.take())
		}
		return n
	}
	for len(members) > 1 {
		want := 0
		for _, m := range members {
			if m.ID() == "3" {
				want++
			}
		}
		if got := heardBy("3"); got != want {
			t.Fatalf("%d of %d members heard it, want %d", got, len(members), want)
		}
		gone := len(members) / 2
		table.Leave(&members[gone].Member)
		members = append(members[:gone], members[gone+1:]...)
	}
}

// TestBigRoom: several goroutines flush a room of more than one chunk, and every
// member hears everything once and in order.
func TestBigRoom(t *testing.T) {
	table := NewTable()
	var members []*ear
	for i := range 5*chunk + 7 {
		members = append(members, joinRoom(table, "r", fmt.Sprint(i)))
	}
	r := members[0].Room()
	var group sync.WaitGroup
	for round := range 20 {
		r.Publish(&members[0].Member, fmt.Appendf(nil, "%d;", round))
		for range 3 {
			group.Go(func() { flushAll(r, new(Scratch)) })
		}
	}
	group.Wait()
	r.Drain(new(Scratch))
	var want strings.Builder
	for round := range 20 {
		fmt.Fprintf(&want, "%d;", round)
	}
	for _, m := range members[1:] {
		if got := m.take(); got != want.String() {
			t.Fatalf("%s heard %q, want %q", m.ID(), got, want.String())
		}
	}
}

// TestAgainstModel compares rooms with the plainest program that does the same:
// a list per member of what it is to hear.
func TestAgainstModel(t *testing.T) {
	type modelled struct {
		*ear
		want strings.Builder
	}
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		table, s := NewTable(), new(Scratch)
		var members []*modelled
		flush := func() {
			for _, r := range table.All() {
				r.Drain(s)
			}
			for _, m := range members {
				if got := m.take(); got != m.want.String() {
					t.Fatalf("seed %d: %s heard %q, want %q", seed, m.ID(), got, m.want.String())
				}
				m.want.Reset()
			}
		}
		for n := range 300 {
			frame := fmt.Appendf(nil, "%d;", n)
			switch action := rng.IntN(20); {
			case action == 0 || len(members) == 0:
				flush() // who joins now may hear what was published before, or may not
				members = append(members, &modelled{ear: joinRoom(table, "r", fmt.Sprint(rng.IntN(8)))})
			case action == 1 && len(members) > 1:
				flush()
				i := rng.IntN(len(members))
				table.Leave(&members[i].Member)
				members = append(members[:i], members[i+1:]...)
			case action < 4:
				flush()
			case action < 12:
				from := members[rng.IntN(len(members))]
				from.Room().Publish(&from.Member, frame)
				for _, m := range members {
					if m != from {
						m.want.Write(frame)
					}
				}
			default:
				from, id := members[rng.IntN(len(members))], fmt.Sprint(rng.IntN(8))
				_, found := from.Room().PublishTo(&from.Member, []byte(id), frame)
				there := false
				for _, m := range members {
					if m.ID() == id {
						m.want.Write(frame)
						there = true
					}
				}
				if found != there {
					t.Fatalf("seed %d: found %v, want %v", seed, found, there)
				}
			}
		}
		flush()
	}
}

// TestConcurrentRooms: many join, speak, flush and leave at once. Nobody who stays
// misses anything or hears it out of order.
func TestConcurrentRooms(t *testing.T) {
	const senders, messages = 4, 500
	table := NewTable()
	listener := joinRoom(table, "r", "listener")
	r := listener.Room()
	var group sync.WaitGroup
	for i := range senders {
		group.Go(func() {
			e, s := joinRoom(table, "r", fmt.Sprint(i)), new(Scratch)
			for n := range messages {
				var must Must
				if n%2 == 0 {
					must = r.Publish(&e.Member, fmt.Appendf(nil, "%d:%d ", i, n))
				} else {
					must, _ = r.PublishTo(&e.Member, []byte("listener"), fmt.Appendf(nil, "%d:%d ", i, n))
				}
				if must.Note() {
					flushAll(r, s)
				}
			}
			table.Leave(&e.Member)
		})
		group.Go(func() {
			for n := range messages {
				e := joinRoom(table, [...]string{"r", "brief"}[n%2], "x")
				table.Leave(&e.Member)
			}
		})
	}
	group.Wait()
	r.Drain(new(Scratch))
	var next [senders]int
	for word := range strings.FieldsSeq(listener.take()) {
		var from, n int
		if _, err := fmt.Sscanf(word, "%d:%d", &from, &n); err != nil || n != next[from] {
			t.Fatalf("heard %q, want number %d of %d", word, next[from], from)
		}
		next[from]++
	}
	for i, n := range next {
		if n != messages {
			t.Errorf("%d messages of %d arrived, want %d", n, i, messages)
		}
	}
	table.Leave(&listener.Member)
	if rooms, members := table.Rooms(), table.Members(); rooms != 0 || members != 0 {
		t.Errorf("%d rooms, %d members; want none", rooms, members)
	}
}

// deaf is a member whose writes cost nothing.
type deaf struct{ Member }

func (*deaf) Write([]byte) {}

func deafRoom(n int) []*deaf {
	table := NewTable()
	members := make([]*deaf, n)
	for i := range members {
		members[i] = new(deaf)
		members[i].Init(fmt.Sprint(i), members[i])
		table.Join([]byte("r"), &members[i].Member)
	}
	return members
}

func TestRelayingDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		return // the race detector makes sync.Pool forget at random
	}
	frame, target := make([]byte, 130), []byte("7")
	for _, n := range []int{2, 10, 100} {
		members, s := deafRoom(n), new(Scratch)
		r := members[0].Room()
		f := func(what string, publish func()) {
			t.Helper()
			once := func() { publish(); flushAll(r, s) }
			once()
			if allocs := testing.AllocsPerRun(200, once); allocs >= 1 {
				t.Errorf("%s in a room of %d: %v allocations, want 0", what, n, allocs)
			}
		}
		f("a broadcast", func() { r.Publish(&members[0].Member, frame) })
		f("a direct message", func() { r.PublishTo(&members[0].Member, target, frame) })
		f("a mixture", func() {
			r.Publish(&members[0].Member, frame)
			r.PublishTo(&members[1].Member, target, frame)
			r.Publish(&members[1].Member, frame)
		})
	}
}

func BenchmarkPublish(b *testing.B) {
	frame := make([]byte, 130)
	for _, x := range []struct{ members, senders int }{{2, 1}, {10, 1}, {100, 16}, {1000, 1}} {
		b.Run(fmt.Sprintf("members=%d/senders=%d", x.members, x.senders), func(b *testing.B) {
			members, s := deafRoom(x.members), new(Scratch)
			r := members[0].Room()
			b.ReportAllocs()
			for b.Loop() {
				for i := range x.senders {
					r.Publish(&members[i].Member, frame)
				}
				flushAll(r, s)
			}
		})
	}
}

func BenchmarkPublishTo(b *testing.B) {
	frame, target := make([]byte, 130), []byte("7")
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			members, s := deafRoom(n), new(Scratch)
			r := members[0].Room()
			b.ReportAllocs()
			for b.Loop() {
				r.PublishTo(&members[0].Member, target, frame)
				flushAll(r, s)
			}
		})
	}
}

func BenchmarkJoinLeave(b *testing.B) {
	table := NewTable()
	id := []byte("r")
	for b.Loop() {
		m := new(deaf)
		m.Init("p", m)
		table.Join(id, &m.Member)
		table.Leave(&m.Member)
	}
}
