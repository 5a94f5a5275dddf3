package router

import "time"

// Limits of one call of Flush: it takes some hundred microseconds, for system calls or for copying. Between
// two calls the caller can serve others, so a giant or full room delays none of them.
const (
	maxChunk      = 64      // recipients
	maxChunkBytes = 4 << 20 // to all recipients together, unless one gets more

	// helpAbove is the number of recipients above which several loops should flush a batch.
	helpAbove = 512
)

// Progress says whether a call of Flush has left work for the caller.
type Progress uint8

const (
	Flushed Progress = iota // nothing is left, or other goroutines flush it
	InPart                  // the rest of this batch is left: call Flush again
	Another                 // a new log is left: call Flush again after reading more
)

// chunk returns the number of recipients that one call of Flush writes b to.
func (b *batch) chunk() int {
	each := len(b.buf)
	if b.directs == len(b.entries) { // direct messages only: each recipient gets a share
		each = b.shares / len(b.recipients)
	}
	return min(max(maxChunkBytes/(each+1), 1), maxChunk)
}

// Flush writes the room's log to a limited number of members. Unless it returns Flushed, the caller has to
// call it again. Several goroutines may flush one room at the same time, each writing to other members. The
// next log is begun only after this one is out, so every member gets its messages in order. help is returned
// once for a batch so large that the caller should ask other goroutines to flush, too.
func (r *Room) Flush(s *Scratch) (left Progress, help bool) {
	b, part, _ := r.claim(false)
	if b == nil {
		return Flushed, false
	}
	help = len(b.recipients) > helpAbove && &part[0] == &b.recipients[0]
	again, whole := r.deliver(b, part, s)
	switch {
	case !again:
		return Flushed, help
	case whole:
		return Another, help
	}
	return InPart, help
}

// deliver writes a claimed part of a batch and returns the results of finish. It calls finish even after a
// panic, because other goroutines wait for that.
func (r *Room) deliver(b *batch, part []*Member, s *Scratch) (again, whole bool) {
	defer func() { again, whole = r.finish(b, len(part), &s.Traffic) }()
	b.deliver(part, s)
	return
}

// Drain flushes everything that was published before the call. It returns true if the caller has to call
// Flush at its next tick. If other goroutines flush the same room, it waits for them. They do not block in
// their writes, so the wait is short.
func (r *Room) Drain(s *Scratch) (again bool) {
	for batches := 0; batches < 2; { // the outgoing batch, and the log after it
		b, part, others := r.claim(true)
		switch {
		case others != nil:
			<-others
			again = false // the goroutine that finished the batch flushes the next
			batches++
			continue
		case b == nil:
			return false
		}
		var whole bool
		if again, whole = r.deliver(b, part, s); whole {
			batches++
		}
	}
	return again
}

// claim returns the outgoing batch and the recipients that the caller has to write to. b is nil if there is
// nothing to do for the caller. If wait is set and other goroutines still write to the rest, others is a
// channel that is closed when they have finished. others is nil if there is nothing at all to flush.
func (r *Room) claim(wait bool) (b *batch, part []*Member, others <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out == nil {
		if r.log == nil {
			r.active = false
			return nil, nil, nil
		}
		b := r.log
		r.log = nil
		r.notFullLocked(b)
		b.plan(r.members)
		if len(b.recipients) == 0 {
			b.recycle()
			r.active = false
			return nil, nil, nil
		}
		r.out = b
	}
	b = r.out
	if b.next == len(b.recipients) { // all are claimed: the last goroutine to finish goes on
		if wait && b.done == nil {
			b.done = make(chan struct{})
		}
		return nil, nil, b.done
	}
	part = b.recipients[b.next:min(b.next+b.chunk(), len(b.recipients))]
	b.next += len(part)
	return b, part, nil
}

// finish records that n more recipients were written to. again says that the caller has more to flush. whole
// says that the batch is complete; it is then counted in t and recycled.
func (r *Room) finish(b *batch, n int, t *Traffic) (again, whole bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b.written += n
	if b.written < len(b.recipients) {
		return b.next < len(b.recipients), false
	}
	r.out = nil
	if b.done != nil {
		close(b.done)
	}
	t.Batches.Add(uint64(len(b.entries)))
	if !b.began.IsZero() {
		t.Delays.AddTime(time.Since(b.began))
	}
	b.recycle()
	r.active = r.log != nil
	return r.active, true
}
