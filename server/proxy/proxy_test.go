package proxy

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// v2 encodes a header of version 2: address is what follows the fixed part.
func v2(command, family byte, address string) string {
	b := append([]byte(signature2), command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(address)))) + address
}

const (
	from4 = "\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb" // 192.0.2.1 and .2, ports 56324 and 443
	from6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xdc\x04\x01\xbb"
	mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x02\xdc\x04\x01\xbb"
)

var unixPaths = strings.Repeat("/", 216)

// right holds headers and the client that each names; "" stands for the connection's own address.
var right = map[string]string{
	"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n":               "192.0.2.1:56324",
	"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n":             "255.255.255.255:65535",
	"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n":           "[2001:db8::1]:56324",
	"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 56324 443\r\n": "192.0.2.1:56324",
	"PROXY UNKNOWN\r\n":                                              "",
	"PROXY UNKNOWN whatever\rfollows 1 2 3 4\r\n":                    "",
	"PROXY UNKNOWN " + strings.Repeat("x", maxLine-14-2) + "\r\n":    "",
	v2(proxy2, 0x11, from4):                                          "192.0.2.1:56324",
	v2(proxy2, 0x12, from4):                                          "192.0.2.1:56324",
	v2(proxy2, 0x21, from6):                                          "[2001:db8::1]:56324",
	v2(proxy2, 0x21, mapped):                                         "192.0.2.1:56324",
	v2(proxy2, 0x11, from4+"\x03\x00\x04abcd\x04\x00\x01\x00"):       "192.0.2.1:56324",
	v2(proxy2, 0x11, from4+"\x05\xff\xffa TLV longer than the rest"): "192.0.2.1:56324",
	v2(proxy2, 0x21, from6+strings.Repeat("\x04", MaxSize-16-36)):    "[2001:db8::1]:56324",
	v2(proxy2, 0x00, ""):                                             "",
	v2(proxy2, 0x00, "anything"):                                     "",
	v2(proxy2, 0x31, unixPaths):                                      "",
	v2(local2, 0x00, ""):                                             "",
	v2(local2, 0x11, ""):                                             "",
	v2(local2, 0x11, from4):                                          "",
	v2(local2, 0x21, strings.Repeat("x", MaxSize-16)):                "",
}

// wrong holds malformed headers, up to the byte that makes them so.
var wrong = map[string]error{
	"PROXYX":         errLine,
	"PROXY\r":        errLine,
	"PROXY TCP4\r\n": errLine,
	"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n":    errLine,
	"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n":    errLine,
	"PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n":     errLine,
	"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n":     errLine,
	"PROXY UNKNOWNX 1.2.3.4 5.6.7.8 1 2\r\n":     errLine,
	"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n":       errLineEnd,
	"PROXY \n":                                   errLineEnd,
	"PROXY " + strings.Repeat("x", 101):          errLineEnd,
	"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n":   errAddress,
	"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n":    errAddress,
	"PROXY TCP4 192.0.2.1 ::1 1 2\r\n":           errAddress,
	"PROXY TCP4 ::1 192.0.2.1 1 2\r\n":           errAddress,
	"PROXY TCP4 ::ffff:1.2.3.4 1.2.3.4 1 2\r\n":  errAddress,
	"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n":     errAddress,
	"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n":        errAddress,
	"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n": errPort,
	"PROXY TCP4 192.0.2.1 192.0.2.2 1 -2\r\n":    errPort,
	"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n":    errPort,
	"PROXY TCP4 192.0.2.1 192.0.2.2  2\r\n":      errPort,
	"GET / HTTP/1.1\r\n":                         ErrNone,
	"PROPFIND / HTTP/1.1\r\n":                    ErrNone,
	"\r\nGET / HTTP/1.1\r\n":                     ErrNone,
	"\r\n\r\n\x00\r\nQUIET":                      ErrNone,
	"proxy TCP4":                                 ErrNone,
	signature2 + "\x11":                          errCommand,
	signature2 + "\x22":                          errCommand,
	signature2 + "\x21\x01":                      errFamily,
	signature2 + "\x21\x13":                      errFamily,
	signature2 + "\x21\x41":                      errFamily,
	signature2 + "\x20\x10":                      errFamily,
	signature2 + "\x21\x11\x00\x0b":              errTooShort,
	signature2 + "\x21\x21\x00\x23":              errTooShort,
	signature2 + "\x21\x31\x00\xd7":              errTooShort,
	signature2 + "\x21\x11\x02\x09":              errTooLong,
	signature2 + "\x20\x00\x02\x09":              errTooLong,
	signature2 + "\x20\x00\xff\xff":              errTooLong,
}

// TestParse cuts each header at every byte: up to its end it is incomplete, and what follows is not looked at.
func TestParse(t *testing.T) {
	for in, client := range right {
		var want netip.AddrPort
		if client != "" {
			want = netip.MustParseAddrPort(client)
		}
		for n := range len(in) {
			if size, _, err := Parse([]byte(in[:n])); size != 0 || err != nil {
				t.Errorf("Parse(%q) = %d, %v; want a header that is incomplete", in[:n], size, err)
			}
		}
		for _, behind := range []string{"", "G", "GET / HTTP/1.1\r\n\r\n", in} {
			if size, got, err := Parse([]byte(in + behind)); size != len(in) || got != want || err != nil {
				t.Errorf("Parse(%q) = %d, %v, %v; want %d, %v", in+behind, size, got, err, len(in), want)
			}
		}
	}
}

func TestParseMalformed(t *testing.T) {
	for in, want := range wrong {
		for _, behind := range []string{"", "\r\n", strings.Repeat("x", MaxSize)} {
			if size, _, err := Parse([]byte(in + behind)); size != 0 || !errors.Is(err, want) {
				t.Errorf("Parse(%q) = %d, %v; want %v", in+behind, size, err, want)
			}
		}
	}
}

// TestMaxSize: whatever comes, MaxSize bytes decide.
func TestMaxSize(t *testing.T) {
	for _, begin := range []string{"PROXY ", "PROXY UNKNOWN", signature2 + "\x21\x11", signature2 + "\x20\x00\x02\x08", signature2 + "\x21\x21\x02\x08"} {
		in := (begin + strings.Repeat("\x02", MaxSize))[:MaxSize]
		if size, _, err := Parse([]byte(in)); size == 0 && err == nil {
			t.Errorf("Parse(%q) wants more than %d bytes", in, MaxSize)
		}
	}
}

func TestDetect(t *testing.T) {
	f := func(in string, want Version) {
		t.Helper()
		if got := Detect([]byte(in)); got != want {
			t.Errorf("Detect(%q) = %d, want %d", in, got, want)
		}
	}
	f("", Unclear)
	f("PROX", Unclear)
	f("PROXY", V1)
	f("PROXYX", V1)
	f("PROP", None)
	f("GET", None)
	f("\r\n\r\n", Unclear)
	f("\r\n\r\nG", None)
	f(signature2[:11], Unclear)
	f(signature2, V2)
}
