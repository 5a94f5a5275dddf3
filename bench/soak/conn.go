package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"relaygate/bench/load"
)

// Opcodes of RFC 6455 §5.2.
const (
	opText   = 0x1
	opBinary = 0x2
	opClose  = 0x8
	opPing   = 0x9
	opPong   = 0xA
)

// The states of a connection.
const (
	gone    = iota // no socket
	dialing        // connect under way
	asking         // the first bytes are sent, no answer yet
	refused        // an answer other than 101 is coming
	open           // frames
)

// ending says how a connection ended, as the client saw it.
type ending struct {
	opened bool
	status int    // of the HTTP answer, if it was not 101
	text   string // its last line, which says why
	code   int    // of the relay's close frame
}

func (e ending) String() string {
	switch {
	case e.status != 0:
		return fmt.Sprintf("HTTP %d %s", e.status, e.text)
	case e.code != 0:
		return fmt.Sprintf("close %d", e.code)
	case e.opened:
		return "end of the stream"
	}
	return "end without an answer"
}

// client is what a connection is for. All calls come on the fleet's thread.
type client interface {
	opened(c *conn)               // the 101 has been read
	message(c *conn, b []byte)    // binary; b is valid during the call
	ended(c *conn, how ending)    // the relay ended it, or it could not be made; the connection is gone
	text(c *conn, b []byte)       // b is valid during the call
	closing(c *conn, how *ending) // a close frame has come
}

// conn is one socket.
type conn struct {
	client client
	to     *target
	from   netip.Addr
	fd     int32
	id     int32 // its index in the fleet
	state  uint8
	dirty  bool // on the fleet's list of connections with something to write
	deaf   bool // nothing is read
	small  bool // a small receive buffer
	how    ending
	first  []byte // sent when the connection is made
	out    []byte // waiting to be written
	left   []byte // an incomplete answer or frame
}

// target is an address that connections go to.
type target struct {
	name string
	addr netip.AddrPort
}

var maskKey = [4]byte{0x5a, 0xa5, 0x3c, 0xc3}

func (c *conn) frame(opcode byte, payload []byte) {
	c.out = load.AppendClientFrame(c.out, opcode, maskKey, payload)
}

// begin makes the socket and starts connecting; the first event goes on in event.
func (f *fleet) begin(c *conn) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	c.fd, c.state, c.how = int32(fd), dialing, ending{}
	f.sockets++
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if c.small {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
	}
	// The port is picked at connect, when the whole four-tuple is known; otherwise all sources would share one range.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: c.from.As4()}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(c.to.addr.Port()), Addr: c.to.addr.Addr().As4()}); err != nil && err != unix.EINPROGRESS {
		return fmt.Errorf("connect: %w", err)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: c.id}
	if err := unix.EpollCtl(f.ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// drop closes the socket: with a FIN or, if reset is set, with a RST. The client is not told.
func (f *fleet) drop(c *conn, reset bool) {
	if c.fd >= 0 {
		if reset {
			_ = unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		_ = unix.Close(int(c.fd))
		f.sockets--
	}
	c.fd, c.state = -1, gone
	c.out, c.left = c.out[:0], c.left[:0]
}

// end is called when the relay has ended c, or it could not be made.
func (f *fleet) end(c *conn) {
	how := c.how
	how.opened = c.state == open
	f.drop(c, false)
	c.client.ended(c, how)
}

func (f *fleet) event(ev unix.EpollEvent) {
	c := f.conns[ev.Fd]
	if c.fd < 0 {
		return
	}
	if c.state == dialing {
		if e, err := unix.GetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || e != 0 {
			f.end(c)
			return
		}
		c.state = asking
		c.out = append(c.out, c.first...)
	}
	if ev.Events&unix.EPOLLOUT != 0 && len(c.out) > 0 {
		f.write(c)
	}
	last := ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	if ev.Events&unix.EPOLLIN != 0 || last {
		f.read(c, last)
	}
}

// read reads until the socket is empty (events are edge-triggered). A short read has emptied it, unless the event told
// of the stream's end.
func (f *fleet) read(c *conn, last bool) {
	for c.fd >= 0 && !c.deaf {
		n := copy(f.buf, c.left)
		got, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(c.fd), uintptr(unsafe.Pointer(&f.buf[n])), readSize)
		switch {
		case e == unix.EAGAIN:
			return
		case e == unix.EINTR:
			continue
		case e != 0 || got == 0:
			f.end(c)
			return
		}
		f.now = f.clock()
		c.left = c.left[:0]
		f.consume(c, f.buf[:n+int(got)])
		if !last && got < readSize {
			return
		}
	}
}

// consume takes received bytes apart, and keeps what is incomplete in c.left.
func (f *fleet) consume(c *conn, b []byte) {
	if c.state == asking || c.state == refused {
		head, rest, complete := bytes.Cut(b, []byte("\r\n\r\n"))
		if !complete {
			c.left = append(c.left, b...)
			return
		}
		status, _ := strconv.Atoi(string(head[min(len("HTTP/1.1 "), len(head)):min(len("HTTP/1.1 101"), len(head))]))
		if status != 101 {
			c.state, c.how.status, c.how.text = refused, status, string(bytes.TrimSpace(rest))
			c.left = append(c.left, b...)
			return // up to the end of the stream
		}
		c.state = open
		c.client.opened(c)
		b = rest
	}
	if c.small && c.state == open { // a slow reader that has been woken waits for the end of the stream alone
		return
	}
	for len(b) > 0 && c.state == open {
		opcode, head, length, ok := parseFrame(b)
		if !ok || len(b) < head+length {
			c.left = append(c.left, b...)
			return
		}
		f.received(c, opcode, b[head:head+length])
		b = b[head+length:]
	}
}

// received handles one frame. The relay joins fragments, and sends none.
func (f *fleet) received(c *conn, opcode byte, payload []byte) {
	switch opcode {
	case opBinary:
		c.client.message(c, payload)
	case opText:
		c.client.text(c, payload)
	case opPing:
		c.frame(opPong, payload)
		f.touch(c)
	case opClose:
		if len(payload) >= 2 {
			c.how.code = int(binary.BigEndian.Uint16(payload))
			c.how.text = string(payload[2:])
		}
		c.client.closing(c, &c.how)
		if c.fd >= 0 {
			f.end(c)
		}
	}
}

// parseFrame reads the header of a server's frame: the header's own length and the payload's.
func parseFrame(b []byte) (opcode byte, head, length int, ok bool) {
	if len(b) < 2 {
		return 0, 0, 0, false
	}
	head, length = 2, int(b[1]&0x7f)
	switch {
	case length == 126 && len(b) >= 4:
		head, length = 4, int(binary.BigEndian.Uint16(b[2:]))
	case length == 127 && len(b) >= 10:
		head, length = 10, int(binary.BigEndian.Uint64(b[2:]))
	case length >= 126:
		return 0, 0, 0, false
	}
	return b[0] & 0x0f, head, length, true
}

// write writes until the socket is full; event calls again when it has room.
func (f *fleet) write(c *conn) {
	done := 0
	for done < len(c.out) && c.fd >= 0 && c.state != dialing {
		n, _, e := syscall.RawSyscall(unix.SYS_WRITE, uintptr(c.fd), uintptr(unsafe.Pointer(&c.out[done])), uintptr(len(c.out)-done))
		if e == unix.EINTR {
			continue
		}
		if e == unix.EAGAIN {
			break
		}
		if e != 0 { // the end is read, with what the relay said before
			c.out = c.out[:0]
			return
		}
		done += int(n)
	}
	c.out = c.out[:copy(c.out, c.out[done:])]
}
