// Package router decides who receives a message: which members a relay's room
// has, what was said in it since the last tick, and whom a text message names
// by targetPeerId. It knows no sockets, no HTTP, no WebSocket and no clock: a
// member is something that takes encoded frames, and whoever publishes says
// when it is time to flush.
//
// A message's walk: [Room.Publish] copies the encoded frame into the room's
// log; at the tick [Room.Flush] takes the log, and every member gets what
// concerns it in one Write.
package router

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// shardCount stripes the table's lock; a power of two. With 256 stripes two
// loops that join peers at the same moment meet once in 256 times.
const shardCount = 256

// Table holds the rooms, keyed by relayId. A room exists while it has members.
//
// Lock order: shard, then room.
type Table struct {
	seed    maphash.Seed
	members atomic.Int64
	shards  [shardCount]shard
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

// Join adds m, initialised and never joined before, to the room of
// relayID, which it makes if there is none. relayID is copied when it is kept.
func (t *Table) Join(relayID []byte, m *Member) {
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
	}
	r.add(m)
	t.members.Add(1)
}

// Leave takes m out of its room, and the room out of the table if m was the
// last. It does nothing if m is in no room. The caller makes sure that Join and
// Leave of one member do not overlap.
func (t *Table) Leave(m *Member) {
	r := m.room
	if r == nil {
		return
	}
	s := &t.shards[r.shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.index < 0 { // looked at under the lock: whoever leaves moves another member
		return
	}
	if r.remove(m) {
		delete(s.rooms, r.id)
		if len(s.rooms) == 0 {
			s.rooms = nil
		}
	}
	t.members.Add(-1)
}

// Members returns how many members all rooms have together.
func (t *Table) Members() int { return int(t.members.Load()) }

// Rooms returns how many rooms there are.
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

// All returns every room there is at the moment, for a drain.
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
