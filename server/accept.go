package server

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/lesismal/nbio"
	"go.uber.org/zap"
)

// listen opens the listening socket. Accepted sockets inherit TCP_NODELAY from
// it, one system call less for each; keep-alive stays off, since the heartbeat
// does that work and the kernel's probes, every 15 s by Go's default, would cost
// more than all else at a million silent peers.
//
// What it returns is a duplicate of the listener's descriptor, as a file: Go lets
// nobody but Accept wait for a net.TCPListener, and Accept makes a net.TCPConn,
// which newConn does without.
func listen(address string) (*os.File, net.Addr, error) {
	lc := net.ListenConfig{
		KeepAlive: -1,
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
			}); e != nil {
				return e
			}
			return err
		},
	}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	return f, ln.Addr(), err
}

// acceptRetry is the pause after a failed accept: descriptors are most likely
// used up, and an accept that fails again at once would spin.
const acceptRetry = 50 * time.Millisecond

// acceptAll accepts until the listener is closed. When descriptors run out the
// connections wait in the kernel's backlog.
func (s *Server) acceptAll() {
	raw, err := s.listener.SyscallConn()
	if err != nil {
		s.log.Error("accept", zap.Error(err))
		return
	}
	var logged time.Time
	for {
		var fd int
		var failed error
		err := raw.Read(func(listener uintptr) bool {
			fd, failed = accept(int(listener))
			return !errors.Is(failed, syscall.EAGAIN)
		})
		switch {
		case err != nil && s.draining.Load(): // it is closed
			return
		case err != nil:
			s.log.Error("no more connections are accepted", zap.Error(err))
			return
		}
		switch {
		case failed == nil:
			s.add(fd)
		case errors.Is(failed, syscall.ECONNABORTED), errors.Is(failed, syscall.EINTR):
		default:
			s.stats.acceptFails.Add(1)
			if now := time.Now(); now.Sub(logged) >= time.Second {
				logged = now
				s.log.Warn("cannot accept connections: open-file limit or memory",
					zap.Error(failed), zap.Int64("connections", s.stats.connections.Load()))
			}
			select {
			case <-time.After(acceptRetry):
			case <-s.stop:
				return
			}
		}
	}
}

// add makes an accepted socket a connection of its loop.
func (s *Server) add(fd int) {
	s.stats.accepted.Add(1)
	s.stats.connections.Add(1)
	c := newConn(fd, nbio.ConnTypeTCP)
	p := &peer{srv: s, nb: c}
	p.Init("", p)
	c.SetSession(p)
	s.wheels[seatHandshake].Behind(p)
	p.phase.Store(uint32(phaseHead)) // what the loop's first load of phase happens after
	if _, err := s.engine.AddConn(c); err != nil {
		s.log.Warn("cannot watch connection", zap.Error(err))
		p.onClose(err)
	}
	if s.draining.Load() { // Drain may have looked just before
		p.close(byeDrain, false)
	}
}
