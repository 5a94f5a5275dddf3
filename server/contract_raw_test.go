package server

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// raw is a client that sends whatever it is told to.
type raw struct {
	t testing.TB
	*net.TCPConn
	in *bufio.Reader
}

// dial opens a TCP connection and sends nothing.
func dial(t testing.TB, s *Server) *raw {
	t.Helper()
	return dialWith(t, s, &net.Dialer{})
}

func dialWith(t testing.TB, s *Server, d *net.Dialer) *raw {
	t.Helper()
	c, err := d.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &raw{t, c.(*net.TCPConn), bufio.NewReader(c)}
}

const (
	goodTarget  = "/v1?relayId=r&peerId=p"
	goodKey     = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	goodVersion = "Sec-WebSocket-Version: 13"
)

// upgradeWith is a minimal upgrade of target, with further header lines.
func upgradeWith(target string, lines ...string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
		strings.Join(append(lines, "\r\n"), "\r\n")
}

// upgradeRequest is a browser's, in short. lines are further header lines.
func upgradeRequest(relayID, peerID string, lines ...string) string {
	q := url.Values{"relayId": {relayID}, "peerId": {peerID}}
	return upgradeWith("/v1?"+q.Encode(), append([]string{goodKey, goodVersion}, lines...)...)
}

// open dials and completes the handshake.
func open(t testing.TB, s *Server, relayID, peerID string) *raw {
	t.Helper()
	return openWith(t, s, upgradeRequest(relayID, peerID))
}

// openWith is open with a request of the caller's.
func openWith(t testing.TB, s *Server, request string) *raw {
	t.Helper()
	c := dial(t, s)
	c.send([]byte(request))
	if res, body := c.response(); res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %d %s", res.StatusCode, body)
	}
	return c
}

func (c *raw) send(parts ...[]byte) {
	c.t.Helper()
	if _, err := c.Write(bytes.Join(parts, nil)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// sendSlowly sends one byte at a time, each in a segment of its own.
func (c *raw) sendSlowly(b []byte) {
	c.t.Helper()
	for i := range b {
		c.send(b[i : i+1])
	}
}

// awaitHandled waits until the relay has handled what c has sent: it answers a ping behind that.
func (c *raw) awaitHandled() {
	c.t.Helper()
	c.send(text("ping"))
	c.wantFrame(0x1, "pong")
}

// response reads an HTTP response, its body included.
func (c *raw) response() (*http.Response, string) {
	c.t.Helper()
	return c.responseTo(http.MethodGet)
}

// responseTo is response to a request with this method: to HEAD there is no body.
func (c *raw) responseTo(method string) (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("read response: %v", err)
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return res, "" // frames follow
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("read response: %v", err)
	}
	return res, string(body)
}

// frame reads the next frame of the relay's that is no heartbeat.
func (c *raw) frame() (opcode byte, payload []byte) {
	c.t.Helper()
	opcode, payload = c.anyFrame()
	for opcode == 0x1 && string(payload) == "ping" {
		opcode, payload = c.anyFrame()
	}
	return opcode, payload
}

// anyFrame reads one frame of the relay's, which must be final and not masked.
func (c *raw) anyFrame() (opcode byte, payload []byte) {
	c.t.Helper()
	head := make([]byte, 2)
	c.read(head)
	if head[0]&0xf0 != 0x80 || head[1]&0x80 != 0 {
		c.t.Fatalf("frame header % x, want FIN, no RSV and no mask", head)
	}
	n := uint64(head[1])
	switch n {
	case 126:
		length := make([]byte, 2)
		c.read(length)
		n = uint64(binary.BigEndian.Uint16(length))
	case 127:
		length := make([]byte, 8)
		c.read(length)
		n = binary.BigEndian.Uint64(length)
	}
	payload = make([]byte, n)
	c.read(payload)
	return head[0] & 0x0f, payload
}

func (c *raw) read(b []byte) {
	c.t.Helper()
	if _, err := io.ReadFull(c.in, b); err != nil {
		c.t.Fatalf("read frame: %v", err)
	}
}

// ended wants the end of the connection, by FIN and not by reset.
func (c *raw) ended() {
	c.t.Helper()
	if b, err := io.ReadAll(c.in); err != nil || len(b) > 0 {
		c.t.Fatalf("got %.80q, %v; want the end of the connection", b, err)
	}
}

// maskedFrame encodes a client's frame: first is byte 0, the key is random.
func maskedFrame(first byte, payload []byte) []byte {
	var key [4]byte
	_, _ = rand.Read(key[:])
	b := append(frameHeader(first, 0x80, len(payload)), key[:]...)
	for i, c := range payload {
		b = append(b, c^key[i%4])
	}
	return b
}

// frameHeader encodes byte 0, the mask bit (0x80 or 0) and a payload length.
func frameHeader(first, mask byte, n int) []byte {
	switch {
	case n < 126:
		return []byte{first, mask | byte(n)}
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16([]byte{first, mask | 126}, uint16(n))
	}
	return binary.BigEndian.AppendUint64([]byte{first, mask | 127}, uint64(n))
}

// text is a client's text message in one frame.
func text(s string) []byte { return maskedFrame(0x81, []byte(s)) }

// closeFrame is a client's; code 0 stands for an empty payload.
func closeFrame(code uint16, reason string) []byte {
	if code == 0 {
		return maskedFrame(0x88, nil)
	}
	return maskedFrame(0x88, append(binary.BigEndian.AppendUint16(nil, code), reason...))
}

// wantFrame wants the next frame to be this one, heartbeats apart unless it is one.
func (c *raw) wantFrame(opcode byte, payload string) {
	c.t.Helper()
	next := c.frame
	if opcode == 0x1 && payload == "ping" {
		next = c.anyFrame
	}
	if op, p := next(); op != opcode || string(p) != payload {
		c.t.Fatalf("got frame %#x %.80q, want %#x %.80q", op, p, opcode, payload)
	}
}

// wantClose wants the relay's close frame with this code, answers it, and wants
// the end of the connection.
func (c *raw) wantClose(code uint16) {
	c.t.Helper()
	c.wantCloseFrame(code)
	_, _ = c.Write(closeFrame(code, "")) // the relay may have closed already
	c.ended()
}

func (c *raw) wantCloseFrame(code uint16) {
	c.t.Helper()
	op, p := c.frame()
	if op != 0x8 {
		c.t.Fatalf("got frame %#x %.80q, want close %d", op, p, code)
	}
	if len(p) < 2 || binary.BigEndian.Uint16(p) != code {
		c.t.Fatalf("closed with %x %.80q, want code %d", p[:min(2, len(p))], p[min(2, len(p)):], code)
	}
}
