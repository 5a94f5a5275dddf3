package server

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// numbered is a message of 8 bytes that holds n.
func numbered(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// patientPacers lets peers be held back for this long.
func patientPacers(s *Server, timeout time.Duration) {
	s.onLoops(func(l *loop) { l.pacer.rates.timeout = timeout })
}

// A peer that sends more than the burst at once is held back: everything arrives, no faster than the rate
// allows. Others of its relay are not.
func TestRateHoldsBack(t *testing.T) {
	t.Parallel()
	f := func(environ []string, size int, least time.Duration) {
		t.Helper()
		s := start(t, environ...)
		sender, listener, other := open(t, s, "r", "sender"), join(t, s, "r", "listener"), join(t, s, "elsewhere", "other")
		elsewhere := join(t, s, "elsewhere", "listener")
		began := time.Now()
		const messages = 60
		for i := range messages {
			sender.send(maskedFrame(0x82, append(numbered(i), make([]byte, size-8)...)))
		}
		for i := range messages {
			hearBytes(t, listener, websocket.MessageBinary, append(numbered(i), make([]byte, size-8)...))
			if i == messages/2 {
				say(t, other, "hello")
				hear(t, elsewhere, "hello")
			}
		}
		if took := time.Since(began); took < least {
			t.Errorf("%q: %d messages of %d bytes took %v, want at least %v", environ, messages, size, took, least)
		}
		if st := s.Stats(); st.HeldBack != 1 || st.Closed["rate"] != 0 {
			t.Errorf("%q: held back %d times, %d closed; want once, none", environ, st.HeldBack, st.Closed["rate"])
		}
	}
	f([]string{"MESSAGE_RATE=100", "MESSAGE_BURST=10"}, 8, 500*time.Millisecond)
	f([]string{"BYTE_RATE=100000", "BYTE_BURST=10000"}, 1000-8, 490*time.Millisecond)
	f([]string{"ROOM_BYTE_RATE=100000", "ROOM_BYTE_BURST=10000"}, 1000-4, 490*time.Millisecond)
}

// What is delivered to many counts for each of them, and whoever sends in that relay is held back.
func TestRoomRateCountsRecipients(t *testing.T) {
	t.Parallel()
	s := start(t, "ROOM_BYTE_RATE=10000", "ROOM_BYTE_BURST=1")
	sender, second := open(t, s, "r", "sender"), open(t, s, "r", "second")
	var listeners []*websocket.Conn
	for i := range 8 {
		listeners = append(listeners, join(t, s, "r", fmt.Sprint(i)))
	}
	began := time.Now()
	sender.send(maskedFrame(0x82, make([]byte, 996))) // 1,000 bytes to each of 9: 900 ms
	hearBytes(t, listeners[0], websocket.MessageBinary, make([]byte, 996))
	second.send(maskedFrame(0x82, numbered(0)))
	for _, c := range listeners[1:] {
		hearBytes(t, c, websocket.MessageBinary, make([]byte, 996))
	}
	for _, c := range listeners {
		hearBytes(t, c, websocket.MessageBinary, numbered(0))
	}
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("the second sender was heard after %v, want 900 ms", took)
	}
}

// A peer that is held back without a break is closed with 1008, also when something else waits for it.
func TestRateCloses(t *testing.T) {
	t.Parallel()
	f := func(environ ...string) {
		t.Helper()
		s := start(t, environ...)
		patientPacers(s, 300*time.Millisecond)
		sender, listener := open(t, s, "r", "sender"), join(t, s, "r", "listener")
		began := time.Now()
		for range 100 {
			sender.send(maskedFrame(0x82, make([]byte, 1000)))
		}
		sender.wantClose(1008)
		if took := time.Since(began); took < 300*time.Millisecond {
			t.Errorf("%q: closed after %v", environ, took)
		}
		hearBytes(t, listener, websocket.MessageBinary, make([]byte, 1000))
		eventually(t, "it is closed", func() bool { return s.Stats().Closed["rate"] == 1 })
	}
	f("MESSAGE_RATE=1", "MESSAGE_BURST=1")
	f("BYTE_RATE=1000", "BYTE_BURST=1000")
	f("ROOM_BYTE_RATE=1000", "ROOM_BYTE_BURST=1000")
}

// A peer that has a break now and then is not closed, however often it is held back.
func TestRateForgives(t *testing.T) {
	t.Parallel()
	s := start(t, "MESSAGE_RATE=10", "MESSAGE_BURST=1")
	patientPacers(s, 5*time.Second)
	sender, listener := open(t, s, "r", "sender"), join(t, s, "r", "listener")
	_ = sender.SetDeadline(time.Now().Add(10 * patience))
	for n := range 16 { // held back for 400 ms or more each, 6.4 s in all
		for i := range 5 {
			sender.send(maskedFrame(0x82, numbered(n*5+i)))
		}
		for i := range 5 {
			hearBytes(t, listener, websocket.MessageBinary, numbered(n*5+i))
		}
		eventually(t, "the sender has a break", func() bool {
			var held atomic.Int32
			s.onLoops(func(l *loop) {
				for _, x := range l.pacer.paces {
					if x != nil && x.since != 0 {
						held.Add(1)
					}
				}
			})
			return held.Load() == 0
		})
	}
	if st := s.Stats(); st.HeldBack < 10 || st.Closed["rate"] != 0 {
		t.Errorf("held back %d times, %d closed; want many, none", st.HeldBack, st.Closed["rate"])
	}
}

// Frames of every kind count, so that pings and fragments are no way around a limit.
func TestRateCountsFrames(t *testing.T) {
	f := func(what string, frame []byte, environ ...string) {
		t.Helper()
		s := start(t, environ...)
		patientPacers(s, 100*time.Millisecond)
		sender := open(t, s, "r", "sender")
		sender.send(bytes.Repeat(frame, 100))
		eventually(t, what+": the sender is out of its room", func() bool { return s.Stats().Upgraded == 1 && s.Stats().Peers == 0 })
		_ = sender.Close()
		eventually(t, what+": it is closed", func() bool { return s.Stats().Closed["rate"] == 1 })
		if n := s.Stats().HeldBack; n != 1 {
			t.Errorf("%s: held back %d times, want once", what, n)
		}
	}
	f("pings as text", text("ping"), "MESSAGE_RATE=10")
	f("pongs as text", text("pong"), "MESSAGE_RATE=10")
	f("pings", maskedFrame(0x89, nil), "MESSAGE_RATE=10")
	f("pongs", maskedFrame(0x8A, nil), "MESSAGE_RATE=10")
	f("direct messages", text(`{"targetPeerId":"nobody"}`), "MESSAGE_RATE=10")
	f("fragments", append(maskedFrame(0x02, nil), bytes.Repeat(maskedFrame(0x00, nil), 100)...), "BYTE_RATE=100", "BYTE_BURST=1")
}

// Silent peers that answer pings need no memory for rates.
func TestRateOfSilentPeers(t *testing.T) {
	s := start(t, "MESSAGE_RATE=1", "MESSAGE_BURST=1", "BYTE_RATE=1", "BYTE_BURST=1")
	c := open(t, s, "r", "p")
	c.awaitHandled()
	p := peerOf(t, s, "p")
	for range 5 {
		p.inLoop(func(l *loop) { l.beat(p) })
		c.wantFrame(0x1, "ping")
		c.send(text("pong"))
		eventually(t, "the pong is read", func() (read bool) {
			p.inLoop(func(*loop) { read = p.heard })
			return read
		})
	}
	s.onLoops(func(l *loop) {
		if n := len(l.pacer.paces); n > 0 {
			t.Errorf("%d places for buckets, want none", n)
		}
	})
}

// A peer that is always within its rate when it is looked at, but always has sent more, is closed, too.
func TestRateClosesWhoeverNeverPauses(t *testing.T) {
	f := func(environ ...string) {
		t.Helper()
		s := start(t, environ...)
		patientPacers(s, 300*time.Millisecond)
		sender, listener := open(t, s, "r", "sender"), open(t, s, "r", "listener")
		go discard(listener)
		go flood(sender, maskedFrame(0x82, make([]byte, 1000)))
		sender.wantCloseFrame(1008)
		sender.Close()
		eventually(t, "it is closed", func() bool { return s.Stats().Closed["rate"] == 1 })
	}
	f("MESSAGE_RATE=1000", "MESSAGE_BURST=1")
	f("BYTE_RATE=1000000", "BYTE_BURST=1000")
	f("ROOM_BYTE_RATE=1000000", "ROOM_BYTE_BURST=1000")
}

// One peer cannot use up its relay's rate alone: another that sends little is heard, and not closed.
func TestRoomRateIsShared(t *testing.T) {
	s := start(t, "ROOM_BYTE_RATE=100000", "ROOM_BYTE_BURST=1000")
	patientPacers(s, time.Hour)
	flooder, modest, listener := open(t, s, "r", "flooder"), open(t, s, "r", "modest"), open(t, s, "r", "listener")
	go discard(modest)
	go flood(flooder, maskedFrame(0x82, make([]byte, 1000)))
	eventually(t, "the flooder is held back", func() bool { return s.Stats().HeldBack > 0 })
	for n := range 5 {
		modest.send(maskedFrame(0x82, numbered(n)))
		for {
			if _, b := listener.frame(); len(b) == 8 {
				break
			}
		}
	}
	flooder.Close()
}

// flood sends frame until the connection ends.
func flood(c *raw, frame []byte) {
	many := bytes.Repeat(frame, 50)
	for {
		if _, err := c.Write(many); err != nil {
			return
		}
	}
}

// discard reads until the connection ends.
func discard(c *raw) { _, _ = io.Copy(io.Discard, c.TCPConn) }
