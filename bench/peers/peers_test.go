package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A relay that lost or reordered messages would make a benchmark of nothing: each library's is started as a process,
// which is this test's binary, and spoken to over real sockets.

const patience = 30 * time.Second

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && !strings.HasPrefix(os.Args[1], "-") {
		main()
		return
	}
	os.Exit(m.Run())
}

type process struct {
	t    *testing.T
	pid  int
	addr string
	ctx  context.Context
}

// forEach runs test against a fresh process of every library, which has to end with status 0 on SIGTERM.
func forEach(t *testing.T, env string, test func(p *process)) {
	for _, library := range []string{"gws", "gws-sync", "gorilla", "coder", "nbhttp"} {
		t.Run(library, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			host, port, _ := net.SplitHostPort(l.Addr().String())
			cmd := exec.CommandContext(ctx, os.Args[0], library)
			cmd.Env = append(os.Environ(), "HOST="+host, "PORT="+port, env)
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			p := &process{t: t, pid: cmd.Process.Pid, addr: l.Addr().String(), ctx: ctx}
			for {
				if c, err := net.Dial("tcp", p.addr); err == nil {
					c.Close()
					break
				}
				if ctx.Err() != nil {
					t.Fatal("it does not listen")
				}
				time.Sleep(5 * time.Millisecond)
			}
			test(p)
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("after SIGTERM: %v, want status 0", err)
			}
		})
	}
}

// client is one peer. Its methods fail the test on any error.
type client struct {
	*process
	ws *websocket.Conn
}

// join connects and exchanges ping and pong: after that the relay surely counts the peer as a member.
func (p *process) join(relayID, peerID string) *client {
	p.t.Helper()
	ws, _, err := websocket.Dial(p.ctx, fmt.Sprintf("ws://%s/v1?relayId=%s&peerId=%s", p.addr, relayID, peerID), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	ws.SetReadLimit(2 << 20)
	c := &client{p, ws}
	c.wantNothing()
	return c
}

func (c *client) send(kind websocket.MessageType, payload string) {
	c.t.Helper()
	if err := c.ws.Write(c.ctx, kind, []byte(payload)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) want(kind websocket.MessageType, payload string) {
	c.t.Helper()
	gotKind, got, err := c.ws.Read(c.ctx)
	if err != nil || gotKind != kind || string(got) != payload {
		c.t.Fatalf("got %v %.60q (%d bytes), %v; want %v %.60q (%d bytes)", gotKind, got, len(got), err, kind, payload, len(payload))
	}
}

// wantNothing uses the order of messages: whatever should not have come would have come before the pong.
func (c *client) wantNothing() {
	c.t.Helper()
	c.send(websocket.MessageText, "ping")
	c.want(websocket.MessageText, "pong")
}

const text, binary = websocket.MessageText, websocket.MessageBinary

func TestWhoReceives(t *testing.T) {
	forEach(t, "", func(p *process) {
		resp, err := http.Get("http://" + p.addr + "/v1")
		if err != nil || resp.StatusCode != 200 {
			p.t.Fatalf("GET /v1: %v, %v", resp, err)
		}
		a, b, b2, c := p.join("r", "a"), p.join("r", "b"), p.join("r", "b"), p.join("r", "c")
		elsewhere := p.join("other", "b")
		all := []*client{a, b, b2, c, elsewhere}
		f := func(kind websocket.MessageType, payload string, to ...*client) {
			p.t.Helper()
			a.send(kind, payload)
			a.wantNothing() // a's own order: the message has been dealt with
			for _, x := range to {
				x.want(kind, payload)
			}
		}
		f(text, "grüße", b, b2, c)
		f(text, `{"to":{"targetPeerId":"b"}}`, b, b2, c)
		f(text, `{"targetPeerId":""}`, b, b2, c)
		f(text, `"targetPeerId" but no JSON`, b, b2, c)
		f(binary, "\x00\xff", b, b2, c)
		f(binary, `{"targetPeerId":"b"}`, b, b2, c)
		f(text, `{"payload":{"n":1},"targetPeerId":"b"}`, b, b2)
		f(text, `{"targetPeerId":"nobody"}`)
		f(text, "pong")
		for range indexFrom { // in a larger room a target is found by another way
			all = append(all, p.join("r", "x"))
		}
		f(text, `{"targetPeerId":"c"}`, c)
		c.ws.CloseNow()
		all = append(all[:3], all[4:]...)
		big := strings.Repeat("fragment", 1<<17)
		w, err := a.ws.Writer(p.ctx, text)
		if err != nil {
			p.t.Fatal(err)
		}
		for part := range 4 {
			fmt.Fprint(w, big[part<<18:(part+1)<<18])
		}
		w.Close()
		b.want(text, big)
		b2.want(text, big)
		for _, x := range all[5:] {
			if x != c {
				x.ws.CloseNow()
			}
		}
		for _, x := range []*client{a, b, b2, elsewhere} {
			x.wantNothing()
		}
	})
}

func TestKeepsOrder(t *testing.T) {
	forEach(t, "", func(p *process) {
		sender, recipients := p.join("r", "sender"), make([]*client, 6)
		for i := range recipients {
			recipients[i] = p.join("r", fmt.Sprint("p", i))
		}
		message := func(i int) string {
			if i%3 == 0 {
				return fmt.Sprintf(`{"targetPeerId":"p%d","n":%d}`, i%len(recipients), i)
			}
			return fmt.Sprintf(`{"n":%d,"pad":%q}`, i, strings.Repeat("x", i))
		}
		const count = 600
		go func() {
			for i := range count {
				if sender.ws.Write(p.ctx, text, []byte(message(i))) != nil {
					return // the recipients will miss it
				}
			}
		}()
		for r, c := range recipients {
			for i := range count {
				if i%3 != 0 || i%len(recipients) == r {
					c.want(text, message(i))
				}
			}
		}
	})
}

func TestReleasesConnections(t *testing.T) {
	forEach(t, "", func(p *process) {
		files := func() int {
			all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
			if err != nil {
				p.t.Fatal(err)
			}
			return len(all)
		}
		stays := p.join("r", "stays")
		before := files()
		for i := range 100 {
			c := p.join("r", fmt.Sprint("p", i))
			if i%2 == 0 {
				c.ws.Close(websocket.StatusNormalClosure, "")
			} else {
				c.ws.CloseNow()
			}
		}
		for files() > before {
			if p.ctx.Err() != nil {
				p.t.Fatalf("%d open files, want the %d of before", files(), before)
			}
			time.Sleep(5 * time.Millisecond)
		}
		stays.send(text, "nobody is here")
		stays.wantNothing()
	})
}

func TestClosesSilentPeers(t *testing.T) {
	forEach(t, "CONNECTION_CHECK_INTERVAL=300", func(p *process) {
		silent := p.join("r", "silent")
		for n := 0; ; n++ {
			_, payload, err := silent.ws.Read(p.ctx)
			if err != nil {
				if p.ctx.Err() != nil || n == 0 {
					p.t.Fatalf("ended after %d pings: %v", n, err)
				}
				return
			}
			if !bytes.Equal(payload, []byte("ping")) {
				p.t.Fatalf("silent peer got %q, want only pings", payload)
			}
		}
	})
}

func TestClosesSlowPeers(t *testing.T) {
	forEach(t, "MAX_QUEUE_BYTES=2097152", func(p *process) {
		sender, slow, quick := p.join("r", "sender"), p.join("r", "slow"), p.join("r", "quick")
		payload := strings.Repeat("x", 64<<10)
		const count = 400 // 25 MiB: more than the socket buffers and the queue hold
		for range count {
			sender.send(binary, payload)
			quick.want(binary, payload)
		}
		for range count {
			if _, _, err := slow.ws.Read(p.ctx); err != nil {
				if p.ctx.Err() != nil {
					p.t.Fatal("slow peer was neither served nor closed")
				}
				return
			}
		}
		p.t.Fatal("slow peer got everything, want it closed")
	})
}
