package server

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestMostHeldIsClosed: when peers hold more than the budget allows, those that hold most are closed, and no
// more of them than it takes. Others go on.
func TestMostHeldIsClosed(t *testing.T) {
	const size = 16 << 20
	core, logs := observer.New(zap.InfoLevel)
	s := startWith(t, zap.New(core), fmt.Sprint("MAX_MESSAGE_BYTES=", size), "MEMORY_BUDGET=64MiB")
	begun := binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, size)
	begun = append(begun, make([]byte, 4)...)
	talker, listener := open(t, s, "pair", "talker"), open(t, s, "pair", "listener")
	var all []*raw
	for i := range 8 {
		all = append(all, open(t, s, fmt.Sprint(i), "sender"))
	}
	sent := int64(0)
	for i, c := range all { // 52 MB in all, of some 37 that there are
		n := 1_000_000
		if i >= 4 {
			n = 12_000_000
		}
		sent += int64(n)
		_, _ = c.Write(slices.Concat(begun, make([]byte, n))) // it may be closed before all is sent
		eventually(t, "it has come, or somebody is closed", func() bool { return bytesHeld() >= sent || s.Stats().Peers < 10 })
	}
	eventually(t, "that is enough", func() bool { return s.Stats().Peers < 10 && !s.overLimit() })
	var left []string
	for _, r := range s.table.All() {
		left = append(left, r.ID())
	}
	slices.Sort(left)
	if len(left) < 6 || !slices.Equal(left[:4], []string{"0", "1", "2", "3"}) {
		t.Errorf("peers of the relays %q are left, want those of 0 to 3, and some more", left)
	}
	talker.send(text("hello"))
	listener.wantFrame(1, "hello")
	if n := logs.FilterMessageSnippet("memory is short").Len(); n == 0 {
		t.Error("no line in the log")
	}
}

// TestLogsAloneAreTooLarge: when nobody holds anything but the logs of rooms are above the limit, they are flushed,
// and peers are read again.
func TestLogsAloneAreTooLarge(t *testing.T) {
	s := start(t, "MEMORY_BUDGET=64MiB")
	const rooms, size = 100, 512 << 10
	var senders, listeners []*raw
	var peers []*peer
	for i := range rooms {
		senders = append(senders, open(t, s, fmt.Sprint(i), fmt.Sprint("sender", i)))
		listeners = append(listeners, open(t, s, fmt.Sprint(i), "listener"))
		peers = append(peers, peerOf(t, s, fmt.Sprint("sender", i)))
	}
	release := stall(s)
	frame := append(frameHeader(0x82, 0, size), make([]byte, size)...)
	for _, p := range peers {
		if note, _ := p.Room().Publish(&p.Member, frame); note {
			p.loop.post(task{room: p.Room()})
		}
	}
	for _, c := range senders {
		c.send(text("hello")) // so that peers wait for their turns
	}
	release()
	for _, c := range listeners {
		c.wantFrame(2, string(frame[len(frame)-size:]))
		c.wantFrame(1, "hello")
	}
	if n := s.Stats().Closed["memory"]; n > 0 {
		t.Errorf("%d peers are closed, want none", n)
	}
}

// TestSilentPeersUseTheBudget: ids count, and when silent peers alone take most of the budget no more are let in.
func TestSilentPeersUseTheBudget(t *testing.T) {
	s := start(t, "MEMORY_BUDGET=64MiB")
	before := s.growthLimit()
	c := open(t, s, strings.Repeat("r", 1000), strings.Repeat("p", 1000))
	if n := before - s.growthLimit(); n < 2000+peerBytes {
		t.Errorf("a peer takes %d bytes of the budget, want 2,000 for its ids and %d", n, peerBytes)
	}
	const many = 100_000
	s.stats.connections.Add(many)
	wantAsk(t, dial(t, s), "r", 503)
	wantRefused(t, s, "memory", 1)
	if got := s.Unready(); !slices.Equal(got, []string{"memory"}) {
		t.Errorf("not ready because of %q, want memory", got)
	}
	s.stats.connections.Add(-many)
	wantAsk(t, dial(t, s), "r", 101)
	c.Close()
	eventually(t, "its ids do not count any more", func() bool { return s.table.IDBytes() == 2 })
}
