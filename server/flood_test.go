package server

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"relaygate/router"
)

// What a public port meets: the huge, the many and those that do not read.

// TestFloodArrivesWhole: senders that fill their room's log many times over are held
// back, and everyone hears all of it; also what they said last before they ended.
func TestFloodArrivesWhole(t *testing.T) {
	const readers, senders, messages = 20, 4, 100_000
	s := start(t, "EVENT_LOOPS=2")
	var group sync.WaitGroup
	for i := range readers {
		c := open(t, s, "r", fmt.Sprint(i))
		c.awaitHandled()
		group.Go(func() {
			got, err := io.ReadAll(io.LimitReader(c.in, 2*senders*messages))
			if want := bytes.Repeat([]byte{0x82, 0}, senders*messages); err != nil || !bytes.Equal(got, want) {
				t.Errorf("reader %d: %d bytes, %v; want %d empty messages", i, len(got), err, senders*messages)
			}
		})
	}
	flood := append(bytes.Repeat(maskedFrame(0x82, nil), messages), closeFrame(1000, "")...)
	for i := range senders {
		c := open(t, s, "r", fmt.Sprint("sender", i))
		group.Go(func() {
			go discard(c) // what the others say
			if _, err := c.Write(flood); err != nil {
				t.Errorf("sender %d: %v", i, err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Errorf("sender %d: %v", i, err)
			}
		})
	}
	group.Wait()
	if n := s.Stats().Closed["slow"]; n > 0 {
		t.Errorf("%d readers were closed as slow", n)
	}
}

// TestMembersTakeTurns: a sender that never stops does not keep the relay from
// reading what others in its room say, whichever comes first in the loop's events.
func TestMembersTakeTurns(t *testing.T) {
	s := start(t, "EVENT_LOOPS=1")
	flooder, other := open(t, s, "r", "flooder"), open(t, s, "r", "other")
	var group sync.WaitGroup
	group.Go(func() { discard(flooder) })
	group.Go(func() { flood(flooder, bytes.Repeat(maskedFrame(0x82, nil), 2000)) })
	var pongs atomic.Int64
	group.Go(func() { count(other, "p", &pongs) }) // of "pong", among empty messages
	for i := range 20 {
		other.send(text("ping"))
		eventually(t, "it is answered", func() bool { return pongs.Load() == int64(i+1) })
	}
	flooder.Close()
	other.Close()
	group.Wait()
}

// count adds up how often a letter comes, until the connection ends.
func count(c *raw, letter string, into *atomic.Int64) {
	for b := make([]byte, 64<<10); ; {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		into.Add(int64(bytes.Count(b[:n], []byte(letter))))
	}
}

// TestDrainBesideAFlood: full rooms and held members do not keep a relay from
// stopping.
func TestDrainBesideAFlood(t *testing.T) {
	const peers = 24
	for range 5 {
		s, stop := unwatched(t, "EVENT_LOOPS=2")
		var all []*raw
		for i := range peers { // before the flood, beside which a handshake takes long
			c := open(t, s, "r", fmt.Sprint(i))
			_ = c.SetDeadline(time.Time{}) // the drain ends them
			all = append(all, c)
		}
		messages := bytes.Repeat(maskedFrame(0x82, make([]byte, 1000)), 200)
		var group sync.WaitGroup
		var heard atomic.Int64
		draining := make(chan struct{})
		for i, c := range all {
			group.Go(func() {
				defer c.Close()
				count(c, "\x82", &heard) // the first byte of each message
			})
			group.Go(func() {
				for i%3 == 0 && !s.draining.Load() {
					if _, err := c.Write(messages); err != nil {
						return
					}
				}
				<-draining
				_, _ = c.Write(closeFrame(1001, ""))
			})
		}
		eventually(t, "the flood is on", func() bool { return heard.Load() > 20_000 })
		close(draining)
		stop()
		group.Wait()
	}
}

// heapBytes is what is in use after a collection.
func heapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep what they hold until the second one
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestClosedConnectionHoldsNothing of what it had begun to send, although nbio
// keeps connections for a while.
func TestClosedConnectionHoldsNothing(t *testing.T) {
	const peers, each = 60, 1000 << 10
	s := start(t)
	before := heapBytes()
	var all []*raw
	for i := range peers {
		all = append(all, open(t, s, fmt.Sprint(i), "p"))
	}
	for _, c := range all {
		c.send(frameHeader(0x82, 0x80, 1<<20), []byte("mask"), make([]byte, each))
	}
	eventually(t, "all of it has come", func() bool { return heapBytes() > before+peers*each*9/10 })
	for _, c := range all {
		if err := c.SetLinger(0); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	eventually(t, "all are closed", func() bool { return s.Stats().Connections == 0 })
	eventually(t, "it is given back", func() bool { return heapBytes() < before+peers*each/10 })
	runtime.KeepAlive(all)
}

// fill sends messages of 8 KiB until so many peers, which do not read, have more waiting for them than the kernel
// could still take. It returns them.
func fill(t *testing.T, s *Server, sender *raw, peers int) []*peer {
	t.Helper()
	message := maskedFrame(0x82, make([]byte, 8<<10))
	for range 1 << 16 {
		sender.send(message, text("ping"))
		sender.wantFrame(0x1, "pong")
		waiting := s.wheels[phaseOpen].All()
		waiting = slices.DeleteFunc(waiting, func(p *peer) bool { return p.waiting() < 300<<10 })
		if len(waiting) == peers {
			return waiting
		}
	}
	t.Fatal("the sockets take everything")
	return nil
}

// TestPeerThatOnlyTalks answers every heartbeat and takes nothing: it is closed
// when its kernel has acknowledged nothing of what waits between two of them.
func TestPeerThatOnlyTalks(t *testing.T) {
	for _, reads := range []bool{true, false} {
		s := start(t)
		sender, talker := open(t, s, "r", "sender"), open(t, s, "r", "talker")
		p := fill(t, s, sender, 1)[0]
		heartbeat := func() {
			p.inLoop(func(l *loop) {
				p.heard = true
				l.beat(p)
			})
		}
		var before uint32
		eventually(t, "nothing is under way", func() bool {
			was := before
			before = acknowledged(int(p.fd))
			return was == before
		})
		heartbeat() // the first to find a queue
		if reads {
			go func() { _, _ = io.CopyN(io.Discard, talker, 2<<20) }()
			eventually(t, "it has read something", func() bool { return acknowledged(int(p.fd)) != before })
			heartbeat()
			if s.Stats().Peers != 2 {
				t.Error("a peer that reads is closed")
			}
			continue
		}
		eventually(t, "it is closed as slow", func() bool {
			heartbeat()
			return s.Stats().Closed["slow"] == 1
		})
	}
}

// TestHeartbeatsPassAnyLimit: ping and pong as text are no message, so MAX_MESSAGE_BYTES does not hold for them.
func TestHeartbeatsPassAnyLimit(t *testing.T) {
	s := start(t, "MAX_MESSAGE_BYTES=3")
	c := open(t, s, "r", "c")
	c.send(text("pong"), text("ping"))
	c.wantFrame(0x1, "pong")
	c.send(text("peng"))
	c.wantClose(1009)
	c = open(t, s, "r", "c")
	c.send(maskedFrame(0x82, []byte("ping")))
	c.wantClose(1009)
}

// fillRoom makes the only room full, with nobody to flush it but the test.
func fillRoom(t *testing.T, s *Server) *router.Room {
	t.Helper()
	from := outsider(t, s, "r")
	for !from.Room().Full() {
		from.Room().Publish(from, []byte("\x82\x00"))
	}
	return from.Room()
}

// TestHeldIsHeard: a peer that is not read because its room is full is not taken for silent.
func TestHeldIsHeard(t *testing.T) {
	s := start(t, "EVENT_LOOPS=1")
	c := open(t, s, "r", "c")
	c.awaitHandled()
	fillRoom(t, s)
	c.send(text("ping")) // it is not read: the room is full
	p := s.wheels[phaseOpen].All()[0]
	for range 10 {
		eventually(t, "it waits for its turn", func() (waits bool) {
			p.inLoop(func(*loop) { waits = p.inTurns })
			return waits
		})
		p.inLoop(func(l *loop) { l.beat(p) })
	}
	flush(s)
	for {
		if op, payload := c.frame(); op == 0x1 && string(payload) == "pong" {
			break
		}
	}
}

// TestQueueAtTheUpgrade: the answers that wait for a socket when it becomes a WebSocket are written, and then
// the 101.
func TestQueueAtTheUpgrade(t *testing.T) {
	s := start(t)
	c := dial(t, s)
	if err := c.SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	requests := bytes.Repeat([]byte("GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n"), 100)
	sent := 0
	var p *peer
	eventually(t, "answers wait", func() bool {
		c.send(requests)
		sent += 100
		for _, p = range s.wheels[phaseHead].All() {
		}
		return p != nil && p.waiting() > 0
	})
	c.send([]byte(upgradeRequest("r", "c")), text("ping"))
	for range sent {
		if res, _ := c.response(); res.StatusCode != 200 {
			t.Fatalf("status %d, want 200", res.StatusCode)
		}
	}
	if res, _ := c.response(); res.StatusCode != 101 {
		t.Fatalf("status %d, want 101", res.StatusCode)
	}
	c.wantFrame(0x1, "pong")
}

// TestJoinBehindAMessage: a new member does not get what was published before it came, also if that is not
// flushed yet.
func TestJoinBehindAMessage(t *testing.T) {
	s := start(t)
	early := join(t, s, "r", "early")
	from := outsider(t, s, "r")
	from.Room().Publish(from, []byte("\x81\x05early"))
	late := join(t, s, "r", "late")
	from.Room().Publish(from, []byte("\x81\x04both"))
	flush(s)
	hear(t, early, "early")
	hear(t, early, "both")
	hear(t, late, "both")
}
