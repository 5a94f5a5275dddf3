// Package upgrade answers the HTTP requests of a connection until one of them makes it a WebSocket. It knows
// no sockets and no clock: it gets the received bytes and appends the answer to a buffer of the caller.
//
// A request's path: Handshaker.Answer → headEnd and httpRequest.parse (head.go, with the lexical rules in
// octets.go) → Handshaker.examine, which makes the contract's checks of an upgrade in the contract's order
// and decodes the ids (query.go) → appendUpgrade, appendPlain or, for a refusal, appendDenial (answer.go).
package upgrade

import (
	"crypto/sha1"
	"encoding/base64"
	"slices"
	"strings"

	"relaygate/server/page"
)

// Gate holds the settings that decide an upgrade. It is shared by all loops, and static.
type Gate struct {
	// Unready returns the reasons, each of one line, why GET /readyz is answered with 503. There is none if it
	// is nil. Any goroutine may call it.
	Unready func() []string

	// Page is the answer to GET / for those who ask for HTML. If it is nil they get the greeting too.
	Page *page.Document

	secrets   [][]byte // empty if no secret is needed
	anyOrigin bool
	origins   map[string]struct{}
	version   string // body of GET /v1
}

// NewGate makes a Gate. A client must offer one of adminSecrets, if there are any. Each must be a token of RFC
// 9110, since a client can offer nothing else. Origins that are empty or contain "*" allow any. Otherwise a request's origin is compared with them
// byte by byte.
func NewGate(adminSecrets, allowedOrigins []string) *Gate {
	g := &Gate{
		anyOrigin: len(allowedOrigins) == 0 || slices.Contains(allowedOrigins, "*"),
		origins:   make(map[string]struct{}, len(allowedOrigins)),
		version:   `{"version":"v1.0","isPublic":true}`,
	}
	for _, origin := range allowedOrigins {
		g.origins[origin] = struct{}{}
	}
	for _, secret := range adminSecrets {
		g.secrets = append(g.secrets, []byte(secret))
	}
	if len(g.secrets) > 0 {
		g.version = `{"version":"v1.0","isPublic":false}`
	}
	return g
}

const greeting = `{"message":"relaygate: open a WebSocket at /v1?relayId=<relay>&peerId=<peer>"}`

// allowsOrigin reports whether r's origin is allowed. A browser sends one Origin (RFC 6454 §7.3). Two that
// differ are refused: otherwise a proxy could choose the one that we examine.
func (g *Gate) allowsOrigin(r *httpRequest) bool {
	if g.anyOrigin {
		return true
	}
	_, listed := g.origins[string(r.origin)]
	return listed && r.origins > 0 && !r.originsDiffer
}

// After says what follows an answered request.
type After uint8

const (
	Closing   After = iota // send the answer, then close the connection
	KeepAlive              // a further request may follow
	Upgraded               // frames follow
)

// Verdict is the outcome of one request.
type Verdict struct {
	Next   After
	Status int     // of the answer
	Reason Refusal // empty if not refused

	// Decoded, 1 to 1,024 bytes each; set only for Upgraded. They alias the request or the Handshaker. They
	// are valid until the request's bytes change or until the next call of Answer.
	RelayID, PeerID []byte
}

// Handshaker answers HTTP requests: plain ones, and upgrades to WebSocket. It has scratch memory, so each
// loop owns one.
//
// ws.Upgrader is not used because it checks headers in the order in which they come. The contract has an
// order of its own.
type Handshaker struct {
	gate            *Gate
	relayID, peerID idScratch
}

// NewHandshaker returns a Handshaker that decides by the settings in g.
func NewHandshaker(g *Gate) *Handshaker { return &Handshaker{gate: g} }

// SetGate makes h decide by g from now on.
func (h *Handshaker) SetGate(g *Gate) { h.gate = g }

// Answer answers the request at the beginning of b: it appends the whole answer to dst and returns the
// outcome. The request is b[:n]. If n is 0 the request is incomplete: call Answer again with more bytes and
// seen = len(b). b[:seen] are the bytes that an earlier call has examined. Bytes that can no longer become a
// request are refused at once, and n is then len(b).
//
// It allocates only room in dst, and keeps neither dst nor b.
func (h *Handshaker) Answer(dst, b []byte, seen int) (answer []byte, n int, v Verdict) {
	n, denied := headEnd(b, seen)
	switch {
	case denied != nil:
		answer, v = appendRefusal(dst, denied)
		return answer, len(b), v
	case n == 0:
		return dst, 0, Verdict{}
	}
	answer, v = h.appendAnswer(dst, b[:n])
	return answer, n, v
}

// appendAnswer answers head, a complete header block found by headEnd.
func (h *Handshaker) appendAnswer(dst, head []byte) ([]byte, Verdict) {
	r := httpRequest{secrets: h.gate.secrets}
	if denied := r.parse(head); denied != nil {
		return appendRefusal(dst, denied)
	}
	if !r.isUpgrade() {
		return h.appendPlain(dst, &r)
	}
	relayID, peerID, denied := h.examine(&r)
	if denied != nil {
		return appendRefusal(dst, denied)
	}
	return h.appendUpgrade(dst, &r), Verdict{Next: Upgraded, Status: 101, RelayID: relayID, PeerID: peerID}
}

// examine makes the contract's checks of an upgrade, in the contract's order.
func (h *Handshaker) examine(r *httpRequest) (relayID, peerID []byte, denied *denial) {
	if !h.gate.allowsOrigin(r) {
		return nil, nil, denyOrigin
	}
	if len(h.gate.secrets) > 0 && r.secret == nil {
		return nil, nil, denySecret
	}
	if !isRelayPath(r.path) {
		return nil, nil, denyPath
	}
	relayID, ok := h.relayID.decode(queryFirst(r.query, "relayId"))
	if !ok {
		return nil, nil, denyRelayIDLen
	}
	if len(relayID) == 0 {
		return nil, nil, denyRelayID
	}
	peerID, ok = h.peerID.decode(queryFirst(r.query, "peerId"))
	if !ok {
		return nil, nil, denyPeerIDLen
	}
	if len(peerID) == 0 {
		return nil, nil, denyPeerID
	}
	return relayID, peerID, examineProtocol(r)
}

// examineProtocol checks the request's WebSocket headers and HTTP body.
func examineProtocol(r *httpRequest) *denial {
	switch {
	case r.keys != 1 || !isWebSocketKey(r.key):
		return denyKey
	case r.versions != 1 || string(r.version) != "13":
		return denyVersion
	case r.http10:
		return denyHTTP10
	case r.hasBody:
		// The body's bytes would be taken for frames.
		return denyBody
	}
	return nil
}

func isRelayPath(path []byte) bool { return string(path) == "/v1" || string(path) == "/v1/" }

// isWebSocketKey checks key as RFC 6455 §4.2.1 requires: a base64-encoded value that, when decoded, is 16
// bytes in length.
func isWebSocketKey(key []byte) bool {
	const encoded = 24
	if len(key) != encoded {
		return false
	}
	var nonce [encoded / 4 * 3]byte
	n, err := base64.StdEncoding.Decode(nonce[:], key)
	return err == nil && n == 16
}

// appendUpgrade appends the 101 of RFC 6455 §4.2.2. The accept value is the SHA-1 of key and GUID in base64.
// If the client offers subprotocols, one of them is selected: browsers fail the connection otherwise.
func (h *Handshaker) appendUpgrade(dst []byte, r *httpRequest) []byte {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	var keyed [24 + len(guid)]byte
	copy(keyed[:], r.key)
	copy(keyed[24:], guid)
	sum := sha1.Sum(keyed[:])

	dst = append(dst, "HTTP/1.1 101 Switching Protocols\r\n"+
		"Upgrade: websocket\r\n"+
		"Connection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "...)
	dst = base64.StdEncoding.AppendEncode(dst, sum[:])
	selected := r.protocol
	if len(h.gate.secrets) > 0 {
		selected = r.secret
	}
	if selected != nil {
		dst = append(dst, "\r\nSec-WebSocket-Protocol: "...)
		dst = append(dst, selected...)
	}
	return append(dst, "\r\n\r\n"...)
}

// appendPlain answers a request that is no upgrade. RFC 9110 §9.3.2: the answer to a HEAD is that to a GET,
// including the body's length but without the body.
func (h *Handshaker) appendPlain(dst []byte, r *httpRequest) ([]byte, Verdict) {
	next, connection := Closing, lineEnds
	if r.persists() {
		next, connection = KeepAlive, linePersists
		if r.http10 {
			connection = linePersists10
		}
	}
	method := string(r.method)
	status, body, kind := 200, h.gate.version, "application/json"
	chooses := false // the answer depends on Accept
	var denied *denial
	switch {
	case string(r.path) == "/":
		body = greeting
		chooses = h.gate.Page != nil
	case string(r.path) == "/readyz":
		status, body = h.gate.readiness()
		kind = "text/plain; charset=utf-8"
	case !isRelayPath(r.path):
		denied = denyPath
	}
	if denied == nil && method != "GET" && method != "HEAD" {
		denied = denyMethod
	}
	if denied != nil {
		dst = appendDenial(dst, denied, connection, method == "HEAD")
		return dst, Verdict{Next: next, Status: denied.status, Reason: denied.reason}
	}
	if chooses && r.asksForPage() {
		return appendPage(dst, h.gate.Page, r, connection), Verdict{Next: next, Status: status}
	}
	dst = appendStatusLine(dst, status)
	if chooses {
		dst = append(dst, "Vary: Accept\r\n"...)
	}
	dst = h.appendCORS(dst, r)
	dst = appendContentHeader(dst, connection, kind, len(body))
	if method != "HEAD" {
		dst = append(dst, body...)
	}
	return dst, Verdict{Next: next, Status: status}
}

// readiness returns the answer to GET /readyz.
func (g *Gate) readiness() (status int, body string) {
	if g.Unready != nil {
		if reasons := g.Unready(); len(reasons) > 0 {
			return 503, strings.Join(reasons, "\n") + "\n"
		}
	}
	return 200, "ready\n"
}

// appendCORS lets pages that may open a WebSocket read the answer too. Vary keeps caches from giving one page
// the answer made for another. So it is sent whether this Origin matches or not.
func (h *Handshaker) appendCORS(dst []byte, r *httpRequest) []byte {
	if h.gate.anyOrigin {
		return append(dst, "Access-Control-Allow-Origin: *\r\n"...)
	}
	dst = append(dst, "Vary: Origin\r\n"...)
	if h.gate.allowsOrigin(r) {
		dst = append(dst, "Access-Control-Allow-Origin: "...)
		dst = append(dst, r.origin...)
		dst = append(dst, "\r\n"...)
	}
	return dst
}
