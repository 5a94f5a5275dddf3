package upgrade

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// chromeUpgrade is what Chrome 131 sends, cookies and an offered secret included.
const chromeUpgrade = "GET /v1?relayId=room%2042&peerId=peer-9f86d081884c7d65 HTTP/1.1\r\n" +
	"Host: relay.example.com\r\n" +
	"Connection: Upgrade\r\n" +
	"Pragma: no-cache\r\n" +
	"Cache-Control: no-cache\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\n" +
	"Upgrade: websocket\r\n" +
	"Origin: https://app.example.com\r\n" +
	"Sec-WebSocket-Version: 13\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n" +
	"Cookie: _ga=GA1.1.1234567890.1700000000; session=8f14e45fceea167a5a36dedd4bea2543\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
	"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" +
	"Sec-WebSocket-Protocol: relay.v1, hunter2\r\n" +
	"\r\n"

func TestHeadEndComplete(t *testing.T) {
	f := func(block string) {
		t.Helper()
		// What follows is never looked at: it may be frames.
		for _, b := range []string{block, block + "\x00\n\x82\x85", block + "GET / HTTP/1.1\r\n\r\n"} {
			if n, denied := headEnd([]byte(b), 0); n != len(block) || denied != nil {
				t.Errorf("headEnd(%.60q) = %d, %v; want %d", b, n, denied, len(block))
			}
		}
		for i := range len(block) {
			if n, denied := headEnd([]byte(block[:i]), 0); n != 0 || denied != nil {
				t.Errorf("headEnd(%.60q) = %d, %v; want 0, not yet", block[:i], n, denied)
			}
		}
	}
	f(chromeUpgrade)
	f("GET / HTTP/1.1\r\n\r\n")
	f("\r\nGET / HTTP/1.1\r\n\r\n")
	f("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
	f("x\r\n\r\n")
	f("!\x01\r\xff\r\n\r\n") // for appendAnswer to refuse
	f("GET / HTTP/1.1\r\nA: " + strings.Repeat("x", MaxHeadBytes-23) + "\r\n\r\n")
	f(strings.Repeat("\r\n", MaxHeadBytes/2-3) + "GE\r\n\r\n")
}

func TestHeadEndDenied(t *testing.T) {
	f := func(b string, want *denial) {
		t.Helper()
		if n, denied := headEnd([]byte(b), 0); n != 0 || denied != want {
			t.Errorf("headEnd(%.60q) = %d, %v; want %v", b, n, denied, want)
		}
	}
	f("\x16\x03\x01\x02\x00\x01", denyNotHTTP) // TLS
	f("\x00", denyNotHTTP)
	f(" GET / HTTP/1.1\r\n", denyNotHTTP)
	f("\n", denyNotHTTP)
	f("\n\r\n\r\n", denyNotHTTP)
	f("\r\r", denyNotHTTP)
	f("\rGET", denyNotHTTP)
	f("\r\n\n", denyNotHTTP)
	f("\r\n\r\n\x00\r\nQUIT\n", denyNotHTTP) // PROXY protocol, version 2, where none is expected
	f("\xff", denyNotHTTP)

	f("GET / HTTP/1.1\n", denyBareLF)
	f("GET / HTTP/1.1\r\n\n", denyBareLF)
	f("GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n", denyBareLF)
	f("GET /\x00", denyNUL)
	f("GET / HTTP/1.1\r\nA: \x00\r\n\r\n", denyNUL)

	f("GET / HTTP/1.1\r\nA: "+strings.Repeat("x", MaxHeadBytes-22)+"\r\n\r\n", denyHeadSize)
	f("GET / HTTP/1.1\r\nA: "+strings.Repeat("x", 64<<10), denyHeadSize)
	f(strings.Repeat("\r\n", MaxHeadBytes/2), denyHeadSize)
	f(strings.Repeat("\r\n", MaxHeadBytes/2)+"GET", denyHeadSize)
}

// headEndInPieces calls headEnd as a loop does, the pieces' lengths given by
// next. What was examined is overwritten, but for its last four bytes: so if the
// result is that of the whole, no byte is looked at more than a few times, and a
// block that comes one byte at a time costs time linear in its length.
func headEndInPieces(b []byte, next func() int) (int, *denial) {
	b = bytes.Clone(b)
	for done, from, to := 0, 0, 0; ; done, from = from, to {
		for i := max(0, done-4); i < from-4; i++ {
			b[i] = 0 // fatal if seen
		}
		to = min(to+next(), len(b))
		n, denied := headEnd(b[:to:to], from)
		if n > 0 || denied != nil || to == len(b) {
			return n, denied
		}
	}
}

func TestHeadEndInPieces(t *testing.T) {
	f := func(b string) {
		t.Helper()
		wantN, want := headEnd([]byte(b), 0)
		for largest := 1; largest <= 5; largest++ {
			rnd := rand.New(rand.NewPCG(1, uint64(largest)))
			n, denied := headEndInPieces([]byte(b), func() int { return 1 + rnd.IntN(largest) })
			if n != wantN || denied != want {
				t.Errorf("headEnd(%.60q) in pieces of up to %d = %d, %v; whole %d, %v", b, largest, n, denied, wantN, want)
			}
		}
	}
	f(chromeUpgrade)
	f("\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
	f("\r\n\r\n\r\n\r\n GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	f("\r\n\r\n\rx")
	f("\r\n\r\n\n")
	f("x\r\r\n\r\n")
	f("x\r\n\r\r\n\r\n")
	f("GET / HTTP/1.1\r\n\n")
	f(strings.Repeat("\r\n", MaxHeadBytes))
	f("GET / HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", MaxHeadBytes))
}

func TestParseDenied(t *testing.T) {
	f := func(head string, want *denial) {
		t.Helper()
		var r httpRequest
		if denied := r.parse([]byte(head)); denied != want {
			t.Errorf("parse(%q) = %v; want %v", head, denied, want)
		}
		// The syntax goes before everything an upgrade is asked for.
		head = strings.TrimSuffix(head, "\r\n") + "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
		answer, v := NewHandshaker(NewGate([]string{"s"}, []string{"https://a"})).appendAnswer(nil, []byte(head))
		if v.Next != Closing || v.Status != want.status || v.Reason != want.reason {
			t.Errorf("appendAnswer(%q) = %q, %+v; want %+v", head, answer, v, want)
		}
	}
	const host = "Host: a\r\n\r\n"

	f("GET /\r\n"+host, denyRequestLine)
	f("GET  / HTTP/1.1\r\n"+host, denyRequestLine)
	f("GET /  HTTP/1.1\r\n"+host, denyRequestLine)
	f("GET / HTTP/1.1 \r\n"+host, denyRequestLine)
	f("GET\t/\tHTTP/1.1\r\n"+host, denyRequestLine)
	f("GET / HTTP/1.1\r\r\n"+host, denyRequestLine)
	f("GET / http/1.1\r\n"+host, denyRequestLine)
	f("GET / HTTP/1\r\n"+host, denyRequestLine)
	f("GET / HTTP/1.:\r\n"+host, denyRequestLine)
	f("GET / HTTP/1.10\r\n"+host, denyRequestLine)
	f("GET / HTTPS/1.1\r\n"+host, denyRequestLine)
	f("G@T / HTTP/1.1\r\n"+host, denyRequestLine)
	f("GET\r\n"+host, denyRequestLine)

	f("GET / HTTP/2.0\r\n"+host, denyHTTPVersion)
	f("PRI * HTTP/2.0\r\n\r\n", denyHTTPVersion)
	f("GET / HTTP/0.9\r\n"+host, denyHTTPVersion)

	f("GET v1 HTTP/1.1\r\n"+host, denyTarget)
	f("GET * HTTP/1.1\r\n"+host, denyTarget)
	f("GET ?a=b HTTP/1.1\r\n"+host, denyTarget)
	f("GET /\x01 HTTP/1.1\r\n"+host, denyTarget)
	f("GET /\x7f HTTP/1.1\r\n"+host, denyTarget)
	f("GET /\t HTTP/1.1\r\n"+host, denyTarget)
	f("GET http:///v1 HTTP/1.1\r\n"+host, denyTarget)
	f("GET http://?v1 HTTP/1.1\r\n"+host, denyTarget)
	f("GET http://me@a/v1 HTTP/1.1\r\n"+host, denyTarget)
	f("GET http:/v1 HTTP/1.1\r\n"+host, denyTarget)
	f("GET ftp://a/v1 HTTP/1.1\r\n"+host, denyTarget)
	f("GET ://a/v1 HTTP/1.1\r\n"+host, denyTarget)

	f("GET / HTTP/1.1\r\nHost : a\r\n\r\n", denyHeaderLine)
	f("GET / HTTP/1.1\r\n Host: a\r\n\r\n", denyHeaderLine)
	f("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", denyHeaderLine)
	f("GET / HTTP/1.1\r\nHost: a\r\n\tb: c\r\n\r\n", denyHeaderLine)
	f("GET / HTTP/1.1\r\nHost: a\r\nB\r\n\r\n", denyHeaderLine)
	f("GET / HTTP/1.1\r\nHost: a\r\n: c\r\n\r\n", denyHeaderLine)
	f("GET / HTTP/1.1\r\nHost: a\r\nB\xe9: c\r\n\r\n", denyHeaderLine)
	f("GET / HTTP/1.1\r\nHost: a\r\nB(: c\r\n\r\n", denyHeaderLine)
	f("GET / HTTP/1.1\r\nHost: a\r\nB: c\x01\r\n\r\n", denyHeaderLine)
	f("GET / HTTP/1.1\r\nHost: a\r\nB: \x7f\r\n\r\n", denyHeaderLine)
	f("GET / HTTP/1.1\r\nHost: a\r\nB: c\rD: e\r\n\r\n", denyHeaderLine)
	f("GET / HTTP/1.1\r\nHost: a\r\nB: c\r\r\n\r\n", denyHeaderLine)

	f("GET / HTTP/1.1\r\n\r\n", denyHost)
	f("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", denyHost)
	f("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", denyHost)
	f("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", denyHost)
	f("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", denyHost)
	f("GET / HTTP/1.1\r\nHost: me@a\r\n\r\n", denyHost)
	f("GET http://a/ HTTP/1.1\r\n\r\n", denyHost)

	f("GET / HTTP/1.1\r\nContent-Length: -1\r\n"+host, denyLength)
	f("GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n"+host, denyLength)
	f("GET / HTTP/1.1\r\nContent-Length:\r\n"+host, denyLength)
	f("GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 1\r\n"+host, denyLength)
}

func TestParseTarget(t *testing.T) {
	f := func(target, wantPath, wantQuery string) {
		t.Helper()
		var r httpRequest
		denied := r.parse([]byte("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n"))
		if denied != nil || string(r.path) != wantPath || string(r.query) != wantQuery {
			t.Errorf("target %q: path %q, query %q, %v; want %q, %q", target, r.path, r.query, denied, wantPath, wantQuery)
		}
	}
	f("/", "/", "")
	f("/v1?a=b", "/v1", "a=b")
	f("/v1/?a=b?c", "/v1/", "a=b?c")
	f("/v1??a", "/v1", "?a")
	f("/v1?a=b#c=d", "/v1", "a=b")
	f("/v1?a#?b", "/v1", "a")
	f("/v1#?a", "/v1", "")
	f("//v1", "//v1", "")
	f("/%76%31", "/%76%31", "")
	f("/v1?a=\xc3\xa9", "/v1", "a=\xc3\xa9")
	f("http://a.example:8080/v1?a=b", "/v1", "a=b")
	f("HTTP://a/v1", "/v1", "")
	f("wss://[2001:db8::1]:443/v1/?a", "/v1/", "a")
	f("http://a", "/", "")
	f("http://a?b=c", "/", "b=c")
	f("http://a#b", "/", "")
}

var sinkInt int

func BenchmarkHeadEnd(b *testing.B) {
	head := []byte(chromeUpgrade)
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(head)))
		for b.Loop() {
			n, _ := headEnd(head, 0)
			sinkInt += n
		}
	})
	b.Run("bytes", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(head)))
		for b.Loop() {
			for i := range head {
				n, _ := headEnd(head[:i+1], i)
				sinkInt += n
			}
		}
	})
}
