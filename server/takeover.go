package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// How the port passes from one process to the next.
//
// With REUSE_PORT both listen on it. The kernel then gives each new connection to one of the two sockets, and
// closing one of them would lose what is with it: connections that wait to be accepted are reset, and so are
// those whose handshake is under way. Two programs of classic BPF prevent that:
//
//   - steer: the newer process gets all new connections from the moment on when it listens. The kernel
//     numbers the sockets in the order in which they came, and fills the gap when one is closed. So the
//     newer of two is always number 1. The number does not exist while a process is alone; then the kernel
//     chooses by itself;
//   - ignoreSYNs: where steer fails, the socket that is about to be closed takes no new handshakes. Their
//     clients repeat the SYN a second later, and reach the other socket.
//
// The older process goes on accepting for handoverTime, until the handshakes under way are complete.
//
// A socket from systemd stays open there: what waits in it is for the next process.

// handoverTime is longer than a handshake takes, and shorter than the second after which a SYN is repeated.
const handoverTime = 700 * time.Millisecond

var steer = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 1}}

// ignoreSYNs sees packets from the TCP header on.
var ignoreSYNs = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13}, // the flags
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: tcpSYN | tcpACK},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: tcpSYN, Jt: 0, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},          // dropped
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff}, // taken as a whole
}

const (
	tcpSYN = 0x02
	tcpACK = 0x10
)

// attach gives a socket a program, by the option SO_ATTACH_FILTER or SO_ATTACH_REUSEPORT_CBPF.
func attach(fd, option int, program []unix.SockFilter) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, option, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// takeOver makes this process the one that gets new connections.
func (s *Server) takeOver() {
	if err := attach(s.listener, unix.SO_ATTACH_REUSEPORT_CBPF, steer); err != nil {
		s.log.Warn("cannot take all new connections: another process on this port gets some until it stops", zap.Error(err))
	}
}

// stopAccepting prepares the end of accepting: closeListener comes after Server.handover. Until then whoever
// is accepted is let in.
func (l *loop) stopAccepting(*peer) {
	s := l.srv
	l.endWaiting()
	if s.listener < 0 || s.inherited {
		return
	}
	if err := attach(s.listener, unix.SO_ATTACH_FILTER, ignoreSYNs); err != nil {
		s.log.Warn("some connections may be reset while accepting ends", zap.Error(err))
	}
}

// maxQueued is more than the kernel lets wait to be accepted, and bounds how many closeListener accepts.
const maxQueued = 1 << 16

// closeListener ends accepting for good. It first accepts what waits, since closing would reset it.
func (l *loop) closeListener(*peer) {
	s := l.srv
	if s.listener < 0 {
		return
	}
	if !s.inherited {
		s.lastAccepts = true
		for range maxQueued / acceptsPerRound {
			before := s.stats.accepted.Load()
			l.acceptAll()
			if s.stats.accepted.Load() == before {
				break
			}
		}
	}
	l.ignoreListener(nil) // closing does not do that while systemd has the socket, too
	_ = syscall.Close(s.listener)
	s.listener = -1
	s.refusing.Store(true)
}

// inherit checks the sockets that systemd has passed and returns a duplicate of the only one. It closes files.
func inherit(files []*os.File) (fd int, addr net.Addr, err error) {
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if len(files) != 1 {
		return -1, nil, fmt.Errorf("%d sockets instead of 1", len(files))
	}
	original := int(files[0].Fd())
	if err := checkListening(original); err != nil {
		return -1, nil, fmt.Errorf("%s: %w", files[0].Name(), err)
	}
	l, err := net.FileListener(files[0])
	if err != nil {
		return -1, nil, err
	}
	defer l.Close()
	if fd, err = unix.FcntlInt(uintptr(original), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return -1, nil, fmt.Errorf("duplicate socket: %w", err)
	}
	// Fd and FileListener may change the mode, which all duplicates share.
	if err := errors.Join(unix.SetNonblock(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)); err != nil {
		_ = unix.Close(fd)
		return -1, nil, fmt.Errorf("set up socket: %w", err)
	}
	return fd, l.Addr(), nil
}

// checkListening finds out whether fd is a TCP socket that listens.
func checkListening(fd int) error {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return fmt.Errorf("not a socket: %w", err)
	}
	if protocol != unix.IPPROTO_TCP {
		return errors.New("not a TCP socket")
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || listens == 0 {
		return errors.New("not a listening socket; Accept=yes is not supported")
	}
	return nil
}
