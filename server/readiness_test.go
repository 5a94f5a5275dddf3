package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
)

// wantReadyz asks for /readyz and wants this answer.
func wantReadyz(t *testing.T, c *raw, method string, status int, want string) {
	t.Helper()
	c.send([]byte(plainRequest(method, "/readyz")))
	res, body := c.responseTo(method)
	if method == http.MethodHead {
		body = want
	}
	if res.StatusCode != status || body != want || res.Close || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("%s /readyz: %d %q %v; want %d %q", method, res.StatusCode, body, res.Header, status, want)
	}
	if res.ContentLength != int64(len(want)) {
		t.Errorf("%s /readyz: Content-Length %d, want %d", method, res.ContentLength, len(want))
	}
}

// TestReadiness: during DRAIN_DELAY, GET /readyz says draining, on connections that were there and on new ones.
// Peers still come and talk.
func TestReadiness(t *testing.T) {
	t.Parallel()
	s, err := Listen(config(t, "DRAIN_DELAY=10m"), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	drained := make(chan error, 1)
	begin := sync.OnceFunc(func() { go func() { drained <- s.Drain(ctx) }() })
	defer func() {
		begin()
		end()
		if err := <-drained; !errors.Is(err, context.Canceled) {
			t.Errorf("drained with %v, want that it was cancelled", err)
		}
		wantNothingHeld(t, s)
	}()
	probe := dial(t, s)
	wantReadyz(t, probe, "GET", 200, "ready\n")
	wantReadyz(t, probe, "HEAD", 200, "ready\n")
	early := open(t, s, "r", "early")
	begin()
	eventually(t, "it drains", func() bool { return s.draining.Load() })
	wantReadyz(t, probe, "GET", 503, "draining\n")
	wantReadyz(t, probe, "HEAD", 503, "draining\n")
	wantReadyz(t, dial(t, s), "GET", 503, "draining\n")
	late := open(t, s, "r", "late")
	late.send(text("I am late"))
	early.wantFrame(0x1, "I am late")
}

// TestReadinessBehindTheDelay: when DRAIN_DELAY is over, and not before, accepting ends and upgrades are refused.
// /readyz is answered as long as there are connections.
func TestReadinessBehindTheDelay(t *testing.T) {
	t.Parallel()
	const delay = 500 * time.Millisecond
	s, drain := drainable(t, "DRAIN_DELAY=500ms", "DRAIN_PERIOD=10m")
	probe, waiting := dial(t, s), dial(t, s)
	for _, c := range []*raw{probe, waiting} {
		wantReadyz(t, c, "GET", 200, "ready\n")
	}
	began := time.Now()
	drained := drain(patience)
	eventually(t, "accepting has ended", func() bool { return s.refusing.Load() })
	if d := time.Since(began); d < delay {
		t.Errorf("accepting ended after %v, want DRAIN_DELAY", d)
	}
	wantReadyz(t, probe, "GET", 503, "draining\n")
	waiting.send([]byte(upgradeRequest("r", "too late")))
	if res, body := waiting.response(); res.StatusCode != 503 || body != "the relay is stopping\n" || res.Header.Get("Retry-After") == "" {
		t.Errorf("an upgrade after accepting has ended: %d %q %v", res.StatusCode, body, res.Header)
	}
	probe.Close()
	waiting.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Refused["draining"] != 1 || st.Left != 0 {
		t.Errorf("counted %v, %d left; want draining once, none", st.Refused, st.Left)
	}
}

// TestPeersStayDuringTheDelay: they are closed when DRAIN_DELAY is over, and not before.
func TestPeersStayDuringTheDelay(t *testing.T) {
	t.Parallel()
	const delay, peers = 500 * time.Millisecond, 4
	s, drain := drainable(t, "DRAIN_DELAY=500ms")
	closed := make(chan closing, peers)
	for i := range peers {
		go awaitClose(open(t, s, "r", fmt.Sprint(i)), fmt.Sprint(i), closed)
	}
	began := time.Now()
	drained := drain(patience)
	for range peers {
		if c := <-closed; c.at.Sub(began) < delay {
			t.Errorf("%s was closed after %v, want DRAIN_DELAY", c.name, c.at.Sub(began))
		}
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Closed["drain"] != peers || st.Left != 0 {
		t.Errorf("counted %v, %d left; want %d closed by the drain, none", st.Closed, st.Left, peers)
	}
}

// TestAlive: a loop that does not come back to its tasks is noticed.
func TestAlive(t *testing.T) {
	s := start(t)
	if !s.Alive(patience) {
		t.Error("an idle relay is not alive")
	}
	block := make(chan struct{})
	s.loops[len(s.loops)-1].post(task{do: func(*loop, *peer) { <-block }})
	if s.Alive(50 * time.Millisecond) {
		t.Error("alive while a loop is stuck")
	}
	close(block)
	if !s.Alive(patience) {
		t.Error("not alive after the loop went on")
	}
}
