package load

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// dialer opens queued connections, a bounded number at a time.
type dialer struct {
	queue    []int32
	target   *Target
	flying   int // handshakes under way
	parallel int
	failed   int
	err      error  // of the first that failed
	request  []byte // scratch
	before   string // request up to the relay id
	after    string // request from the peer id's end on
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// waiting is how many handshakes are not over.
func (d *dialer) waiting() int { return len(d.queue) + d.flying }

// prepare builds the parts of the request that all connections share.
func (d *dialer) prepare(t *Target, relays string, parallel int) {
	d.before = "GET " + t.Path + "relayId=" + relays
	d.after = " HTTP/1.1\r\nHost: " + t.Host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + clientKey + "\r\n"
	if t.Secret != "" {
		d.after += "Sec-WebSocket-Protocol: " + t.Secret + "\r\n"
	}
	d.after += "\r\n"
	d.target, d.parallel = t, parallel
	d.failed, d.err = 0, nil
}

// dial begins as many queued handshakes as may be under way.
func (w *worker) dial() {
	d := &w.dialer
	for len(d.queue) > 0 && d.flying < d.parallel {
		i := d.queue[0]
		d.queue = d.queue[1:]
		d.flying++
		if err := w.connect(i); err != nil {
			w.ended(i, err)
		}
	}
}

// connect makes the socket and starts connecting; the first event on it continues in upgrade.
func (w *worker) connect(i int32) error {
	c := &w.conns[i]
	c.state = dialing
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	c.fd = int32(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("TCP_NODELAY: %w", err)
	}
	t := w.dialer.target
	if n := len(t.Sources); n > 0 {
		// The port is picked at connect, when the whole four-tuple is known; otherwise all sources would share one range.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(t.Sources[int(i)%n], 0))); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
	}
	if err := unix.Connect(fd, sockaddr(t.Addr)); err != nil && err != unix.EINPROGRESS {
		return fmt.Errorf("connect: %w", err)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: i}
	if err := unix.EpollCtl(w.ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// upgrade writes the request. A fresh socket takes it whole; a connect that failed shows here as the write's error.
func (w *worker) upgrade(i int32) {
	c, d := &w.conns[i], &w.dialer
	room := i / w.led.peers
	d.request = fmt.Appendf(d.request[:0], "%s-%x&peerId=p%07x%s", d.before, room, i, d.after)
	n, err := raw(unix.SYS_WRITE, c.fd, d.request)
	if err == unix.EAGAIN {
		return
	}
	if err == nil && n < len(d.request) {
		err = errors.New("the request did not fit the socket")
	}
	if err != nil {
		w.ended(i, err)
		return
	}
	c.state = upgrading
}

// ended is called when a connection is over: refused, or closed by the relay, which a peer that leaves has asked for.
func (w *worker) ended(i int32, why error) {
	c := &w.conns[i]
	was := c.state
	w.closeSocket(c, false)
	m := &w.led.members[i]
	switch {
	case was == leaving:
		clear(m.seen)
		w.dialer.queue = append(w.dialer.queue, i)
		return
	case was == open:
		m.steady = false
		w.led.v.add(Disconnected, 1, "peer %d was disconnected: %v", i, why)
		return
	}
	d := &w.dialer
	d.flying--
	d.failed++
	if d.err == nil {
		d.err = why
	}
}

func (w *worker) closeSocket(c *conn, reset bool) {
	if c.fd >= 0 {
		if reset {
			unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		unix.Close(int(c.fd))
	}
	c.fd = -1
	c.state = gone
	c.opcode = 0
	c.left, c.out, c.parts = c.left[:0], c.out[:0], c.parts[:0]
}
