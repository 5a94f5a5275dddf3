package server

import (
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// arrival is an accepted socket that is not yet a connection of a loop.
type arrival struct {
	fd     int32
	holds  standing
	client client // zero if addresses are not needed
}

// arrive decides about a socket that has just been accepted: it becomes a connection of a loop now or when
// CONNECT_RATE lets it, or is closed. It runs in the first loop.
func (l *loop) arrive(a arrival) {
	s := l.srv
	if s.readsProxyHeaders() {
		a.holds = awaitsHeader
		if !s.cfg.TrustedProxies.Contain(a.client.addrPort().Addr()) {
			a.holds |= untrusted
		}
	}
	if a.holds&untrusted != 0 && s.cfg.ProxyProtocol == ProxyRequired {
		s.dropArrival(&a, closedUntrusted)
		return
	}
	if a.holds&(awaitsHeader|untrusted) != awaitsHeader { // the address is not a balancer's
		held, ok := s.screen(&a.client)
		if a.holds |= held; !ok {
			s.dropArrival(&a, closedOverLimit)
			return
		}
	}
	if !s.takePlace() {
		l.handOut(a)
		return
	}
	a.holds |= holdsPlace
	if a.holds&overIP == 0 && l.mustQueue(&a) {
		return
	}
	l.handOut(a)
}

// handOut makes a a connection of the next loop.
func (l *loop) handOut(a arrival) {
	s := l.srv
	s.nextLoop = (s.nextLoop + 1) % len(s.loops)
	if to := s.loops[s.nextLoop]; to != l {
		to.post(task{arrival: &a})
	} else {
		l.add(&a)
	}
}

// dropArrival closes a without an answer.
func (s *Server) dropArrival(a *arrival, cause closeCause) {
	if e := s.log.Check(zap.DebugLevel, "connection closed"); e != nil {
		e.Write(zap.Stringer("remote", &a.client), zap.Stringer("cause", cause))
	}
	if s.access != nil {
		s.logDropped(a.client.addrPort(), cause)
	}
	_ = syscall.Close(int(a.fd))
	s.release(a.holds, &a.client, cause)
}

// waiting holds connections back as CONNECT_RATE demands. They are neither watched nor read, and their
// HANDSHAKE_TIMEOUT begins at their turn. Owned by the first loop.
type waiting struct {
	limiter *rate.Limiter // nil if CONNECT_RATE is not set
	queue   []turn        // in the order of their turns
	first   int           // turns before this one are over
}

// turn is a connection and when it may go on.
type turn struct {
	arrival
	at time.Time
}

// minTurns is the shortest time between two tasks that let connections go on, so that a high rate does not
// take a task for each.
const minTurns = 2 * time.Millisecond

func (w *waiting) init(perSecond, burst int) {
	if perSecond > 0 {
		w.limiter = rate.NewLimiter(rate.Limit(perSecond), burst)
	}
}

// mustQueue reports whether a has to wait, and queues it then. If it would wait for longer than
// HANDSHAKE_TIMEOUT it is marked to be refused instead.
func (l *loop) mustQueue(a *arrival) bool {
	w := &l.srv.waiting
	if w.limiter == nil {
		return false
	}
	now := time.Now()
	r := w.limiter.ReserveN(now, 1)
	delay := r.DelayFrom(now)
	switch {
	case delay <= 0:
		return false
	case delay > time.Duration(l.srv.cfg.HandshakeTime):
		r.CancelAt(now)
		a.holds |= overRate
		return false
	}
	w.queue = append(w.queue, turn{*a, now.Add(delay)})
	if len(w.queue) == 1 { // otherwise a task is on its way
		l.awaitTurn(now)
	}
	return true
}

// awaitTurn posts letWaitingGoOn for the time of the first turn.
func (l *loop) awaitTurn(now time.Time) {
	w := &l.srv.waiting
	goOn := task{do: (*loop).letWaitingGoOn}
	if delay := w.queue[w.first].at.Sub(now); delay > 0 {
		time.AfterFunc(max(delay, minTurns), func() { l.post(goOn) })
	} else {
		l.post(goOn)
	}
}

// letWaitingGoOn hands out the connections whose turn has come, but not so many that others have to wait for
// them. A client that has gone meanwhile is found when its loop reads it.
func (l *loop) letWaitingGoOn(*peer) {
	w := &l.srv.waiting
	now := time.Now()
	for range acceptsPerRound {
		if w.first == len(w.queue) || w.queue[w.first].at.After(now) {
			break
		}
		w.first++
		l.handOut(w.queue[w.first-1].arrival)
	}
	switch left := w.queue[w.first:]; {
	case len(left) == 0:
		w.queue, w.first = nil, 0
	default:
		if w.first > len(left) {
			w.queue, w.first = append(make([]turn, 0, 2*len(left)), left...), 0
		}
		l.awaitTurn(now)
	}
}

// endWaiting lets all go on that wait for their turn, and nobody waits any more: accepting is about to end.
// Closing them instead would reset them.
func (l *loop) endWaiting() {
	w := &l.srv.waiting
	for i := range w.queue[w.first:] {
		l.handOut(w.queue[w.first+i].arrival)
	}
	*w = waiting{}
}
