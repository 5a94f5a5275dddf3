package server

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// answerPings reads until n heartbeats have come, answers the i-th with
// answer(i), and returns when they came. It is safe to call from any goroutine.
func answerPings(c *raw, n int, answer func(i int) []byte) (at []time.Time, err error) {
	for len(at) < n {
		head := make([]byte, 2)
		if _, err := io.ReadFull(c.in, head); err != nil {
			return at, fmt.Errorf("after %d heartbeats: %w", len(at), err)
		}
		payload := make([]byte, head[1])
		if _, err := io.ReadFull(c.in, payload); err != nil {
			return at, fmt.Errorf("after %d heartbeats: %w", len(at), err)
		}
		switch {
		case head[0] == 0x88:
			return at, fmt.Errorf("closed after %d heartbeats: %q", len(at), payload)
		case head[0] == 0x81 && string(payload) == "ping":
			at = append(at, time.Now())
			if _, err := c.Write(answer(len(at) - 1)); err != nil {
				return at, fmt.Errorf("answer heartbeat %d: %w", len(at), err)
			}
		}
	}
	return at, nil
}

// Whatever comes keeps a peer alive: whoever answers so gets another heartbeat again and again, instead of being
// closed.
func TestHeartbeatAnswered(t *testing.T) {
	t.Parallel()
	const interval, beats = time.Second, 4
	s := start(t, "CONNECTION_CHECK_INTERVAL=1000")
	begun := maskedFrame(0x82, repeat("x", 500))
	answers := map[string]func(i int) []byte{
		"text pong":       func(int) []byte { return text("pong") },
		"text ping":       func(int) []byte { return text("ping") },
		"text message":    func(int) []byte { return text("I am here") },
		"empty text":      func(int) []byte { return text("") },
		"direct message":  func(int) []byte { return text(direct("nobody", "")) },
		"binary message":  func(int) []byte { return maskedFrame(0x82, []byte("pong")) },
		"control pong":    func(int) []byte { return maskedFrame(0x8A, nil) },
		"control ping":    func(int) []byte { return maskedFrame(0x89, nil) },
		"fragments":       func(i int) []byte { return maskedFrame(byte(0x02>>min(2*i, 2)), nil) },
		"bytes, no frame": func(i int) []byte { return begun[i : i+1] },
	}
	results := make(chan error, len(answers))
	for name, answer := range answers {
		c := open(t, s, name, "p")
		go func() {
			at, err := answerPings(c, beats, answer)
			if err == nil && at[beats-1].Sub(at[0]) < (beats-1)*interval/2 {
				err = fmt.Errorf("%d heartbeats in %v, want one each %v", beats, at[beats-1].Sub(at[0]), interval)
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
			results <- err
		}()
	}
	for range answers {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// Connections that come at once are not asked at once.
func TestHeartbeatSpread(t *testing.T) {
	t.Parallel()
	const interval, peers = 2 * time.Second, 24
	s := start(t, "CONNECTION_CHECK_INTERVAL=2s")
	type result struct {
		at  []time.Time
		err error
	}
	results := make(chan result, peers)
	for i := range peers {
		c := open(t, s, "r", fmt.Sprint(i))
		go func() {
			at, err := answerPings(c, 1, func(int) []byte { return text("pong") })
			results <- result{at, err}
		}()
	}
	var first []time.Time
	for range peers {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		first = append(first, r.at...)
	}
	slices.SortFunc(first, time.Time.Compare)
	if spread := first[peers-1].Sub(first[0]); spread < interval/4 {
		t.Errorf("%d peers were all asked within %v, want them spread over %v", peers, spread, interval)
	}
}

func TestHeartbeatTimeout(t *testing.T) {
	t.Parallel()
	s := start(t, "CONNECTION_CHECK_INTERVAL=300ms")
	wantFarewell := func(c *raw) {
		t.Helper()
		if op, p := c.frame(); op != 0x8 || len(p) < 2 || binary.BigEndian.Uint16(p) != 1001 || string(p[2:]) != "heartbeat timeout" {
			t.Fatalf("got frame %#x %q, want close 1001 heartbeat timeout", op, p)
		}
	}
	// One peer never says anything; one did, and hears others, but says no more.
	silent, quiet := open(t, s, "silent", "p"), open(t, s, "quiet", "p")
	talker := open(t, s, "quiet", "talker")
	quiet.send(text("my last words"))
	talker.wantFrame(0x1, "my last words")
	talker.send(text("are you there?"))
	quiet.wantFrame(0x1, "are you there?")
	quiet.wantFrame(0x1, "ping")
	wantFarewell(quiet)
	// It has left its room: this reaches nobody.
	quiet.send(text("too late"), closeFrame(1001, ""))
	quiet.ended()

	silent.wantFrame(0x1, "ping")
	wantFarewell(silent)
	silent.ended() // though it never answers the close frame

	eventually(t, "three closed by the heartbeat", func() bool { return s.Stats().Closed["heartbeat_timeout"] == 3 })
	talker.wantFrame(0x1, "ping")
	wantFarewell(talker)
	talker.send(closeFrame(1001, ""))
	talker.ended()
}

// coder/websocket sees the heartbeat as the text that it is, and its answer is
// relayed to nobody.
func TestHeartbeatOfOrdinaryClient(t *testing.T) {
	t.Parallel()
	s := start(t, "CONNECTION_CHECK_INTERVAL=1s")
	a := join(t, s, "r", "a")
	hear(t, a, "ping")
	say(t, a, "pong")
	hear(t, a, "ping")
	b := join(t, s, "r", "b")
	say(t, a, "pong")
	say(t, a, "marker")
	hear(t, b, "marker")
	hearClose(t, a, 1001, "heartbeat timeout")
}

// An eviction is not a broadcast: a room with a dead member works on.
func TestHeartbeatTimeoutSparesOthers(t *testing.T) {
	t.Parallel()
	s := start(t, "CONNECTION_CHECK_INTERVAL=1s")
	a, b := open(t, s, "r", "a"), open(t, s, "r", "b")
	open(t, s, "r", "dead")
	done := make(chan error, 2)
	for _, c := range []*raw{a, b} {
		go func() {
			_, err := answerPings(c, 4, func(int) []byte { return text("pong") })
			done <- err
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Stats().Peers; n != 2 {
		t.Errorf("%d peers left, want 2", n)
	}
	a.send(text(strings.Repeat("on", 3)))
	b.wantFrame(0x1, "ononon")
}
