package server

import (
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/gobwas/ws"
	"github.com/lesismal/nbio"
	"go.uber.org/zap"

	"relaygate/health"
	"relaygate/router"
)

// phase is how far a connection has come. It only ever grows.
type phase uint32

const (
	phaseHead    phase = iota // HTTP requests come
	phaseOpen                 // a WebSocket, member of a room
	phaseClosing              // our last word is said; what comes is thrown away
	phaseClosed               // the socket is gone
)

// seating tells in which wheel a connection sits. Each connection sits in one.
type seating uint8

const (
	seatHandshake seating = iota // until its request is complete
	seatHeartbeat                // while it is open
	seatClosing                  // while it closes
	seats
)

// peer is one connection, from accept to close. There may be a million of them:
// with nbio.Conn (208 bytes) and the id, a silent peer in a room is this struct.
type peer struct {
	router.Member // initialised at the upgrade, static afterwards

	// Static.
	srv *Server
	nb  *nbio.Conn

	in *input // unfinished input, nil while there is none; the loop's own

	queued atomic.Int64  // bytes in nb's queue: the socket did not take them at once
	phase  atomic.Uint32 // of type phase; written under mu
	heard  atomic.Bool   // something came since the wheel's last visit
	finish atomic.Bool   // shut the socket's sending side when queued is 0
	cause  atomic.Uint32 // of type closeCause

	acked    uint32      // what was acknowledged at the heartbeat wheel's last visit; the wheel's own
	waited   bool        // something was queued then; the wheel's own
	held     bool        // in the loop's held; the loop's own
	awaits   bool        // our close frame was the first, the peer's is to come; static from phaseClosing on
	seatedIn seating     // guarded by mu
	seat     health.Seat // the wheels'

	// mu makes changes of phase whole with what they entail (membership, the
	// seat, the last frame), and puts no frame behind a close frame. Lock
	// order: peer.mu, then the table's and the wheel's locks and nb's own.
	mu sync.Mutex
}

// Seat implements health.Sitter.
func (p *peer) Seat() *health.Seat { return &p.seat }

func (p *peer) at() phase { return phase(p.phase.Load()) }

// Write implements router.Conn. A panic on the way closes this peer alone.
func (p *peer) Write(frames []byte) {
	p.mu.Lock()
	defer p.unlock()
	if p.at() == phaseOpen {
		p.sendLocked(frames)
	}
}

// unlock is deferred: it also ends a panic, at the price of the connection.
func (p *peer) unlock() {
	if r := recover(); r != nil {
		p.srv.panicked(p, r, debug.Stack())
	}
	p.mu.Unlock()
}

// sendLocked submits whole frames, or HTTP. What the socket does not take at
// once is copied to nbio's queue, up to MAX_QUEUE_BYTES; past that the connection is closed.
// It would be for one write that is larger, too, so that is cut.
func (p *peer) sendLocked(b []byte) {
	for most := p.srv.cfg.MaxQueue; len(b) > most; {
		n := 0
		for size := ownFrameSize(b); n+size <= most; size = ownFrameSize(b[n:]) {
			n += size
		}
		p.submit(b[:n])
		b = b[n:]
	}
	p.submit(b)
}

func (p *peer) submit(b []byte) {
	if p.queued.Load() == 0 {
		n, err := send(p.nb, b)
		if err != 0 && err != syscall.EAGAIN && err != syscall.EINTR {
			return // the socket is broken, as its loop is about to hear, which closes it: see hangUp
		}
		if b = b[n:]; len(b) == 0 {
			if p.finish.Load() {
				endSending(p.nb)
			}
			return
		}
	}
	if !enqueue(p.nb, b, &p.queued, int64(p.srv.cfg.MaxQueue)) {
		p.cause.Store(uint32(closedSlow))
		hangUp(p.nb)
	}
}

// onWritten is nbio's OnWrittenSize: the socket took n bytes of what was queued. It
// runs under nb's lock, so the descriptor is still this connection's.
func (p *peer) onWritten(n int) {
	if p.queued.Add(int64(-n)) > 0 {
		return
	}
	queueWritten(p.nb)
	if p.finish.Load() {
		_ = syscall.Shutdown(p.nb.Hash(), syscall.SHUT_WR)
	}
}

// open makes p a member of relayID and sends answer, the 101 and what goes before it. p joins first,
// so that it misses nothing that is sent once it has read the 101; nothing reaches it before
// that, since p.mu holds those who write to it. It reports whether p is open now.
func (p *peer) open(relayID, peerID, answer []byte) bool {
	p.mu.Lock()
	defer p.unlock()
	if p.at() != phaseHead {
		return false // closed beside us
	}
	p.Init(string(peerID), p)
	p.srv.table.Join(relayID, &p.Member)
	p.heard.Store(true)
	watchInput(p.nb)
	p.sitLocked(seatHeartbeat)
	p.sendLocked(answer)
	p.phase.Store(uint32(phaseOpen))
	return true
}

// close says farewell to an open peer: the close frame, then a bounded wait for
// the peer's own. With final none is awaited: it was the peer's last word that is
// answered. A connection that never opened is just closed.
func (p *peer) close(f *farewell, final bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.at() {
	case phaseHead:
		p.cause.Store(uint32(f.cause))
		hangUp(p.nb)
	case phaseOpen:
		var frame [maxControlPayload + 2]byte
		p.awaits = !final
		p.finish.Store(final)
		p.closeLocked(f.cause, appendClose(frame[:0], f.code, f.reason))
	}
}

// closeAnswered answers a peer's close frame with its own code.
func (p *peer) closeAnswered(code ws.StatusCode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.at() {
	case phaseOpen:
		var frame [4]byte
		p.finish.Store(true)
		p.closeLocked(closedByPeer, appendClose(frame[:0], code, ""))
	case phaseClosing: // ours went out while the loop was on its way here
		p.closeHeard()
	}
}

// closeAfter sends the HTTP answer that is the connection's last word; nil if that is
// queued already.
func (p *peer) closeAfter(answer []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at() == phaseHead {
		p.finish.Store(true)
		p.closeLocked(closedHTTP, answer)
	}
}

// closeLocked sends the last word and leaves the room. The socket stays, since
// closing it with unread input would send a reset, and that could destroy what
// is still on its way: the peer closes, or the wheel does.
func (p *peer) closeLocked(cause closeCause, last []byte) {
	p.cause.Store(uint32(cause))
	p.phase.Store(uint32(phaseClosing)) // before the peer can answer
	if len(last) > 0 {
		p.submit(last)
	}
	p.srv.table.Leave(&p.Member)
	p.sitLocked(seatClosing)
}

// closeNow ends a close that has taken too long.
func (p *peer) closeNow() { hangUp(p.nb) }

// closeHandshake ends a connection that has not sent a complete request in time.
func (p *peer) closeHandshake() { p.hangUpIn(phaseHead, closedHandshake) }

// hangUpIn ends the connection without a word, if it is in this phase.
func (p *peer) hangUpIn(in phase, cause closeCause) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at() == in {
		p.cause.Store(uint32(cause))
		hangUp(p.nb)
	}
}

var pingFrame = appendFrame(nil, opText, []byte("ping"))

// beat is the wheel's visit: nothing heard since the last one, and the peer is
// evicted; else it is asked to say something. A peer that talks but takes nothing of
// what has waited for it all that time holds our memory for nothing.
func (p *peer) beat() {
	switch heard, stuck := p.heard.Swap(false), p.stuck(); {
	case !heard:
		p.close(byeHeartbeat, false)
	case stuck:
		p.hangUpIn(phaseOpen, closedSlow)
	default:
		p.Write(pingFrame)
	}
}

// stuck reports whether something has been queued since the last visit, and the
// peer's kernel has not acknowledged a byte since. (That our own takes nothing says
// less: it makes room in large steps.)
func (p *peer) stuck() bool {
	waited, before := p.waited, p.acked
	p.waited = p.queued.Load() > 0
	if p.waited {
		p.acked = acknowledged(p.nb)
	}
	return waited && p.waited && p.acked == before
}

// closeHeard: the peer's close frame came after ours. All is said.
func (p *peer) closeHeard() {
	if p.queued.Load() == 0 {
		_ = p.nb.Close()
		return
	}
	// Ours has not left yet. onWritten ends it, or the wheel; should the last
	// byte have left since we looked, then the wheel.
	p.finish.Store(true)
}

// onClose is nbio's OnClose. It may run beside the loop.
func (p *peer) onClose(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.at()
	if was == phaseClosed {
		return
	}
	p.phase.Store(uint32(phaseClosed))
	p.srv.table.Leave(&p.Member)
	p.srv.wheels[p.seatedIn].Remove(p)
	p.srv.loopOf(p.nb).release(p)
	p.srv.stats.connections.Add(-1)
	cause := closeCause(p.cause.Load())
	p.srv.stats.closed[cause].Add(1)
	if e := p.srv.log.Check(zap.DebugLevel, "connection closed"); e != nil {
		e.Write(zap.Stringer("cause", cause), zap.String("peer_id", p.ID()), zap.Error(err))
	}
}

// sitLocked moves p to another wheel.
func (p *peer) sitLocked(in seating) {
	p.srv.wheels[p.seatedIn].Remove(p)
	p.seatedIn = in
	if in == seatHeartbeat {
		p.srv.wheels[in].Spread(p)
	} else {
		p.srv.wheels[in].Behind(p)
	}
}

// restart gives p the whole HANDSHAKE_TIMEOUT again, for its next request.
func (p *peer) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at() == phaseHead {
		p.sitLocked(seatHandshake)
	}
}

// remoteAddr asks the kernel, since only a debug log wants to know.
func (p *peer) remoteAddr() netip.AddrPort {
	sa, err := syscall.Getpeername(p.nb.Hash())
	if err != nil {
		return netip.AddrPort{}
	}
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
