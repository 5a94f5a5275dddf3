package server

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

func TestMessageSize(t *testing.T) {
	f := func(limit int, environ ...string) {
		t.Helper()
		s := start(t, environ...)
		a, b := join(t, s, "r", "a"), join(t, s, "r", "b")
		payload := repeat("0123456789abcdef", limit/16+1)[:limit]
		sayBytes(t, a, websocket.MessageText, payload)
		hearBytes(t, b, websocket.MessageText, payload)
		sayBytes(t, a, websocket.MessageBinary, payload)
		hearBytes(t, b, websocket.MessageBinary, payload)
		sayBytes(t, a, websocket.MessageBinary, append(payload, 'x'))
		hearClose(t, a, websocket.StatusMessageTooBig, "message too big")
		hearNothing(t, s, b)
	}
	f(4, "MAX_MESSAGE_BYTES=4") // join says "ping"
	f(125, "MAX_MESSAGE_BYTES=125")
	f(1000, "MAX_MESSAGE_BYTES=1000")
	f(65535, "MAX_MESSAGE_BYTES=65535")
	f(1<<20, "MAX_QUEUE_BYTES=16777216") // the default of MAX_MESSAGE_BYTES
}

// Control frames are no messages: their own limit holds for them.
func TestSmallestMessage(t *testing.T) {
	s := start(t, "MAX_MESSAGE_BYTES=1")
	a, b := open(t, s, "r", "a"), open(t, s, "r", "b")
	a.send(text("x"), text(""), maskedFrame(0x02, nil), maskedFrame(0x80, []byte("y")))
	b.wantFrame(0x1, "x")
	b.wantFrame(0x1, "")
	b.wantFrame(0x2, "y")
	a.send(maskedFrame(0x89, []byte("long ping")), text("xy"))
	a.wantFrame(0xA, "long ping")
	a.wantClose(1009)
}

// Many reads long, under the largest limit there is.
func TestLargeMessage(t *testing.T) {
	s := start(t, "MAX_MESSAGE_BYTES=67108864")
	a, b := join(t, s, "r", "a"), join(t, s, "r", "b")
	payload := repeat("0123456789abcdef", 16<<20/16)
	sayBytes(t, a, websocket.MessageBinary, payload)
	hearBytes(t, b, websocket.MessageBinary, payload)
}

// A message is judged as soon as it can be: by one frame's header, or by that of
// the fragment which makes it too big.
func TestMessageTooBig(t *testing.T) {
	s := start(t, "MAX_MESSAGE_BYTES=1000")
	listener := join(t, s, "r", "listener")
	mask := []byte{1, 2, 3, 4}
	f := func(frames ...[]byte) {
		t.Helper()
		c := open(t, s, "r", "p")
		c.send(frames...)
		c.wantCloseFrame(1009)
		_ = c.Close() // a close frame would be taken for the payload

		c = open(t, s, "r", "p")
		c.sendSlowly(bytes.Join(frames, nil))
		c.wantCloseFrame(1009)
		_ = c.Close()
	}
	x := func(first byte, n int) []byte { return maskedFrame(first, repeat("x", n)) }
	header := func(first byte, n int) []byte { return append(frameHeader(first, 0x80, n), mask...) }
	f(header(0x81, 1001))
	f(header(0x82, 1001))
	f(header(0x82, 1<<20))
	f(header(0x82, 1<<62))
	f(header(0x01, 1001))
	f(x(0x01, 1000), header(0x80, 1))
	f(x(0x02, 600), header(0x00, 401))
	f(x(0x02, 400), x(0x00, 400), x(0x8A, 125), header(0x80, 201))
	hearNothing(t, s, listener)

	// Exactly the limit passes, also in fragments and with control frames in between.
	c := open(t, s, "r", "p")
	c.send(x(0x02, 400), x(0x00, 400), x(0x8A, 125), x(0x00, 200), x(0x80, 0))
	hearBytes(t, listener, websocket.MessageBinary, repeat("x", 1000))
	for range 3 { // each message anew
		c.send(x(0x02, 999), x(0x80, 1), x(0x82, 1000))
		hearBytes(t, listener, websocket.MessageBinary, repeat("x", 1000))
		hearBytes(t, listener, websocket.MessageBinary, repeat("x", 1000))
	}
}

// Who goes on sending what was refused gets the close frame all the same, not a
// reset, and the rest of its message reaches nobody.
func TestMessageTooBigAndSentAnyway(t *testing.T) {
	s := start(t, "MAX_MESSAGE_BYTES=1000")
	listener := join(t, s, "r", "listener")
	c := open(t, s, "r", "p")
	c.send(maskedFrame(0x82, repeat("x", 8<<20)), text("and this"))
	c.wantClose(1009)
	hearNothing(t, s, listener)
}

// A peer that never reads is closed; the others hear everything, in order, one
// message after the other while it lasts.
func TestSlowPeer(t *testing.T) {
	s := start(t, "MAX_MESSAGE_BYTES=65536", "MAX_QUEUE_BYTES=131072")
	a, b := join(t, s, "r", "a"), join(t, s, "r", "b")
	slow := open(t, s, "r", "slow")
	filler := strings.Repeat("x", 32<<10)
	sent := 0
	for ; s.Stats().Closed["slow"] == 0; sent++ {
		if sent == 4096 {
			t.Fatalf("a peer that reads nothing is still open after %d messages of 32 KiB", sent)
		}
		message := fmt.Sprint(sent, filler)
		say(t, a, message)
		hear(t, b, message)
	}
	eventually(t, "the slow peer has left", func() bool { return s.Stats().Peers == 2 })
	say(t, a, "it is gone")
	hear(t, b, "it is gone")

	// What it has not read by now are whole messages in order, then the socket ends
	// wherever it was.
	for i := range sent {
		message, err := slow.tryText()
		if os.IsTimeout(err) {
			t.Fatalf("after %d messages neither more nor the end of the connection", i)
		}
		if err != nil {
			return
		}
		if message != fmt.Sprint(i, filler) {
			t.Fatalf("message %d is %.20q of %d bytes", i, message, len(message))
		}
	}
	t.Error("a peer that reads nothing got everything")
}

// tryText reads a text message, heartbeats apart, where the connection may end
// at any byte.
func (c *raw) tryText() (string, error) {
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(c.in, head[:2]); err != nil {
			return "", err
		}
		n := int(head[1])
		if n == 126 {
			if _, err := io.ReadFull(c.in, head[2:]); err != nil {
				return "", err
			}
			n = int(binary.BigEndian.Uint16(head[2:]))
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(c.in, payload); err != nil {
			return "", err
		}
		if head[0] != 0x81 {
			return "", fmt.Errorf("frame %#x %.80q is no text", head[0], payload)
		}
		if string(payload) != "ping" {
			return string(payload), nil
		}
	}
}

// A peer that falls behind by less than MAX_QUEUE_BYTES misses nothing.
func TestPeerFallsBehind(t *testing.T) {
	s := start(t, "MAX_QUEUE_BYTES=33554432")
	a, slow := join(t, s, "r", "a"), open(t, s, "r", "slow")
	filler := strings.Repeat("x", 300_000)
	const messages = 64 // more than socket buffers take, less than the queue
	for i := range messages {
		say(t, a, fmt.Sprint(i, filler))
	}
	hearNothing(t, s, a) // so all is published and submitted
	for i := range messages {
		slow.wantFrame(0x1, fmt.Sprint(i, filler))
	}
	slow.send(text("I have read it all"))
	hear(t, a, "I have read it all")
}

// Replies are bounded like everything else: who asks and never reads is closed.
func TestSlowPeerOfPongs(t *testing.T) {
	s := start(t, "MAX_MESSAGE_BYTES=1000", "MAX_QUEUE_BYTES=66536")
	c := open(t, s, "r", "p")
	pings := repeat(string(maskedFrame(0x89, repeat("x", 125))), 500)
	for range 4096 {
		if _, err := c.Write(pings); err != nil {
			break
		}
	}
	eventually(t, "closed as slow", func() bool { return s.Stats().Closed["slow"] == 1 })
}
