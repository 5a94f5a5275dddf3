package router

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"relaygate/health/histogram"
)

// batch is a log: the encoded messages that a room's members sent between two flushes, in order. It belongs
// to a room from the first message to the end of its flush. Otherwise it belongs to the pool, so an idle room
// holds no buffer.
type batch struct {
	buf     []byte  // encoded frames, one after another
	entries []entry // in the order of buf
	directs int     // how many entries have a target
	shares  int     // bytes of these entries; a frame counts once per entry
	joined  []joining
	waiters []Waiter  // woken when the log is taken, if the room was full
	counted int       // what of buf and entries is counted in logBytes
	uses    uint32    // how often the batch was taken from the pool
	began   time.Time // when it was taken; only set once in timeEvery uses

	// The plan of the flush, made when the log is taken; static until the end.
	recipients   []*Member     // members that may get something
	participants []participant // members whose frames differ from shared
	shared       []byte        // frames for all other recipients: buf, or mixed
	mixed        []byte        // the broadcasts of buf, if it also holds direct messages
	broadcasts   []int32       // positions of these broadcasts in entries

	// Guarded by Room.mu.
	next    int           // recipients[next:] are not claimed yet
	written int           // number of recipients written to
	done    chan struct{} // closed at the end; nil if no goroutine waits for it
}

// entry is one message, either for all members but its sender or for one target. A direct message to several
// connections has several entries with the same range.
type entry struct {
	sender     *Member
	target     *Member // nil: broadcast
	start, end int     // range in batch.buf
	nextTo     int32   // 1 + position of the next entry with this target, 0 at the last
}

// joining is a member that joined when the log had since entries.
type joining struct {
	member *Member
	since  int32
}

// participant is a member that sent a broadcast, is the target of an entry, or joined during the batch.
type participant struct {
	member      *Member
	first, last int32 // 1 + position of its first and last entry as a target, 0 if none
	since       int32 // position of the first entry since it joined
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// logBytes counts what the logs of all rooms in the process hold, in steps of countStep, so that a usual log
// is never counted.
var logBytes atomic.Int64

const countStep = 4 << 10

// LogBytes returns the number of bytes that the logs of all rooms in the process hold, without those of logs
// below 4 KiB.
func LogBytes() int64 { return logBytes.Load() }

// count updates logBytes. It is called when b has grown.
func (b *batch) count() {
	if n := len(b.buf) + len(b.entries)*int(unsafe.Sizeof(entry{})); n-b.counted >= countStep {
		logBytes.Add(int64(n - b.counted))
		b.counted = n
	}
}

// Largest capacities that a pooled batch keeps: in bytes, and in elements of a slice.
const (
	maxKeepBytes = 2 * LogLimit
	maxKeepElems = 2 * maxEntries
)

// timeEvery is how many batches there are for each one whose time is measured. Reading the clock for each
// would be a hundredth of the CPU time that a message to one recipient costs.
const timeEvery = 8

// Scratch is memory for assembling the frames of one member, and the counters of a goroutine that flushes.
// Each such goroutine needs its own.
type Scratch struct {
	buf     []byte
	Traffic Traffic
}

// Traffic counts what was handed to members' connections.
type Traffic struct {
	Broadcasts int64               // messages, once for each recipient
	Directs    int64               // the same for those with a target
	Bytes      int64               // encoded frames of both
	Writes     int64               // calls of Conn.Write
	Batches    histogram.Histogram // messages in each log that was flushed
	Delays     histogram.Histogram // µs from a log's first message to the end of its flush, of one log in 8
}

// Merge adds all that other has counted.
func (t *Traffic) Merge(other *Traffic) {
	t.Broadcasts += other.Broadcasts
	t.Directs += other.Directs
	t.Bytes += other.Bytes
	t.Writes += other.Writes
	t.Batches.Merge(&other.Batches)
	t.Delays.Merge(&other.Delays)
}

// takeBatch returns an empty batch from the pool.
func takeBatch() *batch {
	b := batches.Get().(*batch)
	if b.uses%timeEvery == 0 {
		b.began = time.Now()
	}
	b.uses++
	return b
}

// plan decides which frames each member gets. The caller holds Room.mu.
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
	case len(b.entries): // direct messages only: other members are skipped
		for i := range b.participants {
			if m := b.participants[i].member; m.index >= 0 { // otherwise it has left
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

// deliver writes to recipients, the part of b.recipients that the caller has claimed.
func (b *batch) deliver(recipients []*Member, s *Scratch) {
	t := &s.Traffic
	broadcasts := int64(len(b.entries) - b.directs)
	for _, m := range recipients {
		frames := b.shared
		if m.mark != 0 {
			frames = b.assemble(&b.participants[m.mark-1], s)
		} else {
			t.Broadcasts += broadcasts
		}
		if len(frames) > 0 {
			t.Writes++
			t.Bytes += int64(len(frames))
			m.conn.Write(frames)
		}
	}
}

// assemble returns the frames for participant v: every broadcast but its own, and the messages addressed to
// it. They are valid until the next call with s.
func (b *batch) assemble(v *participant, s *Scratch) []byte {
	var r run
	s.buf = s.buf[:0]
	if b.directs == 0 {
		for i := int(v.since); i < len(b.entries); i++ {
			if e := &b.entries[i]; e.sender != v.member {
				r.add(b, s, e)
				s.Traffic.Broadcasts++
			}
		}
	} else { // merge two ordered lists: the broadcasts, if any, and v's direct messages
		own := v.first
		for _, i := range b.broadcasts {
			own = r.addUntil(b, s, own, i)
			if e := &b.entries[i]; i >= v.since && e.sender != v.member {
				r.add(b, s, e)
				s.Traffic.Broadcasts++
			}
		}
		r.addUntil(b, s, own, math.MaxInt32)
	}
	if len(s.buf) == 0 { // one run, or none: no copy is needed
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

// addUntil adds the entries of one target up to position end. next is 1 + the position of the target's next
// entry, 0 if there is none. The returned value has the same meaning.
func (r *run) addUntil(b *batch, s *Scratch, next, end int32) int32 {
	for next != 0 && next <= end {
		e := &b.entries[next-1]
		r.add(b, s, e)
		s.Traffic.Directs++
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

// recycle returns b to the pool. The caller holds Room.mu and the last reference to b.
func (b *batch) recycle() {
	for i := range b.participants {
		b.participants[i].member.mark = 0
	}
	if b.counted > 0 {
		logBytes.Add(-int64(b.counted))
	}
	*b = batch{
		buf:          keepBytes(b.buf),
		entries:      keepElems(b.entries),
		recipients:   keepElems(b.recipients),
		participants: keepElems(b.participants),
		joined:       keepElems(b.joined),
		broadcasts:   keepElems(b.broadcasts),
		mixed:        keepBytes(b.mixed),
		uses:         b.uses,
	}
	batches.Put(b)
}

// keepBytes returns s emptied, or nil if its capacity is too large to keep.
func keepBytes(s []byte) []byte {
	if cap(s) > maxKeepBytes {
		return nil
	}
	return s[:0]
}

// keepElems is keepBytes for elements with pointers. It clears them.
func keepElems[T any](s []T) []T {
	if cap(s) > maxKeepElems {
		return nil
	}
	clear(s)
	return s[:0]
}
