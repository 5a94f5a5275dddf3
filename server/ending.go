package server

import (
	"syscall"
	"time"

	"github.com/gobwas/ws"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// How connections end. All of this runs in the peer's loop.

// closeTimeout is how long a peer may take to answer our close frame. After that it has the same time again
// to read its queue and end its side. Closing earlier could destroy queued bytes: a socket that is closed
// with unread input sends a reset.
const closeTimeout = 5 * time.Second

// closeWith starts to close p. An open connection is sent a close frame, and the peer's is awaited. A
// connection that is not open yet is closed when its queued answers are sent.
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

// closeAtOnce is closeWith without awaiting the peer's close frame. Either that frame has come and was
// invalid, or it could not be found in the stream any more.
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

// finish sends last, which may be empty, as the final bytes. The queue is still sent, and then FIN. Input is
// thrown away until the peer's FIN.
func (l *loop) finish(p *peer, last []byte) {
	p.enter(phaseFinishing, last)
	p.releaseInput()
	if !p.waits() {
		l.finished(p)
	}
}

// finished is called in phaseFinishing when the queue is empty.
func (l *loop) finished(p *peer) {
	if p.saidAll {
		l.close(p)
		return
	}
	_ = syscall.Shutdown(int(p.fd), syscall.SHUT_WR)
}

// readEnd handles the end of p's stream: the peer's FIN or, if broken is set, an error.
func (l *loop) readEnd(p *peer, broken bool) {
	p.saidAll = true
	switch {
	case broken, !p.waits():
		l.close(p)
	case p.phase != phaseFinishing: // the peer may have ended only its own side, and still read
		l.finish(p, nil)
	}
}

// closeSlow is the task for a peer that is too slow. Nothing more is sent to it, but input that it sent
// before is still read.
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

// expired is the task for a peer whose time in phase in is over. (An open peer's task is beat.)
func (l *loop) expired(p *peer, in phase) {
	if p.phase != in {
		return // the peer is in a later phase by now
	}
	if in == phaseHead {
		p.cause = closedHandshake
	}
	l.close(p)
}

// close closes p's descriptor. Its slot becomes free at the end of the round, since events of this round may
// still name it.
func (l *loop) close(p *peer) {
	srv := l.srv
	if e := srv.log.Check(zap.DebugLevel, "connection closed"); e != nil {
		p.logClosed(e)
	}
	if srv.access != nil {
		l.logAccess(p)
	}
	was := p.phase
	if was <= phaseOpen && p.Room() != nil { // a panic may have left it in its room before it was open
		p.leave()
	}
	p.mu.Lock()
	p.phase = phaseClosed
	p.muteLocked(p.cause)
	_ = syscall.Close(int(p.fd))
	p.mu.Unlock()
	srv.wheels[was].Remove(p)
	p.releaseInput()
	if l.pacer != nil {
		l.pacer.drop(p)
	}
	l.peers[p.slot] = nil
	l.freed = append(l.freed, p.slot)
	srv.release(p.holds, p.loop.clientAt(p.slot), p.cause)
}

// logClosed also writes the fields of "peer connected", so that the two entries can be paired.
func (p *peer) logClosed(e *zapcore.CheckedEntry) {
	relay := ""
	if r := p.Room(); r != nil {
		relay = r.ID()
	}
	e.Write(zap.Stringer("remote", p.remoteAddr()), zap.String("relay_id", relay), zap.String("peer_id", p.ID()),
		zap.Stringer("cause", p.cause), zap.Uint16("code", uint16(p.code)), zap.Duration("duration", p.loop.srv.age(p)))
}
