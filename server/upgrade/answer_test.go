package upgrade

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestPlain(t *testing.T) {
	f := func(head string, wantStatus int, wantNext After, wantConnection string) {
		t.Helper()
		res, body, v := answerTo(t, NewGate(nil, nil), head)
		wantReason := map[int]Refusal{404: refusedPath, 405: refusedMethod}[wantStatus]
		if v.Status != wantStatus || v.Next != wantNext || v.Reason != wantReason {
			t.Errorf("%q: %+v; want %d, %d, %q", head, v, wantStatus, wantNext, wantReason)
		}
		// net/http takes Connection: close out of the header.
		connection := res.Header.Get("Connection")
		if res.Close && connection == "" {
			connection = "close"
		}
		if connection != wantConnection || res.Close != (wantNext == Closing) {
			t.Errorf("%q: Connection is %q, %t; want %q", head, connection, res.Close, wantConnection)
		}
		if allow := res.Header.Get("Allow"); (allow == "GET, HEAD") != (wantStatus == 405) {
			t.Errorf("%q: Allow is %q", head, allow)
		}
		if res.ContentLength <= 0 || strings.HasPrefix(head, "HEAD") != (body == "") {
			t.Errorf("%q: Content-Length %d, body %q", head, res.ContentLength, body)
		}
	}
	h := func(line string, lines ...string) string {
		return line + "\r\nHost: a\r\n" + strings.Join(append(lines, "\r\n"), "\r\n")
	}
	f(h("GET / HTTP/1.1"), 200, KeepAlive, "")
	f(h("GET /?a=b#c HTTP/1.1"), 200, KeepAlive, "")
	f(h("GET /v1 HTTP/1.1"), 200, KeepAlive, "")
	f(h("GET /v1/?relayId=r&peerId=p HTTP/1.1"), 200, KeepAlive, "")
	f(h("GET http://a HTTP/1.1"), 200, KeepAlive, "")
	f(h("GET / HTTP/1.9"), 200, KeepAlive, "")
	f("\r\n"+h("GET / HTTP/1.1"), 200, KeepAlive, "")
	f("GET / HTTP/1.1\r\nHost:\r\n\r\n", 200, KeepAlive, "")

	f(h("HEAD / HTTP/1.1"), 200, KeepAlive, "")
	f(h("HEAD /v1 HTTP/1.1"), 200, KeepAlive, "")
	f(h("HEAD /v1/ HTTP/1.1", "Connection: close"), 200, Closing, "close")
	f(h("HEAD /v1 HTTP/1.0"), 200, Closing, "close")
	f(h("HEAD /v1?relayId=r&peerId=p HTTP/1.1", "Connection: upgrade", "Upgrade: websocket"), 200, KeepAlive, "")

	f(h("GET /v2 HTTP/1.1"), 404, KeepAlive, "")
	f(h("GET /v1// HTTP/1.1"), 404, KeepAlive, "")
	f(h("GET /%761 HTTP/1.1"), 404, KeepAlive, "")
	f(h("GET // HTTP/1.1"), 404, KeepAlive, "")
	f(h("POST /favicon.ico HTTP/1.1"), 404, KeepAlive, "")
	f(h("HEAD /v2 HTTP/1.1"), 404, KeepAlive, "")
	f(h("OPTIONS * HTTP/1.1"), 404, KeepAlive, "")
	f(h("CONNECT a:443 HTTP/1.1"), 404, KeepAlive, "")

	f(h("POST /v1 HTTP/1.1", "Content-Length: 0"), 405, KeepAlive, "")
	f(h("OPTIONS /v1/ HTTP/1.1"), 405, KeepAlive, "")
	f(h("get / HTTP/1.1"), 405, KeepAlive, "")
	f(h("head / HTTP/1.1"), 405, KeepAlive, "")

	// Not upgrades of ours.
	f(h("GET /v1 HTTP/1.1", "Upgrade: websocket"), 200, KeepAlive, "")
	f(h("GET /v1 HTTP/1.1", "Connection: upgrade"), 200, KeepAlive, "")
	f(h("GET /v1 HTTP/1.1", "Connection: upgrade, http2-settings", "Upgrade: h2c"), 200, KeepAlive, "")
	f(h("GET /v1 HTTP/1.1", "Connection: upgrade", "Upgrade: websockets, web socket, websocket/13"), 200, KeepAlive, "")
	f(h("GET /v1 HTTP/1.1", "Connection: Upgraded, x upgrade", "Upgrade: websocket"), 200, KeepAlive, "")
	f(h("GET /v1 HTTP/1.1", "Connection: upgrade", "Upgrade: websoc\u212aet"), 200, KeepAlive, "")
	f(h("POST /v1 HTTP/1.1", "Connection: upgrade", "Upgrade: websocket"), 405, KeepAlive, "")

	f(h("GET / HTTP/1.1", "Connection: close"), 200, Closing, "close")
	f(h("GET / HTTP/1.1", "Connection: Keep-Alive, CLOSE"), 200, Closing, "close")
	f(h("GET / HTTP/1.1", "Connection: keep-alive", "Connection: close"), 200, Closing, "close")
	f(h("GET /v2 HTTP/1.1", "Connection: close"), 404, Closing, "close")
	f("GET / HTTP/1.0\r\n\r\n", 200, Closing, "close")
	f(h("GET / HTTP/1.0"), 200, Closing, "close")
	f(h("GET / HTTP/1.0", "Connection: Keep-Alive"), 200, KeepAlive, "keep-alive")
	f(h("GET /v2 HTTP/1.0", "Connection: keep-alive"), 404, KeepAlive, "keep-alive")
	f(h("GET / HTTP/1.0", "Connection: keep-alive, close"), 200, Closing, "close")

	// The body is never read, so nothing can be found behind it.
	f(h("GET / HTTP/1.1", "Content-Length: 3"), 200, Closing, "close")
	f(h("POST /v1 HTTP/1.1", "Content-Length: 99999999999999999999999"), 405, Closing, "close")
	f(h("POST /v2 HTTP/1.1", "Transfer-Encoding: chunked"), 404, Closing, "close")
	f(h("GET / HTTP/1.0", "Connection: keep-alive", "Content-Length: 010", "content-length: 010"), 200, Closing, "close")
	f(h("GET / HTTP/1.1", "Content-Length: 0", "Content-Length: 0"), 200, KeepAlive, "")
}

func TestPlainBody(t *testing.T) {
	f := func(g *Gate, path string, want any) {
		t.Helper()
		res, body, _ := answerTo(t, g, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n")
		var got any
		if err := json.Unmarshal([]byte(body), &got); err != nil || res.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("%s: %v, %v", path, res.Header, err)
		}
		wantText, _ := json.Marshal(want)
		if gotText, _ := json.Marshal(got); !bytes.Equal(gotText, wantText) {
			t.Errorf("%s: %s; want %s", path, gotText, wantText)
		}
	}
	message := "relaygate: open a WebSocket at /v1?relayId=<relay>&peerId=<peer>"
	f(NewGate(nil, nil), "/", map[string]any{"message": message})
	f(NewGate(nil, nil), "/v1", map[string]any{"version": "v1.0", "isPublic": true})
	f(NewGate([]string{"s"}, nil), "/v1", map[string]any{"version": "v1.0", "isPublic": false})
	f(NewGate([]string{"s"}, []string{"https://a"}), "/v1/", map[string]any{"version": "v1.0", "isPublic": false})
}

func TestPlainCORS(t *testing.T) {
	const allowOrigin = "Access-Control-Allow-Origin"
	f := func(origins []string, lines, want, wantVary string) {
		t.Helper()
		for _, path := range []string{"/", "/v1", "/v1/", "/v2"} {
			res, _, _ := answerTo(t, NewGate([]string{"s"}, origins), "GET "+path+" HTTP/1.1\r\nHost: a\r\n"+lines+"\r\n")
			if path == "/v2" {
				want, wantVary = "", ""
			}
			if got, vary := res.Header.Get(allowOrigin), res.Header.Get("Vary"); got != want || vary != wantVary {
				t.Errorf("%s with %q, %q allowed: %q, Vary %q; want %q, %q", path, lines, origins, got, vary, want, wantVary)
			}
		}
	}
	f(nil, "", "*", "")
	f(nil, "Origin: https://a\r\n", "*", "")
	f([]string{"https://b", "*"}, "Origin: https://a\r\n", "*", "")
	list := []string{"https://a", "https://b"}
	f(list, "Origin: https://b\r\n", "https://b", "Origin")
	f(list, "Origin: https://b\r\nOrigin: https://b\r\n", "https://b", "Origin")
	f(list, "Origin: https://a\r\nOrigin: https://b\r\n", "", "Origin")
	f(list, "Origin: https://c\r\n", "", "Origin")
	f(list, "", "", "Origin")
}

// Each denial can be sent, has a reason that metrics know, and tells the client
// nothing but one line.
func TestRefusals(t *testing.T) {
	for _, d := range []*denial{denyNotHTTP, denyBareLF, denyNUL, denyHeadSize} {
		answer, v := appendRefusal(nil, d)
		res, body := readAnswer(t, answer, false)
		if v.Next != Closing || v.Status != d.status || v.Reason != d.reason || res.StatusCode != d.status || !res.Close {
			t.Errorf("appendRefusal(%v) = %q, %+v", d, answer, v)
		}
		if !slices.Contains(Refusals[:], d.reason) || body != d.Error()+"\n" || strings.Count(body, "\n") != 1 {
			t.Errorf("appendRefusal(%v) says %q because of %q", d, body, d.reason)
		}
	}
	garbage := []byte("\x16\x03\x01\x02\x00") // all of it is taken
	if answer, n, v := NewHandshaker(NewGate(nil, nil)).Answer(nil, garbage, 0); n != len(garbage) || v.Reason != refusedNotHTTP || v.Next != Closing {
		t.Errorf("Answer(%q) = %q, %d, %+v", garbage, answer, n, v)
	}
	seen := map[Refusal]bool{}
	for _, r := range Refusals {
		if seen[r] {
			t.Errorf("%q is there twice", r)
		}
		seen[r] = true
	}
}
