//go:build browser || node

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The client in README.md is run as it stands there, but for the address. It comes
// through a gateway that can cut its connection.

// clientEnviron has the relay ping often, and log who comes and goes.
var clientEnviron = []string{"CONNECTION_CHECK_INTERVAL=2s", "LOG_LEVEL=debug"}

// readmeClient returns the first JavaScript in README.md, with another address.
func readmeClient(t *testing.T, addr string) string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	const original = "ws://localhost:8080/"
	block := regexp.MustCompile("(?s)```js\n(.*?)```").FindSubmatch(readme)
	if block == nil || strings.Count(string(block[1]), original) != 1 {
		t.Fatalf("README.md has no client of %s: %q", original, block)
	}
	return strings.Replace(string(block[1]), original, "ws://"+addr+"/", 1)
}

// awaitConnected waits until n peers have connected since the start.
func (r *relay) awaitConnected(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " peers have connected"), func() bool { return strings.Count(r.logs.text(), `"peer connected"`) >= n })
}

// gateway forwards connections to a relay.
type gateway struct {
	net.Listener
	mu   sync.Mutex
	open []net.Conn
	shut int // number of connections to close at once instead
}

func startGateway(t *testing.T, r *relay) *gateway {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{Listener: l}
	t.Cleanup(func() {
		_ = l.Close()
		g.cut(0)
	})
	go func() {
		for {
			outer, err := l.Accept()
			if err != nil {
				return
			}
			g.forward(outer, r.addr)
		}
	}()
	return g
}

func (g *gateway) forward(outer net.Conn, addr string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut > 0 {
		g.shut--
		_ = outer.Close()
		return
	}
	inner, err := net.Dial("tcp", addr)
	if err != nil {
		_ = outer.Close()
		return
	}
	g.open = append(g.open, outer, inner)
	go func() { _, _ = io.Copy(inner, outer) }()
	go func() { _, _ = io.Copy(outer, inner) }()
}

// cut ends all connections, and the next ones as soon as they come.
func (g *gateway) cut(next int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = next
	for _, c := range g.open {
		_ = c.Close()
	}
	g.open = nil
}

// witness is a peer beside those that are tested; it comes to the relay directly.
type witness struct {
	t     *testing.T
	c     *websocket.Conn
	pings atomic.Int32
	heard chan string
}

func newWitness(t *testing.T, r *relay) *witness {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+r.addr+"/v1?relayId=my-document&peerId=witness", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseNow() })
	w := &witness{t: t, c: c, heard: make(chan string, 16)}
	go func() {
		for {
			_, b, err := c.Read(context.Background())
			switch {
			case err != nil:
				return
			case string(b) == "ping":
				w.pings.Add(1)
				_ = c.Write(context.Background(), websocket.MessageText, []byte("pong"))
			default:
				w.heard <- string(b)
			}
		}
	}()
	return w
}

// awaitHeartbeats waits for four pings: in between each peer has had three.
func (w *witness) awaitHeartbeats() {
	w.t.Helper()
	want := w.pings.Load() + 4
	eventually(w.t, "the witness is pinged", func() bool { return w.pings.Load() >= want })
}

// wantHeard waits for the next text on a channel.
func wantHeard(t *testing.T, who string, heard <-chan string, want string) {
	t.Helper()
	select {
	case got := <-heard:
		if got != want {
			t.Fatalf("%s heard %q, want %q", who, got, want)
		}
	case <-time.After(patience):
		t.Fatalf("%s has not heard %q", who, want)
	}
}

// wantNoneEvicted looks in the log of a relay that runs at debug level.
func wantNoneEvicted(t *testing.T, r *relay) {
	t.Helper()
	if s := r.logs.text(); strings.Contains(s, "heartbeat_timeout") {
		t.Errorf("a client that answers was closed:\n%s", s)
	}
}
