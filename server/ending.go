package server

import (
	"syscall"
	"time"

	"github.com/gobwas/ws"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// How connections end. All of this runs in the peer's loop.

// closeTimeout is how long a peer may take to answer our close frame, and then to take what
// waits for it and end its side. Closing earlier could destroy what is on its way: a socket that is
// closed with unread input sends a reset.
const closeTimeout = 5 * time.Second

// closeWith ends an open connection from our side: it sends a close frame and awaits the peer's. A
// connection that is not open yet is closed when its answers are sent.
func (l *loop) closeWith(p *peer, why *ending) {
	switch p.phase {
	case phaseHead:
		p.cause = why.cause
		if p.waits() {
			l.finish(p, nil)
		} else {
			l.close(p)
		}
	case phaseOpen:
		p.cause, p.code = why.cause, why.code
		p.startSkipping()
		var frame [maxControlPayload + 2]byte
		p.enter(phaseCloseSent, appendClose(frame[:0], why.code, why.reason))
	}
}

// closeAtOnce is closeWith where the peer's close frame is not awaited: it has come and was invalid, or it
// could not be told from other bytes any more.
func (l *loop) closeAtOnce(p *peer, why *ending) {
	p.cause, p.code = why.cause, why.code
	var frame [maxControlPayload + 2]byte
	l.finish(p, appendClose(frame[:0], why.code, why.reason))
}

// closeAnswered answers a peer's close frame with its own code.
func (l *loop) closeAnswered(p *peer, code ws.StatusCode) {
	p.cause, p.code = closedByPeer, code
	var frame [4]byte
	l.finish(p, appendClose(frame[:0], code, ""))
}

// finish sends the last bytes of all, which may be none. What waits is still sent, then FIN; what comes
// is thrown away until the peer's FIN.
func (l *loop) finish(p *peer, last []byte) {
	p.enter(phaseFinishing, last)
	p.releaseInput()
	if !p.waits() {
		l.finished(p)
	}
}

// finished is called in phaseFinishing when nothing waits any more.
func (l *loop) finished(p *peer) {
	if p.saidAll {
		l.close(p)
		return
	}
	_ = syscall.Shutdown(int(p.fd), syscall.SHUT_WR)
}

// readEnd handles the end of p's stream: its FIN, or what broke the connection.
func (l *loop) readEnd(p *peer, broken bool) {
	p.saidAll = true
	switch {
	case broken, !p.waits():
		l.close(p)
	case p.phase != phaseFinishing: // it may have ended only its own side, and still read
		l.finish(p, nil)
	}
}

// closeSlow is the task of a peer for which too much waited, and to which nothing is sent any more. What it
// sent before is still read.
func (l *loop) closeSlow(p *peer) {
	switch p.phase {
	case phaseOpen:
		p.cause, p.readOn = closedSlow, true
		_ = syscall.Shutdown(int(p.fd), syscall.SHUT_RDWR)
		if !p.inTurns {
			l.turn(p)
		}
	case phaseHead, phaseCloseSent, phaseFinishing:
		p.cause = closedSlow
		l.close(p)
	}
}

// expired is the task of a peer that has had its time in a phase other than open.
func (l *loop) expired(p *peer, in phase) {
	if p.phase != in {
		return // it has gone on since
	}
	if in == phaseHead {
		p.cause = closedHandshake
	}
	l.close(p)
}

// close closes p's descriptor. Its slot is free again when the round is over, since events of this
// round may still name it.
func (l *loop) close(p *peer) {
	srv := l.srv
	if e := srv.log.Check(zap.DebugLevel, "connection closed"); e != nil {
		p.logClosed(e)
	}
	was := p.phase
	if p.Room() != nil {
		p.leave() // nothing happens if it has left
	}
	p.mu.Lock()
	p.phase = phaseClosed
	p.mute = true
	p.dropQueueLocked()
	_ = syscall.Close(int(p.fd))
	p.mu.Unlock()
	srv.wheels[was].Remove(p)
	p.releaseInput()
	l.peers[p.slot] = nil
	l.freed = append(l.freed, p.slot)
	srv.stats.connections.Add(-1)
	srv.stats.closed[p.cause].Add(1)
}

// logClosed writes what "peer connected" has too, so that the two can be paired.
func (p *peer) logClosed(e *zapcore.CheckedEntry) {
	relay := ""
	if r := p.Room(); r != nil {
		relay = r.ID()
	}
	e.Write(zap.Stringer("remote", p.remoteAddr()), zap.String("relay_id", relay), zap.String("peer_id", p.ID()),
		zap.Stringer("cause", p.cause), zap.Uint16("code", uint16(p.code)), zap.Duration("duration", p.loop.srv.age(p)))
}
