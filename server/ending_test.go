package server

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/router"
)

// How connections end, and that nothing of what precedes is lost by it.

// TestAllBeforeTheEnd: what a peer sends before it shuts its side counts, however
// much it is.
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
	p := s.wheels[phaseOpen].All()[0]
	p.inLoop(func(l *loop) { l.closeWith(p, closingHeartbeat) })
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
		for _, p = range s.wheels[phaseCloseSent].All() {
		}
		return p != nil
	})
	eventually(t, "a byte is read", func() bool { return unread(t, int(p.fd)) == 0 })
}

// TestHalfClosedBehindAQueue: a peer that sends a close frame and shuts its side still
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

// TestManyLeaveALargeRoom at once, each with a last message. The room's flushes for them are as few as delay
// nobody else in their loop.
func TestManyLeaveALargeRoom(t *testing.T) {
	const others, leavers, most = 5000, 400, 60_000
	s := start(t, "EVENT_LOOPS=1")
	var writes atomic.Int64 // to the others
	room := make([]router.Member, others)
	for i := range room {
		room[i].Init(fmt.Sprint(i), counter{&writes})
		s.table.Join([]byte("r"), &room[i])
	}
	defer func() {
		for i := range room {
			s.table.Leave(&room[i])
		}
	}()
	elsewhere := open(t, s, "elsewhere", "c")
	elsewhere.awaitHandled()
	var all []*raw
	for i := range leavers {
		all = append(all, open(t, s, "r", fmt.Sprint("leaver", i)))
	}
	release := stall(s)
	for _, c := range all {
		c.send(text("last"), closeFrame(1000, ""))
	}
	for _, c := range all {
		eventually(t, "all has come", func() bool { return notAcknowledged(t, c) == 0 })
	}
	elsewhere.send(text("ping"))
	eventually(t, "that has come", func() bool { return unread(t, int(peerOf(t, s, "c").fd)) > 0 })
	var before int64 // writes before that is answered
	answered := make(chan struct{})
	s.loops[0].post(task{do: func(*loop, *peer) { // done after the events of its round
		before = writes.Load()
		close(answered)
	}})
	release()
	<-answered
	elsewhere.wantFrame(0x1, "pong")
	// With a flush for each of them there are 200,000.
	if before > most {
		t.Errorf("%d writes are made for %d who leave before others are served, want at most %d", before, leavers, most)
	}
	for _, c := range all {
		c.Close()
	}
	eventually(t, "they have gone", func() bool { return s.Stats().Connections == 1 })
}

// counter is a router.Conn that counts the writes. Each takes as long as one to a socket.
type counter struct{ writes *atomic.Int64 }

func (c counter) Write([]byte) {
	c.writes.Add(1)
	for began := time.Now(); time.Since(began) < 3*time.Microsecond; {
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
