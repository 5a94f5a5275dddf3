package server

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// client is the address that counts for a connection: that of its socket or, behind a load balancer, the one
// that its PROXY header names. It holds no pointer. Loops keep one for each connection in loop.clients, but
// only if a setting needs addresses: see Server.needsAddresses.
type client struct {
	addr [16]byte // an IPv4 address is mapped to IPv6
	port uint16
}

// clients holds a loop's clients by slot, in pieces. A slice that grows would have up to a quarter of its room
// unused, and would be copied each time.
type clients struct{ pieces []*[clientsPerPiece]client }

const clientsPerPiece = 128 // 2,304 bytes, a size that Go's allocator has

// at returns where the client of slot is kept, which does not move.
func (c *clients) at(slot int32) *client {
	piece, i := int(slot/clientsPerPiece), slot%clientsPerPiece
	for piece >= len(c.pieces) {
		c.pieces = append(c.pieces, new([clientsPerPiece]client))
	}
	return &c.pieces[piece][i]
}

func clientOf(a netip.AddrPort) client { return client{a.Addr().As16(), a.Port()} }

// addrPort returns c as Go's libraries have it.
func (c *client) addrPort() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(c.addr).Unmap(), c.port)
}

// network is what limits "per IP" count by: an IPv4 address, or the /64 of an IPv6 address. A /64 is what one
// subscriber gets, who can use any address of it.
type network [16]byte

func (c *client) network() (n network) {
	if netip.AddrFrom16(c.addr).Is4In6() {
		return c.addr
	}
	copy(n[:8], c.addr[:8])
	return n
}

// String returns the address and port. It makes client a zap field.
func (c *client) String() string { return c.addrPort().String() }

// sockaddr is the kernel's struct sockaddr_in or sockaddr_in6.
type sockaddr struct {
	family uint16
	port   [2]byte
	rest   [24]byte // IPv4: address; IPv6: 4 bytes flow label, address, 4 bytes scope
}

func (sa *sockaddr) client() client {
	switch port := binary.BigEndian.Uint16(sa.port[:]); sa.family {
	case unix.AF_INET:
		return client{netip.AddrFrom4([4]byte(sa.rest[:])).As16(), port}
	case unix.AF_INET6:
		return client{[16]byte(sa.rest[4:]), port}
	}
	return client{}
}

// remoteAddr returns the address that counts for p. Where addresses are not stored the kernel is asked, since
// only debug logs need them then. It runs in p's loop.
func (p *peer) remoteAddr() netip.AddrPort {
	if c := p.client(); c != nil {
		return c.addrPort()
	}
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
