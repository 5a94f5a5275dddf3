package server

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/router"
)

// How turns are given: who comes first, how much one may do, and what is read at all.

// gate is a router.Conn that holds its loop in each write: it hands the frames to the test and waits until
// the test lets it go on, or opens it for good.
type gate struct {
	frames chan []byte
	leave  chan struct{}
	open   chan struct{}
}

func (g *gate) Write(frames []byte) {
	select {
	case g.frames <- frames:
	case <-g.open:
		return
	}
	select {
	case <-g.leave:
	case <-g.open:
	}
}

// joinMany makes the gate and so many others members of room r, all of them called x, that one message to x
// fills the room. The gate is the first to be written to.
func (g *gate) joinMany(t *testing.T, s *Server) {
	members := make([]router.Member, 30_000)
	for i := range members {
		members[i].Init("x", nobody{})
		if i == 0 {
			members[i].Init("x", g)
		}
		s.table.Join([]byte("r"), &members[i])
	}
	t.Cleanup(func() {
		close(g.open)
		for i := range members {
			s.table.Leave(&members[i])
		}
	})
}

// TestWaitingComeFirst: a peer that waits for its full room is read before another fills the room again,
// whether that one does so with what it sends later or with what was left of its turn.
func TestWaitingComeFirst(t *testing.T) {
	f := func(what string, atOnce, wantFlushes int) {
		t.Run(what, func(t *testing.T) {
			s := start(t, "EVENT_LOOPS=1")
			g := &gate{make(chan []byte), make(chan struct{}), make(chan struct{})}
			g.joinMany(t, s)
			other, waiting := open(t, s, "r", "other"), open(t, s, "r", "waiting")
			from, p := peerOf(t, s, "other"), peerOf(t, s, "waiting")
			send := func(c *raw, p *peer, b []byte) {
				c.send(b)
				eventually(t, "it has come", func() bool { return unread(t, int(p.fd)) == len(b) })
			}
			fill := text(`{"targetPeerId":"x"}`)
			again := func() { // one more flush, before which other has filled the room
				if atOnce == 1 {
					send(other, from, fill)
				}
			}
			// The loop goes on only from one write to the gate to the next. In between it is held in a
			// flush, when the room is not full.
			flush := func() (frames []byte) {
				g.leave <- struct{}{}
				return <-g.frames
			}
			release := stall(s)
			send(other, from, bytes.Repeat(fill, atOnce))
			release()
			<-g.frames
			again()
			send(waiting, p, maskedFrame(0x82, []byte("W"))) // its event comes after other's
			if flush(); !p.inTurns {
				t.Fatal("the peer does not wait, want a full room")
			}
			for n := 1; n <= wantFlushes; n++ {
				again()
				if bytes.Contains(flush(), []byte("\x82\x01W")) {
					return
				}
			}
			t.Errorf("the peer is not heard within %d flushes of its room", wantFlushes)
		})
	}
	f("later", 1, 1)
	f("left", 12, 2) // the first is other's turn, since it has waited for longer
}

// TestTextEndsTurns: searching text takes time, so a turn handles little of it.
func TestTextEndsTurns(t *testing.T) {
	const most = 64 << 10 // takes about a millisecond
	s := start(t)
	open(t, s, "r", "c")
	p := peerOf(t, s, "c")
	f := func(message []byte, payload string) {
		t.Helper()
		data := bytes.Repeat(message, largeReadBytes/len(message))
		p.inLoop(func(l *loop) {
			l.work = turnWork
			handled := len(data) - len(l.serve(p, data))
			if handled == 0 || handled > most+maxClientHeader {
				t.Errorf("texts of %d bytes (%.20s): a turn handles %d bytes, want at most %d", len(payload), payload, handled, most)
			}
		})
	}
	for _, size := range []int{1 << 10, 10 << 10, 64 << 10} {
		for _, payload := range []string{
			string(repeat("x", size)),
			fmt.Sprintf(`{"text":"%s"}`, repeat("x", size-11)),
			fmt.Sprintf(`{"targetPeerId":"nobody","text":"%s"}`, repeat("x", size-36)),
		} {
			f(text(payload), payload)
		}
	}
}

// TestFullReadIsCopiedOnce, and only what the turn does not handle of it: a frame in it is handled where it
// was read. What a copy costs is seen where the pools are empty.
func TestFullReadIsCopiedOnce(t *testing.T) {
	s := start(t)
	c := open(t, s, "r", "c") // alone, so nothing is published
	p := peerOf(t, s, "c")
	if err := unix.SetsockoptInt(int(p.fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 2*readBytes); err != nil {
		t.Fatal(err)
	}
	f := func(what string, size int, most uint64) {
		t.Helper()
		b := append(bytes.Repeat(maskedFrame(0x82, make([]byte, size)), readBytes/(size+6)), text("ping")...)
		if len(b) < readBytes {
			t.Fatalf("%s: %d bytes are no full read", what, len(b))
		}
		least := ^uint64(0) // of several times, since this process may allocate elsewhere, too
		for range 5 {
			var before, after runtime.MemStats
			release := stall(s)
			c.send(b)
			eventually(t, "it has come", func() bool { return unread(t, int(p.fd)) == len(b) })
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&before)
			release()
			c.wantFrame(0x1, "pong")
			runtime.ReadMemStats(&after)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
		}
		if least > most {
			t.Errorf("%s: %d bytes are allocated, want at most %d", what, least, most)
		}
	}
	f("frames for one turn", 122, 8<<10)
	f("frames for several turns", 0, readBytes+8<<10)
}

// TestUrgentData is skipped, and what comes after it is read: a read ends before it although more is there.
func TestUrgentData(t *testing.T) {
	s := start(t)
	listener, c := open(t, s, "r", "listener"), open(t, s, "r", "c")
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		release := stall(s)
		c.send(text("before"))
		if e := rc.Control(func(fd uintptr) { err = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) }); e != nil || err != nil {
			t.Fatal(e, err)
		}
		c.send(text("after"))
		eventually(t, "all has come", func() bool { return notAcknowledged(t, c) == 0 })
		release()
		listener.wantFrame(0x1, "before")
		listener.wantFrame(0x1, "after")
	}
}
