package server

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestNbioOnlyPolls pins what pollset relies on: nbio takes a connection of a type that it does not know,
// polls a duplicate of its descriptor, and does not close it.
func TestNbioOnlyPolls(t *testing.T) {
	s, err := newPollset()
	if err != nil {
		t.Fatal(err)
	}
	called := make(chan struct{}, 1)
	events := make([]unix.EpollEvent, 1)
	if err := s.start(func() {
		for s.ready(events) > 0 {
			select {
			case called <- struct{}{}:
			default:
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	<-called
	for range 3 { // each wake is reported, though nobody reads the eventfd
		s.wake()
		<-called
	}
	s.engine.Stop()
	for _, fd := range []int{s.fd, s.polled, s.wakeup} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			t.Errorf("descriptor %d after nbio has stopped: %v, want it open", fd, err)
		}
		_ = unix.Close(fd)
	}
}
