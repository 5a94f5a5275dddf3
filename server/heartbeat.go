package server

var pingFrame = appendFrame(nil, opText, []byte("ping"))

// beat is the task for a peer that the heartbeat wheel visits. A peer that has sent nothing since the last
// visit is closed. Any other is sent a ping, unless it has taken nothing from its queue in that time: then it
// is closed as too slow, because its queue holds memory for nothing.
func (l *loop) beat(p *peer) {
	if p.phase != phaseOpen {
		return
	}
	heard := p.heard || p.inTurns // a peer in turns has sent something that is not read yet
	p.heard = false
	switch stuck := p.stuck(); {
	case !heard:
		l.closeWith(p, closingHeartbeat)
	case stuck:
		p.mu.Lock()
		p.muteLocked(closedSlow)
		p.mu.Unlock()
		l.closeSlow(p)
	default:
		l.meter.heartbeats++
		p.Write(pingFrame)
	}
}

// pongCame counts how long p took to answer our ping. It is called if the pong is the first message after the
// ping: other messages are sent whenever the peer likes.
func (l *loop) pongCame(p *peer) {
	l.meter.roundTrips.AddTime(l.srv.wheels[phaseOpen].Since(p, l.now))
}

// stuck reports whether bytes were queued at the last heartbeat and still are, and the peer's kernel has
// acknowledged none since. Acknowledgements are counted because our own kernel makes room only in large
// steps.
func (p *peer) stuck() bool {
	waited, before := p.queued, p.acked
	p.queued = p.waits()
	if p.queued {
		p.acked = acknowledged(int(p.fd))
	}
	return waited && p.queued && p.acked == before
}
