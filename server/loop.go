package server

import (
	"bytes"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"relaygate/router"
	"relaygate/server/upgrade"
)

// loop is our side of one nbio poller: what its connections share, and the tick.
//
// nbio has no hook for the end of a batch of events. So the first message of a
// batch makes the loop's eventfd readable, which the same poller reports in its
// next round, behind the events that were already waiting: that is the tick, at
// which the rooms noted since are flushed. No timer, no other goroutine; a
// message on an idle server waits one round, some microseconds, and under load
// batches grow by themselves.
type loop struct {
	srv  *Server // static
	wake int     // static; the eventfd, owned by its nbio.Conn

	// Owned by the poller's goroutine.
	rings   uint64 // what a tick reads from the eventfd
	armed   bool   // the eventfd is written to, the tick will come
	noted   []*router.Room
	ticking []*router.Room // noted, while tick walks it
	held    []*peer        // not read while their rooms are full, in the order of their turns
	spare   []*peer        // memory for the next held
	in      []byte         // what receive fills
	out     []byte         // replies to the peer that is being served
	scratch router.Scratch
	peeker  router.Peeker
	shaker  *upgrade.Handshaker

	// Of the peer that is being read.
	final    bool // nbio closes it when we return: nothing may be left
	ownsData bool // what is served is the peer's own, and not in

	mu     sync.Mutex
	posted []*router.Room // from other goroutines
	closed []*peer        // whose input is to be released

	silent atomic.Bool // the eventfd may be gone
}

var one uint64 = 1 // what a ring adds to an eventfd's counter

// note makes the next tick flush r. Only the loop itself calls it.
func (l *loop) note(r *router.Room) {
	l.noted = append(l.noted, r)
	l.arm()
}

// arm makes sure that a tick comes.
func (l *loop) arm() {
	if !l.armed {
		l.armed = true
		l.ring()
	}
}

// post is note for other goroutines.
func (l *loop) post(r *router.Room) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.posted = append(l.posted, r)
	l.ringOnceLocked()
}

// release has the loop give back the unfinished input of a closed peer. nbio keeps
// connections that it has closed in memory, hundreds of them and for any time.
func (l *loop) release(p *peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = append(l.closed, p)
	l.ringOnceLocked()
}

func (l *loop) ringOnceLocked() {
	if len(l.posted)+len(l.closed) == 1 {
		l.ring()
	}
}

// silence is called before the engine stops: from then on nobody rings.
func (l *loop) silence() {
	l.mu.Lock() // whoever is about to, has done so
	defer l.mu.Unlock()
	l.silent.Store(true)
}

func (l *loop) ring() {
	if l.silent.Load() {
		return
	}
	// Cannot fail while the engine runs: the counter is far from full.
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(l.wake), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
}

// read handles what has come for p. A peer that sends faster than it is served has
// its next turn in the next round: epoll is level-triggered.
func (l *loop) read(p *peer) {
	if p.at() == phaseClosed { // also what everything below happens after: see Server.add
		return
	}
	// nbio closes the connection when we return if it has been told of its end. Until
	// the upgrade, for which see watchInput, that the peer has shut its side is one.
	var end int16
	if p.at() == phaseHead {
		end = unix.POLLRDHUP
	}
	l.final = false
	for reads, empty := 0, false; ; {
		switch {
		case l.hold(p, end):
			return
		case p.in != nil && len(p.in.rest) > 0:
			rest := p.in.rest
			p.in.rest = nil
			l.ownsData = true
			l.serve(p, rest)
			l.ownsData = false
			continue
		case empty:
			return
		case reads >= readsPerEvent && !l.final:
			if l.final = hasEnded(p.nb, end); !l.final {
				return
			}
		}
		n, err := receive(p.nb, l.in)
		if n > 0 {
			l.serve(p, l.in[:n])
		}
		switch {
		case err == syscall.EINTR, err == syscall.EAGAIN:
			empty = true
		case err != 0:
			_ = p.nb.CloseWithError(err)
			return
		case n == 0:
			l.ended(p)
			return
		default:
			empty = n < len(l.in)
			reads++
		}
	}
}

// ended closes p, which has read to the peer's end, unless our last word still waits.
func (l *loop) ended(p *peer) {
	if p.at() == phaseHead && p.queued.Load() > 0 {
		p.closeAfter(nil)
	}
	if p.at() == phaseClosing && watchQueue(p.nb) {
		return // we come back when that is written, or the wheel ends it
	}
	_ = p.nb.CloseWithError(io.EOF)
}

// hold reports whether p is not to be read since its room is full. Then it has its
// turn behind the next flush, first come, first served: epoll, which goes on
// reporting it, would let the same peer fill the room each time. So a fast sender is
// held back by its own socket. Who has ended (hasEnded tells with end) is not held,
// but read to the end, as far as the room can take that. (But a peer that resets
// while something is queued for it is lost to us: nbio tries to write that first.)
func (l *loop) hold(p *peer, end int16) bool {
	if p.at() != phaseOpen || !p.Room().Full() {
		return false
	}
	if l.final = l.final || hasEnded(p.nb, end); l.final {
		return p.Room().Brimming()
	}
	p.heard.Store(true) // as it was, whether or not we listen
	if !p.held {
		p.held = true
		l.held = append(l.held, p)
	}
	l.arm()
	return true
}

// keeps reports whether p's room is full, and keeps data then for when it is flushed.
func (l *loop) keeps(p *peer, data []byte) bool {
	switch {
	case !p.Room().Full(), l.final && !p.Room().Brimming():
		return false
	case !l.ownsData:
		data = bytes.Clone(data)
	}
	p.input().rest = data
	return true
}

// tick flushes the rooms noted since the last one.
func (l *loop) tick() {
	// Before the rooms are looked at, so that no later ring is lost.
	_, _, _ = syscall.RawSyscall(syscall.SYS_READ, uintptr(l.wake), uintptr(unsafe.Pointer(&l.rings)), unsafe.Sizeof(l.rings))
	l.armed = false
	l.noted, l.ticking = l.ticking[:0], l.noted
	l.mu.Lock()
	l.ticking = append(l.ticking, l.posted...)
	clear(l.posted)
	l.posted = l.posted[:0]
	for i, p := range l.closed {
		if in := p.in; in != nil {
			p.in = nil
			in.release()
		}
		l.closed[i] = nil
	}
	l.closed = l.closed[:0]
	l.mu.Unlock()
	for _, r := range l.ticking {
		l.flush(r)
	}
	clear(l.ticking)
	l.readHeld()
}

// readHeld gives those whose rooms have been flushed their turn. Who fills a room
// again goes behind those for whom it was full.
func (l *loop) readHeld() {
	turns := l.held
	l.held = l.spare[:0]
	waiting := turns[:0]
	for _, p := range turns {
		if p.at() == phaseOpen && p.Room().Full() {
			p.heard.Store(true) // see hold
			waiting = append(waiting, p)
			continue
		}
		p.held = false
		l.read(p)
	}
	again := l.held
	l.held = append(waiting, again...)
	clear(turns[min(len(l.held), len(turns)):])
	clear(again)
	l.spare = again[:0]
	if len(l.held) > 0 {
		l.arm()
	}
}

func (l *loop) flush(r *router.Room) {
	again, help := true, false
	defer func() {
		if again { // also where a panic ended it: the room is ours to flush
			l.note(r)
		}
	}()
	defer l.recover(nil)
	again, help = r.Flush(&l.scratch)
	if help {
		for _, other := range l.srv.loops {
			if other != l {
				other.post(r)
			}
		}
	}
}

// serve handles what came from p. data is the poller's buffer, ours until we
// return, to write to as well.
func (l *loop) serve(p *peer, data []byte) {
	defer l.recover(p)
	at := p.at()
	if !p.heard.Load() {
		p.heard.Store(true)
	}
	var held *input // what data aliases, once a header block came in several reads
	for len(data) > 0 {
		switch at {
		case phaseHead:
			if p.in != nil {
				held = p.in
				data = l.resumeHead(p, data)
			} else {
				data = l.head(p, data)
			}
		case phaseOpen:
			data = l.frames(p, data)
		case phaseClosing:
			if p.discard(data) {
				p.closeHeard()
			}
			data = nil
		case phaseClosed:
			data = nil
		}
		at = p.at()
	}
	l.reply(p)
	if held != nil && held != p.in {
		held.release()
	}
	p.settle()
}

// reply sends the replies gathered in out.
func (l *loop) reply(p *peer) {
	if len(l.out) == 0 {
		return
	}
	p.mu.Lock()
	defer p.unlock()
	if p.at() < phaseClosing {
		p.sendLocked(l.out)
	}
	l.out = l.out[:0]
}

// maxReplies bounds out, in bytes: beyond it replies are sent before the rest of
// the input is looked at.
const maxReplies = 16 << 10

func (l *loop) replyIfMany(p *peer) {
	if len(l.out) > maxReplies {
		l.reply(p)
	}
}

// recover ends a panic: a bug of ours that must not take other peers along.
func (l *loop) recover(p *peer) {
	if r := recover(); r != nil {
		l.out = nil
		l.srv.panicked(p, r, debug.Stack())
	}
}
