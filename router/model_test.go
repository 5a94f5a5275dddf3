package router

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// model is the plainest program that does what a table of rooms does: a list of
// what was said, and at each flush one look at it per member. It drives the real
// table beside itself and compares.
type model struct {
	t       *testing.T
	table   *Table
	scratch Scratch
	rooms   [3]modelRoom
	said    int
	trace   []string // what was done, for the report
}

type modelRoom struct {
	members []*ear
	left    []*ear
	log     []modelMessage
}

type modelMessage struct {
	targets map[*ear]bool // of those who were there when it was said
	frame   string
}

// step does one action, chosen by op in the room and by the member that a and b
// choose.
func (m *model) step(op, a, b byte) {
	r := &m.rooms[a%3]
	relayID := fmt.Sprint("relay", a%3)
	m.trace = append(m.trace, fmt.Sprintf("%d(%d,%d)", op%8, a, b))
	// A room that one call flushes: more are TestFlushIsChunked's.
	if len(r.members) == 0 || op%8 == 0 && len(r.members) < maxChunk {
		r.members = append(r.members, joinRoom(m.table, relayID, fmt.Sprint(b%6)))
		return
	}
	at := int(a/3) % len(r.members)
	switch from := r.members[at]; op % 8 {
	case 1:
		m.leave(r, at)
	case 2, 3:
		m.flush(r)
	case 4, 5:
		m.publish(r, from)
	default:
		m.publishTo(r, from, fmt.Sprint(b%7)) // nobody is called 6
	}
}

func (m *model) leave(r *modelRoom, at int) {
	e := r.members[at]
	m.table.Leave(&e.Member)
	r.members = append(r.members[:at], r.members[at+1:]...)
	if len(r.members) == 0 {
		r.log = nil // nobody is left to hear it
	}
	r.left = append(r.left, e)
}

func (m *model) frame() string {
	m.said++
	return fmt.Sprintf("<%d%s>", m.said, strings.Repeat("-", m.said%5))
}

func (m *model) publish(r *modelRoom, from *ear) {
	frame := m.frame()
	from.Room().Publish(&from.Member, []byte(frame))
	targets := make(map[*ear]bool)
	for _, e := range r.members {
		targets[e] = e != from
	}
	r.log = append(r.log, modelMessage{targets, frame})
}

func (m *model) publishTo(r *modelRoom, from *ear, id string) {
	frame := m.frame()
	_, found := from.Room().PublishTo(&from.Member, []byte(id), []byte(frame))
	targets := make(map[*ear]bool)
	for _, e := range r.members {
		if e.ID() == id {
			targets[e] = true
		}
	}
	if found != (len(targets) > 0) {
		m.fail("a message to %s: found %v, want %v", id, found, !found)
	}
	r.log = append(r.log, modelMessage{targets, frame})
}

// flush flushes r and compares what each member, and each that has left, heard.
func (m *model) flush(r *modelRoom) {
	if len(r.members) == 0 {
		return
	}
	room := r.members[0].Room()
	if left, help := room.Flush(&m.scratch); left != Flushed || help {
		m.fail("a flush of a room of %d: left %v, help %v; want neither", len(r.members), left, help)
	}
	for _, e := range r.members {
		var want strings.Builder
		for _, x := range r.log {
			if x.targets[e] {
				want.WriteString(x.frame)
			}
		}
		got, writes := e.take()
		if got != want.String() {
			m.fail("a member called %s in a room of %d heard %q, want %q", e.ID(), len(r.members), got, want.String())
		}
		if most := min(want.Len(), 1); writes != most {
			m.fail("a member was written to %d times in one flush, want %d", writes, most)
		}
	}
	for _, e := range r.left {
		if got, _ := e.take(); got != "" {
			m.fail("a member called %s that had left heard %q", e.ID(), got)
		}
	}
	r.log, r.left = nil, nil
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\nafter %s", fmt.Sprintf(format, args...), strings.Join(m.trace, " "))
}

// finish flushes and empties everything.
func (m *model) finish() {
	members, rooms := 0, 0
	for i := range m.rooms {
		members += len(m.rooms[i].members)
		rooms += min(len(m.rooms[i].members), 1)
	}
	wantTable(m.t, m.table, rooms, members)
	for i := range m.rooms {
		r := &m.rooms[i]
		m.flush(r)
		for len(r.members) > 0 {
			room := r.members[0].Room()
			m.leave(r, len(r.members)/2)
			wantIdle(m.t, room)
		}
	}
	wantEmptyTable(m.t, m.table)
}

func TestAgainstModel(t *testing.T) {
	f := func(what string, steps int, op func(n int, rng *rand.Rand) byte) {
		for seed := range uint64(60) {
			rng := rand.New(rand.NewPCG(seed, 1))
			m := &model{t: t, table: NewTable()}
			m.trace = append(m.trace, fmt.Sprintf("%s, seed %d:", what, seed))
			for n := range steps {
				m.step(op(n, rng), byte(rng.Uint32()), byte(rng.Uint32()))
			}
			m.finish()
		}
	}
	f("everything alike", 300, func(_ int, rng *rand.Rand) byte { return byte(rng.IntN(8)) })
	f("few flushes", 300, func(_ int, rng *rand.Rand) byte { return byte(rng.IntN(8) &^ rng.IntN(3)) })
	// Rooms of up to some 60 members, past the size of an index, and back.
	f("large rooms", 900, func(n int, rng *rand.Rand) byte {
		if rng.IntN(2) == 0 {
			return byte(2 + rng.IntN(6))
		}
		return byte(n / 300 % 2)
	})
}

func FuzzAgainstModel(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 0, 1, 4, 0, 0, 2, 0, 0, 6, 0, 1, 1, 3, 1, 2, 0, 0})
	f.Add([]byte{0, 0, 1, 0, 0, 1, 6, 0, 1, 4, 3, 0, 7, 3, 1, 1, 0, 0, 0, 0, 1, 2, 0, 0})
	rng := rand.New(rand.NewPCG(1, 2))
	long := make([]byte, 1500)
	for i := range long {
		long[i] = byte(rng.Uint32())
	}
	f.Add(long)
	f.Fuzz(func(t *testing.T, actions []byte) {
		m := &model{t: t, table: NewTable()}
		for ; len(actions) >= 3; actions = actions[3:] {
			m.step(actions[0], actions[1], actions[2])
		}
		m.finish()
	})
}
