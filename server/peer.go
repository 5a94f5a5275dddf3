package server

import (
	"sync"

	"github.com/gobwas/ws"

	"relaygate/health"
	"relaygate/router"
	"relaygate/server/upgrade"
)

// phase is how far a connection has come. It never goes back.
//
//	phase      entered when                   what comes from the peer       what is sent         what ends it
//	head       it is accepted                 HTTP requests, answered;       answers              101 → open; last answer → finishing;
//	                                          not read while one waits                            FIN, HANDSHAKE_TIMEOUT → closed
//	open       its 101 is sent, and it is     frames, relayed; not read      frames of its room,  the peer's close frame → finishing; violation,
//	           a member of its room           while its room is full         replies, pings       silence, drain → closeSent; FIN → finishing,
//	                                                                                              or closed if nothing waits
//	closeSent  our close frame is sent, the   frames, thrown away            what waits           the peer's close frame, FIN → finishing;
//	           peer's is awaited                                                                  5 s → closed
//	finishing  no close frame is awaited      bytes, thrown away             what waits, then     nothing waits and the peer has said all, or
//	                                                                         FIN                  has sent FIN → closed; 5 s → closed
//	closed     its descriptor is closed       nothing                        nothing
//
// In every phase a broken socket is read to its end and then closed. The same happens to an open peer that is
// too slow: its socket is shut down, and its earlier messages are still relayed.
//
// Only the peer's loop changes the phase, and only it reads and closes the descriptor. It holds peer.mu while
// it changes the phase, because loops that flush a room write to the room's open members under that lock. Any
// other cause of an end (the timing wheels, a full queue, a drain) posts a task to the peer's loop. Each
// phase but the last has a timing wheel, in which the peer has a seat. At the end of open the peer leaves its
// room and the heartbeat wheel.
type phase uint8

const (
	phaseHead phase = iota
	phaseOpen
	phaseCloseSent
	phaseFinishing
	phaseClosed

	phases = phaseClosed // number of phases that have a wheel
)

// peer is one connection, from accept to close. There may be a million of them. A silent peer in a room takes
// no more memory than this struct and its id.
type peer struct {
	router.Member // initialised at the upgrade, static afterwards

	// Static.
	loop *loop
	slot int32  // in loop.peers
	born uint32 // when it was accepted, in hundredths of a second since the server's start

	// Owned by the loop.
	in      *input // unfinished input, nil while there is none
	acked   uint32 // bytes acknowledged up to the last heartbeat
	spoke   uint32 // when it last sent a message to relay, or was accepted; in the unit of born
	heard   bool   // something came since the last heartbeat
	queued  bool   // something was queued at the last heartbeat
	inTurns bool   // it is in loop.turns
	readOn  bool   // read on after a short read: the peer's end or urgent data may follow
	saidAll bool   // the peer's end, or its answer to our close frame, has been read
	large   bool   // the last frame was large: the next read is large, too
	cause   closeCause
	holds   standing

	seat health.Seat // the wheels'

	// mu guards what follows. Lock order: peer.mu, then the table's and the wheels' locks and loop.mu.
	mu    sync.Mutex
	fd    int32         // the loop reads it without mu, since it alone closes it
	phase phase         // likewise: the loop alone writes it
	mute  bool          // nothing more is sent: the socket is broken, or the peer too slow
	code  ws.StatusCode // of the first close frame, ours or the peer's; 0 if there is none; owned by the loop
	out   *buffer       // queue for the socket, nil while it is empty
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

// waits reports whether bytes are queued for p's socket.
func (p *peer) waits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out != nil
}

// enter puts p in phase to, which is neither open nor closed, after it has sent last, which may be empty.
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

// leave takes p out of its room. It first flushes a part of the room, which is all of a usual room. So p's
// last messages are sent before its end is answered, and p gets earlier messages of others. This is done for
// only a few peers in a round, since each flush is a batch of its own.
func (p *peer) leave() {
	if l := p.loop; l.leaving < maxLeaveFlushes {
		l.leaving++
		l.flush(p.Room())
	}
	p.loop.srv.table.Leave(&p.Member)
	p.releaseRelay()
}

// open sends answer, which ends with p's 101, and makes p a member of relayID. p joins first, so that it
// misses no message sent after its 101. No message reaches it before the 101, since other loops need mu to
// write to it. If p is not let in, open changes nothing and returns why.
func (p *peer) open(relayID, peerID, answer []byte) upgrade.Refusal {
	srv := p.loop.srv
	if !p.takeRelay(relayID) {
		return upgrade.BusyIPRooms
	}
	p.Init(string(peerID), p)
	joined := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !srv.table.Join(relayID, &p.Member) {
			return false
		}
		srv.stats.upgraded.Add(1)
		p.sendLocked(answer)
		p.phase = phaseOpen
		return true
	}()
	if !joined {
		p.returnRelay(relayID)
		return upgrade.BusyRoomPeers
	}
	srv.wheels[phaseHead].Remove(p)
	srv.wheels[phaseOpen].AddSpread(p)
	p.heard, p.holds = true, p.holds|fresh
	p.loop.meter.handshakes.AddTime(p.loop.age(p))
	return ""
}
