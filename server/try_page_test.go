package server

import (
	"compress/gzip"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"relaygate/server/page"
)

const asksForHTML = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"

func TestTryPage(t *testing.T) {
	f := func(s *Server, wantPage bool, lines ...string) {
		t.Helper()
		c := dial(t, s)
		c.send([]byte(plainRequest("GET", "/", lines...)), []byte(plainRequest("HEAD", "/", lines...)), []byte(plainRequest("GET", "/v1", lines...)))
		res, body := c.response()
		if res.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			plain, err := io.ReadAll(z)
			if err != nil {
				t.Fatal(err)
			}
			body = string(plain)
		}
		if got := body == string(page.Try().Body); res.StatusCode != 200 || got != wantPage || !got && !strings.HasPrefix(body, `{"message":"relaygate`) {
			t.Errorf("%q: %d %v %.60q; want the page: %t", lines, res.StatusCode, res.Header, body, wantPage)
		}
		if head, none := c.responseTo("HEAD"); head.Header.Get("Content-Type") != res.Header.Get("Content-Type") || head.ContentLength != res.ContentLength || none != "" {
			t.Errorf("%q: HEAD is answered with %v %.60q; GET with %v", lines, head.Header, none, res.Header)
		}
		if _, version := c.response(); !strings.HasPrefix(version, `{"version":"v1.0"`) {
			t.Errorf("%q: /v1 says %.60q", lines, version)
		}
	}
	on, off := start(t), start(t, "TRY_PAGE=off")
	f(on, true, asksForHTML)
	f(on, true, asksForHTML, "Accept-Encoding: gzip")
	f(on, false)
	f(on, false, "Accept: */*")
	f(off, false)
	f(off, false, asksForHTML)
	if c := dial(t, off); true {
		c.send([]byte(plainRequest("GET", "/")))
		if res, _ := c.response(); res.Header.Get("Vary") != "" {
			t.Errorf("without a page, the answer varies by %q", res.Header.Get("Vary"))
		}
	}
}

// TestTryPageSlowReader: who asks for the page many times and does not read it makes the relay hold no more
// than a few pages, and gets all of them when it reads.
func TestTryPageSlowReader(t *testing.T) {
	const requests = 1000 // 33 MiB of answers
	s := start(t, "EVENT_LOOPS=1", "HANDSHAKE_TIMEOUT=1h")
	c := dialWith(t, s, &net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		_ = raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
		return err
	}})
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, strings.Repeat(plainRequest("GET", "/", asksForHTML), requests))
		sent <- err
	}()
	var p *peer
	eventually(t, "pages wait", func() bool {
		for _, p = range s.wheels[phaseHead].All() {
			return p.waits()
		}
		return false
	})
	most := 0
	for i := range requests {
		if most = max(most, p.waiting()); s.Stats().Connections != 1 {
			break
		}
		if res, body := c.response(); res.StatusCode != 200 || body != string(page.Try().Body) {
			t.Fatalf("answer %d is %d %.60q", i, res.StatusCode, body)
		}
	}
	if limit := maxReplies + 2*len(page.Try().Body); most == 0 || most > limit {
		t.Errorf("%d bytes waited; want some, at most %d", most, limit)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Connections != 1 || st.Closed["slow"] != 0 {
		t.Errorf("%d connections are open, %d were closed as slow; want 1 and none", st.Connections, st.Closed["slow"])
	}
	c.send([]byte(upgradeRequest("r", "p")), text("ping"))
	if res, _ := c.response(); res.StatusCode != 101 {
		t.Errorf("the last answer is %d, want 101", res.StatusCode)
	}
	c.wantFrame(0x1, "pong")
}
