package server

import "go.uber.org/zap"

// head answers the request at the beginning of data or, if a part of one came before, the rest of it. It
// keeps what is incomplete, and returns what follows.
func (l *loop) head(p *peer, data []byte) (rest []byte) {
	l.work -= requestWork
	block, had := data, 0
	if p.in != nil && p.in.part != nil {
		in := p.in
		had = len(in.part.b)
		in.part = appendTo(in.part, data[:min(len(data), maxHeadBytes-had)], maxHeadBytes)
		block = in.part.b
	}
	scanned := 0
	if had > 0 {
		scanned = p.in.scanned
	}
	n, denied := headEnd(block, scanned)
	switch {
	case denied != nil:
		l.refuse(p, denied)
		return nil
	case n > 0:
		l.answer(p, block[:n])
		if had > 0 && p.in != nil {
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

// answer answers one complete request.
func (l *loop) answer(p *peer, head []byte) {
	var v verdict
	l.out, v = l.answerer.appendAnswer(l.out, head)
	l.srv.stats.answered(v)
	switch v.next {
	case keepAlive:
		l.answered = true
	case closing:
		l.lastAnswer(p, v)
	case upgraded:
		p.open(v.relayID, v.peerID, l.out)
		l.out = l.out[:0]
		if e := l.srv.log.Check(zap.DebugLevel, "peer connected"); e != nil {
			e.Write(zap.Stringer("remote", p.remoteAddr()), zap.String("relay_id", p.Room().ID()), zap.String("peer_id", p.ID()))
		}
	}
}

// refuse answers what is no request.
func (l *loop) refuse(p *peer, d *denial) {
	var v verdict
	l.out, v = appendRefusal(l.out, d)
	l.srv.stats.answered(v)
	l.lastAnswer(p, v)
}

// lastAnswer sends the answers gathered in out, after which p is closed.
func (l *loop) lastAnswer(p *peer, v verdict) {
	if v.reason != "" {
		if e := l.srv.log.Check(zap.DebugLevel, "request refused"); e != nil {
			e.Write(zap.Stringer("remote", p.remoteAddr()), zap.String("reason", string(v.reason)), zap.Int("status", v.status))
		}
	}
	p.cause = closedHTTP
	l.finish(p, l.out)
	l.out = l.out[:0]
}
