// Package router decides who receives a message. It knows the members of each relay's room, the messages of a
// room since the last tick, and the targetPeerId of a text message. It knows no sockets, HTTP, WebSocket or
// clock, except to measure delays: a member is an interface that takes encoded frames, and the publisher says
// when to flush.
//
// A message's path: [Room.Publish] copies the encoded frame into the room's log. At the tick [Room.Flush]
// takes the log and writes to every member, in one Write, the frames that are for it.
package router

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"relaygate/health/histogram"
)

// shardCount is the number of stripes of the table's lock, a power of two. With 256 stripes, two loops that
// join peers at the same moment collide once in 256 times.
const shardCount = 256

// Table holds the rooms, keyed by relayId. A room exists while it has members.
//
// Lock order: shard, then room.
type Table struct {
	seed     maphash.Seed
	roomMost int // members in one room; 0 means any number; static after LimitRooms
	members  atomic.Int64
	idBytes  atomic.Int64 // of the ids of all rooms and members
	shards   [shardCount]shard
}

type shard struct {
	mu    sync.Mutex
	rooms map[string]*Room // nil while empty: a map never gives its buckets back
	_     [48]byte         // a cache line of its own
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{seed: maphash.MakeSeed()}
}

// LimitRooms lets no room have more than most members. It must be called before the first Join.
func (t *Table) LimitRooms(most int) { t.roomMost = most }

// Join adds m to the room of relayID, and makes the room if there is none. m must be initialised and must
// never have joined. relayID is copied if it is kept. If the room is full, Join returns false and does
// nothing.
func (t *Table) Join(relayID []byte, m *Member) bool {
	i := maphash.Bytes(t.seed, relayID) % shardCount
	s := &t.shards[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[string(relayID)]
	if r == nil {
		r = &Room{id: string(relayID), shard: uint32(i)}
		if s.rooms == nil {
			s.rooms = make(map[string]*Room)
		}
		s.rooms[r.id] = r
		t.idBytes.Add(int64(len(r.id)))
	} else if t.roomMost > 0 && len(r.members) >= t.roomMost { // only changed under s.mu
		return false
	}
	r.add(m)
	t.members.Add(1)
	t.idBytes.Add(int64(len(m.id)))
	return true
}

// Leave takes m out of its room, and the room out of the table if m was the last member. It does nothing if m
// is in no room. The caller must not call Join and Leave of one member at the same time.
func (t *Table) Leave(m *Member) {
	r := m.room
	if r == nil {
		return
	}
	s := &t.shards[r.shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.index < 0 { // read under the lock, since a leaving member changes another's index
		return
	}
	if r.remove(m) {
		delete(s.rooms, r.id)
		t.idBytes.Add(-int64(len(r.id)))
		if len(s.rooms) == 0 {
			s.rooms = nil
		}
	}
	t.members.Add(-1)
	t.idBytes.Add(-int64(len(m.id)))
}

// Members returns the number of members of all rooms together.
func (t *Table) Members() int { return int(t.members.Load()) }

// IDBytes returns the length of the ids of all rooms and members together.
func (t *Table) IDBytes() int64 { return t.idBytes.Load() }

// Rooms returns the number of rooms.
func (t *Table) Rooms() int {
	n := 0
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += len(s.rooms)
		s.mu.Unlock()
	}
	return n
}

// Sizes returns the numbers of members of all rooms.
func (t *Table) Sizes() (sizes histogram.Histogram) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for _, r := range s.rooms {
			sizes.Add(uint64(len(r.members))) // only changed under s.mu
		}
		s.mu.Unlock()
	}
	return sizes
}

// All returns all current rooms, for a drain.
func (t *Table) All() []*Room {
	var all []*Room
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for _, r := range s.rooms {
			all = append(all, r)
		}
		s.mu.Unlock()
	}
	return all
}
