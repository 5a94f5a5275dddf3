package server

import (
	"go.uber.org/zap"

	"relaygate/server/upgrade"
)

// head answers the request that data begins with, or keeps it if it is
// incomplete, and returns what follows.
func (l *loop) head(p *peer, data []byte) (rest []byte) {
	answer, n, v := l.shaker.Answer(l.out, data, 0)
	l.out = answer
	if n == 0 {
		in := p.input()
		in.buf = append(in.buf[:0], data...)
		in.scanned = len(data)
		return nil
	}
	l.answered(p, v)
	return data[n:]
}

// resumeHead goes on with a header block that came in part. What it returns
// aliases the buffer of p's input, which p then has no longer.
func (l *loop) resumeHead(p *peer, data []byte) (rest []byte) {
	in := p.in
	in.buf = append(in.buf, data...)
	answer, n, v := l.shaker.Answer(l.out, in.buf, in.scanned)
	l.out = answer
	if n == 0 {
		in.scanned = len(in.buf)
		return nil
	}
	p.in = nil
	l.answered(p, v)
	return in.buf[n:]
}

// answered does what follows the answer to a request, which is in out.
func (l *loop) answered(p *peer, v upgrade.Verdict) {
	l.srv.stats.answered(v)
	switch v.Next {
	case upgrade.KeepAlive:
		l.replyIfMany(p)
		p.restart()
	case upgrade.Closing:
		l.logRefused(p, v)
		p.closeAfter(l.out)
		l.out = l.out[:0]
	case upgrade.Upgraded:
		l.reply(p) // before anybody in the room can write to p
		if !p.open(v.RelayID, v.PeerID) {
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

func (l *loop) logRefused(p *peer, v upgrade.Verdict) {
	if v.Reason == "" {
		return
	}
	if e := l.srv.log.Check(zap.DebugLevel, "request refused"); e != nil {
		e.Write(zap.Stringer("remote", p.remoteAddr()), zap.String("reason", string(v.Reason)),
			zap.Int("status", v.Status))
	}
}
