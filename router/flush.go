package router

// chunk is the number of recipients that one call of Flush writes to: about a
// millisecond's worth of system calls. A giant room is flushed over several
// ticks, by several loops at once where there are several, and stalls none.
const chunk = 256

// Flush writes what the room's log holds to a limited number of members. It
// returns again if the caller has to call it again at its next tick. Several
// goroutines may flush one room at the same time: each writes to other members,
// and the next log is not begun before this one is out, so every member gets its
// messages in order. help is returned once for a batch so large that the caller
// should ask others to do so.
func (r *Room) Flush(s *Scratch) (again, help bool) {
	b, part := r.claim()
	if b == nil {
		return false, false
	}
	help = len(b.recipients) > 2*chunk && &part[0] == &b.recipients[0]
	b.deliver(part, s)
	again, _ = r.finish(b, len(part))
	return again, help
}

// Drain flushes everything that was published before the call. Like Flush it
// returns true if the caller has to call Flush at its next tick. Where others
// flush the same room it waits for them: their writes do not block, so neither
// does it for long.
func (r *Room) Drain(s *Scratch) (again bool) {
	for batches := 0; batches < 2; { // the one on its way, and the log behind it
		b, part := r.claim()
		if b == nil {
			wait := r.flushing()
			if wait == nil {
				return false
			}
			<-wait
			again = false // whoever finished it goes on
			batches++
			continue
		}
		b.deliver(part, s)
		var whole bool
		if again, whole = r.finish(b, len(part)); whole {
			batches++
		}
	}
	return again
}

// claim returns the outgoing batch and those of its recipients that the caller
// is to write to. A nil batch means that there is nothing to do for the caller.
func (r *Room) claim() (*batch, []*Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out == nil {
		if r.log == nil {
			r.active = false
			return nil, nil
		}
		b := r.log
		r.log = nil
		b.plan(r.members)
		if len(b.recipients) == 0 {
			b.recycle()
			r.active = false
			return nil, nil
		}
		r.out = b
	}
	b := r.out
	if b.next == len(b.recipients) {
		return nil, nil // others write to the rest; the last of them goes on
	}
	part := b.recipients[b.next:min(b.next+chunk, len(b.recipients))]
	b.next += len(part)
	return b, part
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

// flushing returns a channel that is closed when the outgoing batch is
// written, nil if there is none.
func (r *Room) flushing() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out == nil {
		return nil
	}
	if r.out.done == nil {
		r.out.done = make(chan struct{})
	}
	return r.out.done
}
