package server

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"

	"relaygate/router"
)

func TestCloseIsAnswered(t *testing.T) {
	s := start(t)
	listener := join(t, s, "r", "listener")
	f := func(code uint16, reason string) {
		t.Helper()
		for _, slowly := range []bool{false, true} {
			c := open(t, s, "r", "p")
			// What comes before the close frame counts, what comes after does not.
			if slowly {
				c.sendSlowly(closeFrame(code, reason))
			} else {
				c.send(text("before"), closeFrame(code, reason), text("after"), maskedFrame(0x89, nil))
				hear(t, listener, "before")
			}
			wantPayload := ""
			if code != 0 {
				wantPayload = string([]byte{byte(code >> 8), byte(code)})
			}
			c.wantFrame(0x8, wantPayload)
			c.ended()
		}
	}
	f(0, "")
	for _, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		f(code, "")
	}
	f(1000, "bye")
	f(4321, "f\u00fcr immer \U0001f44b")
	f(1000, string(repeat("x", 123)))
	hearNothing(t, s, listener)
}

func TestCloseIsInvalid(t *testing.T) {
	s := start(t)
	f := func(payload []byte, want uint16) {
		t.Helper()
		c := open(t, s, "r", "p")
		c.send(maskedFrame(0x88, payload))
		c.wantClose(want)
	}
	f([]byte{3}, 1002)
	for _, code := range []uint16{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65535} {
		f([]byte{byte(code >> 8), byte(code)}, 1002)
		f([]byte{byte(code >> 8), byte(code), 'x'}, 1002)
	}
	f([]byte("\x03\xe8\xff"), 1007)
	f([]byte("\x03\xe8ok \xe2\x82"), 1007)
	f([]byte("\x03\xe8\xed\xa0\x80"), 1007) // a surrogate
}

func TestCloseOfOrdinaryClient(t *testing.T) {
	s := start(t)
	f := func(code websocket.StatusCode, reason string) {
		t.Helper()
		c := join(t, s, "r", "c")
		if err := c.Close(code, reason); err != nil {
			t.Errorf("close %d %q: %v; want the same code back", code, reason, err)
		}
	}
	f(websocket.StatusNormalClosure, "")
	f(websocket.StatusGoingAway, "navigated away")
	f(4000, "of my own")
}

// Text is judged as a whole: that is when it is complete.
func TestTextNotUTF8(t *testing.T) {
	s := start(t)
	listener := join(t, s, "r", "listener")
	f := func(frames ...[]byte) {
		t.Helper()
		c := open(t, s, "r", "p")
		c.send(frames...)
		c.wantClose(1007)
	}
	f(maskedFrame(0x81, []byte("\xff")))
	f(maskedFrame(0x81, []byte("cut \xe2\x82")))
	f(maskedFrame(0x81, []byte("\xc0\xaf")))
	f(maskedFrame(0x81, []byte("\xed\xa0\x80")))
	f(maskedFrame(0x81, []byte("\xf4\x90\x80\x80")))
	f(maskedFrame(0x81, []byte("{\"targetPeerId\":\"listener\xff\"}")))
	f(maskedFrame(0x01, []byte("\xe2\x82")), maskedFrame(0x80, []byte("x")))
	f(maskedFrame(0x01, []byte("\xe2")), maskedFrame(0x00, []byte("\x82")), maskedFrame(0x80, nil))
	hearNothing(t, s, listener)
}

// The close frame arrives, however much its cause is followed by: a socket closed
// with unread input would send a reset.
func TestCloseArrives(t *testing.T) {
	s := start(t)
	c := open(t, s, "r", "p")
	c.send(frameHeader(0x81, 0, 5), []byte("naked")) // not masked
	for range 64 {
		c.send(maskedFrame(0x82, repeat("x", 100_000)))
	}
	c.wantClose(1002)
}

// drainable is a relay that the test itself drains.
func drainable(t *testing.T, environ ...string) (*Server, func(ctx context.Context) error) {
	t.Helper()
	s, err := Listen(config(t, environ...), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	drained := false
	drain := func(ctx context.Context) error {
		drained = true
		return s.Drain(ctx)
	}
	t.Cleanup(func() {
		if !drained { // the test failed before
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = s.Drain(ctx)
		}
	})
	return s, drain
}

func TestDrain(t *testing.T) {
	s, drain := drainable(t)
	a, b, alone := join(t, s, "r", "a"), join(t, s, "r", "b"), join(t, s, "r2", "alone")
	rawPeer, midFrame := open(t, s, "r", "raw"), open(t, s, "r", "mid-frame")
	midFrame.send(text("never completed")[:7])
	connecting, idle := dial(t, s), dial(t, s)
	connecting.send([]byte("GET /v1?rel"))
	idle.send([]byte(plainRequest("GET", "/")))
	idle.response()
	say(t, a, "one more thing")
	hear(t, b, "one more thing")
	rawPeer.wantFrame(0x1, "one more thing")
	midFrame.wantFrame(0x1, "one more thing")

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- drain(ctx) }()
	hearClose(t, a, websocket.StatusGoingAway, "server is stopping")
	hearClose(t, b, websocket.StatusGoingAway, "server is stopping")
	hearClose(t, alone, websocket.StatusGoingAway, "server is stopping")
	rawPeer.wantClose(1001)
	midFrame.wantClose(1001)
	connecting.ended()
	idle.ended()
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
	wantNothingHeld(t, s)
	if c, err := net.DialTimeout("tcp", s.Addr().String(), patience); err == nil {
		_ = c.Close()
		t.Error("a drained relay still accepts")
	}
}

// What was published before goes out before the close frame.
func TestDrainDelivers(t *testing.T) {
	s, drain := drainable(t)
	a, b := open(t, s, "r", "a"), open(t, s, "r", "b")
	const messages = 500
	for range messages {
		a.send(text("message"))
	}
	a.send(text("ping"))
	a.wantFrame(0x1, "pong") // so all are published
	// One whose tick never comes.
	var outsider router.Member
	outsider.Init("outsider", nil)
	s.table.All()[0].Publish(&outsider, appendFrame(nil, opText, []byte("last words")))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- drain(ctx) }()
	for range messages {
		b.wantFrame(0x1, "message")
	}
	b.wantFrame(0x1, "last words")
	a.wantFrame(0x1, "last words")
	b.wantClose(1001)
	a.wantClose(1001)
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
}

// Who does not answer the close frame is not waited for beyond the deadline.
func TestDrainIsBounded(t *testing.T) {
	s, drain := drainable(t)
	stubborn := open(t, s, "r", "stubborn")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain: %v, want that the deadline is exceeded", err)
	}
	if op, p := stubborn.frame(); op != 0x8 || string(p) != "\x03\xe9server is stopping" {
		t.Errorf("got frame %#x %q, want close 1001", op, p)
	}
	stubborn.ended()
	wantNothingHeld(t, s)
}
