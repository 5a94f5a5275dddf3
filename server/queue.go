package server

import (
	"math"
	"syscall"
)

// What waits for a socket that is full is in peer.out, guarded by peer.mu. It is nil while nothing
// waits.

// sendLocked writes b, or puts what the socket does not take behind what waits already. b is the
// caller's again when it returns. A peer for which something waits already, and more than
// MAX_QUEUE_BYTES would, is too slow. (One for which nothing waited reads: a batch may be larger than that.)
func (p *peer) sendLocked(b []byte) {
	if p.mute {
		return
	}
	if p.out == nil {
		n, err := send(int(p.fd), b)
		if err != 0 && err != syscall.EAGAIN && err != syscall.EINTR {
			p.muteLocked() // the socket is broken: its loop reads it to the end and closes it
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
		p.muteLocked()
		p.loop.post(task{peer: p, do: (*loop).closeSlow})
		return
	}
	if out := p.out; out != nil && len(out.b)+len(b) > cap(out.b) && out.sent > 0 {
		rest := out.b[out.sent:] // what is sent needs no room
		if out.sent >= len(rest) {
			out.b, out.sent = append(out.b[:0], rest...), 0
		} else {
			p.out = appendTo(nil, rest, 0)
			putBuffer(out)
		}
	}
	p.out = appendTo(p.out, b, math.MaxInt)
}

// waitingLocked is how many bytes wait.
func (p *peer) waitingLocked() int {
	if p.out == nil {
		return 0
	}
	return len(p.out.b) - p.out.sent
}

// muteLocked drops what waits, and whatever is sent from now on.
func (p *peer) muteLocked() {
	p.mute = true
	p.dropQueueLocked()
}

func (p *peer) dropQueueLocked() {
	putBuffer(p.out)
	p.out = nil
}

// flushQueue sends what waits, as far as the socket takes it. It reports whether something waited and
// nothing does any more. The loop calls it when the socket has room.
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
			p.muteLocked()
			return true
		}
		if p.out.sent += n; p.out.sent == len(p.out.b) {
			p.dropQueueLocked()
		}
	}
	return true
}
