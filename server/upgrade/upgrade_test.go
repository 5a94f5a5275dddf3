package upgrade

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// upgradeWith is a minimal upgrade of target, with further header lines.
func upgradeWith(target string, lines ...string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
		strings.Join(append(lines, "\r\n"), "\r\n")
}

const (
	goodTarget  = "/v1?relayId=r&peerId=p"
	goodKey     = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	goodVersion = "Sec-WebSocket-Version: 13"
)

// answerTo wants head to be one complete block, and its answer to be one
// complete response.
func answerTo(t *testing.T, g *Gate, head string) (*http.Response, string, Verdict) {
	t.Helper()
	h, most := NewHandshaker(g), len(head)-1
	if answer, n, v := h.Answer([]byte("before"), []byte(head[:most]), 0); n != 0 || string(answer) != "before" {
		t.Fatalf("all of %q but its last byte is answered: %q, %d, %+v", head, answer, n, v)
	}
	answer, n, v := h.Answer([]byte("before"), []byte(head+"\x82\x80"), most)
	if n != len(head) {
		t.Fatalf("Answer(%q) takes %d bytes; want %d", head, n, len(head))
	}
	answer, ok := bytes.CutPrefix(answer, []byte("before"))
	if !ok {
		t.Fatalf("answer to %q does not keep dst: %q", head, answer)
	}
	res, body := readAnswer(t, answer, strings.HasPrefix(strings.TrimLeft(head, "\r\n"), "HEAD "))
	if res.StatusCode != v.Status {
		t.Errorf("answer to %q is %d, the Verdict says %d", head, res.StatusCode, v.Status)
	}
	return res, body, v
}

// readAnswer reads with net/http, which nobody here wrote.
func readAnswer(t *testing.T, answer []byte, toHEAD bool) (*http.Response, string) {
	t.Helper()
	method := "GET"
	if toHEAD {
		method = "HEAD"
	}
	rest := bufio.NewReader(bytes.NewReader(answer))
	res, err := http.ReadResponse(rest, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("answer %q: %v", answer, err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("answer %q: %v", answer, err)
	}
	if rest.Buffered() > 0 {
		t.Fatalf("answer %q has %d bytes too many", answer, rest.Buffered())
	}
	return res, string(body)
}

func TestUpgrade(t *testing.T) {
	open := NewGate(nil, nil)
	f := func(g *Gate, head, wantRelay, wantPeer, wantProtocol string) {
		t.Helper()
		res, body, v := answerTo(t, g, head)
		if v.Next != Upgraded || v.Status != 101 || v.Reason != "" || body != "" ||
			string(v.RelayID) != wantRelay || string(v.PeerID) != wantPeer {
			t.Errorf("%q: %+v, relay %q, peer %q; want relay %q, peer %q", head, v, v.RelayID, v.PeerID, wantRelay, wantPeer)
			return
		}
		for name, want := range map[string]string{
			"Upgrade":    "websocket",
			"Connection": "Upgrade",
			// RFC 6455 §1.3 has this key and this answer.
			"Sec-Websocket-Accept":   "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
			"Sec-Websocket-Protocol": wantProtocol,
		} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%q: %s is %q; want %q", head, name, got, want)
			}
		}
		if got := len(res.Header.Values("Sec-Websocket-Protocol")); wantProtocol == "" && got > 0 {
			t.Errorf("%q: a protocol is selected", head)
		}
	}
	up := func(target string, lines ...string) string {
		return upgradeWith(target, append(lines, goodKey, goodVersion)...)
	}
	f(open, chromeUpgrade, "room 42", "peer-9f86d081884c7d65", "relay.v1")
	f(open, up(goodTarget), "r", "p", "")
	f(open, up("/v1/?peerId=p&relayId=r"), "r", "p", "")
	f(open, up("http://a:1/v1?peerId=p&relayId=r"), "r", "p", "")
	f(open, up("/v1?relayId=%c3%a9&peerId=a+b&relayId=x"), "é", "a b", "")
	f(open, up("/v1?relayId=r&peerId="+strings.Repeat("p", 1024)), "r", strings.Repeat("p", 1024), "")
	f(open, "\r\n\r\n"+up(goodTarget), "r", "p", "")
	f(open, strings.Replace(up(goodTarget), "HTTP/1.1", "HTTP/1.7", 1), "r", "p", "")
	f(open, up(goodTarget, "Content-Length: 0"), "r", "p", "")

	// Lists, several lines, any case.
	f(open, "GET "+goodTarget+" HTTP/1.1\r\nhOST:a\r\nCONNECTION:keep-alive\r\nconnection: ,\tuPGRADE ,\r\n"+
		"upgrade: h2c\r\nUPGRADE: ,WebSocket\r\nsec-websocket-VERSION:13 \r\nSEC-WEBSOCKET-KEY:\tdGhlIHNhbXBsZSBub25jZQ==\t\r\n\r\n",
		"r", "p", "")

	f(open, up(goodTarget, "Sec-WebSocket-Protocol: a"), "r", "p", "a")
	f(open, up(goodTarget, "Sec-WebSocket-Protocol: ,\t, b b, c(, d,e"), "r", "p", "d")
	f(open, up(goodTarget, "Sec-WebSocket-Protocol: ", "Sec-WebSocket-Protocol: b", "Sec-WebSocket-Protocol: c"), "r", "p", "b")
	f(open, up(goodTarget, "Sec-WebSocket-Protocol: (", "Origin: https://evil", "Origin: https://eviller"), "r", "p", "")

	secret := NewGate([]string{"hunter2"}, []string{})
	f(secret, chromeUpgrade, "room 42", "peer-9f86d081884c7d65", "hunter2")
	f(secret, up(goodTarget, "Sec-WebSocket-Protocol: hunter2"), "r", "p", "hunter2")
	f(secret, up(goodTarget, "Sec-WebSocket-Protocol: hunter2,hunter3"), "r", "p", "hunter2")
	f(secret, up(goodTarget, "Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: b , hunter2"), "r", "p", "hunter2")

	rotated := NewGate([]string{"hunter3", "hunter2", "hunter10"}, nil)
	f(rotated, up(goodTarget, "Sec-WebSocket-Protocol: hunter2"), "r", "p", "hunter2")
	f(rotated, up(goodTarget, "Sec-WebSocket-Protocol: x, hunter3"), "r", "p", "hunter3")
	f(rotated, up(goodTarget, "Sec-WebSocket-Protocol: hunter10, hunter3, hunter2"), "r", "p", "hunter10")

	listed := NewGate(nil, []string{"https://a", "null", "https://app.example.com"})
	f(listed, chromeUpgrade, "room 42", "peer-9f86d081884c7d65", "relay.v1")
	f(listed, up(goodTarget, "Origin: null"), "r", "p", "")
	f(listed, up(goodTarget, "Origin: https://a", "Origin: https://a"), "r", "p", "")
	f(NewGate(nil, []string{"https://a", "*"}), up(goodTarget), "r", "p", "")
}

// Each request has all the faults of those below it too, as far as they go
// together: so the order of the checks is tested with them.
func TestUpgradeRefused(t *testing.T) {
	g := NewGate([]string{"hunter2"}, []string{"https://a"})
	f := func(head string, wantStatus int, wantReason Refusal, wantBody string) {
		t.Helper()
		res, body, v := answerTo(t, g, head)
		if v.Next != Closing || v.Status != wantStatus || v.Reason != wantReason || body != wantBody+"\n" {
			t.Errorf("%q: %+v %q; want %d, %s, %q", head, v, body, wantStatus, wantReason, wantBody)
		}
		if v.RelayID != nil || v.PeerID != nil {
			t.Errorf("%q: refused with ids %q, %q", head, v.RelayID, v.PeerID)
		}
		if !res.Close || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" || res.ContentLength != int64(len(body)) {
			t.Errorf("%q: answered with %v", head, res.Header)
		}
		want := map[int]http.Header{
			401: {"Www-Authenticate": {"Subprotocol"}},
			426: {"Sec-Websocket-Version": {"13"}, "Upgrade": {"websocket"}},
		}[wantStatus]
		for name := range want {
			if !slices.Equal(res.Header[name], want[name]) {
				t.Errorf("%q: %s is %q; want %q", head, name, res.Header[name], want[name])
			}
		}
	}
	const origin, secret = "Origin: https://a", "Sec-WebSocket-Protocol: x, hunter2"

	const badOrigin = "origin not allowed"
	f(upgradeWith("/v2"), 403, refusedOrigin, badOrigin)
	f(upgradeWith("/v2", "Origin:"), 403, refusedOrigin, badOrigin)
	f(upgradeWith("/v2", "Origin: https://A"), 403, refusedOrigin, badOrigin)
	f(upgradeWith("/v2", "Origin: https://a/"), 403, refusedOrigin, badOrigin)
	f(upgradeWith("/v2", "Origin: https://a, https://a"), 403, refusedOrigin, badOrigin)
	f(upgradeWith("/v2", origin, "Origin: https://b"), 403, refusedOrigin, badOrigin)
	f(upgradeWith("/v2", "Origin: https://b", origin), 403, refusedOrigin, badOrigin)
	f(upgradeWith("/v2", origin, "Origin: https://b", origin), 403, refusedOrigin, badOrigin)

	const badSecret = "the secret is not among the subprotocols offered"
	f(upgradeWith("/v2", origin), 401, refusedSecret, badSecret)
	f(upgradeWith("/v2", origin, "Sec-WebSocket-Protocol:"), 401, refusedSecret, badSecret)
	f(upgradeWith("/v2", origin, "Sec-WebSocket-Protocol: hunter, hunter22, Hunter2"), 401, refusedSecret, badSecret)
	f(upgradeWith("/v2", origin, "Sec-WebSocket-Protocol: hunter2 x"), 401, refusedSecret, badSecret)
	f(upgradeWith("/v2?secret=hunter2", origin, "Authorization: hunter2"), 401, refusedSecret, badSecret)

	const badPath = "no such path"
	f(upgradeWith("/", origin, secret), 404, refusedPath, badPath)
	f(upgradeWith("/v2", origin, secret), 404, refusedPath, badPath)
	f(upgradeWith("/v1//", origin, secret), 404, refusedPath, badPath)
	f(upgradeWith("/V1", origin, secret), 404, refusedPath, badPath)
	f(upgradeWith("/%761", origin, secret), 404, refusedPath, badPath)
	f(upgradeWith("//v1", origin, secret), 404, refusedPath, badPath)
	f(upgradeWith("/x/../v1", origin, secret), 404, refusedPath, badPath)

	long := strings.Repeat("x", 1025)
	f(upgradeWith("/v1", origin, secret), 400, refusedID, "relayId is missing or empty")
	f(upgradeWith("/v1?relayId=&peerId=p", origin, secret), 400, refusedID, "relayId is missing or empty")
	f(upgradeWith("/v1?relayId=&relayId=r&peerId=p", origin, secret), 400, refusedID, "relayId is missing or empty")
	f(upgradeWith("/v1?relayId="+long, origin, secret), 400, refusedID, "relayId is longer than 1024 bytes")
	f(upgradeWith("/v1/?relayId=r", origin, secret), 400, refusedID, "peerId is missing or empty")
	f(upgradeWith("/v1?relayId=r#&peerId=p", origin, secret), 400, refusedID, "peerId is missing or empty")
	f(upgradeWith("/v1?peerId="+long+"&relayId=r", origin, secret), 400, refusedID, "peerId is longer than 1024 bytes")
	f(upgradeWith("/v1?peerId="+strings.Repeat("%ff", 342)+"&relayId=r", origin, secret), 400, refusedID, "peerId is longer than 1024 bytes")

	const badKey = "Sec-WebSocket-Key is missing, repeated or not 16 bytes in base64"
	const key = "Sec-WebSocket-Key: "
	f(upgradeWith(goodTarget, origin, secret), 400, refusedKey, badKey)
	f(upgradeWith(goodTarget, origin, secret, key), 400, refusedKey, badKey)
	f(upgradeWith(goodTarget, origin, secret, goodKey, goodKey), 400, refusedKey, badKey)
	f(upgradeWith(goodTarget, origin, secret, key+"dGhlIHNhbXBsZSBub25jZQ"), 400, refusedKey, badKey)
	f(upgradeWith(goodTarget, origin, secret, key+"dGhlIHNhbXBsZSBub25jZTE="), 400, refusedKey, badKey) // 17 bytes
	f(upgradeWith(goodTarget, origin, secret, key+"dGhlIHNhbXBsZSBub25jZTEy"), 400, refusedKey, badKey) // 18 bytes
	f(upgradeWith(goodTarget, origin, secret, key+"dGhlIHNhbXBsZSBub25j____"), 400, refusedKey, badKey)
	f(upgradeWith(goodTarget, origin, secret, key+"dGhlIHNhbXBsZSBub25j\tQ=="), 400, refusedKey, badKey)

	const badVersion = "Sec-WebSocket-Version is not 13"
	f(upgradeWith(goodTarget, origin, secret, goodKey), 426, refusedVersion, badVersion)
	f(upgradeWith(goodTarget, origin, secret, goodKey, "Sec-WebSocket-Version: 8"), 426, refusedVersion, badVersion)
	f(upgradeWith(goodTarget, origin, secret, goodKey, "Sec-WebSocket-Version: 013"), 426, refusedVersion, badVersion)
	f(upgradeWith(goodTarget, origin, secret, goodKey, "Sec-WebSocket-Version: 13, 8"), 426, refusedVersion, badVersion)
	f(upgradeWith(goodTarget, origin, secret, goodKey, goodVersion, goodVersion), 426, refusedVersion, badVersion)
	old := strings.Replace(upgradeWith(goodTarget, origin, secret, goodKey), "HTTP/1.1", "HTTP/1.0", 1)
	f(old, 426, refusedVersion, badVersion)

	old = strings.Replace(old, "\r\n\r\n", "\r\n"+goodVersion+"\r\nContent-Length: 1\r\n\r\n", 1)
	f(old, 400, refusedHTTPVersion, "a WebSocket needs HTTP/1.1")
	f(upgradeWith(goodTarget, origin, secret, goodKey, goodVersion, "Content-Length: 1"), 400, refusedBody, "a WebSocket request has no body")
	f(upgradeWith(goodTarget, origin, secret, goodKey, goodVersion, "Transfer-Encoding: chunked"), 400, refusedBody, "a WebSocket request has no body")
}

func TestAnswerDoesNotAllocate(t *testing.T) {
	f := func(g *Gate, head string) {
		t.Helper()
		h, dst, block := NewHandshaker(g), make([]byte, 0, 64<<10), []byte(head)
		var v Verdict
		allocs := testing.AllocsPerRun(100, func() {
			dst, _, v = h.Answer(dst[:0], block, 0)
		})
		if allocs != 0 {
			t.Errorf("%.40q, answered with %d: %v allocations", head, v.Status, allocs)
		}
	}
	closed := NewGate([]string{"hunter2"}, []string{"https://app.example.com"})
	f(NewGate(nil, nil), chromeUpgrade)
	f(closed, chromeUpgrade)
	f(closed, strings.Replace(chromeUpgrade, "room%2042", "%c3%a9%ff%e2%82+", 1))
	f(closed, strings.Replace(chromeUpgrade, "app.example", "evil.example", 1))
	f(closed, strings.Replace(chromeUpgrade, "hunter2", "hunter3", 1))
	f(closed, strings.Replace(chromeUpgrade, "websocket", "h2c", 1))
	f(closed, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	f(closed, "GET / HTTP/1.1\r\n\r\n")
	f(pageGate("", nil), root("GET", chromeAccept, "Accept-Encoding: gzip, br"))
	f(pageGate("", nil), root("GET"))
}

var sinkVerdict Verdict

func BenchmarkUpgradeAnswer(b *testing.B) {
	f := func(name string, g *Gate, head string, want int) {
		b.Run(name, func(b *testing.B) {
			h, dst, block := NewHandshaker(g), make([]byte, 0, 1024), []byte(head)
			b.ReportAllocs()
			b.SetBytes(int64(len(block)))
			for b.Loop() {
				dst, _, sinkVerdict = h.Answer(dst[:0], block, 0)
			}
			if sinkVerdict.Status != want {
				b.Fatalf("answered with %d; want %d", sinkVerdict.Status, want)
			}
		})
	}
	closed := NewGate([]string{"hunter2"}, []string{"https://app.example.com"})
	f("chrome", NewGate(nil, nil), chromeUpgrade, 101)
	f("chrome-secret", closed, chromeUpgrade, 101)
	f("minimal", NewGate(nil, nil), upgradeWith(goodTarget, goodKey, goodVersion), 101)
	f("refused", closed, strings.Replace(chromeUpgrade, "hunter2", "hunter3", 1), 401)
	f("plain", closed, "GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n", 200)
}
