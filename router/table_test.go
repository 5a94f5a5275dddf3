package router

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"weak"
)

func wantTable(t *testing.T, table *Table, rooms, members int) {
	t.Helper()
	if r, all, m := table.Rooms(), len(table.All()), table.Members(); r != rooms || all != rooms || m != members {
		t.Errorf("%d rooms, %d in All, %d members; want %d, %d, %d", r, all, m, rooms, rooms, members)
	}
}

// wantEmptyTable also wants that nothing is kept for rooms that are gone.
func wantEmptyTable(t *testing.T, table *Table) {
	t.Helper()
	wantTable(t, table, 0, 0)
	for i := range table.shards {
		if table.shards[i].rooms != nil {
			t.Errorf("shard %d keeps a map", i)
		}
	}
}

func TestJoinAndLeave(t *testing.T) {
	table := NewTable()
	wantEmptyTable(t, table)
	a, b := joinRoom(table, "r", "a"), joinRoom(table, "r", "b")
	c := joinRoom(table, "r2", "a")
	wantTable(t, table, 2, 3)
	if a.Room() != b.Room() {
		t.Error("two members of one relay are in different rooms")
	}
	if a.Room() == c.Room() {
		t.Error("members of different relays are in one room")
	}
	table.Leave(&a.Member)
	wantTable(t, table, 2, 2)
	table.Leave(&c.Member)
	wantTable(t, table, 1, 1)
	table.Leave(&b.Member)
	wantEmptyTable(t, table)
}

func TestLeaveWithoutEffect(t *testing.T) {
	table := NewTable()
	stranger := new(ear)
	stranger.Init("s", stranger)
	table.Leave(&stranger.Member)
	wantEmptyTable(t, table)
	a := joinRoom(table, "r", "a")
	b := joinRoom(table, "r", "b")
	table.Leave(&a.Member)
	table.Leave(&a.Member)
	wantTable(t, table, 1, 1)
	table.Leave(&b.Member)
	joinRoom(table, "r", "c")
	table.Leave(&b.Member) // its room is not the one that has this name now
	wantTable(t, table, 1, 1)
}

func TestRoomIsMadeAnew(t *testing.T) {
	table := NewTable()
	a := joinRoom(table, "r", "a")
	first := a.Room()
	table.Leave(&a.Member)
	b := joinRoom(table, "r", "b")
	if b.Room() == first {
		t.Error("a room that was empty came back")
	}
	c := joinRoom(table, "r", "c")
	first.Publish(&a.Member, []byte("x")) // a's loop may be late
	flushAll(first, new(Scratch))
	b.wantHeard(t, "")
	c.wantHeard(t, "")
}

// Many join and leave one relay, so that its room is often empty while somebody
// joins. Whoever is in must be in the room that the table knows.
func TestRoomIsMadeAnewWhileItIsLeft(t *testing.T) {
	table := NewTable()
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 2000 {
				e := joinRoom(table, "r", "x")
				if all := table.All(); len(all) != 1 || all[0] != e.Room() {
					t.Errorf("the table knows %d rooms; want one, the member's own", len(all))
					return
				}
				table.Leave(&e.Member)
			}
		})
	}
	group.Wait()
	if !t.Failed() {
		wantEmptyTable(t, table)
	}
}

// Each that leaves moves another, which may be leaving as well.
func TestManyLeaveAtOnce(t *testing.T) {
	const leavers = 4
	table := NewTable()
	members := joinMany(table, leavers*250)
	r := members[0].Room()
	r.PublishTo(&members[0].Member, []byte("0"), []byte("x")) // build the index
	flushAll(r, new(Scratch))
	var group sync.WaitGroup
	start := make(chan struct{})
	for i := range leavers {
		group.Go(func() {
			<-start
			for n := i; n < len(members); n += leavers {
				table.Leave(&members[n].Member)
			}
		})
	}
	close(start)
	group.Wait()
	wantEmptyTable(t, table)
	wantIdle(t, r)
}

func TestPlacesStayRight(t *testing.T) {
	table := NewTable()
	members := joinMany(table, 100)
	r := members[0].Room()
	for i, n := 0, len(members); n > 1; n-- {
		i = (i + 37) % n
		table.Leave(r.members[i])
		for at, m := range r.members {
			if int(m.index) != at {
				t.Fatalf("member %s is at %d and believes to be at %d", m.id, at, m.index)
			}
		}
	}
	for _, e := range members {
		if in := &e.Member == r.members[0]; !in && e.index != -1 {
			t.Fatalf("member %s has left and believes to be at %d", e.id, e.index)
		}
	}
}

func TestRoomShrinks(t *testing.T) {
	table := NewTable()
	members := joinMany(table, 4096)
	for _, e := range members[3:] {
		table.Leave(&e.Member)
	}
	r := members[0].Room()
	if c := cap(r.members); c > 16 {
		t.Errorf("a room of 3, once of 4,096, has place for %d", c)
	}
	r.Publish(&members[0].Member, []byte("x"))
	flushAll(r, new(Scratch))
	members[0].wantHeard(t, "")
	members[1].wantHeard(t, "x")
	members[2].wantHeard(t, "x")
}

// Neither the room nor its index, log or pooled batches hold on to a member that
// has left.
func TestLeaverIsForgotten(t *testing.T) {
	table := NewTable()
	stays := joinRoom(table, "r", "same")
	gone := func() []weak.Pointer[ear] {
		var gone []weak.Pointer[ear]
		var leaving []*ear
		for i := range 3 * indexAbove {
			leaving = append(leaving, joinRoom(table, "r", [...]string{"same", fmt.Sprint(i)}[i%2]))
			gone = append(gone, weak.Make(leaving[i]))
		}
		r := stays.Room()
		for _, e := range leaving {
			r.Publish(&e.Member, []byte("x"))
			r.PublishTo(&e.Member, []byte("same"), []byte("y"))
		}
		flushAll(r, new(Scratch))
		for i := range leaving { // the last to come are the last to leave, and some never do
			if i < 2*indexAbove {
				table.Leave(&leaving[i].Member)
			}
		}
		return gone[:2*indexAbove]
	}()
	runtime.GC()
	for i, p := range gone {
		if p.Value() != nil {
			t.Fatalf("member %d has left and is still held", i)
		}
	}
	wantTable(t, table, 1, 1+indexAbove)
	runtime.KeepAlive(table)
}

// TestLimitRooms: many who join at once fill a room to its limit and no further. A refused one is no member,
// and a place that is left can be taken again.
func TestLimitRooms(t *testing.T) {
	const most, joining = 10, 64
	table := NewTable()
	table.LimitRooms(most)
	members := make([]Member, joining)
	in := make([]bool, joining)
	var group sync.WaitGroup
	for i := range members {
		members[i].Init("id", nil)
		group.Go(func() { in[i] = table.Join([]byte("r"), &members[i]) })
	}
	group.Wait()
	joined := 0
	for i := range members {
		if in[i] {
			joined++
		}
		if (members[i].Room() != nil) != in[i] {
			t.Errorf("member %d: joined %v, room %v", i, in[i], members[i].Room())
		}
	}
	if joined != most {
		t.Fatalf("%d joined, want %d", joined, most)
	}
	wantTable(t, table, 1, most)
	var other, late Member
	other.Init("id", nil)
	late.Init("id", nil)
	if !table.Join([]byte("other"), &other) {
		t.Error("another room is full, too")
	}
	for i := range members {
		if table.Leave(&members[i]); in[i] {
			break
		}
	}
	if !table.Join([]byte("r"), &late) {
		t.Error("a place that was left cannot be taken")
	}
	wantTable(t, table, 2, most+1)
}
