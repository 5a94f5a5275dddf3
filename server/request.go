package server

import (
	"strconv"

	"go.uber.org/zap"
)

// head answers the request that data begins with, or keeps it if it is
// incomplete, and returns what follows.
func (l *loop) head(p *peer, data []byte) (rest []byte) {
	n, denied := headEnd(data, 0)
	switch {
	case denied != nil:
		l.refuse(p, denied)
		return nil
	case n == 0:
		in := p.input()
		in.buf = append(in.buf[:0], data...)
		in.scanned = len(data)
		return nil
	}
	l.answer(p, data[:n])
	return data[n:]
}

// resumeHead goes on with a header block that came in part. What it returns
// aliases the buffer of p's input, which p then has no longer.
func (l *loop) resumeHead(p *peer, data []byte) (rest []byte) {
	in := p.in
	in.buf = append(in.buf, data...)
	n, denied := headEnd(in.buf, in.scanned)
	if n == 0 && denied == nil {
		in.scanned = len(in.buf)
		return nil
	}
	p.in = nil
	if denied != nil {
		l.refuse(p, denied)
		return nil
	}
	l.answer(p, in.buf[:n])
	return in.buf[n:]
}

// answer answers one complete request.
func (l *loop) answer(p *peer, head []byte) {
	var v verdict
	l.out, v = l.shaker.appendAnswer(l.out, head)
	l.srv.stats.answered(v)
	switch v.next {
	case keepAlive:
		l.replyIfMany(p)
		p.restart()
	case closing:
		l.logRefused(p, v)
		p.closeAfter(l.out)
		l.out = l.out[:0]
	case upgraded:
		opened := p.open(v.relayID, v.peerID, l.out)
		l.out = l.out[:0]
		if !opened {
			return
		}
		if e := l.srv.log.Check(zap.DebugLevel, "peer connected"); e != nil {
			e.Write(zap.Stringer("remote", p.remoteAddr()),
				zap.String("relay_id", p.Room().ID()), zap.String("peer_id", p.ID()))
		}
		if l.srv.draining.Load() { // Drain may have looked just before
			p.close(byeDrain, false)
		}
	}
}

// refuse answers what is no request.
func (l *loop) refuse(p *peer, d *denial) {
	var v verdict
	l.out, v = appendRefusal(l.out, d)
	l.srv.stats.answered(v)
	l.logRefused(p, v)
	p.closeAfter(l.out)
	l.out = l.out[:0]
}

func (l *loop) logRefused(p *peer, v verdict) {
	if v.reason == "" {
		return
	}
	if e := l.srv.log.Check(zap.DebugLevel, "request refused"); e != nil {
		e.Write(zap.Stringer("remote", p.remoteAddr()), zap.String("reason", string(v.reason)),
			zap.String("status", strconv.Itoa(v.status)))
	}
}
