package server

import (
	"math/rand/v2"

	"go.uber.org/zap"

	"relaygate/server/proxy"
	"relaygate/server/upgrade"
)

// Who is let in. A connection passes these points:
//
//	arrive        the first loop has accepted it: is its address trusted, has the address too many, is there a
//	              place within MAX_CONNECTIONS, is it its turn by CONNECT_RATE?
//	proxyHeader   its PROXY header has come: has the address that it names too many?
//	refused       its upgrade request is right: may it be answered with 101?
//	peer.open     is there room in its relay, and for another relay of its address?
//	release       it is closed: whatever it held is free again
//
// A connection over a limit is accepted, since only an HTTP answer tells a client why and when to come back.
// It holds no place until its upgrade request comes: a place that is free by then is given to it.

// standing is what a connection holds and what is known of it, as bits.
type standing uint8

const (
	awaitsHeader standing = 1 << iota // its first bytes may be a PROXY header
	untrusted                         // a PROXY header from it is not believed
	holdsPlace                        // it counts for MAX_CONNECTIONS
	overRate                          // refused: by CONNECT_RATE it would have to wait too long
	holdsIPPlace                      // it counts for MAX_CONNECTIONS_PER_IP
	overIP                            // it is counted as one above that limit
	holdsRelay                        // it counts for MAX_ROOMS_PER_IP
	fresh                             // nothing came since its upgrade
)

// A refused client is asked to come back after retryMin to retryMax seconds. The time is random so that not
// all come back at once.
const (
	retryMin = 2
	retryMax = 30
)

func retryAfter() (seconds int) { return retryMin + rand.IntN(retryMax-retryMin+1) }

// prepareAdmission is called before the loops start.
func (s *Server) prepareAdmission() {
	s.table.LimitRooms(s.cfg.MaxRoomPeers)
	if s.cfg.MaxConnectionsPerIP > 0 || s.cfg.MaxRoomsPerIP > 0 {
		s.addresses = newAddressTable()
	}
	s.waiting.init(s.cfg.ConnectRate, s.cfg.ConnectBurst)
}

func (s *Server) readsProxyHeaders() bool {
	return s.cfg.ProxyProtocol == ProxyOptional || s.cfg.ProxyProtocol == ProxyRequired
}

// needsAddresses reports whether loops keep their clients' addresses.
func (s *Server) needsAddresses() bool {
	return s.readsProxyHeaders() || s.addresses != nil || s.cfg.AccessLog
}

// refuses returns why no upgrade is let in at the moment, or "" if they are.
func (s *Server) refuses() upgrade.Refusal {
	if s.refusing.Load() {
		return upgrade.BusyDraining
	}
	if s.nearLimit() {
		return upgrade.BusyMemory
	}
	return ""
}

// refused returns why p's upgrade, which is right otherwise, is refused, or "". What depends on the relay is
// left to open.
func (p *peer) refused() upgrade.Refusal {
	srv := p.loop.srv
	if why := srv.refuses(); why != "" {
		return why
	}
	if p.holds&holdsPlace == 0 {
		if !srv.takePlace() {
			return upgrade.BusyConnections
		}
		p.holds |= holdsPlace
	}
	if p.holds&overRate != 0 {
		return upgrade.BusyConnectRate
	}
	if p.holds&overIP != 0 {
		if !srv.addresses.promote(p.client().network(), srv.cfg.MaxConnectionsPerIP) {
			return upgrade.BusyIPConnections
		}
		p.holds ^= overIP | holdsIPPlace
	}
	return ""
}

// takePlace takes one of MAX_CONNECTIONS places, if there is one.
func (s *Server) takePlace() bool {
	most := int64(s.cfg.MaxConnections)
	for {
		n := s.places.Load()
		if most > 0 && n >= most { // UnsetConnections means any number, too
			return false
		}
		if s.places.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// overfull reports whether so many connections without a place wait for their refusal that no more are
// accepted.
func (s *Server) overfull() bool {
	most := s.cfg.MaxConnections
	return most > 0 && s.stats.connections.Load() >= int64(most+refusalFiles(most))
}

// pauseAccepting stops accepting until a connection closes. It returns false if one has just closed.
func (l *loop) pauseAccepting() bool {
	s := l.srv
	s.acceptPaused.Store(true)
	if !s.overfull() && s.acceptPaused.CompareAndSwap(true, false) {
		return false
	}
	s.stats.acceptPauses.Add(1)
	l.ignoreListener(nil)
	return true
}

// screen decides about an address that is known now. It returns what the connection holds, and false if the
// connection is to be closed without an answer.
func (s *Server) screen(c *client) (standing, bool) {
	if s.cfg.MaxConnectionsPerIP == 0 {
		return 0, true
	}
	return s.addresses.enter(c.network(), s.cfg.MaxConnectionsPerIP)
}

// release gives back what a closed connection held, and counts its end.
func (s *Server) release(held standing, c *client, cause closeCause) {
	if held&holdsPlace != 0 {
		s.places.Add(-1)
	}
	if held&(holdsIPPlace|overIP) != 0 {
		s.addresses.leave(c.network(), held)
	}
	s.stats.connections.Add(-1)
	s.stats.closed[cause].Add(1)
	if s.acceptPaused.Load() && !s.overfull() && s.acceptPaused.CompareAndSwap(true, false) {
		s.loops[0].post(task{do: (*loop).watchListener})
	}
}

// client returns where p's address is kept, or nil if addresses are not.
func (p *peer) client() *client { return p.loop.clientAt(p.slot) }

func (l *loop) clientAt(slot int32) *client {
	if l.clients == nil {
		return nil
	}
	return l.clients.at(slot)
}

// takeRelay counts p's membership of relayID for MAX_ROOMS_PER_IP. It returns false if that is one relay too
// many.
func (p *peer) takeRelay(relayID []byte) bool {
	srv := p.loop.srv
	if srv.cfg.MaxRoomsPerIP == 0 {
		return true
	}
	if !srv.addresses.enterRelay(p.client().network(), relayID, srv.cfg.MaxRoomsPerIP) {
		return false
	}
	p.holds |= holdsRelay
	return true
}

// returnRelay undoes takeRelay.
func (p *peer) returnRelay(relayID []byte) {
	if p.holds&holdsRelay != 0 {
		p.holds &^= holdsRelay
		p.loop.srv.addresses.leaveRelay(p.client().network(), relayID)
	}
}

// releaseRelay undoes takeRelay when p has left its room.
func (p *peer) releaseRelay() {
	if p.holds&holdsRelay != 0 {
		p.returnRelay([]byte(p.Room().ID()))
	}
}

// proxyHeader cuts the PROXY header off data and what came of it before. It keeps an incomplete one, and
// returns the bytes that follow.
func (l *loop) proxyHeader(p *peer, data []byte) (rest []byte) {
	block, had := p.gather(data, proxy.MaxSize)
	size, named, err := proxy.Parse(block)
	switch version := proxy.Detect(block); {
	case version == proxy.None && l.srv.cfg.ProxyProtocol == ProxyOptional:
		if had > 0 { // the beginning of a request, of which head gets the rest
			p.in.part.b = p.in.part.b[:had]
		}
		size = had
	case p.holds&untrusted != 0 && (version == proxy.V1 || version == proxy.V2):
		return l.drop(p, closedUntrusted)
	case err != nil:
		if e := l.srv.log.Check(zap.DebugLevel, "PROXY header refused"); e != nil {
			e.Write(zap.Stringer("proxy", p.remoteAddr()), zap.Error(err))
		}
		return l.drop(p, closedProxyHeader)
	case size == 0:
		if had == 0 {
			p.input().part = appendTo(nil, data, len(data))
		}
		return nil
	case had > 0:
		p.in.dropPart()
	}
	p.holds &^= awaitsHeader
	if named.IsValid() {
		*p.client() = clientOf(named)
	}
	if p.holds&untrusted == 0 { // an untrusted address was screened when it arrived
		held, ok := l.srv.screen(p.client())
		if p.holds |= held; !ok {
			return l.drop(p, closedOverLimit)
		}
	}
	return data[size-had:]
}

// drop closes p, which is not open, without an answer. It returns nil: nothing more of p is served.
func (l *loop) drop(p *peer, cause closeCause) (rest []byte) {
	p.cause = cause
	l.close(p)
	return nil
}
