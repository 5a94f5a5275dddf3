// Package proxy reads the header of the PROXY protocol, versions 1 and 2, with which a load balancer names
// the client on whose behalf it has connected. It knows no sockets: it gets the bytes that have come so far.
//
// The protocol: https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt, below called "spec".
//
// github.com/pires/go-proxyproto reads from a bufio.Reader that waits for the rest of a header. An event loop
// has only the bytes that have come, and has to tell a header of which a part is missing from a malformed
// one. So the library is not used here, but is what FuzzParse compares with.
package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// MaxSize is the size of the largest header that is read, in bytes. Spec §2.2: a header of 536 bytes always
// fits the first segment of a connection.
const MaxSize = 536

// Version is that of a header, as its first bytes tell it.
type Version uint8

const (
	None    Version = iota // no header
	Unclear                // too few bytes to tell
	V1                     // a line of text
	V2                     // binary
)

const (
	signature1 = "PROXY"
	signature2 = "\r\n\r\n\x00\r\nQUIT\n"
)

// Detect returns the version of the header at the beginning of b.
func Detect(b []byte) Version {
	switch begins1, begins2 := begins(b, signature1), begins(b, signature2); {
	case begins1 && len(b) >= len(signature1):
		return V1
	case begins2 && len(b) >= len(signature2):
		return V2
	case begins1 || begins2:
		return Unclear
	}
	return None
}

// begins reports whether b begins with signature or is a part of it.
func begins(b []byte, signature string) bool {
	n := min(len(b), len(signature))
	return string(b[:n]) == signature[:n]
}

// What is wrong with a header.
var (
	ErrNone     = errors.New("no PROXY header")
	errLine     = errors.New("PROXY header: a line of version 1 that is not PROXY, TCP4 or TCP6, two addresses and two ports")
	errLineEnd  = errors.New("PROXY header: no CRLF at the end of the line or within 107 bytes")
	errAddress  = errors.New("PROXY header: an address that is not of the family named")
	errPort     = errors.New("PROXY header: a port that is not from 0 to 65535")
	errCommand  = errors.New("PROXY header: neither version 2 LOCAL nor version 2 PROXY")
	errFamily   = errors.New("PROXY header: unknown address family or transport")
	errTooLong  = errors.New("PROXY header: longer than 536 bytes")
	errTooShort = errors.New("PROXY header: too short for its addresses")
)

// Parse reads the header at the beginning of b.
//
//	size > 0            b[:size] is the header. client is the address that it names. It is invalid if the
//	                    header names none that TCP could have: then the connection's own address counts
//	size == 0, no err   the header is incomplete: call again with more bytes. It is never incomplete when b
//	                    has MaxSize bytes
//	err                 b does not begin with a header (ErrNone), or with a malformed one
//
// Its work is bounded by MaxSize, and by 107 bytes for version 1.
func Parse(b []byte) (size int, client netip.AddrPort, err error) {
	switch Detect(b) {
	case None:
		return 0, client, ErrNone
	case V1:
		return parse1(b)
	case V2:
		return parse2(b)
	}
	return 0, client, nil
}

// maxLine is the size of the longest line of version 1, CRLF included (spec §2.1).
const maxLine = 107

// parse1 reads a line such as "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n" (spec §2.1).
func parse1(b []byte) (size int, client netip.AddrPort, err error) {
	b = b[:min(len(b), maxLine)]
	end := bytes.IndexByte(b, '\n')
	switch {
	case len(b) > len(signature1) && b[len(signature1)] != ' ':
		return 0, client, errLine
	case end < 0 && len(b) == maxLine:
		return 0, client, errLineEnd
	case end < 0:
		return 0, client, nil
	case b[end-1] != '\r':
		return 0, client, errLineEnd
	}
	// "For UNKNOWN […] the receiver must ignore anything presented before the CRLF is found."
	if rest, ok := bytes.CutPrefix(b[:end-1], []byte("PROXY UNKNOWN")); ok && (len(rest) == 0 || rest[0] == ' ') {
		return end + 1, client, nil
	}
	// One string for the whole line: Go's allocator would put short ones into blocks together with strings
	// that are kept, such as ids, and keep the whole block then.
	words := strings.Split(string(b[:end-1]), " ")
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return 0, client, errLine
	}
	is4 := words[1] == "TCP4"
	source, ok := parseAddress(words[2], is4)
	_, ok2 := parseAddress(words[3], is4)
	if !ok || !ok2 {
		return 0, client, errAddress
	}
	port, ok := parsePort(words[4])
	_, ok2 = parsePort(words[5])
	if !ok || !ok2 {
		return 0, client, errPort
	}
	return end + 1, netip.AddrPortFrom(source, port), nil
}

func parseAddress(s string, is4 bool) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Is4() != is4 || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}

// parsePort reads a port, which must have no leading zero.
func parsePort(s string) (uint16, bool) {
	if len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil
}

// A header of version 2 (spec §2.2):
//
//	12 bytes  signature
//	byte 12   version, which is 2, and command: 4 bits each
//	byte 13   address family and transport: 4 bits each
//	2 bytes   number of bytes that follow, big-endian
//	the rest  source and destination address, source and destination port; then TLVs, which are skipped
const (
	fixed2 = 16

	local2 = 0x20 // the balancer's own connection, to check whether the server is alive
	proxy2 = 0x21

	family0    = 0x00
	family4    = 0x10
	family6    = 0x20
	familyUnix = 0x30

	addresses4    = 4 + 4 + 2 + 2
	addresses6    = 16 + 16 + 2 + 2
	addressesUnix = 108 + 108
)

func parse2(b []byte) (size int, client netip.AddrPort, err error) {
	if len(b) > 12 && b[12] != local2 && b[12] != proxy2 {
		return 0, client, errCommand
	}
	// "Other values […] must be rejected as invalid by receivers."
	if len(b) > 13 && b[13] != family0 && (b[13]>>4 < 1 || b[13]>>4 > 3 || b[13]&15 < 1 || b[13]&15 > 2) {
		return 0, client, errFamily
	}
	if len(b) < fixed2 {
		return 0, client, nil
	}
	length := int(binary.BigEndian.Uint16(b[14:]))
	family := b[13] & 0xf0
	switch {
	case length > MaxSize-fixed2:
		return 0, client, errTooLong
	case b[12] == local2: // "The receiver […] must use the real connection endpoints"
		family = family0
	case family == family4 && length < addresses4, family == family6 && length < addresses6,
		family == familyUnix && length < addressesUnix:
		return 0, client, errTooShort
	}
	if size = fixed2 + length; len(b) < size {
		return 0, client, nil
	}
	// A client of the balancer's that came by a Unix socket or an unknown way has no address to count by.
	// "The receiver is free to accept the connection anyway and use the real endpoint addresses".
	switch a := b[fixed2:size]; family {
	case family4:
		client = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a)), binary.BigEndian.Uint16(a[8:]))
	case family6:
		client = netip.AddrPortFrom(netip.AddrFrom16([16]byte(a)).Unmap(), binary.BigEndian.Uint16(a[32:]))
	}
	return size, client, nil
}
