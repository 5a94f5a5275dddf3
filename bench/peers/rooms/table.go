// Package rooms is the room table that all comparison relays share, so that what a measurement tells apart is the
// library around it. It decides who receives; how a message is encoded, queued and written is the library's part.
//
// A relay joins each connection, asks Recipients for every message, leaves when the connection ends, and runs Heartbeat.
package rooms

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	shardCount = 256

	// indexFrom is the size from which a room finds a direct message's target by a map: up to it a scan is as fast,
	// and the many small rooms stay small.
	indexFrom = 16
)

// Table holds the rooms by relay id. C is what a relay keeps per connection.
// Lock order: shard, then room.
type Table[C any] struct {
	seed   maphash.Seed
	shards [shardCount]shard[C]
	lists  sync.Pool // of *[]*Member[C]
}

type shard[C any] struct {
	mu    sync.Mutex
	rooms map[string]*room[C]
}

type room[C any] struct {
	shard   *shard[C]
	relayID string

	mu      sync.RWMutex
	members []*Member[C]
	byPeer  map[string][]*Member[C] // nil until the room has had indexFrom members
}

// Member is one connection in its room.
type Member[C any] struct {
	Conn C

	room   *room[C]
	peerID string
	at     int // place in room.members, or -1 after Leave; guarded by room.mu
	heard  atomic.Bool
}

// NewTable returns an empty table.
func NewTable[C any]() *Table[C] {
	t := &Table[C]{seed: maphash.MakeSeed()}
	for i := range t.shards {
		t.shards[i].rooms = make(map[string]*room[C])
	}
	t.lists.New = func() any { return new([]*Member[C]) }
	return t
}

// Join makes conn a member of the room relayID, which comes into being with its first one.
func (t *Table[C]) Join(relayID, peerID string, conn C) *Member[C] {
	m := &Member[C]{Conn: conn, peerID: peerID}
	m.heard.Store(true)
	s := &t.shards[maphash.String(t.seed, relayID)%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[relayID]
	if r == nil {
		r = &room[C]{shard: s, relayID: relayID}
		s.rooms[relayID] = r
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m.room, m.at = r, len(r.members)
	r.members = append(r.members, m)
	switch {
	case r.byPeer != nil:
		r.byPeer[peerID] = append(r.byPeer[peerID], m)
	case len(r.members) == indexFrom:
		r.byPeer = make(map[string][]*Member[C], 2*indexFrom)
		for _, other := range r.members {
			r.byPeer[other.peerID] = append(r.byPeer[other.peerID], other)
		}
	}
	return m
}

// Leave takes m out of its room. A second Leave does nothing.
func (t *Table[C]) Leave(m *Member[C]) {
	r := m.room
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.at < 0 {
		return
	}
	last := len(r.members) - 1
	r.members[m.at] = r.members[last]
	r.members[m.at].at = m.at
	r.members[last] = nil
	r.members = r.members[:last]
	m.at = -1
	if last == 0 {
		delete(r.shard.rooms, r.relayID)
		return
	}
	if same := r.byPeer[m.peerID]; len(same) > 1 {
		i := slices.Index(same, m)
		r.byPeer[m.peerID] = slices.Delete(same, i, i+1)
	} else if same != nil {
		delete(r.byPeer, m.peerID)
	}
}

// Heard notes that something came from m.
func (m *Member[C]) Heard() {
	if !m.heard.Load() {
		m.heard.Store(true)
	}
}

// Heartbeat looks at every member once per interval: it drops those from which nothing came since the last look and
// pings the others. The shards take turns, so that the pings spread over the interval, with one timer for all of them.
// It does not return.
func (t *Table[C]) Heartbeat(interval time.Duration, ping, drop func(C)) {
	var members []*Member[C]
	tick := time.NewTicker(max(interval/shardCount, time.Microsecond))
	for i := 0; ; i = (i + 1) % shardCount {
		<-tick.C
		members = t.shards[i].appendMembers(members[:0])
		for _, m := range members {
			if m.heard.Swap(false) {
				ping(m.Conn)
			} else {
				drop(m.Conn)
			}
		}
		clear(members)
	}
}

func (s *shard[C]) appendMembers(dst []*Member[C]) []*Member[C] {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rooms {
		r.mu.RLock()
		dst = append(dst, r.members...)
		r.mu.RUnlock()
	}
	return dst
}
