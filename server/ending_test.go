package server

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/router"
)

// How connections end, and that nothing of what precedes is lost by it.

// TestAllBeforeTheEnd: what a peer sends before it shuts its side counts, however
// much it is; nbio closes a connection as soon as it hears of that.
func TestAllBeforeTheEnd(t *testing.T) {
	const size = 900 << 10
	s := start(t)
	reader := join(t, s, "r", "reader")
	for round := range 5 {
		c := open(t, s, "r", "sender")
		var want [][]byte
		for i := range 3 {
			want = append(want, append(fmt.Appendf(nil, "%d of round %d ", i, round), repeat("x", size)...))
			c.send(maskedFrame(0x82, want[i]))
		}
		c.send(closeFrame(1000, ""))
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		c.wantCloseFrame(1000)
		c.ended()
		for _, w := range want {
			hearBytes(t, reader, 2, w)
		}
	}
}

// TestCloseFrameInPieces: the connection ends when the peer's close frame is
// complete, and not with a reset in the middle of it.
func TestCloseFrameInPieces(t *testing.T) {
	s := start(t)
	c := open(t, s, "r", "c")
	c.send(maskedFrame(0x81, []byte{0xff}))
	c.wantCloseFrame(1007)
	frame := closeFrame(1007, "so it was not")
	for _, b := range frame[:len(frame)-1] {
		c.send([]byte{b})
		waitForInput(t, s, c)
	}
	if n := s.Stats().Connections; n != 1 {
		t.Fatalf("%d connections before the last byte, want 1", n)
	}
	c.send(frame[len(frame)-1:])
	c.ended()
}

// TestCloseFrameAcrossOurs: a close frame of which a part had come when the relay
// began to close ends the connection when the rest comes.
func TestCloseFrameAcrossOurs(t *testing.T) {
	s := start(t)
	c := open(t, s, "r", "c")
	frame := closeFrame(1000, "bye")
	c.send(text("ping"), frame[:8])
	c.wantFrame(0x1, "pong")
	s.wheels[seatHeartbeat].All()[0].close(byeHeartbeat, false)
	c.wantCloseFrame(1001)
	began := time.Now()
	c.send(frame[8:])
	c.ended()
	if d := time.Since(began); d >= closeTimeout {
		t.Errorf("ended after %v, by the timeout", d)
	}
}

// waitForInput waits until the relay's end of c has nothing left to read.
func waitForInput(t *testing.T, s *Server, c *raw) {
	t.Helper()
	var p *peer
	eventually(t, "it is closing", func() bool {
		for _, p = range s.wheels[seatClosing].All() {
		}
		return p != nil
	})
	eventually(t, "a byte is read", func() bool { return unread(t, p.nb.Hash()) == 0 })
}

// TestEndInAFullRoom: whoever has its say and ends is heard, also where its room is
// full and it would have been held back. (Not so a reset beside a queue: see hold.)
func TestEndInAFullRoom(t *testing.T) {
	ends := map[string]func(c *raw) error{
		"FIN":   func(c *raw) error { return c.CloseWrite() },
		"close": func(c *raw) error { return c.Close() },
		"reset": func(c *raw) error {
			_ = c.SetLinger(0)
			return c.Close()
		},
	}
	say := append(bytes.Repeat(maskedFrame(0x82, []byte("N")), 4), closeFrame(1000, "")...)
	for name, end := range ends {
		for _, newcomer := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, newcomer %v", name, newcomer), func(t *testing.T) {
				s := start(t, "EVENT_LOOPS=1")
				listener := open(t, s, "r", "listener")
				listener.send(text("ping"))
				listener.wantFrame(0x1, "pong")
				c := dial(t, s)
				request := []byte(upgradeRequest("r", "c"))
				if !newcomer {
					c.send(request)
					c.response()
					request = nil
					eventually(t, "it is a member", func() bool { return s.Stats().Peers == 2 })
				}
				fillRoom(t, s)
				c.send(request, say)
				if err := end(c); err != nil {
					t.Fatal(err)
				}
				if name == "reset" {
					eventually(t, "it has gone", func() bool { return s.Stats().Connections == 1 })
				} else {
					eventually(t, "it has come", func() bool { return s.Stats().Upgraded == 2 })
				}
				heard := heardBy(t, listener, "N")
				eventually(t, "all of it is heard", func() bool {
					flush(s)
					return heard.Load() == 4
				})
			})
		}
	}
}

// TestHalfClosedBehindAQueue: a peer that says farewell and shuts its side still
// gets what waits for it, and the answer.
func TestHalfClosedBehindAQueue(t *testing.T) {
	s := start(t)
	sender, c := open(t, s, "r", "sender"), open(t, s, "r", "c")
	fill(t, s, sender, 1)
	c.send(closeFrame(1000, ""))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has left", func() bool { return s.Stats().Peers == 1 })
	got, err := io.ReadAll(c.in)
	if err != nil || !bytes.HasSuffix(got, []byte{0x88, 2, 1000 >> 8, 1000 & 0xff}) {
		t.Errorf("%d bytes, %v, the last of them % x; want a close frame at the end", len(got), err, got[max(len(got)-8, 0):])
	}
}

// unread is how many bytes wait in a socket of this process.
func unread(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// stall keeps the only loop in a flush until release is called, so that a peer can
// end before any of what it said is read. The loop does do first.
func stall(t *testing.T, s *Server, sender *raw, do func(l *loop)) (release func()) {
	t.Helper()
	g := &barrier{reached: make(chan struct{}), open: make(chan struct{}), do: func() { do(s.loops[0]) }}
	m := new(router.Member)
	m.Init("barrier", g)
	s.table.Join([]byte("r"), m)
	t.Cleanup(func() { s.table.Leave(m) })
	sender.send(maskedFrame(0x82, nil))
	<-g.reached
	return func() { close(g.open) }
}

// barrier is a router.Conn whose first write waits.
type barrier struct {
	once          sync.Once
	reached, open chan struct{}
	do            func()
}

func (g *barrier) Write([]byte) {
	g.once.Do(func() {
		g.do()
		close(g.reached)
		<-g.open
	})
}

// heardBy counts a letter in what c receives, until the test ends.
func heardBy(t *testing.T, c *raw, letter string) *atomic.Int64 {
	n := new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		count(c, letter, n)
		close(done)
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return n
}

// TestResetBehindManyReads: what came before a reset is read, also where that takes
// more than one turn.
func TestResetBehindManyReads(t *testing.T) {
	const messages = 200
	s := start(t, "EVENT_LOOPS=1")
	sender, c, listener := open(t, s, "r", "sender"), open(t, s, "r", "c"), open(t, s, "r", "listener")
	listener.send(text("ping"))
	listener.wantFrame(0x1, "pong")
	heard := heardBy(t, listener, "N")
	release := stall(t, s, sender, func(l *loop) { l.in = make([]byte, 512) })
	c.send(bytes.Repeat(maskedFrame(0x82, []byte("N")), messages))
	_ = c.SetLinger(0)
	c.Close()
	release()
	eventually(t, "it has gone", func() bool { return s.Stats().Connections == 2 })
	eventually(t, "all of it is heard", func() bool { return heard.Load() == messages })
}

// TestHalfClosedRequests: whoever asks many things and shuts its side gets all the
// answers, also those that had to wait for its socket.
func TestHalfClosedRequests(t *testing.T) {
	s := start(t)
	c := dial(t, s)
	if err := c.SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	requests := bytes.Repeat([]byte("GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n"), 100)
	sent := 0
	eventually(t, "answers are queued", func() bool {
		c.send(requests)
		sent += 100
		all := s.wheels[seatHandshake].All()
		return len(all) == 1 && all[0].queued.Load() > 64<<10
	})
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end is read", func() bool { return len(s.wheels[seatClosing].All()) == 1 })
	got, err := io.ReadAll(c.in)
	if n := bytes.Count(got, []byte("HTTP/1.1 200")); err != nil || n != sent {
		t.Errorf("%d answers to %d requests, %v", n, sent, err)
	}
}

// TestEndBehindALargeMessage: a room that one legal message has filled, however large,
// still takes what somebody says who ends.
func TestEndBehindALargeMessage(t *testing.T) {
	s := start(t, "EVENT_LOOPS=1", "MAX_MESSAGE_BYTES=16777216")
	c, listener := open(t, s, "r", "c"), open(t, s, "r", "listener")
	listener.send(text("ping"))
	listener.wantFrame(0x1, "pong")
	heard := heardBy(t, listener, "N")
	from := new(router.Member)
	from.Init("from", nobody{})
	s.table.Join([]byte("r"), from)
	defer s.table.Leave(from)
	from.Room().Publish(from, appendFrame(nil, opBinary, make([]byte, 12<<20)))
	c.send(bytes.Repeat(maskedFrame(0x82, []byte("N")), 4))
	_ = c.SetLinger(0)
	c.Close()
	eventually(t, "it has gone", func() bool { return s.Stats().Connections == 1 })
	eventually(t, "all of it is heard", func() bool {
		flush(s)
		return heard.Load() == 4
	})
}
