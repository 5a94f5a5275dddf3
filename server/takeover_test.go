package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// How a port or a listening socket passes from one process to the next. The whole, with processes and under load,
// is TestRoll of the root package.

// TestTakeover: of two relays on one port the newer gets all new connections. The older one, while it drains, takes no
// new handshake even if the kernel sends them there: they reach the newer, none is refused.
func TestTakeover(t *testing.T) {
	t.Parallel()
	old, drain := drainable(t, "REUSE_PORT=true")
	_, port, _ := net.SplitHostPort(old.Addr().String())
	first := open(t, old, "r", "first") // alone, it gets its connections
	newer := start(t, "REUSE_PORT=true", "PORT="+port)
	for i := range 20 {
		open(t, newer, "r", fmt.Sprint(i))
	}
	if a, b := old.Stats().Accepted, newer.Stats().Accepted; a != 1 || b != 20 {
		t.Errorf("accepted %d and %d, want 1 and 20", a, b)
	}
	toTheOld := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	if err := attach(newer.listener, unix.SO_ATTACH_REUSEPORT_CBPF, toTheOld); err != nil {
		t.Fatal(err)
	}
	open(t, old, "r", "to the old")
	if n := old.Stats().Accepted; n != 2 {
		t.Fatalf("the old one has accepted %d, want 2: the kernel does not choose as this test wants", n)
	}
	began := time.Now()
	drained := drain(patience)
	eventually(t, "the old one ignores new handshakes", func() bool {
		program, err := unix.GetsockoptString(old.listener, unix.SOL_SOCKET, unix.SO_GET_FILTER)
		return err == nil && program != ""
	})
	before := old.Stats().Accepted
	open(t, newer, "r", "moved on")
	if n := old.Stats().Accepted; n != before {
		t.Errorf("the old one has accepted %d more", n-before)
	}
	first.wantClose(1001)
	eventually(t, "accepting has ended", func() bool { return old.refusing.Load() })
	if d := time.Since(began); d < handoverTime {
		t.Errorf("accepting ended after %v, want %v", d, handoverTime)
	}
	<-drained
}

// TestIgnoreSYNs runs the program on TCP headers, which are sent as datagrams. It drops SYNs and nothing else.
func TestIgnoreSYNs(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if err := attach(pair[1], unix.SO_ATTACH_FILTER, ignoreSYNs); err != nil {
		t.Fatal(err)
	}
	for flags := range 256 {
		header := make([]byte, 20)
		header[13] = byte(flags)
		if _, err := unix.Write(pair[0], header); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 21)
		n, err := unix.Read(pair[1], got)
		dropped := err == unix.EAGAIN
		if isSYN := flags&tcpSYN != 0 && flags&tcpACK == 0; dropped != isSYN || !dropped && n != len(header) {
			t.Errorf("flags %#x: %d bytes, %v", flags, n, err)
		}
	}
}

// TestWaitingConnectionsAreAccepted: what waits to be accepted when accepting ends is served.
func TestWaitingConnectionsAreAccepted(t *testing.T) {
	s := start(t)
	const n = 3*acceptsPerRound + 1
	waiting := make([]net.Conn, n)
	done := make(chan error, 1)
	s.loops[0].post(task{do: func(l *loop, _ *peer) { // meanwhile this loop accepts nothing
		var err error
		for i := range waiting {
			if waiting[i], err = net.Dial("tcp", s.Addr().String()); err != nil {
				break
			}
		}
		l.closeListener(nil)
		done <- err
	}})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for i, c := range waiting {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
		b := make([]byte, 12)
		if _, err := c.Read(b); err != nil || string(b) != "HTTP/1.1 200" {
			t.Fatalf("number %d of %d got %q, %v", i, n, b, err)
		}
	}
}

// TestListenOn: exactly one TCP socket that listens is served. A drain leaves what waits in it to the next process.
func TestListenOn(t *testing.T) {
	socket := func(kind int) int {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	file := func(fd int) *os.File { return os.NewFile(uintptr(fd), "relaygate.socket") }
	bad := func(want string, files ...*os.File) {
		t.Helper()
		if s, err := ListenOn(files, config(t), zap.NewNop()); s != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ListenOn(%d files) = %v, want %q", len(files), err, want)
		}
		for _, f := range files {
			if f.Fd() != ^uintptr(0) {
				t.Errorf("%s is left open", f.Name())
			}
		}
	}
	bad("0 sockets instead of 1")
	bad("2 sockets instead of 1", file(socket(unix.SOCK_STREAM)), file(socket(unix.SOCK_STREAM)))
	bad("relaygate.socket: not a TCP socket", file(socket(unix.SOCK_DGRAM)))
	bad("relaygate.socket: not a listening socket", file(socket(unix.SOCK_STREAM)))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	bad("not a socket", r)

	kept := socket(unix.SOCK_STREAM)
	defer unix.Close(kept)
	if err := errors.Join(unix.Bind(kept, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(kept, 16)); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		passed, err := unix.FcntlInt(uintptr(kept), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ListenOn([]*os.File{file(passed)}, config(t), zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		c := open(t, s, "r", "p")
		var last net.Conn // comes right before accepting ends
		ended := make(chan error)
		s.loops[0].post(task{do: func(l *loop, _ *peer) {
			var err error
			last, err = net.Dial("tcp", s.Addr().String())
			l.closeListener(nil)
			ended <- err
		}})
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		defer last.Close()
		// From the second round on there are also the two that the round before has left.
		if n, want := s.Stats().Accepted, int64(min(1+2*round, 3)); n != want {
			t.Errorf("round %d: %d connections accepted, want %d", round, n, want)
		}
		var group sync.WaitGroup
		group.Go(func() { c.wantClose(1001) })
		drain(t, s)
		group.Wait()
		wantNothingHeld(t, s)
		between, err := net.Dial("tcp", s.Addr().String()) // nobody accepts it until the next round
		if err != nil {
			t.Fatalf("round %d: between two processes: %v", round, err)
		}
		defer between.Close()
	}
}
