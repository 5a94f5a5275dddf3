package server

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How a connection is read and served, one turn at a time.

// onReady handles an event of p.
func (l *loop) onReady(p *peer, events uint32) {
	toRead := events&^unix.EPOLLOUT != 0
	if events&unix.EPOLLOUT != 0 && p.flushQueue() {
		switch p.phase {
		case phaseHead:
			toRead = true // turn does not read p while an answer waits
		case phaseFinishing:
			l.finished(p)
		}
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLPRI) != 0 {
		p.readOn = true
	}
	if toRead && !p.inTurns {
		l.turn(p)
	}
}

// giveTurns gives the peers in turns their turns, for at most sliceTime. A peer whose room is full keeps its
// place until the room has been flushed. A peer that fills the room again then comes after those that waited.
func (l *loop) giveTurns() {
	if len(l.turns) == 0 || l.srv.overLimit() {
		return
	}
	turns := l.turns
	l.turns = l.spareTurns[:0]
	waiting := turns[:0]
	var began time.Time
	for i, p := range turns {
		if p.mustWait() {
			waiting = append(waiting, p)
			continue
		}
		if i%clockStep == clockStep-1 && passed(&began, sliceTime) {
			waiting = append(waiting, turns[i:]...)
			break
		}
		p.inTurns = false
		l.turn(p)
	}
	again := l.turns
	l.turns = append(waiting, again...)
	clear(turns[min(len(l.turns), len(turns)):])
	clear(again)
	l.spareTurns = again[:0]
}

// mustWait reports whether p must not be read now because its room is full. This holds a fast sender back by
// its own socket instead of by using memory.
func (p *peer) mustWait() bool { return p.phase == phaseOpen && p.Room().Full() }

// turn reads p and serves its input until there is no more, or p has had its share of the loop's time. In the
// second case p has another turn in the next round.
func (l *loop) turn(p *peer) {
	defer l.recover(p)
	work := turnWork
	crowd := l.ready == maxEvents || len(l.turns) >= maxEvents
	if crowd {
		work = crowdWork
	}
	l.work = work
	if l.pacer != nil {
		l.pacer.begin()
	}
	for {
		switch {
		case p.phase == phaseClosed:
			return
		case p.phase == phaseHead && p.waits():
			return // no more answers until the client reads these; onReady goes on
		case l.pacer != nil && l.pacer.over(p):
			l.pacer.hold(p, l.work < work)
			return
		case l.work <= 0, p.mustWait(), p.phase <= phaseOpen && l.srv.overLimit():
			p.inTurns = true
			l.turns = append(l.turns, p)
			return
		case p.in != nil && p.in.later != nil:
			l.serveLater(p)
			continue
		}
		window := l.in
		switch {
		case crowd:
			window = l.in[:crowdReadBytes]
		case !p.large:
			window = l.in[:readBytes]
		}
		n, err := receive(int(p.fd), window)
		switch {
		case n > 0:
			rest := l.serve(p, window[:n])
			l.work -= n/bytesPerWork + receiveWork
			if len(rest) > 0 {
				p.input().later = appendTo(nil, rest, len(rest))
			} else if n < len(window) && !p.readOn {
				l.allRead(p) // later input causes another event
				return
			}
		case err == syscall.EAGAIN:
			l.allRead(p)
			return
		case err == syscall.EINTR:
		default:
			l.readEnd(p, err != 0)
			return
		}
	}
}

// allRead is called when p has sent nothing that is not read.
func (l *loop) allRead(p *peer) {
	if l.pacer != nil {
		l.pacer.rest(p)
	}
}

// serveLater serves input that an earlier turn left.
func (l *loop) serveLater(p *peer) {
	in := p.in
	x, from := in.later, in.laterFrom
	in.later, in.laterFrom = nil, 0 // x must not be released while it is served
	var rest []byte
	defer func() {
		if len(rest) == 0 { // also after a panic
			putBuffer(x)
		}
	}()
	rest = l.serve(p, x.b[from:])
	if len(rest) == 0 {
		return
	}
	in = p.input()
	in.later, in.laterFrom = x, len(x.b)-len(rest)
}

// serve handles data from p. It returns the end of data that is not handled because the turn's work is
// done, the room is full or p is over a rate. It writes to data.
func (l *loop) serve(p *peer, data []byte) (rest []byte) {
	l.awaited = !p.heard
	l.freeBeat = l.awaited || p.holds&fresh != 0
	p.heard, p.holds = true, p.holds&^fresh
	for len(data) > 0 && l.work > 0 && !p.mustWait() && (l.pacer == nil || !l.pacer.over(p)) {
		switch p.phase {
		case phaseHead:
			data = l.head(p, data)
		case phaseOpen:
			data = l.nextFrame(p, data)
		case phaseCloseSent:
			data = l.skipFrame(p, data)
		default:
			data = nil
		}
		if len(l.out) > maxReplies {
			l.reply(p)
			if p.phase == phaseHead && p.waits() {
				break // turn goes on when the client has read these answers
			}
		}
	}
	l.reply(p)
	if l.answered {
		l.answered = false
		if p.phase == phaseHead { // the next request has the whole HANDSHAKE_TIMEOUT again
			l.srv.wheels[phaseHead].Remove(p)
			l.srv.wheels[phaseHead].Add(p)
		}
	}
	p.releaseInputIfEmpty()
	return data
}

// maxReplies bounds out, in bytes: above it, replies are sent before more input is handled.
const maxReplies = 16 << 10

// reply sends the replies gathered in out.
func (l *loop) reply(p *peer) {
	if len(l.out) == 0 {
		return
	}
	if p.phase < phaseCloseSent {
		p.send(l.out)
	}
	l.out = l.out[:0]
}
