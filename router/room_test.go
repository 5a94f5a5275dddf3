package router

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"
)

// ear is a member that records what it is written.
type ear struct {
	Member
	mu     sync.Mutex
	heard  bytes.Buffer
	writes int // since the last take
}

func (e *ear) Write(frames []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard.Write(frames)
	e.writes++
}

// take returns what was heard since the last call, and in how many writes.
func (e *ear) take() (heard string, writes int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	heard, writes = e.heard.String(), e.writes
	e.heard.Reset()
	e.writes = 0
	return heard, writes
}

func (e *ear) wantHeard(t *testing.T, want string) {
	t.Helper()
	if got, _ := e.take(); got != want {
		t.Errorf("%s heard %.200q, want %.200q", e.ID(), got, want)
	}
}

func joinRoom(table *Table, relayID, id string) *ear {
	e := new(ear)
	e.Init(id, e)
	table.Join([]byte(relayID), &e.Member)
	return e
}

// joinMany puts n members into one room, called 0, 1, 2 and so on.
func joinMany(table *Table, n int) []*ear {
	all := make([]*ear, n)
	for i := range all {
		all[i] = joinRoom(table, "r", fmt.Sprint(i))
	}
	return all
}

// flushAll does all ticks that a room needs at once.
func flushAll(r *Room, s *Scratch) {
	for again := true; again; {
		left, _ := r.Flush(s)
		again = left != Flushed
	}
}

// wantIdle fails if r holds a log, or believes that somebody will flush it.
func wantIdle(t *testing.T, r *Room) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active || r.log != nil || r.out != nil {
		t.Errorf("active %v, a log %v, an outgoing batch %v; want an idle room", r.active, r.log != nil, r.out != nil)
	}
}

func TestFirstMessageObligesToNote(t *testing.T) {
	table, s := NewTable(), new(Scratch)
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	r := a.Room()
	to := func() bool {
		note, found := r.PublishTo(&a.Member, []byte("b"), []byte("x"))
		if !found {
			t.Error("a member called b was not found")
		}
		return note
	}
	for _, publish := range []func() bool{
		func() bool { note, _ := r.Publish(&a.Member, []byte("x")); return note },
		to,
	} {
		if !publish() {
			t.Error("the first message does not oblige to note the room")
		}
		if publish() {
			t.Error("the second message obliges to note the room, as somebody has")
		}
		flushAll(r, s)
		b.wantHeard(t, "xx")
		wantIdle(t, r)
	}
}

func TestNobodyToHear(t *testing.T) {
	table := NewTable()
	a := joinRoom(table, "r", "a")
	r := a.Room()
	if note, _ := r.Publish(&a.Member, []byte("x")); note {
		t.Error("a message that nobody can hear obliges to note the room")
	}
	if note, found := r.PublishTo(&a.Member, []byte("b"), []byte("x")); note || found {
		t.Errorf("a message to nobody: note %v, found %v; want neither", note, found)
	}
	wantIdle(t, r)
	if note, found := r.PublishTo(&a.Member, []byte("a"), []byte("me")); !note || !found {
		t.Errorf("a message to oneself: note %v, found %v; want both", note, found)
	}
	flushAll(r, new(Scratch))
	a.wantHeard(t, "me")
}

// The last member has left, and its loop, which has not heard of it, publishes.
func TestPublishInEmptyRoom(t *testing.T) {
	table := NewTable()
	a := joinRoom(table, "r", "a")
	r := a.Room()
	table.Leave(&a.Member)
	if note, _ := r.Publish(&a.Member, []byte("x")); note {
		t.Error("a broadcast obliges to note the room")
	}
	if note, found := r.PublishTo(&a.Member, []byte("a"), []byte("x")); note || found {
		t.Errorf("a direct message: note %v, found %v; want neither", note, found)
	}
	wantIdle(t, r)
}

// What comes from one that has just left is for all who are still there.
func TestPublishAfterLeaving(t *testing.T) {
	table := NewTable()
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	r := a.Room()
	table.Leave(&a.Member)
	if note, _ := r.Publish(&a.Member, []byte("x")); !note {
		t.Error("a message that one member can hear does not oblige to note the room")
	}
	flushAll(r, new(Scratch))
	a.wantHeard(t, "")
	b.wantHeard(t, "x")
}

func TestPublishCopies(t *testing.T) {
	table := NewTable()
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	r := a.Room()
	frame, id := []byte("one"), []byte("b")
	r.Publish(&a.Member, frame)
	copy(frame, "two")
	r.PublishTo(&a.Member, id, frame)
	copy(frame, "xxx")
	copy(id, "a")
	flushAll(r, new(Scratch))
	b.wantHeard(t, "onetwo")
	a.wantHeard(t, "")
}

func TestRoomsHearOnlyTheirOwn(t *testing.T) {
	table := NewTable()
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	stranger := joinRoom(table, "r2", "b")
	a.Room().Publish(&a.Member, []byte("1"))
	a.Room().PublishTo(&a.Member, []byte("b"), []byte("2"))
	for _, r := range table.All() {
		flushAll(r, new(Scratch))
	}
	b.wantHeard(t, "12")
	stranger.wantHeard(t, "")
}

func TestLogLimit(t *testing.T) {
	table, s := NewTable(), new(Scratch)
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	r := a.Room()
	r.Publish(&a.Member, make([]byte, LogLimit/2))
	if r.Full() {
		t.Error("a room whose log is below its limit is full")
	}
	if note, _ := r.Publish(&a.Member, make([]byte, LogLimit/2+1)); note || !r.Full() {
		t.Fatalf("a log past its limit: obliges %v, full %v; want false, true", note, r.Full())
	}
	flushAll(r, s)
	if heard, _ := b.take(); len(heard) != LogLimit/2*2+1 {
		t.Errorf("heard %d bytes, want %d", len(heard), LogLimit/2*2+1)
	}
	wantIdle(t, r)
	if r.Full() {
		t.Error("a room is full behind its flush")
	}
	if note, _ := r.PublishTo(&a.Member, []byte("b"), make([]byte, LogLimit+1)); !note || !r.Full() {
		t.Errorf("a message larger than the limit: obliges %v, full %v; want true, true", note, r.Full())
	}
}

// A log is memory that a peer can make grow. What it costs is its bytes and its
// entries: tiny messages, or one to many connections of one name, are mostly
// entries.
func TestLogLimitBoundsMemory(t *testing.T) {
	f := func(what string, members int, publish func(r *Room, from *Member)) {
		t.Helper()
		table := NewTable()
		var first *ear
		for range members {
			if e := joinRoom(table, "r", "x"); first == nil {
				first = e
			}
		}
		r := first.Room()
		for !r.Full() {
			publish(r, &first.Member)
			size := len(r.log.buf) + len(r.log.entries)*int(unsafe.Sizeof(entry{}))
			if size > 3*LogLimit {
				t.Errorf("%s: the log takes %d bytes, %d of them messages; want fewer than 3 times its limit", what, size, len(r.log.buf))
				return
			}
		}
	}
	f("empty messages", 2, func(r *Room, from *Member) { r.Publish(from, []byte{0x81, 0}) })
	f("messages to a thousand connections of one peer", 1000, func(r *Room, from *Member) {
		r.PublishTo(from, []byte("x"), []byte(`..{"targetPeerId":"x"}`))
	})
}

// What was said before a member came is not for it, however long it takes to be
// flushed; what it said itself before it left and came back least of all.
func TestJoinBehindALog(t *testing.T) {
	table, s := NewTable(), new(Scratch)
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	r := a.Room()
	r.Publish(&a.Member, []byte("1"))
	r.Publish(&b.Member, []byte("2"))
	table.Leave(&a.Member)
	again := joinRoom(table, "r", "a")
	r.PublishTo(&b.Member, []byte("a"), []byte("3"))
	r.Publish(&b.Member, []byte("4"))
	r.Publish(&again.Member, []byte("5"))
	late := joinRoom(table, "r", "late")
	gone := joinRoom(table, "r", "gone")
	table.Leave(&gone.Member)
	r.Publish(&b.Member, []byte("6"))
	flushAll(r, s)
	again.wantHeard(t, "346")
	late.wantHeard(t, "6")
	b.wantHeard(t, "15")
	a.wantHeard(t, "")
	gone.wantHeard(t, "")
	r.Publish(&b.Member, []byte("7"))
	flushAll(r, s)
	late.wantHeard(t, "7")
	wantIdle(t, r)
}

// TestTargets takes a room over the size from which it keeps an index and back, by
// joins and leaves, and looks after each who hears a direct message.
func TestTargets(t *testing.T) {
	const names, most = 5, 4 * indexAbove
	table, s := NewTable(), new(Scratch)
	var members []*ear
	var r *Room
	check := func() {
		t.Helper()
		for name := range names + 1 { // one of them nobody has
			id := fmt.Sprint(name)
			_, found := r.PublishTo(&members[0].Member, []byte(id), []byte("x"))
			flushAll(r, s)
			there := false
			for i, m := range members {
				want := ""
				if m.ID() == id {
					want, there = "x", true
				}
				if got, _ := m.take(); got != want {
					t.Fatalf("member %d of %d, called %s, heard %q of a message to %s, want %q", i, len(members), m.ID(), got, id, want)
				}
			}
			if found != there {
				t.Fatalf("a message to %s in a room of %d: found %v, want %v", id, len(members), found, there)
			}
		}
	}
	leave := func(i int) {
		table.Leave(&members[i].Member)
		members = append(members[:i], members[i+1:]...)
	}
	for i := range most {
		members = append(members, joinRoom(table, "r", fmt.Sprint(i%names)))
		r = members[0].Room()
		check()
	}
	for len(members) > 1 {
		leave(len(members) * 2 / 3)
		check()
	}
	for range most { // and up again, one step back for two
		members = append(members, joinRoom(table, "r", "0"), joinRoom(table, "r", "1"))
		leave(0)
		check()
	}
}

func TestIndexComesAndGoes(t *testing.T) {
	table := NewTable()
	members := joinMany(table, indexAbove)
	r := members[0].Room()
	direct := func() { r.PublishTo(&members[0].Member, []byte("0"), []byte("x")) }
	f := func(when string, want int) {
		t.Helper()
		if got := len(r.byID); got != want {
			t.Errorf("%s: %d names in the index, want %d", when, got, want)
		}
	}
	direct()
	f("a direct message in a small room", 0)
	members = append(members, joinRoom(table, "r", "one more"))
	f("a larger room without direct messages", 0)
	direct()
	f("a direct message in a larger room", indexAbove+1)
	last := members[len(members)-1]
	table.Leave(&last.Member)
	f("one of them has left", indexAbove)
	for len(r.members) > indexAbove/2 {
		table.Leave(r.members[len(r.members)-1])
	}
	f("half have left", 0)
}

func TestIDOfRoomAndMember(t *testing.T) {
	relayID := []byte("relay")
	e := new(ear)
	e.Init("peer", e)
	if e.Room() != nil {
		t.Error("a member that has not joined has a room")
	}
	NewTable().Join(relayID, &e.Member)
	copy(relayID, strings.Repeat("x", len(relayID)))
	if e.Room().ID() != "relay" || e.ID() != "peer" {
		t.Errorf("got room %q, member %q; want relay, peer", e.Room().ID(), e.ID())
	}
}

// wakes counts calls of Wake.
type wakes struct{ n int }

func (w *wakes) Wake() { w.n++ }

// A waiter is told once that a full room has space again, and not at all where it was not full.
func TestAwaitSpace(t *testing.T) {
	table := NewTable()
	a := joinRoom(table, "r", "a")
	joinRoom(table, "r", "b")
	r, w := a.Room(), new(wakes)
	flushAll := func() {
		for s := new(Scratch); ; {
			if left, _ := r.Flush(s); left == Flushed {
				return
			}
		}
	}
	if r.AwaitSpace(w) {
		t.Error("an empty room is full")
	}
	r.Publish(&a.Member, make([]byte, LogLimit+1))
	for range 2 {
		if !r.AwaitSpace(w) {
			t.Error("a room above its limit is not full")
		}
	}
	if w.n != 0 {
		t.Errorf("woken %d times while the room is full", w.n)
	}
	flushAll()
	r.Publish(&a.Member, make([]byte, LogLimit+1))
	flushAll()
	if w.n != 1 {
		t.Errorf("woken %d times, want once", w.n)
	}
}

// TestOver: a room may deliver burst bytes at once, then rate bytes per second.
func TestOver(t *testing.T) {
	table := NewTable()
	var members [11]Member
	for i := range members {
		members[i].Init("m", new(deaf))
		table.Join([]byte("r"), &members[i])
	}
	r := members[0].Room()
	const rate, burst = 1000, 2000
	at := func(now time.Duration, want bool) {
		t.Helper()
		if got := r.Over(now, rate, burst); got != want {
			t.Errorf("after %v, %d bytes: over is %t, want %t", now, r.delivered, got, want)
		}
	}
	at(time.Hour, false)
	r.Publish(&members[0], make([]byte, 199)) // to 10 others
	at(time.Hour, false)
	r.PublishTo(&members[0], []byte("m"), make([]byte, 1)) // to 11
	at(time.Hour, true)
	at(time.Hour+time.Millisecond, true)
	for i := range time.Duration(2000) { // asked more often than a byte takes
		at(time.Hour+time.Millisecond+i*500*time.Nanosecond, true)
	}
	at(time.Hour+2*time.Millisecond+time.Microsecond, false)
	r.Publish(&members[0], make([]byte, 1000)) // a large message puts it in debt
	at(time.Hour+8*time.Second, true)
	at(time.Hour+11*time.Second, false)
}

// TestLogBytes: what a log holds is counted until it is flushed.
func TestLogBytes(t *testing.T) {
	table := NewTable()
	var a, b Member
	a.Init("a", new(deaf))
	b.Init("b", new(deaf))
	table.Join([]byte("r"), &a)
	table.Join([]byte("r"), &b)
	before := LogBytes()
	for range 100 {
		a.Room().Publish(&a, make([]byte, 1000))
	}
	if n := LogBytes() - before; n < 100_000-countStep || n > 120_000 {
		t.Errorf("%d bytes counted for a log of 100,000 and its entries", n)
	}
	a.Room().Drain(new(Scratch))
	if n := LogBytes() - before; n != 0 {
		t.Errorf("%d bytes counted after the flush, want none", n)
	}
}
