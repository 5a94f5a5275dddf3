package upgrade

import (
	"bytes"
	"crypto/subtle"
)

// MaxHeadBytes bounds a request's header block, including empty lines before it and the one that ends it.
const MaxHeadBytes = 16 << 10

// headEnd looks for the end of the header block at the beginning of b. b[:from] was examined by an earlier
// call for the same block without finding the end. So a block that comes one byte at a time costs no more
// than one that comes whole.
//
//	n > 0     b[:n] is the block, its final CRLFCRLF included; what follows is not looked at
//	n == 0    not yet: call again with more, and from = len(b)
//	denied    it can no longer become a block we take: answer with appendRefusal
func headEnd(b []byte, from int) (n int, denied *denial) {
	limit := min(len(b), MaxHeadBytes)
	i := min(from, limit)
	if headNotBegun(b, i) {
		if i, denied = skipEmptyLines(b[:limit], i); denied != nil {
			return 0, denied
		}
	}
	for i < limit {
		end, ended := limit, false
		if lf := bytes.IndexByte(b[i:limit], '\n'); lf >= 0 {
			end, ended = i+lf, true
		}
		if bytes.IndexByte(b[i:end], 0) >= 0 {
			return 0, denyNUL
		}
		if !ended {
			break
		}
		// RFC 9112 §2.2: a recipient MAY recognise a single LF as a line terminator. We do not: recipients
		// that do and recipients that do not disagree where a request ends, and attackers use that to smuggle
		// requests.
		if end == 0 || b[end-1] != '\r' {
			return 0, denyBareLF
		}
		if end >= 2 && b[end-2] == '\n' {
			return end + 1, nil
		}
		i = end + 1
	}
	if limit == MaxHeadBytes {
		return 0, denyHeadSize
	}
	return 0, nil
}

// headNotBegun reports whether b[:i], examined before, holds only empty lines. The last of them may still
// lack its LF. Examining the last two lines is enough: an empty line after a header line would have ended the
// block.
func headNotBegun(b []byte, i int) bool {
	if i > 0 && b[i-1] == '\r' {
		i--
	}
	return i == 0 || b[i-1] == '\n' && (i == 2 || i > 2 && b[i-3] == '\n')
}

// skipEmptyLines returns the index of the request line's first byte, or len(b). It continues at i, which may
// lie between the CR and the LF of an empty line.
//
// RFC 9112 §2.2: a server SHOULD ignore at least one empty line (CRLF) received prior to the request-line.
func skipEmptyLines(b []byte, i int) (int, *denial) {
	afterCR := i > 0 && b[i-1] == '\r'
	for ; i < len(b) && (afterCR || b[i] == '\r'); i++ {
		if afterCR && b[i] != '\n' {
			return i, denyNotHTTP
		}
		afterCR = !afterCR
	}
	// Most often this is a TLS ClientHello (0x16). Its client would wait for an answer until the handshake's
	// deadline.
	if i < len(b) && !isTokenOctet(b[i]) {
		return i, denyNotHTTP
	}
	return i, nil
}

// httpRequest holds the parts of a header block that we use. Its slices alias the block.
type httpRequest struct {
	secrets [][]byte // set before parse; empty if none is required

	method []byte
	path   []byte // raw; nil if the target has none ("*", CONNECT)
	query  []byte // raw, without "?"
	http10 bool

	hosts    int
	hasBody  bool
	length   []byte // Content-Length
	asksKeep bool   // Connection: keep-alive
	asksEnd  bool   // Connection: close

	connUpgrade bool // Connection: upgrade
	toWebSocket bool // Upgrade: websocket
	keys        int
	key         []byte
	versions    int
	version     []byte

	origins       int
	origin        []byte
	originsDiffer bool

	protocol []byte // the first token offered; nil if there is none
	secret   []byte // the first token offered that is one of secrets; nil if there is none

	wantsHTML, wantsJSON weight // Accept: the weight of these types, 0 if they are not named
	takesGzip            bool   // Accept-Encoding
}

// isUpgrade reports whether the client asks for a WebSocket. RFC 6455 §4.2.1 requires a GET, an Upgrade that
// includes "websocket" and a Connection that includes the token "Upgrade". Both are compared without regard
// to case.
func (r *httpRequest) isUpgrade() bool {
	return string(r.method) == "GET" && r.connUpgrade && r.toWebSocket
}

// persists reports whether the connection stays open after the answer (RFC 9112 §9.3). It does not after a
// request with a body: the body would have to be read first, and no request that we serve has one.
func (r *httpRequest) persists() bool {
	return !r.hasBody && !r.asksEnd && (!r.http10 || r.asksKeep)
}

// parse reads one complete header block, as headEnd delimits it. Of httphead only the octet table is used.
// Its ParseHeaderLine accepts blanks before the colon and folded lines, its ScanTokens a list without commas,
// and its ParseVersion "HTTP/1.:".
func (r *httpRequest) parse(head []byte) *denial {
	for len(head) >= 2 && head[0] == '\r' && head[1] == '\n' {
		head = head[2:]
	}
	line, rest, _ := cutLine(head)
	if denied := r.parseRequestLine(line); denied != nil {
		return denied
	}
	ok := true
	for {
		if line, rest, ok = cutLine(rest); !ok {
			return denyHeaderLine
		}
		if len(line) == 0 {
			break
		}
		name, value, denied := parseHeaderLine(line)
		if denied == nil {
			denied = r.take(name, value)
		}
		if denied != nil {
			return denied
		}
	}
	// RFC 9112 §3.2: a server MUST respond with 400 to any HTTP/1.1 request that lacks a Host header field
	// and to any request that contains more than one.
	if r.hosts > 1 || r.hosts == 0 && !r.http10 {
		return denyHost
	}
	return nil
}

// cutLine cuts the first line off b and removes its CRLF.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	lf := bytes.IndexByte(b, '\n')
	if lf < 1 || b[lf-1] != '\r' {
		return nil, nil, false
	}
	return b[:lf-1], b[lf+1:], true
}

// parseRequestLine accepts exactly method SP request-target SP HTTP-version. RFC 9112 §3: lenient splitting
// at other whitespace can be exploited.
func (r *httpRequest) parseRequestLine(line []byte) *denial {
	method, rest, _ := cutByte(line, ' ')
	target, version, _ := cutByte(rest, ' ')
	if !IsToken(method) || len(target) == 0 {
		return denyRequestLine
	}
	r.method = method
	if denied := r.parseVersion(version); denied != nil {
		return denied
	}
	return r.parseTarget(target)
}

// parseVersion parses the version of RFC 9112 §2.3: HTTP-version = "HTTP" "/" DIGIT "." DIGIT. RFC 9110 §2.5:
// a higher minor version than ours is to be read as ours.
func (r *httpRequest) parseVersion(v []byte) *denial {
	if len(v) != 8 || string(v[:5]) != "HTTP/" || !isDigit(v[5]) || v[6] != '.' || !isDigit(v[7]) {
		return denyRequestLine
	}
	if v[5] != '1' {
		return denyHTTPVersion
	}
	r.http10 = v[7] == '0'
	return nil
}

// parseTarget finds the path and query of a request target (RFC 9112 §3.2). It accepts origin-form,
// absolute-form, and the two forms that name nothing here. Octets beyond ASCII are accepted, since clients
// other than browsers also write queries.
func (r *httpRequest) parseTarget(t []byte) *denial {
	for _, c := range t {
		if c <= ' ' || c == 0x7f {
			return denyTarget
		}
	}
	if t[0] != '/' {
		if string(t) == "*" && string(r.method) == "OPTIONS" || string(r.method) == "CONNECT" {
			return nil
		}
		var ok bool
		if t, ok = cutAuthority(t); !ok {
			return denyTarget
		}
	}
	t, _, _ = cutByte(t, '#')
	r.path, r.query, _ = cutByte(t, '?')
	if len(r.path) == 0 {
		// RFC 9110 §4.2.3: an empty path is equivalent to "/".
		r.path = rootPath
	}
	return nil
}

var rootPath = []byte("/")

// cutAuthority cuts scheme and authority off an absolute-form target. RFC 9112 §3.2.2: a server MUST accept
// the absolute-form in requests. Neither its host nor Host is compared with ours, since we answer to any
// name.
func cutAuthority(t []byte) (rest []byte, ok bool) {
	colon := bytes.IndexByte(t, ':')
	if colon < 0 || !bytes.HasPrefix(t[colon:], []byte("://")) {
		return nil, false
	}
	scheme, t := t[:colon], t[colon+3:]
	if !equalFold(scheme, "http") && !equalFold(scheme, "https") &&
		!equalFold(scheme, "ws") && !equalFold(scheme, "wss") {
		return nil, false
	}
	n := 0
	for n < len(t) && t[n] != '/' && t[n] != '?' && t[n] != '#' {
		n++
	}
	// RFC 9110 §4.2.1: a URI with an empty host MUST be rejected. §4.2.4: userinfo is to be treated as an
	// error; isHost rejects its "@".
	return t[n:], n > 0 && isHost(t[:n])
}

// parseHeaderLine splits a field line (RFC 9112 §5: field-name ":" OWS field-value OWS).
func parseHeaderLine(line []byte) (name, value []byte, denied *denial) {
	name, value, ok := cutByte(line, ':')
	if !ok || !IsToken(name) {
		// RFC 9112 §5.1: a server MUST reject, with 400, whitespace between a field name and the colon. §5.2:
		// it MUST either reject a folded line, which starts with a blank, or unfold it.
		return nil, nil, denyHeaderLine
	}
	// RFC 9110 §5.5: field values with CR, LF or NUL are invalid and dangerous, and other control characters
	// are invalid.
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return nil, nil, denyHeaderLine
		}
	}
	return name, trimBlanks(value), nil
}

// take records one header line if we use it.
func (r *httpRequest) take(name, value []byte) *denial {
	var lower [len("sec-websocket-protocol")]byte // as long as the longest name that we use
	if len(name) > len(lower) {
		return nil
	}
	for i, c := range name {
		lower[i] = lowerASCII(c)
	}
	switch string(lower[:len(name)]) {
	case "host":
		r.hosts++
		if !isHost(value) {
			return denyHost
		}
	case "connection":
		r.takeConnection(value)
	case "upgrade":
		for more := true; more; {
			var item []byte
			item, value, more = cutItem(value)
			r.toWebSocket = r.toWebSocket || equalFold(item, "websocket")
		}
	case "origin":
		r.originsDiffer = r.originsDiffer || r.origins > 0 && !bytes.Equal(r.origin, value)
		r.origin = value
		r.origins++
	case "sec-websocket-protocol":
		r.takeProtocols(value)
	case "sec-websocket-key":
		r.key = value
		r.keys++
	case "sec-websocket-version":
		r.version = value
		r.versions++
	case "accept":
		r.takeAccept(value)
	case "accept-encoding":
		r.takeAcceptEncoding(value)
	case "content-length":
		return r.takeLength(value)
	case "transfer-encoding":
		r.hasBody = true
	}
	return nil
}

func (r *httpRequest) takeConnection(value []byte) {
	for more := true; more; {
		var item []byte
		item, value, more = cutItem(value)
		switch {
		case equalFold(item, "upgrade"):
			r.connUpgrade = true
		case equalFold(item, "keep-alive"):
			r.asksKeep = true
		case equalFold(item, "close"):
			r.asksEnd = true
		}
	}
}

// takeProtocols compares every token with every secret, also after a match. The time it takes then does not
// tell which token was right, or how much of it. The secrets' number and lengths are not hidden.
func (r *httpRequest) takeProtocols(value []byte) {
	for more := true; more; {
		var item []byte
		item, value, more = cutItem(value)
		if !IsToken(item) {
			continue
		}
		if r.protocol == nil {
			r.protocol = item
		}
		matches := 0
		for _, s := range r.secrets {
			matches |= subtle.ConstantTimeCompare(item, s)
		}
		if matches == 1 && r.secret == nil {
			r.secret = item
		}
	}
}

// takeLength records a Content-Length. RFC 9112 §6.3: an invalid one, or several that differ, is an
// unrecoverable error that MUST be answered with 400 and a close.
func (r *httpRequest) takeLength(value []byte) *denial {
	if len(value) == 0 || r.length != nil && !bytes.Equal(r.length, value) {
		return denyLength
	}
	for _, c := range value {
		if !isDigit(c) {
			return denyLength
		}
		r.hasBody = r.hasBody || c != '0'
	}
	r.length = value
	return nil
}
