//go:build !race

package server

import (
	"fmt"
	"io"
	"runtime"
	"testing"
)

// What is measured here depends on sync.Pool, which forgets at random under the race detector.

// TestRelayingDoesNotAllocate measures the whole path, from the socket to the
// socket, and the heartbeat. Clients allocate nothing either.
func TestRelayingDoesNotAllocate(t *testing.T) {
	s := start(t, "CONNECTION_CHECK_INTERVAL=1h")
	a, b := open(t, s, "r", "a"), open(t, s, "r", "b")
	for _, c := range []*raw{a, b} {
		c.awaitHandled()
	}
	in := make([]byte, 4096)
	f := func(what string, size int, once func()) {
		t.Helper()
		all := func() {
			once()
			if _, err := io.ReadFull(b.TCPConn, in[:size]); err != nil {
				t.Fatal(err)
			}
		}
		for range 50 {
			all()
		}
		if n := testing.AllocsPerRun(2000, all); n != 0 {
			t.Errorf("%s: %v allocations, want 0", what, n)
		}
	}
	sends := func(payload string) func() {
		frame := text(payload)
		return func() { _, _ = a.Write(frame) }
	}
	f("a broadcast", 2+5, sends("hello"))
	direct := `{"targetPeerId":"b","n":12345}`
	f("a direct message", 2+len(direct), sends(direct))
	for _, p := range s.wheels[phaseOpen].All() {
		if p.ID() == "b" {
			beat := task{peer: p, do: func(l *loop, p *peer) {
				p.heard = true
				l.beat(p)
			}}
			f("a heartbeat", len(pingFrame), func() { p.loop.post(beat) })
		}
	}
}

// TestQueueOfSmallMessages: behind a socket that is full, a small message costs its
// bytes, and not a copy of what waits there.
func TestQueueOfSmallMessages(t *testing.T) {
	const peers, messages = 10, 3000
	s := start(t)
	for i := range peers {
		open(t, s, "r", fmt.Sprint(i))
	}
	sender := open(t, s, "r", "sender")
	fill(t, s, sender, peers)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range messages {
		sender.send(text("no more than that"), text("ping"))
		sender.wantFrame(0x1, "pong")
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / (peers * messages); each > 500 {
		t.Errorf("each message of 17 bytes in a queue costs %d bytes of garbage, want its own and little more", each)
	}
}
