package upgrade

import (
	"bytes"

	"github.com/gobwas/httphead"
)

// The lexical rules of HTTP headers (RFC 9110 §5.6). Nothing is copied: every slice returned is a part of the
// argument.

// isTokenOctet reports whether c is a tchar. RFC 9110 §5.6.2: tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*"
// / "+" / "-" / "." / "^" / "_" / "`" / "|" / "~" / DIGIT / ALPHA.
func isTokenOctet(c byte) bool { return httphead.OctetTypes[c].IsToken() }

// IsToken reports whether b is a token of HTTP (RFC 9110 §5.6.2). An empty b is not.
func IsToken(b []byte) bool {
	for _, c := range b {
		if !isTokenOctet(c) {
			return false
		}
	}
	return len(b) > 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// hostOctets are the octets of uri-host [ ":" port ] (RFC 3986 §3.2.2): unreserved, sub-delims, "%", and
// those of IP literals and ports. Their positions are not checked, since nothing depends on the host.
var hostOctets = func() (set [256]bool) {
	for c := range set {
		set[c] = isDigit(byte(c)) || 'a' <= lowerASCII(byte(c)) && lowerASCII(byte(c)) <= 'z'
	}
	for _, c := range []byte("-._~!$&'()*+,;=%:[]") {
		set[c] = true
	}
	return set
}()

// isHost accepts an empty host too: RFC 9110 §7.2 requires an empty Host if the target has no authority.
func isHost(b []byte) bool {
	for _, c := range b {
		if !hostOctets[c] {
			return false
		}
	}
	return true
}

func lowerASCII(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// equalFold compares b with a lower-case ASCII word and ignores ASCII case. Unlike bytes.EqualFold it does
// not accept the Kelvin sign as a k.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if lowerASCII(c) != lower[i] {
			return false
		}
	}
	return true
}

func cutByte(b []byte, sep byte) (before, after []byte, found bool) {
	if i := bytes.IndexByte(b, sep); i >= 0 {
		return b[:i], b[i+1:], true
	}
	return b, nil, false
}

// cutItem cuts the first element off a comma-separated list (RFC 9110 §5.6.1) and removes the blanks around
// it. The element may be empty.
func cutItem(list []byte) (item, rest []byte, more bool) {
	item, rest, more = cutByte(list, ',')
	return trimBlanks(item), rest, more
}

// trimBlanks removes OWS (RFC 9110 §5.6.3) from both ends.
func trimBlanks(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
