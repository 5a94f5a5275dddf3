package router

import (
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Conn takes what a member receives.
type Conn interface {
	// Write sends whole encoded frames. frames is the caller's again when
	// Write returns. It must not block, and has nobody to report an error to:
	// a connection that cannot be written closes itself.
	Write(frames []byte)
}

// Member is one connection in a room. It joins one room once. It is made by Init.
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

// Init makes m a member that has not joined, called id, whose messages go to
// conn. (A method, so that a Member can be embedded and cost no allocation.)
func (m *Member) Init(id string, conn Conn) {
	m.id, m.conn, m.index = id, conn, -1
}

// ID returns the member's peerId.
func (m *Member) ID() string { return m.id }

// Room returns the room that m joined, nil before.
func (m *Member) Room() *Room { return m.room }

const (
	// LogLimit is the number of bytes in a room's log beyond which the room is
	// Full: its members are not read until it is flushed, so that a fast sender is
	// held back by its own socket and not by memory.
	LogLimit = 1 << 20

	// maxEntries bounds the log in the same way where frames are small, or one
	// goes to many connections of one peer: its entries take LogLimit bytes then.
	maxEntries = LogLimit / int(unsafe.Sizeof(entry{}))

	// indexAbove is the number of members above which a room that sees direct
	// messages keeps an index by peerId. Below it, comparing a few strings
	// costs less than a map lookup and the index's memory.
	indexAbove = 16
)

// Room is the members of one relay and the log of what they said since the
// last flush.
type Room struct {
	// Static after construction.
	id    string
	shard uint32 // position in Table.shards

	// Written under mu.
	full atomic.Bool // the log is past its limits

	mu      sync.Mutex // guards what follows
	active  bool       // somebody has undertaken to call Flush until it returns false
	members []*Member
	byID    map[string][]*Member // nil until a direct message needs it
	log     *batch               // what is to be flushed; nil when there is nothing
	out     *batch               // what is being flushed; nil when nobody flushes
	waiters []Waiter             // are told when the room is not full any more
}

// Full reports whether the room has as much to flush as it should hold. Its members
// are left alone then until it has been flushed. Cheap, and safe to call at any time.
func (r *Room) Full() bool { return r.full.Load() }

// Waiter is whoever waits for a full room. Wake must not block and must not call the room.
type Waiter interface{ Wake() }

// AwaitSpace reports whether the room is full. If it is, w is told once, when it is not any more.
func (r *Room) AwaitSpace(w Waiter) (full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.full.Load() {
		return false
	}
	if !slices.Contains(r.waiters, w) {
		r.waiters = append(r.waiters, w)
	}
	return true
}

// notFullLocked is called when the log has been taken to be flushed.
func (r *Room) notFullLocked() {
	if !r.full.Load() {
		return
	}
	r.full.Store(false)
	for _, w := range r.waiters {
		w.Wake()
	}
	r.waiters = nil
}

// ID returns the relayId.
func (r *Room) ID() string { return r.id }

// Publish appends frame, one encoded message, to the log, for everyone but
// from. frame is copied. If note is true the caller undertakes to call Flush at its
// next tick, and on until Flush returns false; else somebody has already.
func (r *Room) Publish(from *Member, frame []byte) (note bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.members) <= 1 && (len(r.members) == 0 || r.members[0] == from) {
		return false // nobody to hear it
	}
	b := r.logLocked()
	start := len(b.buf)
	b.buf = append(b.buf, frame...)
	b.entries = append(b.entries, entry{sender: from, start: start, end: len(b.buf)})
	return r.noteLocked(b)
}

// PublishTo appends frame for every member called id, from itself included if
// that is its name. It reports whether there was one; note is Publish's. frame and id
// are copied.
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
		r.log = batches.Get().(*batch)
	}
	return r.log
}

func (r *Room) noteLocked(b *batch) (note bool) {
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

// add is called under the shard's lock, by Table.Join alone.
func (r *Room) add(m *Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.room, m.index = r, int32(len(r.members))
	r.members = append(r.members, m)
	if r.byID != nil {
		r.indexMemberLocked(m)
	}
	if b := r.log; b != nil { // what is in it was not said to m
		b.joined = append(b.joined, joining{m, int32(len(b.entries))})
	}
}

// remove reports whether the room is empty now. It is called under the shard's
// lock, by Table.Leave alone.
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
		r.byID = nil // not at indexAbove itself, lest a room at the edge builds it again and again
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
