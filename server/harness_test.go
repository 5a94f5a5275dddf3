package server

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"relaygate/router"
)

// What the socket tests share: a relay on a free port that must come back to
// nothing, and a client that nobody here wrote (coder/websocket). The one that
// sends whatever bytes it is told to is raw (contract_raw_test.go).

// patience bounds every wait in these tests. It is reached only by a failure, so
// it is long enough for a machine that is busy with something else.
const patience = 20 * time.Second

// testLoops is EVENT_LOOPS of every relay whose test does not set it.
var testLoops int

// TestMain runs every test with one event loop and with two, and looks for goroutines that are
// left. Fuzz targets and benchmarks run once, with two.
//
// Tests that mostly wait call t.Parallel: they run together when all others are done. Those that measure
// what the process has in all (memory, descriptors, goroutines), or that need its processors, do not.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil { // more than processors, since they wait
		panic(err)
	}
	once := func(name string) bool {
		f := flag.Lookup(name)
		return f != nil && f.Value.String() != "" && f.Value.String() != "false"
	}
	status := 0
	for testLoops = 1; testLoops <= 2; testLoops++ {
		if testLoops == 1 && (once("test.fuzz") || once("test.fuzzworker") || once("test.bench") || once("test.list")) {
			continue
		}
		fmt.Println("EVENT_LOOPS:", testLoops)
		status = max(status, m.Run())
	}
	if err := goleak.Find(); status == 0 && err != nil {
		fmt.Println(err)
		status = 1
	}
	os.Exit(status)
}

// config is a valid configuration on a free loopback port.
func config(t testing.TB, environ ...string) Config {
	t.Helper()
	cfg, err := ParseConfig(append([]string{
		"HOST=127.0.0.1", "PORT=0", fmt.Sprint("EVENT_LOOPS=", testLoops),
		"CONNECTION_CHECK_INTERVAL=24h", // no ping between what a test wants to hear
		"DRAIN_PERIOD=0s",
	}, environ...))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// start runs a relay that is configured by environ, such as "MAX_MESSAGE_BYTES=64",
// until the test ends. Then it is drained, and must hold nothing and have met no panic.
func start(t testing.TB, environ ...string) *Server {
	t.Helper()
	return startWith(t, zap.NewNop(), environ...)
}

func startWith(t testing.TB, log *zap.Logger, environ ...string) *Server {
	t.Helper()
	s, err := Listen(config(t, environ...), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		drain(t, s)
		wantNothingHeld(t, s)
		wantNoCounts(t, s)
		if n := s.Stats().Panics; n > 0 {
			t.Errorf("%d panics, want none", n)
		}
	})
	return s
}

// drain stops s.
func drain(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Drain(ctx); err != nil {
		t.Errorf("drain: %v", err)
	}
}

func wantNothingHeld(t testing.TB, s *Server) {
	t.Helper()
	eventually(t, "nothing is held", func() bool {
		st := s.Stats()
		return st.Connections == 0 && st.Peers == 0 && st.Rooms == 0 && st.Seats == 0 && bytesHeld() == 0
	})
}

// eventually polls until ok, for what no message announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func wsURL(s *Server, relayID, peerID string) string {
	q := url.Values{"relayId": {relayID}, "peerId": {peerID}}
	return "ws://" + s.Addr().String() + "/v1?" + q.Encode()
}

// join connects with coder/websocket and waits until the peer is in its room:
// the relay has answered what it said.
func join(t testing.TB, s *Server, relayID, peerID string) *websocket.Conn {
	t.Helper()
	return joinWith(t, wsURL(s, relayID, peerID), nil)
}

func joinWith(t testing.TB, target string, opts *websocket.DialOptions) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, _, err := websocket.Dial(ctx, target, opts)
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	t.Cleanup(func() { _ = c.CloseNow() })
	say(t, c, "ping")
	hear(t, c, "pong")
	return c
}

func say(t testing.TB, c *websocket.Conn, text string) {
	t.Helper()
	sayBytes(t, c, websocket.MessageText, []byte(text))
}

func sayBytes(t testing.TB, c *websocket.Conn, kind websocket.MessageType, b []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Write(ctx, kind, b); err != nil {
		t.Fatalf("write: %v", err)
	}
}

// hear wants the next message to be this text. Heartbeats do not count, unless
// "ping" is what is wanted: a peer's own is never relayed, so each is the relay's.
func hear(t testing.TB, c *websocket.Conn, text string) {
	t.Helper()
	hearBytes(t, c, websocket.MessageText, []byte(text))
}

func hearBytes(t testing.TB, c *websocket.Conn, kind websocket.MessageType, want []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	k, b, err := c.Read(ctx)
	for isHeartbeat(k, b, err) && string(want) != "ping" {
		k, b, err = c.Read(ctx)
	}
	if err != nil {
		t.Fatalf("read: %v; want %v %.80q", err, kind, want)
	}
	if k != kind || !bytes.Equal(b, want) {
		t.Fatalf("got %v %.80q (%d bytes), want %v %.80q (%d bytes)", k, b, len(b), kind, want, len(want))
	}
}

// hearAny returns the next text that is no heartbeat.
func hearAny(t testing.TB, c *websocket.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	k, b, err := c.Read(ctx)
	for isHeartbeat(k, b, err) {
		k, b, err = c.Read(ctx)
	}
	if err != nil || k != websocket.MessageText {
		t.Fatalf("got %v %.80q, %v; want a text", k, b, err)
	}
	return string(b)
}

func isHeartbeat(kind websocket.MessageType, payload []byte, err error) bool {
	return err == nil && kind == websocket.MessageText && string(payload) == "ping"
}

// hearNothing shows that nothing is on its way to c, which says "ping" and hears
// "pong" next: what was published before is delivered first.
func hearNothing(t testing.TB, s *Server, c *websocket.Conn) {
	t.Helper()
	flush(s)
	say(t, c, "ping")
	hear(t, c, "pong")
}

// flush delivers what has been published.
func flush(s *Server) {
	var scratch router.Scratch
	for _, r := range s.table.All() {
		for r.Drain(&scratch) {
		}
	}
}

// hearClose wants the connection to end with this close frame.
func hearClose(t testing.TB, c *websocket.Conn, code websocket.StatusCode, reason string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, _, err := c.Read(ctx)
		if err == nil {
			continue
		}
		var ce websocket.CloseError
		if !errors.As(err, &ce) || ce.Code != code || ce.Reason != reason {
			t.Fatalf("ended with %v, want close %d %q", err, code, reason)
		}
		return
	}
}

// peerOf returns the relay's side of the connection called id, which is or will be open.
func peerOf(t testing.TB, s *Server, id string) (p *peer) {
	t.Helper()
	eventually(t, id+" is open", func() bool {
		for _, p = range s.wheels[phaseOpen].All() {
			if p.ID() == id {
				return true
			}
		}
		return false
	})
	return p
}

// inLoop runs do in p's loop, and waits until it is done.
func (p *peer) inLoop(do func(l *loop)) {
	done := make(chan struct{})
	p.loop.post(task{peer: p, do: func(l *loop, _ *peer) {
		defer close(done)
		do(l)
	}})
	<-done
}

// outsider makes a member of relayID that belongs to no loop, until the test ends. What it publishes is flushed
// only if somebody else flushes the room.
func outsider(t testing.TB, s *Server, relayID string) *router.Member {
	m := new(router.Member)
	m.Init("outsider", nobody{})
	s.table.Join([]byte(relayID), m)
	t.Cleanup(func() { s.table.Leave(m) })
	return m
}

// nobody is a router.Conn that takes all.
type nobody struct{}

func (nobody) Write([]byte) {}

// waiting is how many bytes wait for p's socket.
func (p *peer) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out == nil {
		return 0
	}
	return len(p.out.b) - p.out.sent
}

func repeat(s string, n int) []byte { return []byte(strings.Repeat(s, n)) }
