package server

import (
	"context"
	"errors"
	"net"
	"sync"
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

// Whether text is UTF-8 is judged when the message is complete.
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

// From our close frame on nothing of a peer's is relayed, however soon it follows.
func TestNothingIsRelayedAfterClose(t *testing.T) {
	s := start(t)
	listener := join(t, s, "r", "listener")
	for range 500 {
		c := open(t, s, "r", "evicted")
		c.awaitHandled()
		for _, p := range s.wheels[phaseOpen].All() {
			if p.ID() == "evicted" {
				go p.inLoop(func(l *loop) { l.closeWith(p, closingHeartbeat) })
			}
		}
		c.wantCloseFrame(1001)
		c.send(text("too late"), closeFrame(1001, ""))
		c.ended()
	}
	hearNothing(t, s, listener)
}

// drainable is a relay that the test itself drains, once; the result comes on the
// channel. The relay has ended when the test has.
func drainable(t *testing.T, environ ...string) (*Server, func(timeout time.Duration) <-chan error) {
	t.Helper()
	s, err := Listen(config(t, environ...), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	result, ended := make(chan error, 1), make(chan struct{})
	var once sync.Once
	drain := func(timeout time.Duration) <-chan error {
		once.Do(func() {
			go func() {
				defer close(ended)
				ctx, cancel := context.WithTimeout(context.Background(), timeout)
				defer cancel()
				result <- s.Drain(ctx)
			}()
		})
		return result
	}
	t.Cleanup(func() {
		drain(0) // if the test failed before it did
		<-ended
		if n := s.Stats().Panics; n > 0 {
			t.Errorf("%d panics, want none", n)
		}
	})
	return s, drain
}

func TestDrain(t *testing.T) {
	s, drain := drainable(t)
	a, b, alone := join(t, s, "r", "a"), join(t, s, "r", "b"), join(t, s, "r2", "alone")
	rawPeer := open(t, s, "r", "raw")
	connecting, idle := dial(t, s), dial(t, s)
	connecting.send([]byte(plainRequest("GET", "/")), []byte("GET /v1?rel"))
	connecting.response() // so what it sent has been read: else it would be reset
	idle.send([]byte(plainRequest("GET", "/")))
	idle.response()
	say(t, a, "one more thing")
	hear(t, b, "one more thing")
	rawPeer.wantFrame(0x1, "one more thing")

	drained := drain(patience)
	hearClose(t, a, websocket.StatusGoingAway, "server is stopping")
	hearClose(t, b, websocket.StatusGoingAway, "server is stopping")
	hearClose(t, alone, websocket.StatusGoingAway, "server is stopping")
	rawPeer.wantClose(1001)
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

// A close that falls into the middle of a peer's frame: the rest of it is thrown
// away, and the peer's close frame behind it is seen.
func TestDrainMidFrame(t *testing.T) {
	s, drain := drainable(t)
	frame := maskedFrame(0x82, repeat("x", 70_000)) // a header of 14 bytes
	cuts := []int{1, 2, 9, 13, 14, 15, 20, 30_000, len(frame) - 1}
	var peers []*raw
	for _, fragmented := range []bool{false, true} {
		for _, cut := range cuts {
			c := open(t, s, "r", "p")
			if fragmented {
				c.send(maskedFrame(0x01, []byte("begun")))
			}
			begun := append([]byte(nil), frame[:cut]...)
			if fragmented {
				begun[0] = 0x80 // the end of the message, not a message
			}
			c.send(maskedFrame(0x89, nil), begun)
			c.wantFrame(0xA, "") // so the beginning has been read, or is about to be
			peers = append(peers, c)
		}
	}
	begin := time.Now()
	drained := drain(patience)
	for i, c := range peers {
		c.wantCloseFrame(1001)
		c.send(frame[cuts[i%len(cuts)]:], closeFrame(1001, ""))
		c.ended()
	}
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
	if took := time.Since(begin); took > closeTimeout {
		t.Errorf("drained after %v: close frames were not seen", took)
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
	a.awaitHandled() // so all are published
	// One that publishes and never flushes: only the drain can deliver that.
	var outsider router.Member
	outsider.Init("outsider", nil)
	s.table.All()[0].Publish(&outsider, appendFrame(nil, opText, []byte("last words")))
	drained := drain(patience)
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

// A peer that does not answer the close frame is not waited for beyond the deadline.
func TestDrainIsBounded(t *testing.T) {
	s, drain := drainable(t)
	stubborn := open(t, s, "r", "stubborn")
	if err := <-drain(50 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain: %v, want that the deadline is exceeded", err)
	}
	if op, p := stubborn.frame(); op != 0x8 || string(p) != "\x03\xe9server is stopping" {
		t.Errorf("got frame %#x %q, want close 1001", op, p)
	}
	stubborn.ended()
	wantNothingHeld(t, s)
}
