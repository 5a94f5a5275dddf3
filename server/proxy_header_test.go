package server

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// What a connection's first bytes do when PROXY_PROTOCOL is on. The parser has tests of its own, in package
// proxy.

const (
	trusting    = "TRUSTED_PROXIES=127.0.0.0/8"
	notTrusting = "TRUSTED_PROXIES=10.0.0.0/8"
)

// named is a header of version 1 that names a client.
func named(addr string) []byte {
	a := netip.MustParseAddrPort(addr)
	family, server := "TCP4", "192.0.2.2"
	if a.Addr().Is6() {
		family, server = "TCP6", "2001:db8::2"
	}
	return fmt.Appendf(nil, "PROXY %s %s %s %d 443\r\n", family, a.Addr(), server, a.Port())
}

// named2 is a header of version 2 with TLVs behind the addresses.
func named2(command byte, addr string, tlvs ...byte) []byte {
	a := netip.MustParseAddrPort(addr)
	family, server := byte(0x11), netip.MustParseAddr("192.0.2.2")
	if a.Addr().Is6() {
		family, server = 0x21, netip.MustParseAddr("2001:db8::2")
	}
	body := append(a.Addr().AsSlice(), server.AsSlice()...)
	body = binary.BigEndian.AppendUint16(body, a.Port())
	body = append(binary.BigEndian.AppendUint16(body, 443), tlvs...)
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, family)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(body))), body...)
}

// closedFor wants c to be closed without an answer, counted under cause.
func closedFor(t *testing.T, s *Server, c *raw, cause string, n int64) {
	t.Helper()
	if b, _ := io.ReadAll(c.in); len(b) > 0 {
		t.Errorf("got %.80q, want the end without an answer", b)
	}
	eventually(t, fmt.Sprintf("%d closed as %s", n, cause), func() bool { return s.Stats().Closed[cause] == n })
}

// onlyPeer is the peer of the only open connection.
func onlyPeer(t *testing.T, s *Server) *peer {
	t.Helper()
	eventually(t, "one peer is open", func() bool { return s.wheels[phaseOpen].Len() == 1 && s.stats.connections.Load() == 1 })
	return s.wheels[phaseOpen].All()[0]
}

// wantAddress wants the only open peer to have this address, or that of its socket if addr is empty.
func wantAddress(t *testing.T, s *Server, c *raw, addr string) {
	t.Helper()
	if addr == "" {
		addr = c.LocalAddr().String()
	}
	p := onlyPeer(t, s)
	p.inLoop(func(*loop) {
		if got := p.remoteAddr().String(); got != addr {
			t.Errorf("address %s, want %s", got, addr)
		}
		if p.in != nil {
			t.Errorf("the peer still holds input %+v", p.in)
		}
	})
}

// TestProxyHeader has each header in one segment with the request, and byte by byte.
func TestProxyHeader(t *testing.T) {
	const client = "203.0.113.7:4711"
	tlvs := append([]byte{0x04, 0x01, 0xec}, repeat("x", 536-16-12-3)...)
	for name, test := range map[string]struct {
		header []byte
		addr   string // "" is the socket's
	}{
		"v1":          {named(client), client},
		"v1 IPv6":     {named("[2001:db8::7]:4711"), "[2001:db8::7]:4711"},
		"v1 mapped":   {[]byte("PROXY TCP6 ::ffff:203.0.113.7 ::1 4711 443\r\n"), client},
		"v1 UNKNOWN":  {[]byte("PROXY UNKNOWN 1.2.3.4\r\n"), ""},
		"v2":          {named2(0x21, client), client},
		"v2 IPv6":     {named2(0x21, "[2001:db8::7]:4711"), "[2001:db8::7]:4711"},
		"v2 TLVs":     {named2(0x21, client, 0x05, 0x00, 0x01, 'u'), client},
		"v2 536":      {named2(0x21, client, tlvs...), client},
		"v2 LOCAL":    {named2(0x20, client), ""},
		"v2 Unix":     {[]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + strings.Repeat("/", 216)), ""},
		"v2 unknown":  {[]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x00\x00\x00"), ""},
		"none":        {nil, ""},
		"empty lines": {[]byte("\r\n\r\n"), ""}, // a request may begin so, and a header of version 2 does
	} {
		for _, mode := range []string{"optional", "required"} {
			if mode == "required" && !bytes.Contains(test.header, []byte("PROXY")) && !bytes.Contains(test.header, []byte("QUIT")) {
				continue
			}
			t.Run(name+"/"+mode, func(t *testing.T) {
				s := start(t, "PROXY_PROTOCOL="+mode, trusting)
				life := bytes.Join([][]byte{test.header, []byte(upgradeRequest("r", "p")), text("ping")}, nil)
				for _, slowly := range []bool{false, true} {
					c := dial(t, s)
					if slowly {
						c.sendSlowly(life)
					} else {
						c.send(life)
					}
					if res, body := c.response(); res.StatusCode != 101 {
						t.Fatalf("status %d %s, want 101", res.StatusCode, body)
					}
					c.wantFrame(0x1, "pong")
					wantAddress(t, s, c, test.addr)
					c.Close()
					eventually(t, "it is gone", func() bool { return s.Stats().Connections == 0 })
				}
			})
		}
	}
}

// TestProxyHeaderCut sends each header in two segments, cut at every byte. The relay has read the first before
// the second is sent.
func TestProxyHeaderCut(t *testing.T) {
	s := start(t, "PROXY_PROTOCOL=optional", trusting)
	for _, header := range [][]byte{named("203.0.113.7:4711"), named2(0x21, "[2001:db8::7]:4711", 1, 0, 0)} {
		life := append(header, plainRequest("GET", "/", "Connection: close")...)
		for cut := 1; cut < len(header)+4; cut++ {
			c := dial(t, s)
			c.send(life[:cut])
			eventually(t, "the first segment is read", func() bool {
				all := s.wheels[phaseHead].All()
				if len(all) != 1 {
					return false
				}
				read := false
				all[0].inLoop(func(*loop) { read = all[0].heard })
				return read
			})
			c.send(life[cut:])
			if res, body := c.response(); res.StatusCode != 200 {
				t.Fatalf("cut after %d bytes: %d %s", cut, res.StatusCode, body)
			}
			c.ended()
			c.Close()
			eventually(t, "it is gone", func() bool { return s.Stats().Connections == 0 })
		}
	}
}

// TestProxyHeaderRefused: what may not begin a connection ends it without an answer, and is counted.
func TestProxyHeaderRefused(t *testing.T) {
	request := []byte(plainRequest("GET", "/"))
	v1, v2 := named("203.0.113.7:4711"), named2(0x21, "203.0.113.7:4711")
	tooLong := named2(0x21, "203.0.113.7:4711", repeat("x", 536-16-12+1)...)
	for name, test := range map[string]struct {
		mode, trust string
		sent        []byte
		cause       string // "" is: answered
	}{
		"required, no header":           {"required", trusting, request, "proxy_header"},
		"required, garbage":             {"required", trusting, []byte("\x16\x03\x01"), "proxy_header"},
		"required, v1 malformed":        {"required", trusting, []byte("PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n"), "proxy_header"},
		"required, v2 malformed":        {"required", trusting, append(bytes.Clone(v2[:12]), 0x31), "proxy_header"},
		"required, v1 without end":      {"required", trusting, append([]byte("PROXY UNKNOWN "), repeat("x", 200)...), "proxy_header"},
		"required, 537 bytes":           {"required", trusting, tooLong[:16], "proxy_header"},
		"required, twice":               {"required", trusting, append(append(bytes.Clone(v1), v1...), "\r\n"...), "http"},
		"optional, v1 malformed":        {"optional", trusting, []byte("PROXY GET / HTTP/1.1\r\n"), "proxy_header"},
		"optional, v2 malformed":        {"optional", trusting, append(bytes.Clone(v2[:12]), 0x31), "proxy_header"},
		"optional, 537 bytes":           {"optional", trusting, tooLong[:16], "proxy_header"},
		"required, untrusted, nothing":  {"required", notTrusting, nil, "untrusted_proxy"},
		"required, untrusted, v1":       {"required", notTrusting, v1, "untrusted_proxy"},
		"optional, untrusted, v1":       {"optional", notTrusting, v1, "untrusted_proxy"},
		"optional, untrusted, v2":       {"optional", notTrusting, v2, "untrusted_proxy"},
		"optional, untrusted, LOCAL":    {"optional", notTrusting, named2(0x20, "203.0.113.7:1"), "untrusted_proxy"},
		"optional, untrusted, half v1":  {"optional", notTrusting, v1[:9], "untrusted_proxy"},
		"optional, untrusted, request":  {"optional", notTrusting, request, ""},
		"optional, untrusted, PROPFIND": {"optional", notTrusting, []byte(plainRequest("PROPFIND", "/")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "PROXY_PROTOCOL="+test.mode, test.trust)
			for n := range int64(2) {
				c := dial(t, s)
				if n == 0 {
					_, _ = c.Write(test.sent) // it may be closed already
				} else {
					for i := range test.sent {
						_, _ = c.Write(test.sent[i : i+1])
					}
				}
				switch test.cause {
				case "":
					if res, _ := c.response(); res.StatusCode != 200 && res.StatusCode != 405 {
						t.Errorf("status %d, want 200 or 405", res.StatusCode)
					}
				case "http": // answered by HTTP, since the header was cut off
					if res, _ := c.response(); res.StatusCode != 400 {
						t.Errorf("status %d, want 400", res.StatusCode)
					}
				default:
					closedFor(t, s, c, test.cause, n+1)
				}
				c.Close()
			}
		})
	}
}

// TestProxyHeaderOff: without PROXY_PROTOCOL a header is no request.
func TestProxyHeaderOff(t *testing.T) {
	c := dial(t, start(t))
	c.send(named("203.0.113.7:4711"))
	c.send([]byte(plainRequest("GET", "/")))
	if res, _ := c.response(); res.StatusCode != 400 {
		t.Errorf("status %d, want 400", res.StatusCode)
	}
}

// TestProxyHeaderTimeout: header and request together have HANDSHAKE_TIMEOUT.
func TestProxyHeaderTimeout(t *testing.T) {
	t.Parallel()
	s := start(t, "PROXY_PROTOCOL=required", trusting, "HANDSHAKE_TIMEOUT=100ms")
	for n, sent := range [][]byte{nil, []byte("PRO"), []byte("\r\n\r\n"), named2(0x21, "203.0.113.7:4711")[:20], named("203.0.113.7:4711")} {
		c := dial(t, s)
		c.send(sent)
		closedFor(t, s, c, "handshake_timeout", int64(n)+1)
	}
}

// TestForwardedForIsNotBelieved, whoever sends it.
func TestForwardedForIsNotBelieved(t *testing.T) {
	s := start(t, "PROXY_PROTOCOL=optional", trusting)
	c := openWith(t, s, upgradeRequest("r", "p", "X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9", "X-Real-IP: 203.0.113.9"))
	wantAddress(t, s, c, "")
}

// TestNamedAddressIsLogged: the client's address stands in the log wherever a connection's does.
func TestNamedAddressIsLogged(t *testing.T) {
	core, logged := observer.New(zapcore.DebugLevel)
	s := startWith(t, zap.New(core), "PROXY_PROTOCOL=required", trusting)
	for _, request := range []string{upgradeRequest("r", "p"), upgradeRequest("r", "")} {
		c := dial(t, s)
		c.send(named("203.0.113.7:4711"), []byte(request))
		c.response()
		c.Close()
	}
	eventually(t, "both are closed", func() bool { return logged.FilterMessage("connection closed").Len() == 2 })
	seen := make(map[string]int)
	for _, e := range logged.All() {
		seen[fmt.Sprint(e.Message, " ", e.ContextMap()["remote"])]++
	}
	const addr = " 203.0.113.7:4711"
	if seen["peer connected"+addr] != 1 || seen["request refused"+addr] != 1 || seen["connection closed"+addr] != 2 {
		t.Errorf("logged %v, want each line with %s", seen, addr)
	}
}

// TestSlotsKeepTheirAddresses: a slot that is used again has the address of the connection that has it now.
func TestSlotsKeepTheirAddresses(t *testing.T) {
	s := start(t, "PROXY_PROTOCOL=optional", trusting)
	for i := range 20 {
		header, want := []byte(nil), ""
		if i%2 == 0 {
			want = fmt.Sprintf("203.0.113.%d:4711", i)
			header = named(want)
		}
		c := dial(t, s)
		c.send(header, []byte(upgradeRequest("r", "p")))
		c.response()
		wantAddress(t, s, c, want)
		c.Close()
		eventually(t, "it is gone", func() bool { return s.Stats().Connections == 0 })
	}
}

// TestSocketAddress compares the kernel's sockaddr as we read it with what Go's library reads.
func TestSocketAddress(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1", ""} {
		s := start(t, "HOST="+host, "MAX_CONNECTIONS_PER_IP=10")
		_, port, _ := net.SplitHostPort(s.Addr().String())
		for _, to := range []string{"127.0.0.1", "::1"} {
			if host != "" && host != to {
				continue
			}
			c, err := net.Dial("tcp", net.JoinHostPort(to, port))
			if err != nil {
				t.Logf("not tested: %v", err) // a machine without IPv6
				continue
			}
			eventually(t, "it is accepted", func() bool { return s.wheels[phaseHead].Len() == 1 })
			p := s.wheels[phaseHead].All()[0]
			p.inLoop(func(*loop) {
				if got := p.remoteAddr(); got.String() != c.LocalAddr().String() {
					t.Errorf("HOST=%s: address %s, want %s", host, got, c.LocalAddr())
				}
			})
			c.Close()
			eventually(t, "it is gone", func() bool { return s.Stats().Connections == 0 })
		}
	}
}
