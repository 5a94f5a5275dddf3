package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/lesismal/nbio"
	"golang.org/x/sys/unix"
)

// pollset is the set of descriptors that one loop watches. It is an epoll instance which nbio polls as if it
// were a connection. When something in the set is ready, nbio's goroutine calls the loop, which reads the
// events from the set and handles them.
//
// The connections themselves are not given to nbio, because
//   - nbio keeps 208 bytes for each connection, and duplicates and closes a descriptor for each new one;
//   - it dispatches by descriptor number: an event for a connection closed in the same batch reaches a new
//     one with the same number. Here an event carries a slot that is not used again before the batch is over;
//   - it drops a connection when the peer's end is reported, even if input is still unread;
//   - it has no hook at the end of a batch, where rooms are flushed.
//
// The price is one more system call, epoll_pwait without a timeout, each time that nbio's goroutine has
// slept. Under load the loop keeps asking its set, and nbio is not called at all.
type pollset struct {
	fd     int // the epoll instance
	polled int // nbio's duplicate of it
	wakeup int // an eventfd in the set
	engine *nbio.Engine
}

// Events are edge-triggered, so a connection that is left unread is not reported again and again: the loop
// has to come back to it. EPOLLOUT is reported when a full socket has room again, and along with other
// events. No system call is needed to ask for it.
const connectionEvents = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// maxPolled is the size of nbio's table of connections, which holds only the pollset. It is above any
// descriptor number that the pollset can have when a process starts.
const maxPolled = 1 << 16

// nbio has one such setting for the process. It is set before any server starts, since several may start at once.
func init() { nbio.MaxOpenFiles = maxPolled }

// newPollset makes a set that holds only its wakeup, in slot wakeSlot.
func newPollset() (*pollset, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make epoll instance: %w", err)
	}
	s := &pollset{fd: fd}
	if s.wakeup, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	if err := s.add(s.wakeup, wakeSlot, unix.EPOLLIN|unix.EPOLLET); err != nil {
		s.closeFiles()
		return nil, fmt.Errorf("watch eventfd: %w", err)
	}
	return s, nil
}

// start starts one of nbio's goroutines, which calls ready whenever something in the set may be ready. ready
// has to ask the set until it reports nothing. If start fails the process should end, because nbio cannot be
// stopped reliably then.
func (s *pollset) start(ready func()) error {
	s.engine = nbio.NewEngine(nbio.Config{
		Name:           "relaygate",
		NPoller:        1,
		EpollMod:       nbio.EPOLLET,
		ReadBufferSize: 1, // not used: nbio reads nothing
	})
	started := make(chan struct{})
	first := true
	s.engine.OnRead(func(*nbio.Conn) {
		if first {
			first = false
			close(started)
		}
		ready()
	})
	if err := s.engine.Start(); err != nil {
		s.closeFiles()
		return fmt.Errorf("start event loop: %w", err)
	}
	c, err := s.engine.AddConn(epollConn(s.fd))
	if err != nil {
		s.closeFiles()
		return fmt.Errorf("poll epoll instance: %w", err)
	}
	s.polled = c.Hash() // which is the descriptor
	s.wake()
	<-started // an engine stopped before its goroutine runs would not stop
	return nil
}

// add watches a descriptor. Its events carry the slot.
func (s *pollset) add(fd int, slot int32, events uint32) error {
	return unix.EpollCtl(s.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: slot})
}

// remove stops watching a descriptor that stays open. The kernel removes closed ones.
func (s *pollset) remove(fd int) error {
	return unix.EpollCtl(s.fd, unix.EPOLL_CTL_DEL, fd, nil)
}

// ready fills events with the events that are ready now, and returns their number.
func (s *pollset) ready(events []unix.EpollEvent) int { return epollReady(s.fd, events) }

// wake makes nbio's goroutine call the loop. Any goroutine may call it until close.
func (s *pollset) wake() { signal(s.wakeup) }

// close stops nbio's goroutine. That goroutine must not call it.
func (s *pollset) close() {
	s.engine.Stop()
	_ = unix.Close(s.polled)
	s.closeFiles()
}

func (s *pollset) closeFiles() {
	_ = unix.Close(s.fd)
	_ = unix.Close(s.wakeup)
}

// epollConn makes a descriptor look like a connection to nbio, which duplicates the descriptor that
// SyscallConn gives it and then calls Close. nbio does not know the type, so it polls the duplicate, but does
// not read, write or close it (see TestNbioOnlyPolls).
type epollConn int

var errNotAStream = errors.New("an epoll instance is no stream")

// SyscallConn implements syscall.Conn.
func (c epollConn) SyscallConn() (syscall.RawConn, error) { return rawEpollConn(c), nil }

// Close implements net.Conn. The original stays open.
func (c epollConn) Close() error { return nil }

// Read implements net.Conn.
func (c epollConn) Read([]byte) (int, error) { return 0, errNotAStream }

// Write implements net.Conn.
func (c epollConn) Write([]byte) (int, error) { return 0, errNotAStream }

// LocalAddr implements net.Conn.
func (c epollConn) LocalAddr() net.Addr { return nil }

// RemoteAddr implements net.Conn.
func (c epollConn) RemoteAddr() net.Addr { return nil }

// SetDeadline implements net.Conn.
func (c epollConn) SetDeadline(time.Time) error { return os.ErrNoDeadline }

// SetReadDeadline implements net.Conn.
func (c epollConn) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline implements net.Conn.
func (c epollConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// rawEpollConn implements syscall.RawConn. nbio calls only Control.
type rawEpollConn int

// Control implements syscall.RawConn.
func (c rawEpollConn) Control(f func(fd uintptr)) error {
	f(uintptr(c))
	return nil
}

// Read implements syscall.RawConn.
func (c rawEpollConn) Read(func(uintptr) bool) error { return errNotAStream }

// Write implements syscall.RawConn.
func (c rawEpollConn) Write(func(uintptr) bool) error { return errNotAStream }
