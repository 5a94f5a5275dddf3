package router

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Conn takes the frames that a member receives.
type Conn interface {
	// Write sends whole encoded frames. It must not keep frames, and must not block. It returns no error: a
	// connection that cannot be written to closes itself.
	Write(frames []byte)
}

// Member is one connection in a room. It is made by Init, and joins one room once.
type Member struct {
	// Static after Init.
	conn Conn
	id   string

	// Set by Table.Join, static afterwards.
	room *Room

	index int32 // position in room.members, -1 when out; guarded by the shard's lock and room.mu
	same  int32 // position in room.byID[id], if there is an index; guarded by room.mu
	mark  int32 // 1 + position in the outgoing batch's participants, 0 if not there; written under room.mu
}

// Init makes m a member with the given id that has not joined yet. Its messages go to conn. Init is a method
// so that a Member can be embedded without an allocation.
func (m *Member) Init(id string, conn Conn) {
	m.id, m.conn, m.index = id, conn, -1
}

// ID returns the member's peerId.
func (m *Member) ID() string { return m.id }

// Room returns the room that m joined, or nil if it has not joined.
func (m *Member) Room() *Room { return m.room }

const (
	// LogLimit is the number of bytes in a room's log above which the room is Full. Its members are then not
	// read until it is flushed, so that a fast sender is held back by its own socket and memory stays
	// bounded.
	LogLimit = 1 << 20

	// maxEntries bounds the number of entries in the same way: together they take at most about LogLimit
	// bytes. It matters where frames are small, or where one goes to many connections of one peer.
	maxEntries = LogLimit / int(unsafe.Sizeof(entry{}))

	// indexAbove is the number of members above which a room with direct messages keeps an index by peerId.
	// Below it, comparing a few strings costs less than a map lookup and the index's memory.
	indexAbove = 16
)

// Room holds the members of one relay and the log of their messages since the last flush.
type Room struct {
	// Static after construction.
	id    string
	shard uint32 // position in Table.shards

	// Written under mu.
	full atomic.Bool // the log is above LogLimit or maxEntries

	mu      sync.Mutex // guards what follows
	active  bool       // a goroutine will call Flush until nothing is left
	members []*Member
	byID    map[string][]*Member // nil until a direct message needs it
	log     *batch               // not yet being flushed; nil when empty
	out     *batch               // being flushed; nil when no flush is under way

	delivered int64         // bytes published so far, counted once for each recipient
	drained   int64         // of these, what the rate of Over has allowed so far
	drainedAt time.Duration // the time of drained
}

// Full reports whether the room's log is as large as it should get. Callers should then not read its members
// until it has been flushed. It is cheap, and safe to call at any time.
func (r *Room) Full() bool { return r.full.Load() }

// Waiter waits until a full room has space. Wake must not block and must not call the room.
type Waiter interface{ Wake() }

// AwaitSpace reports whether the room is full. If it is, it wakes w once when the room is no longer full.
func (r *Room) AwaitSpace(w Waiter) (full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.full.Load() {
		return false
	}
	if b := r.log; !slices.Contains(b.waiters, w) {
		b.waiters = append(b.waiters, w)
	}
	return true
}

// notFullLocked is called when a flush has taken the log b. It wakes the waiters.
func (r *Room) notFullLocked(b *batch) {
	if !r.full.Load() {
		return
	}
	r.full.Store(false)
	for _, w := range b.waiters {
		w.Wake()
	}
	b.waiters = nil
}

// Over reports whether more than burst bytes beyond rate, in bytes per second, have been delivered. A message
// counts once for each recipient, when it is published. now is the time since any fixed moment. All calls for
// a room must have the same rate.
func (r *Room) Over(now time.Duration, rate, burst int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	perByte := float64(time.Second) / float64(rate)
	n := float64(now-r.drainedAt) / perByte
	switch missing := r.delivered - r.drained; {
	case n >= float64(missing):
		r.drained, r.drainedAt = r.delivered, now
	case n >= 1: // drainedAt moves by whole bytes, so that frequent calls lose no fraction
		r.drained += int64(n)
		r.drainedAt += time.Duration(math.Floor(n) * perByte)
	}
	return r.delivered-r.drained >= burst
}

// ID returns the relayId.
func (r *Room) ID() string { return r.id }

// State is what a room is at one moment.
type State struct {
	Room      *Room
	Members   int
	Delivered int64 // bytes published so far, counted once for each recipient
	LogBytes  int   // published and not yet being written
}

// State returns the room's state.
func (r *Room) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := State{Room: r, Members: len(r.members), Delivered: r.delivered}
	if r.log != nil {
		st.LogBytes = len(r.log.buf)
	}
	return st
}

// Each calls f for every member's connection. f must not call the room.
func (r *Room) Each(f func(Conn)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.members {
		f(m.conn)
	}
}

// Publish appends a copy of frame, one encoded message, to the log for all members but from. found reports
// whether there was one. If note is true, the caller has to call Flush at its next tick and again until Flush
// returns Flushed. Otherwise another caller already has this duty, or there is no recipient.
func (r *Room) Publish(from *Member, frame []byte) (note, found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.members) <= 1 && (len(r.members) == 0 || r.members[0] == from) {
		return false, false
	}
	b := r.logLocked()
	start := len(b.buf)
	b.buf = append(b.buf, frame...)
	b.entries = append(b.entries, entry{sender: from, start: start, end: len(b.buf)})
	r.delivered += int64(len(frame)) * int64(len(r.members)-1)
	return r.noteLocked(b), true
}

// PublishTo appends a copy of frame for every member called id, which may include from. The results are those
// of Publish. id is not kept.
func (r *Room) PublishTo(from *Member, id, frame []byte) (note, found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b *batch
	start := 0
	send := func(to *Member) {
		if b == nil {
			b = r.logLocked()
			start = len(b.buf)
			b.buf = append(b.buf, frame...)
		}
		b.entries = append(b.entries, entry{sender: from, target: to, start: start, end: len(b.buf)})
		b.directs++
		b.shares += len(frame)
		r.delivered += int64(len(frame))
	}
	if len(r.members) > indexAbove {
		for _, m := range r.indexLocked()[string(id)] {
			send(m)
		}
	} else {
		for _, m := range r.members {
			if m.id == string(id) {
				send(m)
			}
		}
	}
	if b == nil {
		return false, false
	}
	return r.noteLocked(b), true
}

func (r *Room) logLocked() *batch {
	if r.log == nil {
		r.log = takeBatch()
	}
	return r.log
}

func (r *Room) noteLocked(b *batch) (note bool) {
	b.count()
	if len(b.buf) > LogLimit || len(b.entries) > maxEntries {
		r.full.Store(true)
	}
	note = !r.active
	r.active = true
	return note
}

func (r *Room) indexLocked() map[string][]*Member {
	if r.byID == nil {
		r.byID = make(map[string][]*Member, len(r.members))
		for _, m := range r.members {
			r.indexMemberLocked(m)
		}
	}
	return r.byID
}

func (r *Room) indexMemberLocked(m *Member) {
	same := r.byID[m.id]
	m.same = int32(len(same))
	r.byID[m.id] = append(same, m)
}

// add is called under the shard's lock, only by Table.Join.
func (r *Room) add(m *Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.room, m.index = r, int32(len(r.members))
	r.members = append(r.members, m)
	if r.byID != nil {
		r.indexMemberLocked(m)
	}
	if b := r.log; b != nil { // m must not get the entries logged before it joined
		b.joined = append(b.joined, joining{m, int32(len(b.entries))})
	}
}

// remove takes m out and reports whether the room is now empty. It is called under the shard's lock, only by
// Table.Leave.
func (r *Room) remove(m *Member) (empty bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := len(r.members) - 1
	moved := r.members[last]
	r.members[m.index] = moved
	moved.index = m.index
	m.index = -1
	r.members[last] = nil
	r.members = r.members[:last]
	if c := cap(r.members); c > 16 && last < c/4 {
		r.members = append(make([]*Member, 0, c/2), r.members...)
	}
	if r.byID != nil {
		r.unindexLocked(m)
	}
	return last == 0
}

func (r *Room) unindexLocked(m *Member) {
	if len(r.members) <= indexAbove/2 {
		r.byID = nil // half, so that a room near indexAbove does not rebuild it repeatedly
		return
	}
	same := r.byID[m.id]
	last := len(same) - 1
	same[m.same] = same[last]
	same[m.same].same = m.same
	same[last] = nil
	same = same[:last]
	if last == 0 {
		delete(r.byID, m.id)
	} else {
		r.byID[m.id] = same
	}
}
