package server

import (
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"relaygate/router"
	"relaygate/server/upgrade"
)

const (
	// maxEvents is how many events a loop takes from its pollset at once.
	maxEvents = 512

	// readBytes is how much a loop reads from a connection at once; after a large frame it is largeReadBytes.
	// A frame that fits is relayed from the loop's buffer and need not be joined from pieces.
	readBytes      = 64 << 10
	largeReadBytes = 512 << 10
	largeFrame     = 32 << 10

	// crowdReadBytes and crowdWork are used instead while maxEvents connections or more want to be served: they
	// have shorter turns, so that none waits long for its own.
	crowdReadBytes = 8 << 10
	crowdWork      = turnWork / 32

	// turnWork bounds the work for one connection before the next has its turn. The unit is about a tenth of
	// a microsecond.
	turnWork     = 2048
	frameWork    = 1
	requestWork  = 8
	receiveWork  = 8
	bytesPerWork = 256
	textPerWork  = 16 // bytes of text, which is validated and searched

	// maxLeaveFlushes is the number of leaving peers whose rooms are flushed first, of the events reported at once.
	maxLeaveFlushes = 8

	// sliceTime is how long turns are given, events handled or a room flushed before the others are done.
	sliceTime = 2 * time.Millisecond

	// clockStep is the number of events or turns between two looks at the clock.
	clockStep = 8

	// yieldAfter is how often the loop's goroutine yields to Go's scheduler. A goroutine that runs for 10 ms
	// without yielding is preempted by a signal. After that the scheduler's monitor thread takes the
	// processor away whenever the goroutine waits in epoll_wait. At light load that was a seventh of the
	// process's time (bench, scenario calm).
	yieldAfter = 4 * time.Millisecond
)

// Slots that belong to no connection.
const (
	wakeSlot int32 = iota
	listenSlot
	firstPeerSlot
)

// loop serves a share of the connections. It runs in one of nbio's goroutines, in rounds:
//
//  1. it gives a turn to each connection that was not read to the end before. These come first: otherwise
//     others could fill their rooms again and again while they wait;
//  2. it asks its pollset which connections are ready, and gives each of them a turn;
//  3. it does the tasks that other goroutines have posted, if it was woken for them;
//  4. it flushes the rooms in which something was published in the round before.
//
// Steps 1 and 2, and the flush of one room, end after sliceTime: what is left of them comes in the next round.
//
// It returns to nbio when nothing is left to do and no event came, or a single one. The pollset reports later
// events again. So an idle loop flushes a message right after reading it, and under load batches grow by
// themselves.
type loop struct {
	// Static.
	srv  *Server
	poll *pollset

	// Owned by the loop's goroutine.
	events      []unix.EpollEvent
	ready       int            // number of events that the pollset has reported
	handled     int            // of these, how many have been handled: the others are left for the next round
	peers       []*peer        // by slot; nil where the slot is free
	clients     *clients       // by slot; nil if no setting needs addresses
	relayed     []uint32       // messages from each peer, by slot; nil unless ACCESS_LOG is set
	free        []int32        // slots
	freed       []int32        // slots that become free at the end of the round
	turns       []*peer        // peers not read to the end, in the order of their turns
	noted       []*router.Room // to be flushed in the next round
	due         []*router.Room // to be flushed in this round
	in          []byte         // receive reads into it
	out         []byte         // replies to the peer that is being served
	work        int            // what is left of turnWork for that peer
	leaving     int            // rooms flushed because a peer left, since the pollset was asked last
	answered    bool           // that peer's request has been answered, and another may follow
	awaited     bool           // that peer had sent nothing since our last ping
	freeBeat    bool           // that peer may say ping or pong once at no cost: see pay
	flushAnyway bool           // one part of a room is flushed although peers hold more memory than they may
	scratch     router.Scratch
	peeker      router.Peeker
	handshaker  *upgrade.Handshaker
	pacer       *pacer // nil if no rate is set
	meter       meter

	now     time.Time // when this round began
	clock   uint32    // the same since the server's start, in hundredths of a second
	drained *leaves   // the peers' closing in a drain, nil until it begins

	yielded time.Time // when Go's scheduler was last given a chance

	// Owned by the loop's goroutine: memory for the next turns, noted and posted.
	spareTurns []*peer
	spareRooms []*router.Room
	spareTasks []task

	reported atomic.Pointer[meter] // what report has copied last

	mu      sync.Mutex // guards what follows
	posted  []task
	stopped bool // post drops every task
}

func newLoop(s *Server, h *upgrade.Handshaker) *loop {
	l := &loop{
		srv: s, handshaker: h,
		events: make([]unix.EpollEvent, maxEvents),
		peers:  make([]*peer, firstPeerSlot),
		in:     make([]byte, largeReadBytes),
	}
	l.pacer = newPacer(l)
	l.reported.Store(new(meter))
	if s.needsAddresses() {
		l.clients = new(clients)
	}
	return l
}

func (l *loop) start() (err error) {
	if l.poll, err = newPollset(); err != nil {
		return err
	}
	return l.poll.start(l.run)
}

// stop closes the loop's remaining connections and ends the loop.
func (l *loop) stop() {
	stopped := make(chan struct{})
	l.post(task{do: func(l *loop, _ *peer) {
		defer close(stopped)
		for _, p := range l.peers {
			if p != nil {
				l.close(p)
			}
		}
		l.report()
		l.mu.Lock()
		l.stopped = true
		l.mu.Unlock()
	}})
	<-stopped
	l.poll.close()
}

// task is work that another goroutine gives a loop: flush room, take a new connection, or call do with peer,
// which may be nil.
type task struct {
	do      func(*loop, *peer)
	peer    *peer
	room    *router.Room
	arrival *arrival
}

// post adds a task for the loop's next round. It returns false if the loop has stopped: the task is dropped.
func (l *loop) post(t task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.posted = append(l.posted, t)
	if len(l.posted) == 1 {
		l.poll.wake()
	}
	return true
}

// run does rounds until there is nothing to do.
func (l *loop) run() {
	l.setClock(time.Now())
	for {
		left := len(l.turns) + len(l.due) + len(l.noted)
		l.giveTurns()
		n, woken := l.handleEvents()
		if woken { // after the events: a heartbeat must not miss a peer's answer
			l.doTasks()
		}
		if l.handled == l.ready { // otherwise an event may still name one of them
			l.free = append(l.free, l.freed...)
			l.freed = l.freed[:0]
		}
		l.flushDue()
		light := n == 1 && l.ready == 1 && l.handled == 1 && l.events[0].Fd >= firstPeerSlot
		if light {
			l.flushDue() // it is not worth a system call to ask whether another message has come
		}
		now := time.Now()
		if n+left > 0 {
			l.meter.rounds.AddTime(now.Sub(l.now))
		}
		l.setClock(now)
		if now.Sub(l.yielded) > yieldAfter {
			runtime.Gosched()
			l.yielded = now
		}
		if n > 0 && !light {
			continue
		}
		if l.handled == l.ready && l.srv.budget.relieving.Load() {
			return // it wakes the loop when it is done
		}
		if l.handled == l.ready && len(l.due)+len(l.noted) == 0 && l.allAwaitSpace() {
			return
		}
	}
}

// handleEvents handles what the pollset reports, or what was left of it. When many connections send much it
// stops after sliceTime, so that rooms are flushed in between. It returns the number of events handled, and
// whether the loop was woken.
func (l *loop) handleEvents() (n int, woken bool) {
	l.nextEvents()
	var began time.Time
	for l.handled < l.ready {
		e := l.events[l.handled]
		l.handled++
		n++
		switch e.Fd {
		case wakeSlot:
			woken = true
		case listenSlot:
			l.acceptAll()
		default:
			if p := l.peers[e.Fd]; p != nil {
				l.onReady(p, e.Events)
			}
		}
		if n%clockStep == 0 && passed(&began, sliceTime) {
			break
		}
	}
	return n, woken
}

// nextEvents asks the pollset for events if none is left.
func (l *loop) nextEvents() {
	if l.handled == l.ready {
		l.handled, l.ready = 0, l.poll.ready(l.events)
		l.leaving = 0
	}
}

// passed reports whether d has passed since began, which it sets if it is zero. Work that is usually short is
// thus done without a look at the clock.
func passed(began *time.Time, d time.Duration) bool {
	now := time.Now()
	if began.IsZero() {
		*began = now
	}
	return now.Sub(*began) >= d
}

// setClock sets the clock of the next round.
func (l *loop) setClock(now time.Time) {
	l.now, l.clock = now, hundredths(now.Sub(l.srv.began))
}

// allAwaitSpace reports whether every peer in turns, if there is any, waits for a full room that another loop
// flushes. The loop is then woken when one of the rooms has space again.
func (l *loop) allAwaitSpace() bool {
	for _, p := range l.turns {
		if p.phase != phaseOpen || !p.Room().AwaitSpace(l) {
			return false
		}
	}
	return true
}

// Wake implements router.Waiter. The task is empty: the loop finds the work in turns.
func (l *loop) Wake() { l.post(task{do: func(*loop, *peer) {}}) }

// doTasks does the posted tasks.
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
		l.add(t.arrival)
	}
}

// flushDue flushes the rooms that were noted in the round before.
func (l *loop) flushDue() {
	rooms := l.due
	l.due, l.noted = l.noted, l.spareRooms[:0]
	for i, r := range rooms {
		if l.srv.budget.relieving.Load() && !l.flushAnyway {
			l.noted = slices.Concat(rooms[i:], l.noted) // the next round begins with those that had no turn
			break
		}
		began := time.Time{} // start of this room's flush, if it takes several parts
		for {
			left := l.flush(r)
			l.flushAnyway = false
			if l.srv.overLimit() || left != router.InPart || l.givesWay(&began, len(rooms)-i-1) {
				break
			}
			l.noted = l.noted[:len(l.noted)-1] // the flush goes on here, not in the next round
		}
	}
	clear(rooms)
	l.spareRooms = rooms
}

// givesWay reports whether a flush that has taken sliceTime has to wait for the next round, because something
// else is due. others is the number of rooms due after it. If nothing else is due, the whole room is flushed
// at once, so that the next batch holds all messages that its members send meanwhile.
func (l *loop) givesWay(began *time.Time, others int) bool {
	if !passed(began, sliceTime) {
		return false
	}
	l.nextEvents()
	return l.ready-l.handled+others+len(l.turns)+len(l.due) > 0
}

// flush flushes a part of a room, and notes the room if there is more to flush.
func (l *loop) flush(r *router.Room) (left router.Progress) {
	left, help := router.Another, false
	defer func() {
		if left != router.Flushed { // also after a panic: no other loop flushes this room
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

// recover stops a panic, so that a bug costs only the connection being served.
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
