package router

// What one call of Flush writes: some hundred microseconds' worth of system calls, or of copying. Between
// two calls the caller can see to others, so that a giant room, or a full one, stalls none.
const (
	maxChunk      = 64 // recipients
	minChunk      = 8
	maxChunkBytes = 4 << 20 // to all of them together, but for minChunk

	// helpAbove is the number of recipients above which several loops should flush a batch.
	helpAbove = 512
)

// Progress says what a call of Flush has left.
type Progress uint8

const (
	Flushed Progress = iota // nothing, or others see to it
	InPart                  // the rest of this batch: Flush is to be called again
	Another                 // a new log: Flush is to be called again, when more has been read
)

// chunk is the number of recipients that one call of Flush writes b to.
func (b *batch) chunk() int {
	each := len(b.buf)
	if b.directs == len(b.entries) { // everyone gets a share of it
		each = b.shares / len(b.recipients)
	}
	return min(max(maxChunkBytes/(each+1), minChunk), maxChunk)
}

// Flush writes what the room's log holds to a limited number of members. Unless it returns Flushed the caller
// has to call it again. Several goroutines may flush one room at the same time: each writes to other
// members, and the next log is not begun before this one is out, so every member gets its messages in
// order. help is returned once for a batch so large that the caller should ask others to flush, too.
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

// deliver writes a part of a batch that was claimed, and reports what finish does.
// The part is finished even where a panic ends it: others wait for that.
func (r *Room) deliver(b *batch, part []*Member, s *Scratch) (again, whole bool) {
	defer func() { again, whole = r.finish(b, len(part)) }()
	b.deliver(part, s)
	return
}

// Drain flushes everything that was published before the call. Like Flush it
// returns true if the caller has to call Flush at its next tick. Where others
// flush the same room it waits for them: their writes do not block, so neither
// does it for long.
func (r *Room) Drain(s *Scratch) (again bool) {
	for batches := 0; batches < 2; { // the one on its way, and the log behind it
		b, part, others := r.claim(true)
		switch {
		case others != nil:
			<-others
			again = false // whoever finished it goes on
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

// claim returns the outgoing batch and those of its recipients that the caller
// is to write to. A nil batch means that there is nothing to do for the caller. One
// who will wait then gets others, which is closed when those who write to the rest
// have done so; nil if there is nothing at all to flush.
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
		r.notFullLocked()
		b.plan(r.members)
		if len(b.recipients) == 0 {
			b.recycle()
			r.active = false
			return nil, nil, nil
		}
		r.out = b
	}
	b = r.out
	if b.next == len(b.recipients) { // the last of those who write to the rest goes on
		if wait && b.done == nil {
			b.done = make(chan struct{})
		}
		return nil, nil, b.done
	}
	part = b.recipients[b.next:min(b.next+b.chunk(), len(b.recipients))]
	b.next += len(part)
	return b, part, nil
}

// finish notes that n more recipients were written to. It reports whether
// there is more to flush for the caller, and whether this was the whole batch;
// then the batch is gone.
func (r *Room) finish(b *batch, n int) (again, whole bool) {
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
	b.recycle()
	r.active = r.log != nil
	return r.active, true
}
