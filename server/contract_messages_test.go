package server

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

func TestRelay(t *testing.T) {
	s := start(t)
	a, b, c := join(t, s, "r", "a"), join(t, s, "r", "b"), join(t, s, "r", "c")
	stranger := join(t, s, "r2", "b")
	f := func(kind websocket.MessageType, payload []byte) {
		t.Helper()
		sayBytes(t, a, kind, payload)
		hearBytes(t, b, kind, payload)
		hearBytes(t, c, kind, payload)
		hearNothing(t, s, a)
		hearNothing(t, s, stranger)
	}
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	f(websocket.MessageText, nil)
	f(websocket.MessageText, []byte("hello"))
	f(websocket.MessageText, []byte("\x00 \u00e9 \u20ac \U0001f600 \ufffd \ufeff\u2028\r\n"))
	f(websocket.MessageBinary, nil)
	f(websocket.MessageBinary, everyByte)
	f(websocket.MessageBinary, []byte("\xff\xfe\xc3"))
	// Where the length's encoding changes, and around the buffer a loop reads into.
	for _, n := range []int{1, 125, 126, 127, 128, 65535, 65536, 65537, 200_000} {
		f(websocket.MessageBinary, bytes.Repeat(everyByte, n/256+1)[:n])
		f(websocket.MessageText, []byte(strings.Repeat("0123456789abcdef", n/16+1)[:n]))
	}
	// Nothing but exactly these texts is a heartbeat, and only as text.
	for _, near := range []string{"Ping", "PONG", "ping ", " pong", "pin", "ping\n", "pings", "ping\x00", "pingpong", `"ping"`} {
		f(websocket.MessageText, []byte(near))
	}
	f(websocket.MessageBinary, []byte("ping"))
	f(websocket.MessageBinary, []byte("pong"))
}

// Alone in its relay a peer talks to nobody, and nothing is stored for whoever
// comes later.
func TestNothingIsStored(t *testing.T) {
	s := start(t)
	a := join(t, s, "r", "a")
	say(t, a, "anybody?")
	hearNothing(t, s, a)
	b := join(t, s, "r", "b")
	hearNothing(t, s, b)
	say(t, a, "b?")
	hear(t, b, "b?")
}

// A peer that left gets nothing, one that comes again is a member again.
func TestLeaveAndReturn(t *testing.T) {
	s := start(t)
	a, b := join(t, s, "r", "a"), join(t, s, "r", "b")
	if err := b.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("close: %v, want the same code back", err)
	}
	say(t, a, "b has left")
	hearNothing(t, s, a)
	b = join(t, s, "r", "b")
	say(t, a, "b is back")
	hear(t, b, "b is back")
	say(t, b, "I am")
	hear(t, a, "I am")
}

func TestFragments(t *testing.T) {
	s := start(t)
	a, b := open(t, s, "r", "a"), open(t, s, "r", "b")
	const textFirst, binaryFirst, next, last = 0x01, 0x02, 0x00, 0x80
	f := func(wantOpcode byte, want string, frames ...[]byte) {
		t.Helper()
		a.send(frames...)
		b.wantFrame(wantOpcode, want) // one frame, and final
		a.sendSlowly(bytes.Join(frames, nil))
		b.wantFrame(wantOpcode, want)
	}
	m := func(first byte, payload string) []byte { return maskedFrame(first, []byte(payload)) }
	f(0x1, "hello", m(textFirst, "hel"), m(last, "lo"))
	f(0x1, "hello", m(textFirst, ""), m(next, "h"), m(next, ""), m(next, "ell"), m(next, "o"), m(last, ""))
	f(0x1, "", m(textFirst, ""), m(last, ""))
	f(0x2, "\xff\x00", m(binaryFirst, "\xff"), m(last, "\x00"))
	f(0x2, "", m(binaryFirst, ""), m(next, ""), m(last, ""))
	// A code point across fragments.
	f(0x1, "\u20ac\U0001f600", m(textFirst, "\xe2"), m(next, "\x82"), m(next, "\xac\xf0\x9f"), m(last, "\x98\x80"))
	// Heartbeats in fragments are heartbeats only as text.
	f(0x2, "ping", m(binaryFirst, "pi"), m(last, "ng"))
	f(0x2, "pong", m(binaryFirst, "pong"), m(last, ""))
	f(0x1, "pings", m(textFirst, "ping"), m(last, "s"))
	long := strings.Repeat("x", 500)
	f(0x1, long+long+long, m(textFirst, long), m(next, long), m(last, long))
	f(0x1, direct("b", "x"), m(textFirst, direct("b", "x")[:9]), m(last, direct("b", "x")[9:]))

	// Control frames may stand between fragments, and are answered at once.
	a.send(m(textFirst, "be"), m(0x89, "?"))
	a.wantFrame(0xA, "?")
	a.send(m(next, "twe"), m(0x8A, "unasked"), m(last, "en"))
	b.wantFrame(0x1, "between")
}

func TestPingPong(t *testing.T) {
	s := start(t)
	a, b := open(t, s, "r", "a"), open(t, s, "r", "b")
	f := func(wantOpcode byte, want string, frames ...[]byte) {
		t.Helper()
		a.send(frames...)
		if wantOpcode != 0 {
			a.wantFrame(wantOpcode, want)
		}
		a.send(text("marker"))
		b.wantFrame(0x1, "marker") // and nothing before it
	}
	m := func(first byte, payload string) []byte { return maskedFrame(first, []byte(payload)) }
	f(0x1, "pong", text("ping"))
	f(0x1, "pong", m(0x01, "p"), m(0x00, "in"), m(0x80, "g"))
	f(0x1, "pong", m(0x01, "ping"), m(0x80, ""))
	f(0, "", text("pong"))
	f(0, "", m(0x01, "po"), m(0x80, "ng"))
	f(0, "", m(0x01, ""), m(0x80, "pong"))

	f(0xA, "", m(0x89, ""))
	f(0xA, "\x00\xff", m(0x89, "\x00\xff"))
	f(0xA, strings.Repeat("x", 125), m(0x89, strings.Repeat("x", 125)))
	f(0, "", m(0x8A, "unasked"))
	f(0, "", m(0x8A, ""))

	// Many at once, in order.
	var all [][]byte
	for i := range 5000 {
		all = append(all, m(0x89, fmt.Sprint(i)))
	}
	a.send(all...)
	for i := range 5000 {
		a.wantFrame(0xA, fmt.Sprint(i))
	}
}

// coder/websocket's own ping wants a pong with its payload.
func TestControlPingOfOrdinaryClient(t *testing.T) {
	s := start(t)
	c := join(t, s, "r", "c")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reading := c.CloseRead(ctx) // a heartbeat would end it
	for range 3 {
		if err := c.Ping(ctx); err != nil && reading.Err() == nil {
			t.Fatalf("ping: %v", err)
		}
	}
}

func TestOnePeerIDTwice(t *testing.T) {
	s := start(t)
	p1, p2, q := join(t, s, "r", "p"), join(t, s, "r", "p"), join(t, s, "r", "q")
	say(t, p1, "from p1")
	hear(t, p2, "from p1")
	hear(t, q, "from p1")
	say(t, q, direct("p", "to both"))
	hear(t, p1, direct("p", "to both"))
	hear(t, p2, direct("p", "to both"))
	say(t, p2, direct("p", "to myself"))
	hear(t, p1, direct("p", "to myself"))
	hear(t, p2, direct("p", "to myself"))
	hearNothing(t, s, q)

	_ = p1.CloseNow() // the other stays
	eventually(t, "p1 has left", func() bool { return s.Stats().Peers == 2 })
	say(t, q, direct("p", "to p2"))
	hear(t, p2, direct("p", "to p2"))
}

func TestManyFramesInOneSegment(t *testing.T) {
	s := start(t)
	a, b := open(t, s, "r", "a"), join(t, s, "r", "b")
	var all []byte
	for i := range 3000 {
		all = append(all, text(fmt.Sprintf("message %d", i))...)
	}
	for i, chunks := 0, []int{1, 7, 13, 1000, 64<<10 - 1, 64 << 10}; len(all) > 0; i++ {
		n := min(len(all), chunks[i%len(chunks)])
		a.send(all[:n])
		all = all[n:]
	}
	for i := range 3000 {
		hear(t, b, fmt.Sprintf("message %d", i))
	}
	hearNothing(t, s, b)
}
