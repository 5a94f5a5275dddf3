package server

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// What an upgrade asks for and gets, over sockets: the secret, the origin, the
// ids, and bytes that come in any portions.

// asPage dials as a page of origin does that offers these subprotocols.
func asPage(origin string, protocols ...string) *websocket.DialOptions {
	opts := &websocket.DialOptions{Subprotocols: protocols, HTTPHeader: http.Header{}}
	if origin != "" {
		opts.HTTPHeader.Set("Origin", origin)
	}
	return opts
}

// wantDialStatus dials with coder/websocket, and wants this answer.
func wantDialStatus(t *testing.T, s *Server, opts *websocket.DialOptions, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, res, err := websocket.Dial(ctx, wsURL(s, "r", "p"), opts)
	if c != nil {
		defer func() { _ = c.CloseNow() }()
	}
	if res == nil || res.StatusCode != want {
		t.Errorf("origin %q, protocols %q: answered with %v, %v; want %d", opts.HTTPHeader["Origin"], opts.Subprotocols, res, err, want)
	}
}

func TestAdminSecret(t *testing.T) {
	f := func(secret string, offered []string, wantSelected string) {
		t.Helper()
		s := start(t, "ADMIN_SECRET="+secret)
		if wantSelected == "refused" {
			wantDialStatus(t, s, asPage("", offered...), http.StatusUnauthorized)
			return
		}
		c := joinWith(t, wsURL(s, "r", "p"), asPage("", offered...))
		if got := c.Subprotocol(); got != wantSelected {
			t.Errorf("secret %q, offered %q: %q selected, want %q", secret, offered, got, wantSelected)
		}
	}
	f("hunter2", []string{"hunter2"}, "hunter2")
	f("hunter2", []string{"relay.v1", "hunter2"}, "hunter2")
	f("hunter2", []string{"hunter2", "relay.v1", "x"}, "hunter2")
	f("!#$%&'*+-.^_`|~", []string{"!#$%&'*+-.^_`|~"}, "!#$%&'*+-.^_`|~")

	f("hunter3,hunter2", []string{"relay.v1", "hunter2"}, "hunter2")
	f("hunter3,hunter2", []string{"hunter3"}, "hunter3")
	f("hunter3,hunter2", []string{"hunter", "hunter1"}, "refused")

	f("hunter2", nil, "refused")
	f("hunter2", []string{"hunter3"}, "refused")
	f("hunter2", []string{"hunter", "hunter22", "Hunter2", "2"}, "refused")

	f("", nil, "")
	f("", []string{"relay.v1"}, "relay.v1")
	f("", []string{"b", "a"}, "b")
}

func TestAllowedOrigins(t *testing.T) {
	f := func(allowed, origin string, want bool) {
		t.Helper()
		s := start(t, "ALLOWED_ORIGINS="+allowed)
		status := http.StatusForbidden
		if want {
			status = http.StatusSwitchingProtocols
		}
		wantDialStatus(t, s, asPage(origin), status)
	}
	f("", "", true)
	f("", "https://anywhere.example", true)
	f("*", "", true)
	f("https://a.example,*", "https://anywhere.example", true)
	const two = " https://a.example ,,\thttp://localhost:3000 "
	f(two, "https://a.example", true)
	f(two, "http://localhost:3000", true)
	f(two, "", false)
	f(two, "null", false)
	f(two, "https://b.example", false)
	f(two, "http://a.example", false)
	f(two, "https://a.example:443", false)
	f(two, "https://a.example.evil.example", false)
	f(two, "http://localhost", false)
	f("null", "null", true)
}

func TestCORS(t *testing.T) {
	f := func(allowed, origin, want string) {
		t.Helper()
		s := start(t, "ALLOWED_ORIGINS="+allowed)
		var lines []string
		if origin != "" {
			lines = append(lines, "Origin: "+origin)
		}
		c := dial(t, s)
		for _, target := range []string{"/", "/v1", "/v1/"} {
			c.send([]byte(plainRequest("GET", target, lines...)))
			res, body := c.response()
			if got := res.Header.Get("Access-Control-Allow-Origin"); res.StatusCode != 200 || got != want {
				t.Errorf("allowed %q, origin %q: GET %s: %d %q, Access-Control-Allow-Origin %q; want 200, %q",
					allowed, origin, target, res.StatusCode, body, got, want)
			}
		}
	}
	f("", "", "*")
	f("", "https://a.example", "*")
	f("https://a.example, *", "https://b.example", "*")
	f("https://a.example, https://b.example", "https://a.example", "https://a.example")
	f("https://a.example, https://b.example", "https://b.example", "https://b.example")
	f("https://a.example, https://b.example", "https://c.example", "")
	f("https://a.example, https://b.example", "", "")
}

// A peer's ids are what others reach it by: both in the relay of that name, and
// directly.
func TestIDs(t *testing.T) {
	s := start(t)
	f := func(query, relayID, peerID string) {
		t.Helper()
		c := openWith(t, s, upgradeWith("/v1?"+query, goodKey, goodVersion))
		defer c.Close()
		prober := join(t, s, relayID, "prober")
		c.send(text("from c"))
		hear(t, prober, "from c")
		say(t, prober, direct(peerID, query))
		c.wantFrame(0x1, direct(peerID, query))
		_ = prober.CloseNow()
	}
	f("relayId=r&peerId=p", "r", "p")
	f("peerId=p&relayId=r", "r", "p")
	f("x=y&&=&relayId=r&z&peerId=p&", "r", "p")
	f("relayId=a%20b&peerId=a+b", "a b", "a b")
	f("relayId=%72&peerId=%70%2b%26%3D", "r", "p+&=")
	f("relayId=a=b&peerId==", "a=b", "=")
	f("relayId=caf%C3%A9&peerId=%f0%9f%98%80", "café", "😀")
	f("relayId=café&peerId=😀", "café", "😀")
	f("relayId=%&peerId=%zz%4", "%", "%zz%4")
	f("relayId=%ff&peerId=%e2%82", "\ufffd", "\ufffd")
	f("relayId=first&relayId=second&peerId=1&peerId=2", "first", "1")
	f("relay%49d=r&%70eerId=p", "r", "p")
	f("RelayId=x&relayid=y&relayId=r&peerId=p", "r", "p")
	f("relayId=a%00b&peerId=%0d%0a", "a\x00b", "\r\n")
	f("relayId="+strings.Repeat("r", 1024)+"&peerId="+strings.Repeat("p", 1024), strings.Repeat("r", 1024), strings.Repeat("p", 1024))
	f("relayId="+strings.Repeat("%72", 1024)+"&peerId="+strings.Repeat("%C3%A9", 512), strings.Repeat("r", 1024), strings.Repeat("é", 512))
}

func TestIDsTooLong(t *testing.T) {
	s := start(t)
	f := func(relayID, peerID, wantBody string) {
		t.Helper()
		c := dial(t, s)
		c.send([]byte(upgradeRequest(relayID, peerID)))
		if res, body := c.response(); res.StatusCode != 400 || body != wantBody+"\n" {
			t.Errorf("ids of %d and %d bytes: %d %q, want 400 %q", len(relayID), len(peerID), res.StatusCode, body, wantBody)
		}
		c.ended()
	}
	f(strings.Repeat("r", 1025), "p", "relayId is longer than 1024 bytes")
	f("r", strings.Repeat("p", 1025), "peerId is longer than 1024 bytes")
	f(strings.Repeat("é", 513), "p", "relayId is longer than 1024 bytes")
	f("r", strings.Repeat("€", 342), "peerId is longer than 1024 bytes")
}

func TestUpgradeByteByByte(t *testing.T) {
	s := start(t)
	listener := join(t, s, "r", "listener")
	c := dial(t, s)
	c.sendSlowly([]byte(plainRequest("GET", "/v1")))
	if res, body := c.response(); res.StatusCode != 200 {
		t.Fatalf("plain request: %d %q, want 200", res.StatusCode, body)
	}
	c.sendSlowly([]byte(upgradeRequest("r", "p")))
	if res, body := c.response(); res.StatusCode != 101 {
		t.Fatalf("upgrade: %d %q, want 101", res.StatusCode, body)
	}
	c.sendSlowly(text("slowly"))
	hear(t, listener, "slowly")
	c.sendSlowly(maskedFrame(0x82, repeat("x", 300))) // two bytes of length
	hearBytes(t, listener, websocket.MessageBinary, repeat("x", 300))
	c.sendSlowly(maskedFrame(0x82, repeat("y", 65536))[:40]) // eight
	say(t, listener, "who is slow can hear")
	c.wantFrame(0x1, "who is slow can hear")
}

// Frames in the segment of the request, whole and in part, count.
func TestFramesBehindUpgrade(t *testing.T) {
	s := start(t)
	listener := join(t, s, "r", "listener")
	f := func(head []byte, tail []byte) {
		t.Helper()
		c := dial(t, s)
		c.send([]byte(upgradeRequest("r", "p")), text("one"), maskedFrame(0x89, []byte("two")), head)
		if res, body := c.response(); res.StatusCode != 101 {
			t.Fatalf("upgrade: %d %q, want 101", res.StatusCode, body)
		}
		c.wantFrame(0xA, "two")
		hear(t, listener, "one")
		c.send(tail)
		hear(t, listener, "three")
		c.send(closeFrame(1000, ""))
		c.wantClose(1000)
	}
	three := text("three")
	for cut := range len(three) + 1 {
		f(three[:cut], three[cut:])
	}
}

// The request in two segments, the frames in the second. The first ends in the
// middle of a request behind another, whose answer shows that it was read.
func TestFramesBehindHalfAnUpgrade(t *testing.T) {
	s := start(t)
	listener := join(t, s, "r", "listener")
	request := upgradeRequest("r", "p")
	for _, cut := range []int{1, 20, len(request) - 1} {
		c := dial(t, s)
		c.send([]byte(plainRequest("GET", "/")), []byte(request[:cut]))
		c.response()
		c.send([]byte(request[cut:]), text("one"), text("two"))
		if res, body := c.response(); res.StatusCode != 101 {
			t.Fatalf("upgrade: %d %q, want 101", res.StatusCode, body)
		}
		hear(t, listener, "one")
		hear(t, listener, "two")
		_ = c.Close()
	}
}

// Ids go through the client's own encoding of a query too.
func TestIDsOfOrdinaryClient(t *testing.T) {
	s := start(t)
	const odd = "a b+c%d&e=f#g/h?ü\U0001f600\u2028"
	a, b := join(t, s, odd, odd), join(t, s, odd, "b")
	say(t, b, direct(odd, "to a"))
	hear(t, a, direct(odd, "to a"))

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, res, err := websocket.Dial(ctx, "ws://"+s.Addr().String()+"/v1?"+url.Values{"relayId": {odd}}.Encode(), nil)
	if err == nil || errors.Is(err, context.DeadlineExceeded) || res.StatusCode != http.StatusBadRequest {
		t.Errorf("without peerId: %v, %v; want 400", res, err)
	}
}
