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

// pollset is the set of descriptors that one loop watches: an epoll instance which nbio polls as
// if it were a connection. nbio's goroutine waits until something in the set is ready and calls
// the loop, which asks the set what it is and handles it.
//
// The connections themselves are not given to nbio, because
//   - nbio keeps 208 bytes for each, and duplicates and closes a descriptor for each that comes;
//   - it dispatches by descriptor number: an event for a connection that was closed in the same
//     batch reaches the one that was accepted with the same number. Here an event carries a slot
//     that is not used again before the batch is over;
//   - it lets go of a connection when it hears of the peer's end, read to the end or not;
//   - it has no hook for the end of a batch, which is where rooms are flushed.
//
// The price is one system call, epoll_pwait without a timeout, each time that nbio's goroutine
// has slept. Under load the loop stays with its set, and nbio is not called at all.
type pollset struct {
	fd     int // the epoll instance
	polled int // nbio's duplicate of it
	wakeup int // an eventfd in the set
	engine *nbio.Engine
}

// Events are edge-triggered: a connection that is not read to the end is the loop's to come back
// to, and one that is left alone is not reported again and again. EPOLLOUT is reported when a
// socket that was full has room, and beside other events; no system call is needed to ask for it.
const connectionEvents = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// maxPolled is the size of nbio's table of connections, which holds the pollset alone: above any
// descriptor number that the pollset can have when a process starts.
const maxPolled = 1 << 16

// newPollset makes a set in which nothing is but its wakeup, in slot wakeSlot.
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

// start starts a goroutine of nbio's that calls ready whenever something in the set may be ready. ready has
// to ask the set until nothing is. If start fails the process should end: nbio cannot be
// stopped reliably then.
func (s *pollset) start(ready func()) error {
	nbio.MaxOpenFiles = maxPolled
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
	<-started // an engine that is stopped before its goroutine runs does not stop
	return nil
}

// add watches a descriptor. Its events carry the slot.
func (s *pollset) add(fd int, slot int32, events uint32) error {
	return unix.EpollCtl(s.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: slot})
}

// remove stops watching a descriptor that stays open. (A descriptor that is closed is removed by
// the kernel.)
func (s *pollset) remove(fd int) error {
	return unix.EpollCtl(s.fd, unix.EPOLL_CTL_DEL, fd, nil)
}

// ready fills events with what is ready now and returns how many there are.
func (s *pollset) ready(events []unix.EpollEvent) int { return epollReady(s.fd, events) }

// wake makes nbio's goroutine call the loop. Any goroutine may call it until close.
func (s *pollset) wake() { signal(s.wakeup) }

// close stops nbio's goroutine. It must not be called from it.
func (s *pollset) close() {
	s.engine.Stop()
	_ = unix.Close(s.polled)
	s.closeFiles()
}

func (s *pollset) closeFiles() {
	_ = unix.Close(s.fd)
	_ = unix.Close(s.wakeup)
}

// epollConn is a descriptor in the shape in which nbio takes one: nbio duplicates what SyscallConn controls and
// calls Close. Since it does not know the type, it polls the duplicate, and neither reads, writes nor closes
// it (see TestNbioOnlyPolls).
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

// rawEpollConn implements syscall.RawConn, of which nbio calls Control alone.
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
