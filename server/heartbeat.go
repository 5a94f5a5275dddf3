package server

var pingFrame = appendFrame(nil, opText, []byte("ping"))

// beat is the task of a peer that the heartbeat wheel has come to. If nothing was heard from it since the
// last time, it is closed; else it is asked to say something. One that answers but takes nothing of what
// has waited for it all that time holds our memory for nothing, and is closed as too slow.
func (l *loop) beat(p *peer) {
	if p.phase != phaseOpen {
		return
	}
	heard := p.heard || p.inTurns // in turns: something has come that is not read yet
	p.heard = false
	switch stuck := p.stuck(); {
	case !heard:
		l.closeWith(p, closingHeartbeat)
	case stuck:
		p.mu.Lock()
		p.muteLocked()
		p.mu.Unlock()
		l.closeSlow(p)
	default:
		p.Write(pingFrame)
	}
}

// stuck reports whether something has waited since the last heartbeat, and the peer's kernel has not
// acknowledged a byte since. (That our own takes nothing says less: it makes room in large steps.)
func (p *peer) stuck() bool {
	waited, before := p.queued, p.acked
	p.queued = p.waits()
	if p.queued {
		p.acked = acknowledged(int(p.fd))
	}
	return waited && p.queued && p.acked == before
}
