package server

import (
	"go.uber.org/zap"

	"relaygate/server/upgrade"
)

// head answers the request at the beginning of data or, if a part of one came before, the rest of that one.
// It keeps an incomplete request, and returns the bytes after the request.
func (l *loop) head(p *peer, data []byte) (rest []byte) {
	l.work -= requestWork
	if p.holds&awaitsHeader != 0 {
		return l.proxyHeader(p, data)
	}
	block, had := p.gather(data, upgrade.MaxHeadBytes)
	seen := 0
	if had > 0 {
		seen = p.in.scanned
	}
	before := len(l.out)
	answer, n, v := l.handshaker.Answer(l.out, block, seen)
	if v.Next == upgrade.Upgraded {
		if why := p.refused(); why != "" {
			answer, v = upgrade.AppendBusy(answer[:before], why, retryAfter())
		}
	}
	l.out = answer
	l.work -= (len(answer) - before) / bytesPerWork
	if n > 0 {
		l.answer(p, v, before)
		if had > 0 && p.in != nil { // answering may have released all of it
			p.in.dropPart()
		}
		return data[n-had:]
	}
	in := p.input()
	if had == 0 {
		in.part = appendTo(nil, data, len(data))
	}
	in.scanned = len(in.part.b)
	return nil
}

// answer acts on v, the outcome of a request whose answer is in out[at:].
func (l *loop) answer(p *peer, v upgrade.Verdict, at int) {
	if v.Next == upgrade.Upgraded {
		if why := p.open(v.RelayID, v.PeerID, l.out); why != "" {
			l.out, v = upgrade.AppendBusy(l.out[:at], why, retryAfter())
		}
	}
	l.srv.stats.answered(v)
	switch v.Next {
	case upgrade.KeepAlive:
		l.answered = true
	case upgrade.Closing:
		l.logRefused(p, v)
		p.cause = closedHTTP
		l.finish(p, l.out)
		l.out = l.out[:0]
	case upgrade.Upgraded:
		l.out = l.out[:0]
		if l.drained != nil {
			l.leaveLater(p)
		}
		if e := l.srv.log.Check(zap.DebugLevel, "peer connected"); e != nil {
			e.Write(zap.Stringer("remote", p.remoteAddr()), zap.String("relay_id", p.Room().ID()), zap.String("peer_id", p.ID()))
		}
	}
}

func (l *loop) logRefused(p *peer, v upgrade.Verdict) {
	if v.Reason == "" {
		return
	}
	if e := l.srv.log.Check(zap.DebugLevel, "request refused"); e != nil {
		e.Write(zap.Stringer("remote", p.remoteAddr()), zap.String("reason", string(v.Reason)), zap.Int("status", v.Status))
	}
}
