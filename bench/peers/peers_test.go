// Package peers_test checks the comparison relays as a client sees them: each is built, started as a process and
// spoken to over real sockets. A relay that lost or reordered messages would make a benchmark of nothing.
package peers_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestPlainRequests(t *testing.T) {
	forEachRelay(t, func(t *testing.T, p *process) {
		f := func(path string, wantStatus int, wantKey string) {
			t.Helper()
			resp, err := http.Get("http://" + p.addr + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != wantStatus {
				t.Fatalf("GET %s: status %d, want %d", path, resp.StatusCode, wantStatus)
			}
			var body map[string]any
			if wantKey == "" {
				return
			}
			if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || body[wantKey] == nil {
				t.Fatalf("GET %s: %v, %v, want a JSON object with %q", path, body, err, wantKey)
			}
		}
		f("/", 200, "message")
		f("/v1", 200, "version")
		f("/v1/", 200, "version")
		f("/v2", 404, "")
	})
}

func TestRelaysToOthersOfTheRoom(t *testing.T) {
	forEachRelay(t, func(t *testing.T, p *process) {
		a, b, c := p.join("r", "a"), p.join("r", "b"), p.join("r", "c")
		elsewhere := p.join("other", "b")
		f := func(kind websocket.MessageType, payload string) {
			t.Helper()
			a.send(kind, payload)
			b.want(kind, payload)
			c.want(kind, payload)
		}
		f(websocket.MessageText, "grüße")
		f(websocket.MessageText, `{"to":{"targetPeerId":"b"}}`)
		f(websocket.MessageText, `{"targetPeerId":""}`)
		f(websocket.MessageText, `"targetPeerId" but no JSON`)
		f(websocket.MessageBinary, "\x00\xff")
		f(websocket.MessageBinary, "ping")
		f(websocket.MessageBinary, `{"targetPeerId":"b"}`)
		a.wantNothing()
		elsewhere.wantNothing()
	})
}

func TestDirectMessage(t *testing.T) {
	forEachRelay(t, func(t *testing.T, p *process) {
		a, b, b2, c := p.join("r", "a"), p.join("r", "b"), p.join("r", "b"), p.join("r", "c")
		elsewhere := p.join("other", "b")
		toB := `{"payload":{"n":1},"targetPeerId":"b"}`
		a.send(websocket.MessageText, toB)
		b.want(websocket.MessageText, toB)
		b2.want(websocket.MessageText, toB)
		toA := `{"targetPeerId":"a"}`
		a.send(websocket.MessageText, toA)
		a.want(websocket.MessageText, toA)
		a.send(websocket.MessageText, `{"targetPeerId":"nobody"}`)
		a.send(websocket.MessageText, "pong")
		for _, other := range []*client{a, b, b2, c, elsewhere} {
			other.wantNothing()
		}
	})
}

// A room of more than a few members finds targets by another way.
func TestDirectMessageInALargeRoom(t *testing.T) {
	forEachRelay(t, func(t *testing.T, p *process) {
		clients := make([]*client, 40)
		for i := range clients {
			clients[i] = p.join("r", fmt.Sprint("p", i/2))
		}
		_ = clients[9].ws.Close(websocket.StatusNormalClosure, "")
		for i, c := range clients {
			if i == 9 {
				continue
			}
			msg := fmt.Sprintf(`{"targetPeerId":"p%d"}`, i/2)
			clients[39].send(websocket.MessageText, msg)
			c.want(websocket.MessageText, msg)
			if twin := i ^ 1; twin != 9 {
				clients[twin].want(websocket.MessageText, msg)
			}
		}
		clients[0].wantNothing()
	})
}

func TestKeepsOrder(t *testing.T) {
	forEachRelay(t, func(t *testing.T, p *process) {
		sender := p.join("r", "sender")
		recipients := make([]*client, 9)
		for i := range recipients {
			recipients[i] = p.join("r", fmt.Sprint("p", i))
		}
		const count = 1000
		message := func(i int) string {
			if i%3 == 0 {
				return fmt.Sprintf(`{"targetPeerId":"p%d","n":%d}`, i%len(recipients), i)
			}
			return fmt.Sprintf(`{"n":%d,"pad":%q}`, i, strings.Repeat("x", i))
		}
		go func() {
			for i := range count {
				if sender.ws.Write(p.ctx, websocket.MessageText, []byte(message(i))) != nil {
					return // the recipients will miss it
				}
			}
		}()
		for r, c := range recipients {
			for i := range count {
				if i%3 != 0 || i%len(recipients) == r {
					c.want(websocket.MessageText, message(i))
				}
			}
		}
	})
}

func TestLargeMessages(t *testing.T) {
	forEachRelay(t, func(t *testing.T, p *process) {
		a, b, c := p.join("r", "a"), p.join("r", "b"), p.join("r", "c")
		f := func(size int) {
			t.Helper()
			payload := make([]byte, size)
			for i := range payload {
				payload[i] = byte(rand.Uint32())
			}
			a.send(websocket.MessageBinary, string(payload))
			b.want(websocket.MessageBinary, string(payload))
			c.want(websocket.MessageBinary, string(payload))
		}
		f(125)
		f(126)
		f(65535)
		f(65536)
		f(256 << 10)
		f(1 << 20)
		w, err := a.ws.Writer(p.ctx, websocket.MessageText)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			_, _ = w.Write(bytes.Repeat([]byte("fragment"), 1000))
		}
		_ = w.Close()
		b.want(websocket.MessageText, strings.Repeat("fragment", 4000))
	})
}

// Connections that end in any way are let go of.
func TestReleasesConnections(t *testing.T) {
	openFiles := func(p *process) int {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		if err != nil {
			p.t.Fatal(err)
		}
		return len(files)
	}
	forEachRelay(t, func(t *testing.T, p *process) {
		stays := p.join("r", "stays")
		before := openFiles(p)
		for i := range 300 {
			c := p.join("r", fmt.Sprint("p", i))
			if i%2 == 0 {
				_ = c.ws.Close(websocket.StatusNormalClosure, "")
			} else {
				_ = c.ws.CloseNow()
			}
		}
		for openFiles(p) > before {
			if p.ctx.Err() != nil {
				t.Fatalf("%d open files, want the %d of before", openFiles(p), before)
			}
			time.Sleep(5 * time.Millisecond)
		}
		stays.send(websocket.MessageText, "nobody is here")
		stays.wantNothing()
	})
}

func TestClosesSilentPeers(t *testing.T) {
	forEachRelay(t, func(t *testing.T, p *process) {
		silent, awake := p.join("r", "silent"), p.join("r", "awake")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				_, payload, err := silent.ws.Read(p.ctx)
				if err != nil {
					return
				}
				if string(payload) != "ping" {
					t.Errorf("silent peer got %q, want only pings", payload)
				}
			}
		}()
		for {
			awake.want(websocket.MessageText, "ping")
			awake.send(websocket.MessageText, "pong")
			select {
			case <-ended:
				if p.ctx.Err() != nil {
					t.Fatal("silent peer still connected")
				}
				awake.wantPong()
				return
			default:
			}
		}
	}, "CONNECTION_CHECK_INTERVAL=100")
}

func TestClosesSlowPeers(t *testing.T) {
	forEachRelay(t, func(t *testing.T, p *process) {
		sender, slow, quick := p.join("r", "sender"), p.join("r", "slow"), p.join("r", "quick")
		payload := strings.Repeat("x", 64<<10)
		const count = 400 // 25 MiB: more than the socket buffers and the queue hold
		for range count {
			sender.send(websocket.MessageBinary, payload)
			quick.want(websocket.MessageBinary, payload)
		}
		for range count {
			if _, _, err := slow.ws.Read(p.ctx); err != nil {
				if p.ctx.Err() != nil {
					t.Fatal("slow peer was neither served nor closed")
				}
				return
			}
		}
		t.Fatal("slow peer got everything, want it closed")
	}, "MAX_QUEUE_BYTES=2097152")
}
