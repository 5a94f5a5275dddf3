package upgrade

import (
	"bytes"
	"unicode/utf8"

	"golang.org/x/text/encoding/unicode"
)

// maxIDBytes bounds the length of a decoded relayId or peerId.
const maxIDBytes = 1024

// queryFirst returns the raw value of the first pair called name, or nil if there is none. It splits query as
// the application/x-www-form-urlencoded parser of the WHATWG URL standard does: at "&" alone, then at the
// first "=". The value is a part of query. name must consist of ASCII letters.
func queryFirst(query []byte, name string) (raw []byte) {
	for more := true; more; {
		var pair []byte
		pair, query, more = cutByte(query, '&')
		key, value, _ := cutByte(pair, '=')
		if isQueryKey(key, name) {
			return value
		}
	}
	return nil
}

// isQueryKey reports whether raw decodes to name. Decoding stops at the first octet that differs. It leaves
// out the UTF-8 step, which yields ASCII letters only from ASCII letters.
func isQueryKey(raw []byte, name string) bool {
	for i := 0; i < len(name); i++ {
		if len(raw) == 0 {
			return false
		}
		var c byte
		c, raw = cutQueryOctet(raw)
		if c != name[i] {
			return false
		}
	}
	return len(raw) == 0
}

// cutQueryOctet decodes the first octet of b, which must not be empty. A "%" that is not followed by two
// hexadecimal digits stands for itself.
func cutQueryOctet(b []byte) (c byte, rest []byte) {
	switch {
	case b[0] == '+':
		return ' ', b[1:]
	case b[0] == '%' && len(b) >= 3 && unhex[b[1]] >= 0 && unhex[b[2]] >= 0:
		return byte(unhex[b[1]]<<4 | unhex[b[2]]), b[3:]
	}
	return b[0], b[1:]
}

// unhex holds the value of each hexadecimal digit, and -1 for any other octet.
var unhex = func() (values [256]int16) {
	for c := range values {
		values[c] = -1
	}
	for i, c := range []byte("0123456789abcdef") {
		values[c] = int16(i)
	}
	for i, c := range []byte("ABCDEF") {
		values[c] = int16(10 + i)
	}
	return values
}()

// idScratch is memory for decoding one id.
type idScratch struct {
	octets [maxIDBytes]byte // percent-decoded
	text   [maxIDBytes]byte // converted to UTF-8
}

// decode decodes raw, a value from queryFirst: it undoes percent-encoding and reads the octets as UTF-8. ok
// is false if the result is longer than maxIDBytes. The id aliases raw or s, so it is valid until raw changes
// or until the next decode.
func (s *idScratch) decode(raw []byte) (id []byte, ok bool) {
	id = raw
	if bytes.IndexByte(raw, '%') >= 0 || bytes.IndexByte(raw, '+') >= 0 {
		id = s.octets[:0]
		for len(raw) > 0 {
			if len(id) == maxIDBytes {
				return nil, false
			}
			var c byte
			c, raw = cutQueryOctet(raw)
			id = append(id, c)
		}
	}
	// Replacing invalid octets never makes the id shorter.
	if len(id) > maxIDBytes {
		return nil, false
	}
	if utf8.Valid(id) {
		return id, true
	}
	return s.replaceInvalid(id)
}

// replaceInvalid copies b and puts one U+FFFD in place of each maximal subpart of an ill-formed sequence. So
// do the URL standard's "UTF-8 decode without BOM" and the decoders of browsers. bytes.ToValidUTF8 would put
// one for a whole run of them, and a range over a string one for each octet.
func (s *idScratch) replaceInvalid(b []byte) (id []byte, ok bool) {
	n, _, err := utf8Decoder.Transform(s.text[:], b, true)
	return s.text[:n], err == nil // it fails if s.text is too short
}

// utf8Decoder keeps no state between calls, so all loops share it.
var utf8Decoder = unicode.UTF8.NewDecoder().Transformer
