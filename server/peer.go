package server

import (
	"net/netip"
	"sync"
	"syscall"

	"github.com/gobwas/ws"

	"relaygate/health"
	"relaygate/router"
)

// phase is how far a connection has come. It only grows.
//
//	phase      entered when                     what comes from the peer        what is sent          ends, besides by a broken socket
//	head       it is accepted                   HTTP requests, answered; not    answers               101 → open; last answer → finishing;
//	                                            read while an answer waits                            HANDSHAKE_TIMEOUT, FIN → closed
//	open       its 101 is sent, and it is a     frames, relayed; not read       frames of its room,   peer's close frame, FIN → finishing;
//	           member of its room               while its room is full          replies, pings        violation, silence, drain → closeSent;
//	                                                                                                  too slow → closed
//	closeSent  our close frame is sent first    frames, thrown away             what still waits      peer's close frame, FIN → finishing;
//	                                                                                                  5 s → closed
//	finishing  our last word is sent, and no    bytes, thrown away              what still waits,     FIN, or nothing waits and the peer has
//	           close frame is awaited                                           then FIN              said all → closed; 5 s → closed
//	closed     its descriptor is closed         nothing                         nothing
//
// The peer's loop alone changes the phase, and it alone reads and closes the descriptor. It holds
// peer.mu while it changes the phase, since loops that flush a room write to the room's members under
// that lock, if they are open. Whatever else ends a connection (the timing wheels, a full queue, a
// drain, a panic) posts a task to its loop. Each phase but the last has a timing wheel, in which the
// peer has a seat; at the end of open the peer leaves its room, the heartbeat wheel and every count.
type phase uint8

const (
	phaseHead phase = iota
	phaseOpen
	phaseCloseSent
	phaseFinishing
	phaseClosed

	phases = phaseClosed // those that have a wheel
)

// peer is one connection, from accept to close. There may be a million of them: a silent peer in a
// room is this struct and its id.
type peer struct {
	router.Member // initialised at the upgrade, static afterwards

	// Static.
	loop *loop
	slot int32  // in loop.peers
	born uint32 // when it was accepted, in hundredths of a second since the server's start

	// Owned by the loop.
	in      *input // unfinished input, nil while there is none
	acked   uint32 // what was acknowledged at the last heartbeat
	heard   bool   // something came since the last heartbeat
	queued  bool   // something waited at the last heartbeat
	inTurns bool   // it is in loop.turns
	readOn  bool   // a short read does not mean that all has been read: there is the peer's end, or urgent data
	saidAll bool   // the peer's end, or its answer to our close frame, has been read
	large   bool   // the last frame was large: read much at once
	cause   closeCause
	code    ws.StatusCode // of the first close frame, ours or the peer's; 0 if there is none

	seat health.Seat // the wheels'

	// mu guards what follows. Lock order: peer.mu, then the table's and the wheels' locks and
	// loop.mu.
	mu    sync.Mutex
	fd    int32   // the loop reads it without mu, since it alone closes it
	phase phase   // likewise: the loop alone writes it
	mute  bool    // nothing is sent any more: the socket is broken, or the peer too slow
	out   *buffer // what waits for the socket, nil while nothing does
}

// Seat implements health.Sitter.
func (p *peer) Seat() *health.Seat { return &p.seat }

// Write implements router.Conn. Any goroutine may call it.
func (p *peer) Write(frames []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase == phaseOpen {
		p.sendLocked(frames)
	}
}

// send writes b in any phase but closed.
func (p *peer) send(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sendLocked(b)
}

// waits reports whether something waits for p's socket.
func (p *peer) waits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out != nil
}

// enter puts p in a phase other than open and closed, with what is sent last in the one before.
func (p *peer) enter(to phase, last []byte) {
	srv := p.loop.srv
	if p.phase == phaseOpen {
		p.leave()
	}
	srv.wheels[p.phase].Remove(p)
	srv.wheels[to].Add(p)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(last) > 0 {
		p.sendLocked(last)
	}
	p.phase = to
}

// leave takes p out of its room. A part of the room is flushed first, which is all of a usual room, so that p's last
// messages are on their way before its end is answered, and p gets what was sent before. Only a few are
// worth that in one round: each flush is a batch of its own.
func (p *peer) leave() {
	if l := p.loop; l.leaving < maxLeaveFlushes {
		l.leaving++
		l.flush(p.Room())
	}
	p.loop.srv.table.Leave(&p.Member)
}

// open answers p's upgrade with the 101 and whatever goes before it, and makes p a member of relayID.
// It joins first, so that it misses nothing that is sent after its 101; and nothing reaches it before,
// since mu holds those that write to it.
func (p *peer) open(relayID, peerID, answer []byte) {
	srv := p.loop.srv
	p.Init(string(peerID), p)
	func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		srv.table.Join(relayID, &p.Member)
		p.sendLocked(answer)
		p.phase = phaseOpen
	}()
	srv.wheels[phaseHead].Remove(p)
	srv.wheels[phaseOpen].AddSpread(p)
	p.heard = true
}

// remoteAddr asks the kernel, since only a debug log wants to know.
func (p *peer) remoteAddr() netip.AddrPort {
	sa, err := syscall.Getpeername(int(p.fd))
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
