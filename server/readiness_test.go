package server

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestReadiness: GET /readyz says draining from the signal on, on connections that are there and, during
// DRAIN_DELAY, on new ones. Peers still come and talk then.
func TestReadiness(t *testing.T) {
	s, drain := drainable(t, "DRAIN_DELAY=1500ms", "DRAIN_PERIOD=1500ms")
	probe := dial(t, s)
	ask := func(c *raw, method string, status int, want string) {
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
	ask(probe, "GET", 200, "ready\n")
	ask(probe, "HEAD", 200, "ready\n")
	early := open(t, s, "r", "early")
	began := time.Now()
	drained := drain(patience)
	eventually(t, "it drains", func() bool { return s.draining.Load() })
	ask(probe, "GET", 503, "draining\n")
	ask(probe, "HEAD", 503, "draining\n")
	ask(dial(t, s), "GET", 503, "draining\n")
	late, waiting := open(t, s, "r", "late"), dial(t, s)
	late.send(text("I am late"))
	early.wantFrame(0x1, "I am late")
	waiting.send([]byte(plainRequest("GET", "/")))
	waiting.response()
	if d := time.Since(began); d > 1500*time.Millisecond {
		t.Skipf("this took %v", d)
	}
	closed := make(chan closing, 2)
	go awaitClose(early, "early", closed)
	go awaitClose(late, "late", closed)
	eventually(t, "accepting has ended", func() bool { return s.refusing.Load() })
	if d := time.Since(began); d < 1500*time.Millisecond {
		t.Errorf("accepting ended after %v, want DRAIN_DELAY", d)
	}
	ask(probe, "GET", 503, "draining\n")
	waiting.send([]byte(upgradeRequest("r", "too late")))
	if res, body := waiting.response(); res.StatusCode != 503 || body != "the relay is stopping\n" || res.Header.Get("Retry-After") == "" {
		t.Errorf("an upgrade after accepting has ended: %d %q %v", res.StatusCode, body, res.Header)
	}
	for range 2 {
		if c := <-closed; c.at.Sub(began) < 1500*time.Millisecond {
			t.Errorf("%s was closed after %v", c.name, c.at.Sub(began))
		}
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Refused["draining"] != 1 || st.Closed["drain"] < 2 || st.Left != 0 {
		t.Errorf("counted %v, %v, %d left", st.Refused, st.Closed, st.Left)
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
