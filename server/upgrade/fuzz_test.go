package upgrade

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// FuzzHead holds us against net/http: what it reads as a request we read alike,
// or refuse for one of the reasons we are stricter for; what we read it reads too.
// The decision is made a second time from what net/http read.
func FuzzHead(f *testing.F) {
	for _, seed := range []string{
		chromeUpgrade,
		upgradeWith(goodTarget, goodKey, goodVersion),
		upgradeWith(goodTarget, goodKey, goodVersion, "Origin: https://a", "Sec-WebSocket-Protocol: x, hunter2"),
		upgradeWith("http://a:1/v1/?relayId=%f0%9f%98&peerId=+", goodKey, goodVersion, "Origin: https://a"),
		"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /v1 HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/2.0\r\nHost: a\r\n b\r\nC : d\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
		"\x16\x03\x01", "GET /\n\n", "GET /\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(checkHead)
}

// Random bytes seldom have several headers right at once: so heads put together
// at random from lines that matter, one byte in some of them changed.
func TestHeadsAgainstNetHTTP(t *testing.T) {
	lines := []string{
		"Host: a", "Host: a", "Host: a", "hOST: [::1]:8080", "Host: a b", "Connection: Upgrade", "Connection: upgrade",
		"connection: keep-alive, upgrade", "Connection: close", "Connection: keep-alive", "Connection: x",
		"Upgrade: websocket", "Upgrade: WebSocket", "UPGRADE: h2c, websocket", "Upgrade: h2c",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-key:dGhlIHNhbXBsZSBub25jZQ== ", "Sec-WebSocket-Key: x",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Version:\t13", "Sec-WebSocket-Version: 8",
		"Origin: https://a", "Origin: https://b", "Origin:", "Sec-WebSocket-Protocol: hunter2", "Sec-WebSocket-Protocol: x,\thunter2 ,y",
		"Sec-WebSocket-Protocol: hunter3", "Content-Length: 0", "Content-Length: 5", "Content-Length: +1", "Transfer-Encoding: chunked",
		"Accept: */*", "X: \xe9", "X : y", " folded", "X:",
	}
	methods := []string{"GET", "GET", "GET", "GET", "GET", "HEAD", "POST", "get", "G@T", "OPTIONS", "CONNECT"}
	targets := []string{
		goodTarget, goodTarget, "/v1/?peerId=+%c3%a9&relayId=%ff", "http://a/v1?relayId=r&peerId=p&relayId=s", "https://a:1?x",
		"/v1?relayId=r&peerId=", "/v1?peerId=p", "/v1", "/", "/v2?relayId=r&peerId=p", "/readyz", "/readyz?a", "/readyz/", "*", "a:443", "v1", "/%76", "//v1", "/v1?a#b",
	}
	versions := []string{"HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/1"}
	statuses, rnd := map[int]int{}, rand.New(rand.NewPCG(6455, 9112))
	pick := func(from []string) string { return from[rnd.IntN(len(from))] }
	for i := range 20_000 {
		head := pick(methods) + " " + pick(targets) + " " + pick(versions) + "\r\n"
		needed := []string{"Host: a", "Connection: Upgrade", "Upgrade: websocket", goodKey, goodVersion}
		for _, line := range needed[:rnd.IntN(len(needed)+1)] {
			head += line + "\r\n"
		}
		for range rnd.IntN(5) {
			head += pick(lines) + "\r\n"
		}
		data := []byte(head + "\r\n")
		if rnd.IntN(4) == 0 {
			data[rnd.IntN(len(data))] = byte(rnd.Uint32())
		}
		if checkHead(t, data); t.Failed() {
			return
		}
		_, v := NewHandshaker(someGates[i%len(someGates)]).appendAnswer(nil, data)
		statuses[v.Status]++
	}
	for _, status := range []int{101, 200, 400, 401, 403, 404, 405, 426, 505} {
		if statuses[status] < 10 {
			t.Errorf("answered %d times with %d; the lines above are not what they should be", statuses[status], status)
		}
	}
}

var someGates = []*Gate{
	NewGate(nil, nil), NewGate([]string{"hunter2"}, nil), NewGate([]string{"hunter3", "hunter2"}, nil), NewGate(nil, []string{"https://a"}),
}

func checkHead(t *testing.T, data []byte) {
	n, denied := headEnd(data, 0)
	if m, inPieces := headEndInPieces(data, func() int { return 1 }); m != n || inPieces != denied {
		t.Fatalf("headEnd = %d, %v; one byte at a time %d, %v", n, denied, m, inPieces)
	}
	if n == 0 {
		NewHandshaker(someGates[0]).appendAnswer(nil, data) // whatever it says of half a block
		return
	}
	block := data[:n]
	var r httpRequest
	denied = r.parse(block)
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.TrimLeft(block, "\r\n"))))
	switch {
	case denied == nil && err == nil:
		checkSameRequest(t, &r, req)
	case denied == nil && !netHTTPIsStricter(&r, err):
		t.Fatalf("we read %q, net/http says %v", block, err)
	case denied != nil && err == nil && !weAreStricter(denied, block, req):
		t.Fatalf("net/http reads %q, we say %v", block, denied)
	}
	for _, g := range someGates {
		isHEAD := denied == nil && string(r.method) == "HEAD"
		answer, v := NewHandshaker(g).appendAnswer(nil, block)
		if res, _ := readAnswer(t, answer, isHEAD); res.StatusCode != v.Status {
			t.Errorf("%q: answered with %d, the Verdict says %d", block, res.StatusCode, v.Status)
		}
		if denied != nil {
			if v.Status != denied.status || v.Reason != denied.reason || v.Next != Closing {
				t.Errorf("%q: %+v; want %+v", block, v, denied)
			}
		} else if err == nil && !bytes.Contains(block, []byte("#")) {
			checkDecision(t, g, block, req, v)
		}
	}
}

func checkSameRequest(t *testing.T, r *httpRequest, req *http.Request) {
	t.Helper()
	if string(r.method) != req.Method || r.http10 != !req.ProtoAtLeast(1, 1) {
		t.Errorf("method %q, HTTP/1.0 %t; net/http %q, %s", r.method, r.http10, req.Method, req.Proto)
	}
	if strings.Contains(req.RequestURI, "#") || r.path == nil {
		return
	}
	if string(r.query) != req.URL.RawQuery || knownPath(string(r.path)) != knownPath(req.URL.EscapedPath()) {
		t.Errorf("path %q, query %q; net/http %q, %q", r.path, r.query, req.URL.EscapedPath(), req.URL.RawQuery)
	}
}

// netHTTPIsStricter: it parses the whole URL, and wants to read the body.
func netHTTPIsStricter(r *httpRequest, err error) bool {
	var inURL *url.Error
	return errors.As(err, &inURL) || r.hasBody
}

var (
	hostLine        = regexp.MustCompile(`(?im)^host:[ \t]*([-._~!$&'()*+,;=%:\[\]a-z0-9]*)[ \t]*\r$`)
	anyHostLine     = regexp.MustCompile(`(?im)^host:`)
	blankName       = regexp.MustCompile(`(?m)^[^:\r\n]*[ \t][^:\r\n]*:`)
	foldedLine      = regexp.MustCompile(`\r\n[ \t]`)
	plainTarget     = regexp.MustCompile(`^(/|https?://[a-zA-Z0-9.-]+([:/?]|$))`)
	encodingLine    = regexp.MustCompile(`(?im)^transfer-encoding:`)
	emptyLengthLine = regexp.MustCompile(`(?im)^content-length:[ \t]*\r$`)
)

func weAreStricter(denied *denial, block []byte, req *http.Request) bool {
	switch denied {
	case denyHTTPVersion:
		return req.ProtoMajor != 1
	case denyHost:
		all, valid := len(anyHostLine.FindAll(block, -1)), len(hostLine.FindAll(block, -1))
		return all != valid || all > 1 || all == 0 && req.ProtoAtLeast(1, 1)
	case denyHeaderLine:
		_, fields, _ := bytes.Cut(block, []byte("\r\n"))
		return blankName.Match(fields) || foldedLine.Match(block)
	case denyRequestLine:
		// RFC 9112 §3: there is a target. net/http does without one in a CONNECT.
		return req.RequestURI == ""
	case denyTarget:
		return !plainTarget.MatchString(req.RequestURI)
	case denyLength:
		return emptyLengthLine.Match(block)
	}
	return false
}

// checkDecision: the contract, once more.
func checkDecision(t *testing.T, g *Gate, block []byte, req *http.Request, v Verdict) {
	t.Helper()
	want, relayID, peerID := wantDecision(g, block, req)
	if v.Status != want || want == 101 && (string(v.RelayID) != relayID || string(v.PeerID) != peerID) {
		t.Errorf("%q with secrets %q, origins %v: %+v; want %d, %q, %q", block, g.secrets, g.origins, v, want, relayID, peerID)
	}
	hasBody := encodingLine.Match(block) || req.ContentLength > 0
	ends := listed(req.Header, "Connection", "close") ||
		!req.ProtoAtLeast(1, 1) && !listed(req.Header, "Connection", "keep-alive")
	wantNext := KeepAlive
	if want == 101 {
		wantNext = Upgraded
	} else if hasBody || ends || wantsWebSocket(req) {
		wantNext = Closing
	}
	if v.Next != wantNext {
		t.Errorf("%q: then %d; want %d", block, v.Next, wantNext)
	}
}

func wantDecision(g *Gate, block []byte, req *http.Request) (status int, relayID, peerID string) {
	path, header := req.URL.EscapedPath(), req.Header
	if !strings.HasPrefix(req.RequestURI, "/") && (req.Method == "CONNECT" || req.RequestURI == "*") {
		path = "nowhere"
	}
	if !wantsWebSocket(req) {
		switch {
		case !knownPath(path):
			return 404, "", ""
		case req.Method != "GET" && req.Method != "HEAD":
			return 405, "", ""
		}
		return 200, "", ""
	}
	if origins := slices.Compact(slices.Clone(header["Origin"])); !g.anyOrigin {
		if len(origins) != 1 {
			return 403, "", ""
		}
		if _, ok := g.origins[origins[0]]; !ok {
			return 403, "", ""
		}
	}
	offers := func(secret []byte) bool {
		return slices.Contains(items(header, "Sec-Websocket-Protocol"), string(secret))
	}
	if len(g.secrets) > 0 && !slices.ContainsFunc(g.secrets, offers) {
		return 401, "", ""
	}
	if path != "/v1" && path != "/v1/" {
		return 404, "", ""
	}
	relayID, peerID = refSearchParam(req.URL.RawQuery, "relayId"), refSearchParam(req.URL.RawQuery, "peerId")
	if relayID == "" || len(relayID) > 1024 || peerID == "" || len(peerID) > 1024 {
		return 400, "", ""
	}
	if keys := header["Sec-Websocket-Key"]; len(keys) != 1 {
		return 400, "", ""
	} else if nonce, err := base64.StdEncoding.DecodeString(keys[0]); err != nil || len(nonce) != 16 {
		return 400, "", ""
	}
	if !slices.Equal(header["Sec-Websocket-Version"], []string{"13"}) {
		return 426, "", ""
	}
	if !req.ProtoAtLeast(1, 1) || encodingLine.Match(block) || req.ContentLength > 0 {
		return 400, "", ""
	}
	return 101, relayID, peerID
}

func wantsWebSocket(req *http.Request) bool {
	return req.Method == "GET" && listed(req.Header, "Connection", "upgrade") && listed(req.Header, "Upgrade", "websocket")
}

func knownPath(path string) bool {
	return slices.Contains([]string{"", "/", "/v1", "/v1/", "/readyz"}, path)
}

func items(header http.Header, name string) (all []string) {
	for item := range strings.SplitSeq(strings.Join(header[name], ","), ",") {
		all = append(all, strings.Trim(item, " \t"))
	}
	return all
}

func listed(header http.Header, name, token string) bool {
	return slices.ContainsFunc(items(header, name), func(item string) bool {
		return len(item) == len(token) && strings.EqualFold(item, token)
	})
}
