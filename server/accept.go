package server

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listen opens the listening socket. Accepted sockets inherit TCP_NODELAY from it, which saves a system call
// for each. TCP keep-alive is off because the heartbeat replaces it: at a million silent peers the kernel's
// probes, every 15 s by Go's default, would cost more than everything else.
//
// It returns a duplicate of the listener's descriptor. Go's runtime does not poll the duplicate, so a loop
// can.
func listen(address string, reusePort bool) (fd int, addr net.Addr, err error) {
	lc := net.ListenConfig{
		KeepAlive: -1,
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
				if err == nil && reusePort {
					err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, unix.SO_REUSEPORT, 1)
				}
			}); e != nil {
				return e
			}
			return err
		},
	}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return -1, nil, err
	}
	defer ln.Close()
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		return -1, nil, err
	}
	if e := raw.Control(func(original uintptr) {
		fd, err = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0)
	}); e != nil {
		err = e
	}
	return fd, ln.Addr(), err
}

const (
	// acceptsPerRound bounds the connections accepted in one round, so that existing ones are still served.
	acceptsPerRound = 64

	// acceptRetry is the pause after a failed accept. Most likely descriptors are used up, and retrying at
	// once would spin.
	acceptRetry = 50 * time.Millisecond
)

// acceptAll accepts waiting connections and hands them to the loops in turn. It runs in the first loop. The
// listening socket is level-triggered, so connections that are left are reported again in the next round.
// When descriptors run out, connections wait in the kernel's backlog.
func (l *loop) acceptAll() {
	s := l.srv
	var from *sockaddr
	if s.needsAddresses() {
		from = new(sockaddr)
	}
	for range acceptsPerRound {
		if s.overfull() && !s.lastAccepts && l.pauseAccepting() {
			return
		}
		fd, err := accept(s.listener, from)
		switch err {
		case 0:
			s.stats.accepted.Add(1)
			s.stats.connections.Add(1)
			a := arrival{fd: int32(fd)}
			if from != nil {
				a.client = from.client()
			}
			l.arrive(a)
		case syscall.EAGAIN:
			return
		case syscall.ECONNABORTED, syscall.EINTR:
		default:
			l.acceptFailed(err)
			return
		}
	}
}

// acceptFailed stops accepting for a while.
func (l *loop) acceptFailed(err syscall.Errno) {
	s := l.srv
	s.stats.acceptError.Store(uint32(err))
	s.stats.acceptFails.Add(1)
	l.ignoreListener(nil)
	time.AfterFunc(acceptRetry, func() { l.post(task{do: (*loop).watchListener}) })
}

// watchListener makes the loop accept connections, unless the server is draining.
func (l *loop) watchListener(*peer) {
	if l.srv.listener >= 0 {
		_ = l.poll.add(l.srv.listener, listenSlot, unix.EPOLLIN) // fails if it is watched already
	}
}

func (l *loop) ignoreListener(*peer) { _ = l.poll.remove(l.srv.listener) }

// add makes an accepted socket a connection of this loop.
func (l *loop) add(a *arrival) {
	s := l.srv
	now := s.now()
	p := &peer{loop: l, fd: a.fd, slot: l.takeSlot(), born: now, spoke: now, holds: a.holds}
	l.peers[p.slot] = p
	if s.access != nil {
		l.relayed = append(l.relayed, make([]uint32, len(l.peers)-len(l.relayed))...)
		l.relayed[p.slot] = 0
	}
	if l.clients != nil {
		*l.clients.at(p.slot) = a.client
	}
	s.wheels[phaseHead].Add(p)
	if err := l.poll.add(int(p.fd), p.slot, connectionEvents); err != nil {
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			s.stats.watchError.Store(uint32(errno))
		}
		s.stats.watchFails.Add(1)
		l.close(p)
		return
	}
}

// takeSlot returns a free slot.
func (l *loop) takeSlot() int32 {
	if n := len(l.free); n > 0 {
		slot := l.free[n-1]
		l.free = l.free[:n-1]
		return slot
	}
	l.peers = append(l.peers, nil)
	return int32(len(l.peers) - 1)
}
