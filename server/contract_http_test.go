package server

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The contract's first table and its checks of an upgrade, over sockets. Whose
// bytes are refused how is package upgrade's; here it matters that the answer
// arrives, and what becomes of the connection.

// plainRequest is a request that asks for no upgrade, with further header lines.
func plainRequest(method, target string, lines ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: a\r\n" + strings.Join(append(lines, "\r\n"), "\r\n")
}

func TestHTTPPlain(t *testing.T) {
	public, private := start(t), start(t, "ADMIN_SECRET=hunter2")
	f := func(s *Server, method, target string, wantStatus int, wantBody string) {
		t.Helper()
		c := dial(t, s)
		for range 2 { // the connection persists
			c.send([]byte(plainRequest(method, target, "Content-Length: 0")))
			res, body := c.responseTo(method)
			if res.StatusCode != wantStatus || wantBody != "" && body != wantBody {
				t.Errorf("%s %s: %d %q, want %d %q", method, target, res.StatusCode, body, wantStatus, wantBody)
			}
			if allow := res.Header.Get("Allow"); (allow == "GET, HEAD") != (wantStatus == 405) {
				t.Errorf("%s %s: Allow is %q", method, target, allow)
			}
		}
	}
	f(public, "GET", "/v1", 200, `{"version":"v1.0","isPublic":true}`)
	f(public, "GET", "/v1/", 200, `{"version":"v1.0","isPublic":true}`)
	f(public, "GET", "/v1?relayId=r&peerId=p", 200, `{"version":"v1.0","isPublic":true}`)
	f(private, "GET", "/v1", 200, `{"version":"v1.0","isPublic":false}`)
	f(private, "GET", "/v1/", 200, `{"version":"v1.0","isPublic":false}`)

	f(public, "GET", "/v2", 404, "no such path\n")
	f(public, "GET", "/v1/x", 404, "no such path\n")
	f(public, "POST", "/favicon.ico", 404, "no such path\n")

	f(public, "POST", "/", 405, "only GET and HEAD are served here\n")
	f(public, "PUT", "/v1", 405, "only GET and HEAD are served here\n")
	f(public, "DELETE", "/v1/", 405, "only GET and HEAD are served here\n")
	f(public, "OPTIONS", "/v1", 405, "only GET and HEAD are served here\n")
}

// A HEAD is answered with the header of a GET, and nothing behind it: the answer
// to the next request follows.
func TestHTTPHead(t *testing.T) {
	f := func(s *Server, target string, lines ...string) {
		t.Helper()
		c := dial(t, s)
		c.send([]byte(plainRequest("GET", target, lines...)), []byte(plainRequest("HEAD", target, lines...)),
			[]byte(plainRequest("GET", target, lines...)))
		get, body := c.response()
		head, none := c.responseTo("HEAD")
		again, _ := c.response()
		if head.StatusCode != get.StatusCode || !reflect.DeepEqual(head.Header, get.Header) || again.StatusCode != get.StatusCode || none != "" {
			t.Errorf("%s: HEAD is answered with %d %v %q; GET with %d %v, and once more with %d",
				target, head.StatusCode, head.Header, none, get.StatusCode, get.Header, again.StatusCode)
		}
		if int(head.ContentLength) != len(body) || len(body) == 0 {
			t.Errorf("HEAD %s: Content-Length is %d, the body of GET has %d bytes", target, head.ContentLength, len(body))
		}
	}
	public, private := start(t), start(t, "ADMIN_SECRET=hunter2", "ALLOWED_ORIGINS=https://a.example")
	for _, target := range []string{"/", "/v1", "/v1/", "/v1?relayId=r&peerId=p", "/v2"} {
		f(public, target)
		f(private, target, "Origin: https://a.example")
		f(private, target, "Origin: https://b.example")
	}
}

func TestHTTPGreeting(t *testing.T) {
	s := start(t)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	res, err := client.Get("http://" + s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var body struct{ Message *string }
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil || body.Message == nil || *body.Message == "" {
		t.Errorf("body is %+v, %v; want an object with a message", body, err)
	}
	if got := res.Header.Get("Content-Type"); res.StatusCode != 200 || got != "application/json" {
		t.Errorf("answered with %d, %q; want 200, application/json", res.StatusCode, got)
	}
}

// More answers than a loop gathers before it sends them; the last request is an
// upgrade, and a frame follows.
func TestHTTPPipelined(t *testing.T) {
	s := start(t)
	listener := join(t, s, "r", "listener")
	requests := []struct {
		request string
		status  int
	}{
		{plainRequest("GET", "/v1"), 200},
		{plainRequest("GET", "/v2"), 404},
		{plainRequest("POST", "/"), 405},
		{plainRequest("GET", "/"), 200},
		{plainRequest("GET", "/v3"), 404},
	}
	const rounds = 60
	var all strings.Builder
	for range rounds {
		for _, r := range requests {
			all.WriteString(r.request)
		}
	}
	c := dial(t, s)
	c.send([]byte(all.String()), []byte(upgradeRequest("r", "p")), text("behind all that"))
	for i := range rounds * len(requests) {
		want := requests[i%len(requests)]
		if res, body := c.response(); res.StatusCode != want.status {
			t.Fatalf("answer %d is %d %q, want %d", i, res.StatusCode, body, want.status)
		}
	}
	if res, body := c.response(); res.StatusCode != 101 {
		t.Fatalf("the last answer is %d %q, want 101", res.StatusCode, body)
	}
	hear(t, listener, "behind all that")
}

func TestHTTPCloses(t *testing.T) {
	s := start(t)
	f := func(request string, wantStatus int) {
		t.Helper()
		c := dial(t, s)
		c.send([]byte(request), []byte(plainRequest("GET", "/"))) // the second gets no answer
		if res, body := c.response(); res.StatusCode != wantStatus || !res.Close {
			t.Errorf("%.40q: %d %q, to be closed: %t; want %d", request, res.StatusCode, body, res.Close, wantStatus)
		}
		c.ended()
	}
	f(plainRequest("GET", "/", "Connection: close"), 200)
	f("GET /v1 HTTP/1.0\r\n\r\n", 200)
	f(plainRequest("POST", "/v1", "Content-Length: 5")+"hello", 405)
	f("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505)
	f("GET / HTTP/1.1\r\n\r\n", 400) // no Host
	f("\x16\x03\x01\x02\x00", 400)   // TLS
	f("GET / HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("x", 16<<10)+"\r\n\r\n", 431)
	f(strings.Repeat("x", 1<<20), 431)
}

func TestHTTPHeaderLimit(t *testing.T) {
	s := start(t)
	f := func(size, wantStatus int) {
		t.Helper()
		head := plainRequest("GET", "/", "X: ")
		head = strings.Replace(head, "X: ", "X: "+strings.Repeat("x", size-len(head)), 1)
		c := dial(t, s)
		c.send([]byte(head[:size/2]))
		c.send([]byte(head[size/2:]))
		if res, body := c.response(); len(head) != size || res.StatusCode != wantStatus {
			t.Errorf("header of %d bytes: %d %q, want %d", len(head), res.StatusCode, body, wantStatus)
		}
	}
	f(16<<10, 200)
	f(16<<10+1, 431)
}

// Every request has the faults of all below it too, so the order of the checks
// is tested with them.
func TestUpgradeRefusedOverSocket(t *testing.T) {
	s := start(t, "ADMIN_SECRET=hunter2", "ALLOWED_ORIGINS=https://a.example")
	bystander := joinWith(t, wsURL(s, "r", "bystander"), asPage("https://a.example", "hunter2"))
	f := func(request string, wantStatus int, wantBody string) {
		t.Helper()
		c := dial(t, s)
		// What a client sends without waiting must not cost it the answer.
		c.send([]byte(request), text("too early"), maskedFrame(0x82, repeat("x", 1<<20)))
		res, body := c.response()
		if res.StatusCode != wantStatus || body != wantBody+"\n" || !res.Close {
			t.Errorf("%.60q: %d %q, to be closed: %t; want %d %q", request, res.StatusCode, body, res.Close, wantStatus, wantBody)
		}
		want13 := ""
		if wantStatus == http.StatusUpgradeRequired {
			want13 = "13"
		}
		if got := res.Header.Get("Sec-WebSocket-Version"); got != want13 {
			t.Errorf("%.60q: Sec-WebSocket-Version is %q, want %q", request, got, want13)
		}
		c.ended()
	}
	const (
		origin = "Origin: https://a.example"
		secret = "Sec-WebSocket-Protocol: hunter2"
		noKey  = "Sec-WebSocket-Key is missing, repeated or not 16 bytes in base64"
	)
	http10 := func(request string) string { return strings.Replace(request, "HTTP/1.1", "HTTP/1.0", 1) }
	f(http10(upgradeWith("/v2")), 403, "origin not allowed")
	f(http10(upgradeWith("/v2", "Origin: https://b.example")), 403, "origin not allowed")
	f(http10(upgradeWith("/v2", origin)), 401, "the secret is not among the subprotocols offered")
	f(http10(upgradeWith("/v2", origin, "Sec-WebSocket-Protocol: hunter3")), 401, "the secret is not among the subprotocols offered")
	f(http10(upgradeWith("/v2", origin, secret)), 404, "no such path")
	f(http10(upgradeWith("/v1", origin, secret)), 400, "relayId is missing or empty")
	f(http10(upgradeWith("/v1?relayId=&peerId=p", origin, secret)), 400, "relayId is missing or empty")
	f(http10(upgradeWith("/v1?relayId=r", origin, secret)), 400, "peerId is missing or empty")
	f(http10(upgradeWith("/v1?relayId=r&peerId=", origin, secret)), 400, "peerId is missing or empty")
	f(http10(upgradeWith(goodTarget, origin, secret)), 400, noKey)
	f(http10(upgradeWith(goodTarget, origin, secret, "Sec-WebSocket-Key: c2hvcnQ=")), 400, noKey)
	f(http10(upgradeWith(goodTarget, origin, secret, goodKey)), 426, "Sec-WebSocket-Version is not 13")
	f(http10(upgradeWith(goodTarget, origin, secret, goodKey, "Sec-WebSocket-Version: 8")), 426, "Sec-WebSocket-Version is not 13")
	f(http10(upgradeWith(goodTarget, origin, secret, goodKey, goodVersion)), 400, "a WebSocket needs HTTP/1.1")
	hearNothing(t, s, bystander)
}

// From the accept, and from the end of the last request, whatever has come since.
// The time that it took is checked with a margin: a wheel whose goroutine was
// held up makes up for an eighth of a revolution.
func TestHandshakeTimeout(t *testing.T) {
	t.Parallel()
	s := start(t, "HANDSHAKE_TIMEOUT=500ms")
	peer, other := join(t, s, "r", "peer"), join(t, s, "r", "other")
	closed := int64(0)
	f := func(what string, sent string, answers int) {
		t.Helper()
		begin := time.Now()
		c := dial(t, s)
		c.send([]byte(sent))
		for range answers {
			c.response()
		}
		c.ended()
		if took := time.Since(begin); took < 250*time.Millisecond {
			t.Errorf("%s: closed after %v, want 500ms", what, took)
		}
		closed++
		eventually(t, what+": counted as handshake_timeout", func() bool {
			return s.Stats().Closed["handshake_timeout"] == closed
		})
	}
	f("nothing sent", "", 0)
	f("all but the last byte", strings.TrimSuffix(upgradeRequest("r", "late"), "\n"), 0)
	f("idle after a request", plainRequest("GET", "/"), 1)
	f("half a request after another", plainRequest("GET", "/")+"GET / HT", 1)

	// Who came in before is not concerned.
	say(t, peer, "still here")
	hear(t, other, "still here")
}

// Each answer gives a connection the whole time again.
func TestHandshakeTimeoutPerRequest(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	s := start(t, "HANDSHAKE_TIMEOUT=1s")
	c := dial(t, s)
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for begin := time.Now(); time.Since(begin) < 3*timeout/2; <-pace.C {
		c.send([]byte(plainRequest("GET", "/")))
		c.response()
	}
	c.ended()
}

// A byte now and then does not put the end off.
func TestHandshakeTimeoutDrip(t *testing.T) {
	t.Parallel()
	s := start(t, "HANDSHAKE_TIMEOUT=300ms")
	c := dial(t, s)
	head := upgradeRequest("r", "p", "X: "+strings.Repeat("x", 8000))
	for end := time.Now().Add(patience); ; head = head[1:] {
		if time.Now().After(end) || len(head) == 1 {
			t.Fatalf("still open with %d bytes of the header to come", len(head))
		}
		_, writeErr := c.Write([]byte(head[:1]))
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := c.in.ReadByte(); writeErr != nil || !os.IsTimeout(err) {
			break
		}
	}
	eventually(t, "counted as handshake_timeout", func() bool { return s.Stats().Closed["handshake_timeout"] == 1 })
}

// Without HOST the relay listens on every address, IPv4 and IPv6.
func TestListensEverywhere(t *testing.T) {
	s := start(t, "HOST=")
	_, port, err := net.SplitHostPort(s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{"127.0.0.1"}
	if ln, err := net.Listen("tcp", "[::1]:0"); err == nil { // not every machine has IPv6
		hosts = append(hosts, "[::1]")
		_ = ln.Close()
	}
	for _, host := range hosts {
		c := joinWith(t, fmt.Sprintf("ws://%s:%s%s", host, port, goodTarget), nil)
		hearNothing(t, s, c)
	}
}
