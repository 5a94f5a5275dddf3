package router

import (
	"math"
	"sync"
)

// batch is a log: what a room's members said between two flushes, encoded, in
// order. It belongs to a room from the first message to the end of its flush,
// and to the pool otherwise: an idle room holds no buffer.
type batch struct {
	buf     []byte  // encoded frames, one behind the other
	entries []entry // in the order of buf
	directs int     // how many entries have a target
	shares  int     // bytes of these entries, once for each
	joined  []joining

	// The plan of the flush, made when the log is taken; static until the end.
	recipients   []*Member     // who may get something
	participants []participant // who gets something of its own
	shared       []byte        // what all others get: buf, or mixed
	mixed        []byte        // the broadcasts of buf, if there are direct messages among them
	broadcasts   []int32       // their positions in entries, then

	// Guarded by Room.mu.
	next    int           // recipients[next:] nobody writes to yet
	written int           // how many recipients were written to
	done    chan struct{} // closed at the end, nil if nobody waits for it
}

// entry is one message: for all but its sender, or for one target. A direct
// message to several connections has several entries of one range.
type entry struct {
	sender     *Member
	target     *Member // nil: broadcast
	start, end int     // range in batch.buf
	nextTo     int32   // 1 + position of the next entry with this target, 0 at the last
}

// joining is a member that came when the log had that many entries.
type joining struct {
	member *Member
	since  int32
}

// participant is a member that sent a broadcast, is the target of an entry, or
// joined in between.
type participant struct {
	member      *Member
	first, last int32 // 1 + position of its first and last entry as a target, 0 if none
	since       int32 // position of the first entry that it could hear
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// Bounds of what a pooled batch holds on to: bytes, and elements of a slice.
const (
	maxKeepBytes = 2 * LogLimit
	maxKeepElems = 2 * maxEntries
)

// Scratch is memory for assembling what one member gets. One per goroutine
// that flushes.
type Scratch struct {
	buf []byte
}

// plan finds out who gets what. The caller holds Room.mu.
func (b *batch) plan(members []*Member) {
	for i := range b.entries {
		e := &b.entries[i]
		if e.target == nil {
			b.participant(e.sender)
			continue
		}
		v := b.participant(e.target)
		if v.first == 0 {
			v.first = int32(i + 1)
		} else {
			b.entries[v.last-1].nextTo = int32(i + 1)
		}
		v.last = int32(i + 1)
	}
	for _, j := range b.joined {
		b.participant(j.member).since = j.since
	}
	switch b.directs {
	case 0:
		b.shared = b.buf
		b.recipients = append(b.recipients, members...)
	case len(b.entries): // nothing for the others: they need not even be looked at
		for i := range b.participants {
			if m := b.participants[i].member; m.index >= 0 { // else it has left
				b.recipients = append(b.recipients, m)
			}
		}
	default:
		for i := range b.entries {
			if e := &b.entries[i]; e.target == nil {
				b.mixed = append(b.mixed, b.buf[e.start:e.end]...)
				b.broadcasts = append(b.broadcasts, int32(i))
			}
		}
		b.shared = b.mixed
		b.recipients = append(b.recipients, members...)
	}
}

func (b *batch) participant(m *Member) *participant {
	if m.mark == 0 {
		b.participants = append(b.participants, participant{member: m})
		m.mark = int32(len(b.participants))
	}
	return &b.participants[m.mark-1]
}

// deliver writes to recipients, a part of b.recipients that the caller claimed.
func (b *batch) deliver(recipients []*Member, s *Scratch) {
	for _, m := range recipients {
		frames := b.shared
		if m.mark != 0 {
			frames = b.assemble(&b.participants[m.mark-1], s)
		}
		if len(frames) > 0 {
			m.conn.Write(frames)
		}
	}
}

// assemble returns what a participant gets: every broadcast but its own,
// and what is addressed to it. Valid until the next call with s.
func (b *batch) assemble(v *participant, s *Scratch) []byte {
	var r run
	s.buf = s.buf[:0]
	if b.directs == 0 {
		for i := int(v.since); i < len(b.entries); i++ {
			if e := &b.entries[i]; e.sender != v.member {
				r.add(b, s, e)
			}
		}
	} else { // two lists in order: what is for everyone, which may be nothing, and what is for v alone
		own := v.first
		for _, i := range b.broadcasts {
			own = r.addUntil(b, s, own, i)
			if e := &b.entries[i]; i >= v.since && e.sender != v.member {
				r.add(b, s, e)
			}
		}
		r.addUntil(b, s, own, math.MaxInt32)
	}
	if len(s.buf) == 0 { // one run, or none: no need to copy
		return b.buf[r.start:r.end]
	}
	s.buf = append(s.buf, b.buf[r.start:r.end]...)
	frames := s.buf
	if cap(s.buf) > maxKeepBytes {
		s.buf = nil
	}
	return frames
}

// run is a range of batch.buf that grows while entries follow one another.
type run struct{ start, end int }

// addUntil adds a target's entries before position end. next is 1 + the position of
// its next one, as is what it returns; 0 if there is none.
func (r *run) addUntil(b *batch, s *Scratch, next, end int32) int32 {
	for next != 0 && next <= end {
		e := &b.entries[next-1]
		r.add(b, s, e)
		next = e.nextTo
	}
	return next
}

func (r *run) add(b *batch, s *Scratch, e *entry) {
	if e.start == r.end {
		r.end = e.end
		return
	}
	s.buf = append(s.buf, b.buf[r.start:r.end]...)
	r.start, r.end = e.start, e.end
}

// recycle gives b back to the pool. The caller holds Room.mu, and nobody else
// knows b any more.
func (b *batch) recycle() {
	for i := range b.participants {
		b.participants[i].member.mark = 0
	}
	*b = batch{
		buf:          keepBytes(b.buf),
		entries:      keepElems(b.entries),
		recipients:   keepElems(b.recipients),
		participants: keepElems(b.participants),
		joined:       keepElems(b.joined),
		broadcasts:   keepElems(b.broadcasts),
		mixed:        keepBytes(b.mixed),
	}
	batches.Put(b)
}

// keepBytes returns s emptied, or nil if it is too large to hold on to.
func keepBytes(s []byte) []byte {
	if cap(s) > maxKeepBytes {
		return nil
	}
	return s[:0]
}

// keepElems is keepBytes for elements with pointers, which it clears.
func keepElems[T any](s []T) []T {
	if cap(s) > maxKeepElems {
		return nil
	}
	clear(s)
	return s[:0]
}
