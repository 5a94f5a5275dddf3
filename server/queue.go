package server

import (
	"math"
	"syscall"
)

// peer.out queues bytes for a socket that is full. It is guarded by peer.mu and nil while nothing is queued.

// sendLocked writes b, and queues the bytes that the socket does not take. It does not keep b. A peer is too
// slow if its queue is not empty and would grow beyond MAX_QUEUE_BYTES. With an empty queue the peer has read
// everything, so a batch larger than the limit may be queued.
func (p *peer) sendLocked(b []byte) {
	if p.mute {
		return
	}
	if p.out == nil {
		n, err := send(int(p.fd), b)
		if err != 0 && err != syscall.EAGAIN && err != syscall.EINTR {
			p.muteLocked(closedGone) // the socket is broken: p's loop reads it to the end and closes it
			return
		}
		if b = b[n:]; len(b) == 0 {
			return
		}
	}
	p.enqueueLocked(b)
}

func (p *peer) enqueueLocked(b []byte) {
	if waiting := p.waitingLocked(); waiting > 0 && waiting+len(b) > p.loop.srv.cfg.MaxQueue {
		p.loop.srv.stats.queueDropped[closedSlow].Add(int64(len(b)))
		p.muteLocked(closedSlow)
		p.loop.post(task{peer: p, do: (*loop).closeSlow})
		return
	}
	if out := p.out; out != nil && len(out.b)+len(b) > cap(out.b) && out.sent > 0 {
		rest := out.b[out.sent:] // bytes already sent need no room
		if out.sent >= len(rest) {
			out.b, out.sent = append(out.b[:0], rest...), 0
		} else {
			p.out = appendTo(nil, rest, 0)
			putBuffer(out)
		}
	}
	p.out = appendTo(p.out, b, math.MaxInt)
}

// waitingLocked returns the number of queued bytes.
func (p *peer) waitingLocked() int {
	if p.out == nil {
		return 0
	}
	return len(p.out.b) - p.out.sent
}

// muteLocked drops the queue, for the given reason, and everything sent from now on.
func (p *peer) muteLocked(why closeCause) {
	p.mute = true
	if n := p.waitingLocked(); n > 0 {
		p.loop.srv.stats.queueDropped[why].Add(int64(n))
	}
	p.freeQueueLocked()
}

func (p *peer) freeQueueLocked() {
	putBuffer(p.out)
	p.out = nil
}

// flushQueue sends as much of the queue as the socket takes. It reports whether this emptied the queue. The
// loop calls it when the socket has room.
func (p *peer) flushQueue() (emptied bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out == nil {
		return false
	}
	for p.out != nil {
		n, err := send(int(p.fd), p.out.b[p.out.sent:])
		switch {
		case err == syscall.EAGAIN:
			return false
		case err != 0 && err != syscall.EINTR:
			p.muteLocked(closedGone)
			return true
		}
		if p.out.sent += n; p.out.sent == len(p.out.b) {
			p.freeQueueLocked()
		}
	}
	return true
}
