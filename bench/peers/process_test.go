package peers_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const patience = 20 * time.Second

var relays = []string{"gorilla", "gws", "coder", "nbhttp"}

var binaries string // the directory they are built into

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	var err error
	if binaries, err = os.MkdirTemp("", "peers"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binaries)
	build := exec.Command("go", "build", "-o", binaries, "./gorilla", "./gws", "./coder", "./nbhttp")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// forEachRelay runs test against a fresh process of every relay and wants the process to end with status 0 on SIGTERM.
// No peer is pinged, unless env has another CONNECTION_CHECK_INTERVAL.
func forEachRelay(t *testing.T, test func(t *testing.T, p *process), env ...string) {
	t.Helper()
	for _, name := range relays {
		t.Run(name, func(t *testing.T) {
			p := start(t, filepath.Join(binaries, name), env)
			test(t, p)
			p.stop()
		})
	}
}

type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	addr string
	ctx  context.Context
}

func start(t *testing.T, binary string, env []string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	p := &process{t: t, addr: freeAddr(t), ctx: ctx}
	host, port, _ := net.SplitHostPort(p.addr)
	p.cmd = exec.CommandContext(ctx, binary)
	p.cmd.Env = append(append(os.Environ(), "HOST="+host, "PORT="+port, "CONNECTION_CHECK_INTERVAL=10h"), env...)
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := net.Dial("tcp", p.addr)
		if err == nil {
			_ = c.Close()
			return p
		}
		if ctx.Err() != nil {
			t.Fatalf("%s does not listen on %s: %v", binary, p.addr, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("after SIGTERM: %v, want status 0", err)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// client is one peer. Its methods fail the test on any error.
type client struct {
	p  *process
	ws *websocket.Conn
}

// join connects and exchanges ping and pong: after that the relay surely counts the peer as a member.
func (p *process) join(relayID, peerID string) *client {
	p.t.Helper()
	ws, _, err := websocket.Dial(p.ctx, fmt.Sprintf("ws://%s/v1?relayId=%s&peerId=%s", p.addr, relayID, peerID), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = ws.CloseNow() })
	ws.SetReadLimit(2 << 20)
	c := &client{p, ws}
	c.send(websocket.MessageText, "ping")
	c.want(websocket.MessageText, "pong")
	return c
}

func (c *client) send(kind websocket.MessageType, payload string) {
	c.p.t.Helper()
	if err := c.ws.Write(c.p.ctx, kind, []byte(payload)); err != nil {
		c.p.t.Fatal(err)
	}
}

func (c *client) want(kind websocket.MessageType, payload string) {
	c.p.t.Helper()
	gotKind, got, err := c.ws.Read(c.p.ctx)
	if err != nil {
		c.p.t.Fatalf("read: %v, want %v %.60q", err, kind, payload)
	}
	if gotKind != kind || string(got) != payload {
		c.p.t.Fatalf("got %v %.60q (%d bytes), want %v %.60q (%d bytes)", gotKind, got, len(got), kind, payload, len(payload))
	}
}

// wantNothing uses the order of messages: whatever should not have come would have come before the pong.
func (c *client) wantNothing() {
	c.p.t.Helper()
	c.send(websocket.MessageText, "ping")
	c.want(websocket.MessageText, "pong")
}

// wantPong is wantNothing for a peer that may be pinged in between.
func (c *client) wantPong() {
	c.p.t.Helper()
	c.send(websocket.MessageText, "ping")
	for {
		_, payload, err := c.ws.Read(c.p.ctx)
		if err != nil {
			c.p.t.Fatalf("read: %v, want pong", err)
		}
		if string(payload) == "pong" {
			return
		}
	}
}
