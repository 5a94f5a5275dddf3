package router

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"unicode"
	"unicode/utf16"

	"github.com/valyala/fastjson"
)

// Route says which members receive a text message.
type Route uint8

const (
	Broadcast Route = iota // everyone else in the room
	Direct                 // the peers whose peerId is the target
	Nobody                 // the message names a target that no peer can have
)

const (
	maxTargetBytes  = 1024     // the longest peerId there can be
	longestEscape   = 6        // `\u0041`: the most bytes of a string that spell one byte
	maxScratchBytes = 64 << 10 // the most bytes of each kind that a Peeker keeps between messages
)

var (
	targetKey   = []byte("targetPeerId")
	asciiEscape = []byte(`\u00`) // the start of the only escape that can spell a letter of targetKey
)

// Peeker reads the targetPeerId of text messages exactly as JavaScript's JSON.parse(text).targetPeerId would.
// The zero Peeker is ready to use. It owns scratch memory, so it is not safe for concurrent use: keep one for
// each event loop.
//
// It takes three steps. Each is for the few messages that the step before could not decide:
//
//  1. It looks at the first byte and searches for the key. Nearly every broadcast ends here
//     (BenchmarkPeekText, BenchmarkPeekWithoutKey).
//  2. It scans the whole text against JSON's grammar (ECMA-404) and notes the position of the last top-level
//     targetPeerId's value. A string without escapes is the target as it stands.
//  3. It passes the bytes of one key or one value to fastjson, to undo escapes or to evaluate a number.
//
// The scan does not use fastjson, which differs from JSON.parse. Its Parser accepts NaN, 01 and raw control
// characters, and gives up 300 levels down, where JSON.parse has no limit. Its Validate recurses and wraps
// the error once for each level. So a message of nothing but brackets takes quadratic time and unbounded
// stack. The scan here does not recurse and uses one bit for each level.
type Peeker struct {
	parser fastjson.Parser
	open   nesting
}

// Peek decides which members receive text, which must be valid UTF-8. It does not change text.
//
// target is set only for Direct, and then has 1 to 1,024 bytes. It aliases text or the Peeker's scratch, so
// it is valid until the next Peek or until text changes.
func (p *Peeker) Peek(text []byte) (route Route, target []byte) {
	i := skipSpace(text, 0)
	if at(text, i) != '{' || !bytes.Contains(text, targetKey) && !bytes.Contains(text, asciiEscape) {
		return Broadcast, nil
	}
	value, ok := p.scan(text, i+1)
	if cap(p.open.levels) > maxScratchBytes/8 {
		p.open.levels = nil
	}
	if !ok || len(value) == 0 {
		return Broadcast, nil
	}
	return p.judge(value)
}

// judge decides by the value of targetPeerId as it stands in the text. A value that is falsy in JavaScript
// means a broadcast.
func (p *Peeker) judge(value []byte) (Route, []byte) {
	switch c := value[0]; {
	case c == '"':
		return p.judgeString(value)
	case c == 'f', c == 'n', (c == '-' || isDigit(c)) && p.isZero(value):
		return Broadcast, nil
	}
	return Nobody, nil
}

// judgeString is judge for a string, which includes its quotes.
func (p *Peeker) judgeString(value []byte) (Route, []byte) {
	raw := value[1 : len(value)-1 : len(value)-1]
	if len(raw) == 0 {
		return Broadcast, nil
	}
	// Half a surrogate pair is not UTF-8, so no peerId contains one. fastjson's replacement for it could be
	// in one.
	if len(raw) > longestEscape*maxTargetBytes || hasLoneSurrogate(raw) {
		return Nobody, nil
	}
	if bytes.IndexByte(raw, '\\') >= 0 {
		raw = p.unescape(value)
	}
	if len(raw) > maxTargetBytes {
		return Nobody, nil
	}
	return Direct, raw
}

// isTargetKey tells whether a key, given with its quotes, spells targetPeerId.
func (p *Peeker) isTargetKey(quoted []byte) bool {
	raw := quoted[1 : len(quoted)-1]
	if len(raw) <= len(targetKey) || len(raw) > longestEscape*len(targetKey) || !bytes.Contains(raw, asciiEscape) {
		return bytes.Equal(raw, targetKey)
	}
	// fastjson's replacement for a lone surrogate has no letters that could complete the key.
	return bytes.Equal(p.unescape(quoted), targetKey)
}

// unescape undoes the escapes of a string that the scan has found valid, given with its quotes. The result is
// valid until the next call of unescape or isZero.
func (p *Peeker) unescape(quoted []byte) []byte {
	v, _ := p.parser.ParseBytes(quoted) // no error: fastjson takes whatever is valid
	return v.GetStringBytes()
}

// isZero tells whether a number that the scan has found valid is 0 as a float64; 1e-400 is, for example. It
// can misjudge only a number of more than 9,000 bytes: strconv cuts off an exponent past 10,000, and so many
// digits could make up for it.
func (p *Peeker) isZero(number []byte) bool {
	v, _ := p.parser.ParseBytes(number) // no error: fastjson takes whatever is valid
	zero := v.GetFloat64() == 0
	if len(number) > maxScratchBytes {
		p.parser = fastjson.Parser{} // it keeps a copy of its last input
	}
	return zero
}

// scan reads an object from after its opening brace to the end of text. It returns the value of the last
// targetPeerId in it, as it stands in the text, or nil if there is none. ok is false if text is not valid
// JSON.
func (p *Peeker) scan(text []byte, i int) (value []byte, ok bool) {
	i = skipSpace(text, i)
	if at(text, i) == '}' {
		return nil, skipSpace(text, i+1) == len(text)
	}
	for {
		key := skipSpace(text, i)
		keyEnd, next := skipKey(text, key)
		if next < 0 {
			return nil, false
		}
		begin := skipSpace(text, next)
		end := 0
		if c := at(text, begin); c == '{' || c == '[' {
			end = p.skipValue(text, begin)
		} else {
			end = skipScalar(text, begin)
		}
		if end < 0 {
			return nil, false
		}
		if p.isTargetKey(text[key:keyEnd]) {
			value = text[begin:end]
		}
		i = skipSpace(text, end)
		if c := at(text, i); c != ',' {
			return value, c == '}' && skipSpace(text, i+1) == len(text)
		}
		i++
	}
}

// skipValue returns the index after the value that begins at i, including its contents, or -1 if it is not
// valid.
func (p *Peeker) skipValue(text []byte, i int) int {
	open := &p.open
	open.depth = 0
	for {
		i = skipSpace(text, i)
		if c := at(text, i); c == '{' || c == '[' {
			i = skipSpace(text, i+1)
			if at(text, i) != c+2 { // '}' is '{'+2, ']' is '['+2
				open.push(c == '{')
				if c == '{' {
					_, i = skipKey(text, i)
				}
				if i < 0 {
					return -1
				}
				continue
			}
			i++ // empty
		} else if i = skipScalar(text, i); i < 0 {
			return -1
		}
		if i = open.skipEnds(text, i); i < 0 || open.depth == 0 {
			return i
		}
	}
}

// nesting records the objects and arrays around the value being read: one bit for each level, set for an
// object, clear for an array.
type nesting struct {
	levels []uint64 // never shrinks within a message; bits at depth and above are meaningless
	depth  int
}

func (n *nesting) push(object bool) {
	word, bit := n.depth/64, uint64(1)<<(n.depth%64)
	if word == len(n.levels) {
		n.levels = append(n.levels, 0)
	}
	n.levels[word] &^= bit
	if object {
		n.levels[word] |= bit
	}
	n.depth++
}

func (n *nesting) inObject() bool {
	return n.levels[(n.depth-1)/64]>>((n.depth-1)%64)&1 != 0
}

// skipEnds reads on after a value. It skips the ends of all objects and arrays that this value completes. If
// one is still open it then skips a comma and, within an object, the next key. It returns the index of the
// next value, the end if depth is 0, or -1 if the text is not valid.
func (n *nesting) skipEnds(text []byte, i int) int {
	for n.depth > 0 {
		i = skipSpace(text, i)
		object := n.inObject()
		switch c := at(text, i); {
		case c == ',' && object:
			_, i = skipKey(text, skipSpace(text, i+1))
			return i
		case c == ',':
			return i + 1
		case c == '}' && object, c == ']' && !object:
			n.depth--
			i++
		default:
			return -1
		}
	}
	return i
}

// skipKey returns the index after the string that begins at i and the index after the colon that follows it.
// next is -1 if either is missing.
func skipKey(text []byte, i int) (end, next int) {
	if end = skipString(text, i); end >= 0 {
		if i = skipSpace(text, end); at(text, i) == ':' {
			return end, i + 1
		}
	}
	return -1, -1
}

// skipScalar returns the index after the string, number or literal that begins at i, or -1 if there is none.
func skipScalar(text []byte, i int) int {
	var literal string
	switch at(text, i) {
	case '"':
		return skipString(text, i)
	case 't':
		literal = "true"
	case 'f':
		literal = "false"
	case 'n':
		literal = "null"
	default:
		return skipNumber(text, i)
	}
	if end := i + len(literal); end <= len(text) && string(text[i:end]) == literal {
		return end
	}
	return -1
}

func skipNumber(text []byte, i int) int {
	if at(text, i) == '-' {
		i++
	}
	if at(text, i) == '0' {
		i++
	} else if i = skipDigits(text, i); i < 0 {
		return -1
	}
	if at(text, i) == '.' {
		if i = skipDigits(text, i+1); i < 0 {
			return -1
		}
	}
	if c := at(text, i); c == 'e' || c == 'E' {
		i++
		if c := at(text, i); c == '+' || c == '-' {
			i++
		}
		return skipDigits(text, i)
	}
	return i
}

// skipDigits returns the index after the digits at i, or -1 if there is none.
func skipDigits(text []byte, i int) int {
	begin := i
	for isDigit(at(text, i)) {
		i++
	}
	if i == begin {
		return -1
	}
	return i
}

// skipString returns the index after the string whose opening quote is at i, or -1. Big messages consist
// mostly of strings, so it reads eight bytes at a time (BenchmarkPeekBigDirect).
func skipString(text []byte, i int) int {
	if at(text, i) != '"' {
		return -1
	}
	i++
	for {
		for i+8 <= len(text) {
			if hits := special(binary.LittleEndian.Uint64(text[i:])); hits != 0 {
				i += bits.TrailingZeros64(hits) / 8
				if text[i] == '"' { // nearly always
					return i + 1
				}
				break
			}
			i += 8
		}
		switch c := at(text, i); {
		case c == '"':
			return i + 1
		case c == '\\':
			if i = skipEscape(text, i); i < 0 {
				return -1
			}
		case c < ' ':
			return -1 // or the end of text
		default:
			i++
		}
	}
}

// special finds the first byte of w, counted from the lowest, that is a quote, a backslash or below a space.
// The lowest set bit of the result is that byte's top bit; the result is 0 if there is none. The subtraction
// sets the top bit of a byte that was too small. Its borrow can spoil only higher bytes.
func special(w uint64) uint64 {
	const each = 0x0101010101010101
	// Exchanging 0x20 with 0x22 puts the quote next to the control characters, so one comparison finds both.
	low := w ^ 0x02*each
	slash := w ^ '\\'*each
	return ((low-0x21*each)&^low | (slash-each)&^slash) & (0x80 * each)
}

// skipEscape returns the index after the escape whose backslash is at i, or -1.
func skipEscape(text []byte, i int) int {
	switch at(text, i+1) {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	}
	if parseUnicodeEscape(text[i:]) >= 0 {
		return i + 6
	}
	return -1
}

// hasLoneSurrogate tells whether raw, the inside of a valid string, spells one half of a surrogate pair
// without the other.
func hasLoneSurrogate(raw []byte) bool {
	for n := bytes.IndexByte(raw, '\\'); n >= 0; n = bytes.IndexByte(raw, '\\') {
		raw = raw[n:]
		switch r := parseUnicodeEscape(raw); {
		case r < 0:
			raw = raw[2:]
		case !utf16.IsSurrogate(r):
			raw = raw[6:]
		case utf16.DecodeRune(r, parseUnicodeEscape(raw[6:])) == unicode.ReplacementChar:
			return true
		default:
			raw = raw[12:]
		}
	}
	return false
}

// parseUnicodeEscape returns the code unit that a \u escape at the beginning of s spells, or -1 if there is
// none.
func parseUnicodeEscape(s []byte) rune {
	var unit [2]byte
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	if _, err := hex.Decode(unit[:], s[2:6]); err != nil {
		return -1
	}
	return rune(binary.BigEndian.Uint16(unit[:]))
}

// skipSpace skips JSON's white space: these four characters. A byte order mark is not one.
func skipSpace(text []byte, i int) int {
	for i < len(text) && text[i] <= ' ' && (text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t') {
		i++
	}
	return i
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// at returns 0 after the end of text. The grammar accepts neither a 0 nor an end anywhere that at is used.
func at(text []byte, i int) byte {
	if i < len(text) {
		return text[i]
	}
	return 0
}
