package upgrade

import (
	"net/http"
	"strconv"

	"relaygate/server/page"
)

// Refusal says why a request was not served. Its text is used as a metric's label and a log field.
type Refusal string

const (
	// The client does not speak HTTP as we accept it.
	refusedNotHTTP     Refusal = "not_http"
	refusedHead        Refusal = "head"
	refusedHeadSize    Refusal = "head_size"
	refusedHTTPVersion Refusal = "http_version"

	// For an upgrade; path also for a plain request.
	refusedOrigin  Refusal = "origin"
	refusedSecret  Refusal = "secret"
	refusedPath    Refusal = "path"
	refusedID      Refusal = "id"
	refusedKey     Refusal = "key"
	refusedVersion Refusal = "version"
	refusedBody    Refusal = "body"

	// For a plain request.
	refusedMethod Refusal = "method"

	// For an upgrade that is right but comes at the wrong time. The caller decides: see AppendBusy.
	BusyConnections   Refusal = "connections"    // MAX_CONNECTIONS
	BusyConnectRate   Refusal = "connect_rate"   // CONNECT_RATE
	BusyIPConnections Refusal = "ip_connections" // MAX_CONNECTIONS_PER_IP
	BusyIPRooms       Refusal = "ip_rooms"       // MAX_ROOMS_PER_IP
	BusyRoomPeers     Refusal = "room_peers"     // MAX_ROOM_PEERS
	BusyMemory        Refusal = "memory"         // MEMORY_BUDGET
	BusyDraining      Refusal = "draining"       // the process is about to end
)

// Refusals lists all of them, so that metrics can begin at zero.
var Refusals = [...]Refusal{
	refusedNotHTTP, refusedHead, refusedHeadSize, refusedHTTPVersion,
	refusedOrigin, refusedSecret, refusedPath, refusedID, refusedKey, refusedVersion, refusedBody,
	refusedMethod,
	BusyConnections, BusyConnectRate, BusyIPConnections, BusyIPRooms, BusyRoomPeers, BusyMemory, BusyDraining,
}

// busy holds the answers of AppendBusy. Limits of one client are answered with 429, all others with 503.
var busy = map[Refusal]*denial{
	BusyConnections:   {503, BusyConnections, "", "the relay is full"},
	BusyConnectRate:   {503, BusyConnectRate, "", "too many connections are waiting"},
	BusyIPConnections: {429, BusyIPConnections, "", "too many connections from this address"},
	BusyIPRooms:       {429, BusyIPRooms, "", "too many relays from this address"},
	BusyRoomPeers:     {503, BusyRoomPeers, "", "this relay is full"},
	BusyMemory:        {503, BusyMemory, "", "the relay is short of memory"},
	BusyDraining:      {503, BusyDraining, "", "the relay is stopping"},
}

// AppendBusy appends the answer to an upgrade that is refused for reason, one of the Busy ones. The client is
// asked to come back after retryAfter seconds.
func AppendBusy(dst []byte, reason Refusal, retryAfter int) (answer []byte, v Verdict) {
	d := *busy[reason]
	d.header = "Retry-After: " + strconv.Itoa(retryAfter) + "\r\n"
	return appendRefusal(dst, &d)
}

// denial is one way to refuse a request: the reason to count and the answer. It never holds anything that the
// client sent. Only the values below exist, so pointers to them can be compared.
type denial struct {
	status int
	reason Refusal
	header string // complete header lines that belong to the status
	text   string
}

func (d *denial) Error() string { return d.text }

var (
	denyNotHTTP     = &denial{400, refusedNotHTTP, "", "not an HTTP request"}
	denyBareLF      = &denial{400, refusedHead, "", "line feed without carriage return in the header"}
	denyNUL         = &denial{400, refusedHead, "", "NUL in the header"}
	denyRequestLine = &denial{400, refusedHead, "", "malformed request line"}
	denyTarget      = &denial{400, refusedHead, "", "malformed request target"}
	denyHeaderLine  = &denial{400, refusedHead, "", "malformed header line"}
	denyHost        = &denial{400, refusedHead, "", "Host is missing, repeated or malformed"}
	denyLength      = &denial{400, refusedHead, "", "malformed Content-Length"}
	denyHeadSize    = &denial{431, refusedHeadSize, "", "header is longer than 16384 bytes"}
	denyHTTPVersion = &denial{505, refusedHTTPVersion, "", "only HTTP/1.1 and HTTP/1.0 are spoken here"}

	denyOrigin = &denial{403, refusedOrigin, "", "origin not allowed"}
	// RFC 9110 §15.5.2: a server generating a 401 MUST send WWW-Authenticate. No registered scheme fits ours,
	// and for an unknown one no browser asks for a password.
	denySecret = &denial{
		401, refusedSecret, "WWW-Authenticate: Subprotocol\r\n",
		"the secret is not among the subprotocols offered",
	}
	denyPath       = &denial{404, refusedPath, "", "no such path"}
	denyRelayID    = &denial{400, refusedID, "", "relayId is missing or empty"}
	denyRelayIDLen = &denial{400, refusedID, "", "relayId is longer than 1024 bytes"}
	denyPeerID     = &denial{400, refusedID, "", "peerId is missing or empty"}
	denyPeerIDLen  = &denial{400, refusedID, "", "peerId is longer than 1024 bytes"}
	denyKey        = &denial{400, refusedKey, "", "Sec-WebSocket-Key is missing, repeated or not 16 bytes in base64"}
	// RFC 6455 §4.4: name the versions the server is capable of. RFC 9110 §15.5.22: a server MUST send
	// Upgrade in a 426. §7.8: it MUST also name it in Connection.
	denyVersion = &denial{
		426, refusedVersion,
		"Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
		"Sec-WebSocket-Version is not 13",
	}
	denyHTTP10 = &denial{400, refusedHTTPVersion, "", "a WebSocket needs HTTP/1.1"}
	denyBody   = &denial{400, refusedBody, "", "a WebSocket request has no body"}

	// RFC 9110 §15.5.6: a 405 MUST have Allow.
	denyMethod = &denial{405, refusedMethod, "Allow: GET, HEAD\r\n", "only GET and HEAD are served here"}
)

// Header lines that say whether the connection persists. By default it does in HTTP/1.1 and does not in
// HTTP/1.0.
const (
	linePersists   = ""
	linePersists10 = "Connection: keep-alive\r\n"
	lineEnds       = "Connection: close\r\n"
)

// appendRefusal appends the whole answer to a refused request. The connection is to be closed after it.
func appendRefusal(dst []byte, d *denial) ([]byte, Verdict) {
	return appendDenial(dst, d, lineEnds, false), Verdict{Next: Closing, Status: d.status, Reason: d.reason}
}

// appendDenial appends d as an HTTP answer. For a HEAD request it leaves out the body but keeps its length.
func appendDenial(dst []byte, d *denial, connection string, head bool) []byte {
	dst = appendStatusLine(dst, d.status)
	dst = append(dst, d.header...)
	dst = appendContentHeader(dst, connection, "text/plain; charset=utf-8", len(d.text)+len("\n"))
	if !head {
		dst = append(dst, d.text...)
		dst = append(dst, '\n')
	}
	return dst
}

// appendPage appends the answer to a GET of p, or to a HEAD.
func appendPage(dst []byte, p *page.Document, r *httpRequest, connection string) []byte {
	dst = appendStatusLine(dst, 200)
	dst = append(dst, p.Header...)
	dst = append(dst, "Vary: Accept, Accept-Encoding\r\n"...)
	body := p.Body
	if r.takesGzip {
		body = p.Gzip
		dst = append(dst, "Content-Encoding: gzip\r\n"...)
	}
	dst = appendContentHeader(dst, connection, "text/html; charset=utf-8", len(body))
	if string(r.method) != "HEAD" {
		dst = append(dst, body...)
	}
	return dst
}

func appendStatusLine(dst []byte, status int) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, http.StatusText(status)...)
	return append(dst, "\r\n"...)
}

// appendContentHeader appends the last header lines and the empty line that ends the header.
func appendContentHeader(dst []byte, connection, contentType string, length int) []byte {
	dst = append(dst, connection...)
	dst = append(dst, "Content-Type: "...)
	dst = append(dst, contentType...)
	dst = append(dst, "\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(length), 10)
	return append(dst, "\r\n\r\n"...)
}
