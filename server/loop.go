package server

import (
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"relaygate/router"
	"relaygate/server/upgrade"
)

const (
	// maxEvents is how many events a loop takes from its pollset at once.
	maxEvents = 512

	// readBytes is how much a loop reads from a connection at once, and largeReadBytes where
	// the last frame was large: what fits is relayed from the loop's buffer, not copied and not
	// joined from pieces.
	readBytes      = 64 << 10
	largeReadBytes = 512 << 10
	largeFrame     = 32 << 10

	// turnWork bounds what one connection may have done before the next has its turn, in units of
	// about a tenth of a microsecond.
	turnWork     = 2048
	frameWork    = 1
	requestWork  = 8
	receiveWork  = 8
	bytesPerWork = 256
	textPerWork  = 16 // bytes of text, which is validated and searched

	// maxLeaveFlushes is how many of those who leave in one round have their rooms flushed before.
	maxLeaveFlushes = 8

	// flushTime is how long a room is flushed before others are looked after.
	flushTime = 2 * time.Millisecond

	// yieldAfter is how often the loop's goroutine gives way to Go's scheduler. One that runs for 10 ms
	// without that is preempted by a signal, and the scheduler's monitor thread, once
	// alarmed, takes the processor away whenever the goroutine waits in epoll_wait: at light load that
	// was a seventh of the process's time (bench, scenario calm).
	yieldAfter = 4 * time.Millisecond
)

// The slots that are not connections'.
const (
	wakeSlot int32 = iota
	listenSlot
	firstPeerSlot
)

// loop serves a share of the connections. It runs in a goroutine of nbio's, in rounds:
//
//  1. it gives a turn to each connection that was not read to the end before: these come first, so that
//     others do not fill a room again and again for which they wait;
//  2. it asks its pollset what is ready, and gives a turn to each connection that is;
//  3. it does the tasks that other goroutines have posted, if it was woken for that;
//  4. it flushes the rooms in which something was said in the round before.
//
// It returns to nbio when nothing came and nothing is left to do. So on an idle loop a message is
// flushed right after the loop has found that no other has come, and under load the batches that
// are flushed at once grow by themselves.
type loop struct {
	// Static.
	srv  *Server
	poll *pollset

	// Owned by the loop's goroutine.
	events     []unix.EpollEvent
	pending    int            // how many of events are to be handled in the next round: see givesWay
	peers      []*peer        // by slot; nil where the slot is free
	free       []int32        // slots
	freed      []int32        // slots that are free when the round is over
	turns      []*peer        // not read to the end, in the order of their turns
	noted      []*router.Room // to be flushed in the next round
	due        []*router.Room // to be flushed in this round
	in         []byte         // what receive fills
	out        []byte         // replies to the peer that is being served
	work       int            // what is left of turnWork for that peer
	leaving    int            // how many rooms were flushed in this round for those who left
	answered   bool           // a request of its has been answered, and another may follow
	scratch    router.Scratch
	peeker     router.Peeker
	handshaker *upgrade.Handshaker

	watchLogged time.Time // when a failure to watch a connection was logged last
	yielded     time.Time // when Go's scheduler was last given a chance

	// Owned by the loop's goroutine: memory for the next turns, noted and posted.
	spareTurns []*peer
	spareRooms []*router.Room
	spareTasks []task

	mu      sync.Mutex // guards what follows
	posted  []task
	stopped bool // nothing is posted any more
}

func newLoop(s *Server, h *upgrade.Handshaker) *loop {
	return &loop{
		srv: s, handshaker: h,
		events: make([]unix.EpollEvent, maxEvents),
		peers:  make([]*peer, firstPeerSlot),
		in:     make([]byte, largeReadBytes),
	}
}

func (l *loop) start() (err error) {
	if l.poll, err = newPollset(); err != nil {
		return err
	}
	return l.poll.start(l.run)
}

// stop closes what is left of the loop's connections and ends the loop.
func (l *loop) stop() {
	stopped := make(chan struct{})
	l.post(task{do: func(l *loop, _ *peer) {
		defer close(stopped)
		for _, p := range l.peers {
			if p != nil {
				l.close(p)
			}
		}
		l.mu.Lock()
		l.stopped = true
		l.mu.Unlock()
	}})
	<-stopped
	l.poll.close()
}

// drain closes every connection, and first delivers what was said before.
func (l *loop) drain(*peer) {
	l.flushDue()
	l.flushDue()
	for _, p := range l.peers {
		if p != nil {
			l.closeWith(p, closingDrain)
		}
	}
}

// task is what another goroutine wants a loop to do: flush a room, take a connection, or whatever do
// does, with a peer if it is one's.
type task struct {
	do   func(*loop, *peer)
	peer *peer
	room *router.Room
	fd   int32 // an accepted socket, if the rest is empty
}

// post adds a task, which the loop does in its next round.
func (l *loop) post(t task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return
	}
	l.posted = append(l.posted, t)
	if len(l.posted) == 1 {
		l.poll.wake()
	}
}

// run does rounds until there is nothing to do.
func (l *loop) run() {
	for {
		l.leaving = 0
		l.giveTurns()
		n := l.pending
		if l.pending = 0; n == 0 {
			n = l.poll.ready(l.events)
		}
		woken := false
		for i := range l.events[:n] {
			switch slot := l.events[i].Fd; slot {
			case wakeSlot:
				woken = true
			case listenSlot:
				l.acceptAll()
			default:
				if p := l.peers[slot]; p != nil {
					l.onReady(p, l.events[i].Events)
				}
			}
		}
		if woken { // behind what has come: a heartbeat must not miss a peer's answer
			l.doTasks()
		}
		l.free = append(l.free, l.freed...)
		l.freed = l.freed[:0]
		l.flushDue()
		if now := time.Now(); now.Sub(l.yielded) > yieldAfter {
			runtime.Gosched()
			l.yielded = now
		}
		if n > 0 {
			continue
		}
		if l.pending+len(l.due)+len(l.noted) == 0 && l.allAwaitSpace() {
			return
		}
	}
}

// allAwaitSpace reports whether every peer in turns, if there is any, waits for a room that another loop
// flushes. The loop is woken then when one of the rooms is not full any more.
func (l *loop) allAwaitSpace() bool {
	for _, p := range l.turns {
		if p.phase != phaseOpen || !p.Room().AwaitSpace(l) {
			return false
		}
	}
	return true
}

// Wake implements router.Waiter. What there is to do is found in turns.
func (l *loop) Wake() { l.post(task{do: func(*loop, *peer) {}}) }

// doTasks does what was posted.
func (l *loop) doTasks() {
	l.mu.Lock()
	tasks := l.posted
	l.posted = l.spareTasks[:0]
	l.mu.Unlock()
	for _, t := range tasks {
		l.doTask(t)
	}
	clear(tasks)
	l.spareTasks = tasks
}

func (l *loop) doTask(t task) {
	defer l.recover(t.peer)
	switch {
	case t.room != nil:
		l.noted = append(l.noted, t.room)
	case t.do != nil:
		t.do(l, t.peer)
	default:
		l.add(int(t.fd))
	}
}

// onReady handles an event of p's.
func (l *loop) onReady(p *peer, events uint32) {
	toRead := events&^unix.EPOLLOUT != 0
	if events&unix.EPOLLOUT != 0 && p.flushQueue() {
		switch p.phase {
		case phaseHead:
			toRead = true // see turn: p was not read while an answer waited
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

// giveTurns gives each of those in turns one. A peer whose room is full keeps its place until the room has
// been flushed, so that whoever fills it again comes behind those for whom it was full.
func (l *loop) giveTurns() {
	turns := l.turns
	l.turns = l.spareTurns[:0]
	waiting := turns[:0]
	for _, p := range turns {
		if p.mustWait() {
			waiting = append(waiting, p)
			continue
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

// mustWait reports whether p is not read now because its room is full. So a fast sender is held back by its
// own socket, not by memory.
func (p *peer) mustWait() bool { return p.phase == phaseOpen && p.Room().Full() }

// turn reads p and serves what has come, until nothing has, or p has had its share of the loop's time; then
// it has another turn in the next round.
func (l *loop) turn(p *peer) {
	defer l.recover(p)
	l.work = turnWork
	for {
		switch {
		case p.phase == phaseClosed:
			return
		case p.phase == phaseHead && p.waits():
			return // a client that does not read its answers gets no more; onReady goes on
		case l.work <= 0, p.mustWait():
			p.inTurns = true
			l.turns = append(l.turns, p)
			return
		case p.in != nil && p.in.later != nil:
			l.serveLater(p)
			continue
		}
		window := l.in
		if !p.large {
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
				return // all that had come: what comes from now on is another event
			}
		case err == syscall.EAGAIN:
			return
		case err == syscall.EINTR:
		default:
			l.readEnd(p, err != 0)
			return
		}
	}
}

// serveLater serves what was kept for a later turn.
func (l *loop) serveLater(p *peer) {
	in := p.in
	x, from := in.later, in.laterFrom
	in.later, in.laterFrom = nil, 0 // x is not to be released while it is served
	rest := l.serve(p, x.b[from:])
	if len(rest) == 0 {
		putBuffer(x)
		return
	}
	in = p.input()
	in.later, in.laterFrom = x, len(x.b)-len(rest)
}

// serve handles what came from p, and returns the end of data that is not handled: the turn's work is done, or
// the room is full. data is written to.
func (l *loop) serve(p *peer, data []byte) (rest []byte) {
	p.heard = true
	for len(data) > 0 && l.work > 0 && !p.mustWait() {
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

// maxReplies bounds out, in bytes: beyond it replies are sent before the rest of the input is handled.
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

// flushDue flushes the rooms that were noted in the round before.
func (l *loop) flushDue() {
	rooms := l.due
	l.due, l.noted = l.noted, l.spareRooms[:0]
	for i, r := range rooms {
		began := time.Time{} // of this room's flush, if it takes several parts
		for l.flush(r) == router.InPart && !l.givesWay(&began, len(rooms)-i-1) {
			l.noted = l.noted[:len(l.noted)-1] // it goes on here, not in the next round
		}
	}
	clear(rooms)
	l.spareRooms = rooms
}

// givesWay reports whether a flush that has begun a while ago has to wait for the next round: others is how many
// rooms are due behind it. As long as there is nobody to give way to, a room is flushed as a
// whole, so that the next batch holds whatever its members say meanwhile.
func (l *loop) givesWay(began *time.Time, others int) bool {
	now := time.Now()
	if began.IsZero() {
		*began = now
	}
	if now.Sub(*began) < flushTime {
		return false
	}
	if l.pending == 0 {
		l.pending = l.poll.ready(l.events)
	}
	return l.pending+others+len(l.turns)+len(l.due) > 0
}

// flush flushes a part of a room, and notes the room if there is more to flush.
func (l *loop) flush(r *router.Room) (left router.Progress) {
	left, help := router.Another, false
	defer func() {
		if left != router.Flushed { // also where a panic ended it: nobody else flushes this room
			l.noted = append(l.noted, r)
		}
	}()
	defer l.recover(nil)
	left, help = r.Flush(&l.scratch)
	if help {
		for _, other := range l.srv.loops {
			if other != l {
				other.post(task{room: r})
			}
		}
	}
	return left
}

// recover ends a panic, which is a bug of ours that must not take other peers along.
func (l *loop) recover(p *peer) {
	reason := recover()
	if reason == nil {
		return
	}
	l.out, l.answered = nil, false
	l.srv.stats.panics.Add(1)
	l.srv.log.Error("panic", zap.Any("reason", reason), zap.ByteString("stack", debug.Stack()))
	if p != nil && p.phase != phaseClosed {
		p.cause = closedPanic
		l.close(p)
	}
}
