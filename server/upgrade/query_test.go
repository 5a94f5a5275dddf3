package upgrade

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestQuery(t *testing.T) {
	f := func(query, want string) {
		t.Helper()
		var s idScratch
		id, ok := s.decode(queryFirst([]byte(query), "relayId"))
		if string(id) != want || !ok {
			t.Errorf("relayId of %q = %q, %t; want %q", query, id, ok, want)
		}
		if ref := refSearchParam(query, "relayId"); ref != want {
			t.Errorf("the reference says %q of %q; want %q", ref, query, want)
		}
	}
	f("relayId=a", "a")
	f("x=y&relayId=a&peerId=b", "a")
	f("&&relayId=a&&", "a")
	f("relayId=a&relayId=b", "a")
	f("relayId=&relayId=b", "")
	f("relayId&relayId=b", "")
	f("relayid=a&RELAYID=b", "")
	f("relayId=a;peerId=b", "a;peerId=b")
	f("relayId=a=b==", "a=b==")
	f("=a&relayId=b", "b")
	f("?relayId=a", "")
	f("", "")

	// Keys are decoded too.
	f("%72elay%49d=a", "a")
	f("relayId%=a&relayId=b", "b")
	f("relay+Id=a&+relayId=b&relayId+=c", "")
	f("%00relayId=a", "")
	f("relayId%00=a", "")
	f("\xef\xbb\xbfrelayId=a", "") // a byte order mark stays

	f("relayId=a+b%20c%2Bd", "a b c+d")
	f("relayId=%26%3d%23", "&=#")
	f("relayId=%&x", "%")
	f("relayId=%4&x", "%4")
	f("relayId=%4g%zz%%41%", "%4g%zz%A%")
	f("relayId=%2541", "%41")
	f("relayId=%00%0a", "\x00\n")

	f("relayId=%c3%a9\xc3\xa9%c3\xa9\xc3%A9", "éééé")
	f("relayId=%F0%9F%98%80", "😀")
	f("relayId=%EF%BB%BFa", "\ufeffa")
	f("relayId=%ff%FE\xfd", "\ufffd\ufffd\ufffd")
	f("relayId=%c3%28", "\ufffd(")
	f("relayId=%c0%80", "\ufffd\ufffd")          // overlong
	f("relayId=%e0%80%80", "\ufffd\ufffd\ufffd") // overlong
	f("relayId=%ed%a0%80", "\ufffd\ufffd\ufffd") // a surrogate
	f("relayId=%e2%82", "\ufffd")
	f("relayId=%e2%82x", "\ufffdx")
	f("relayId=%f0%9f%98%f0%9f%98%80", "\ufffd😀")
	f("relayId=%f0%90%80", "\ufffd") // the second byte's bounds are not the third's
	f("relayId=%f4%8f%bf", "\ufffd")
	f("relayId=%f0%8f%98%80", "\ufffd\ufffd\ufffd\ufffd")
	f("relayId=%f4%90%80%80", "\ufffd\ufffd\ufffd\ufffd")
	f("relayId=%f5%80", "\ufffd\ufffd")
	f("relayId=%ef%bf%bd", "\ufffd")
}

// Every sequence of up to four of the octets that border a range in Unicode's table
// of well-formed sequences, with an ASCII letter behind it.
func TestQueryNotUTF8(t *testing.T) {
	const octets = "a\x80\x8f\x90\x9f\xa0\xbf\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff"
	var s idScratch
	var extend func(prefix string)
	extend = func(prefix string) {
		raw := prefix + "z"
		if id, ok := s.decode([]byte(raw)); !ok || string(id) != refUTF8([]byte(raw)) {
			t.Fatalf("decode(%q) = %q, %t; want %q", raw, id, ok, refUTF8([]byte(raw)))
		}
		if len(prefix) < 4 {
			for i := range len(octets) {
				extend(prefix + octets[i:i+1])
			}
		}
	}
	extend("")
}

func TestQueryLength(t *testing.T) {
	f := func(raw string, want bool) {
		t.Helper()
		var s idScratch
		id, ok := s.decode([]byte(raw))
		if ok != want || ok && len(id) != maxIDBytes {
			t.Errorf("decode(%.20q… of %d) = %d bytes, %t; want %t", raw, len(raw), len(id), ok, want)
		}
	}
	const n = maxIDBytes
	f(strings.Repeat("a", n), true)
	f(strings.Repeat("a", n+1), false)
	f(strings.Repeat("%41", n), true)
	f(strings.Repeat("%41", n+1), false)
	f(strings.Repeat("+", n), true)
	f(strings.Repeat("+", n+1), false)
	f(strings.Repeat("%F0%9F%98%80", n/4), true)
	f(strings.Repeat("%F0%9F%98%80", n/4)+"a", false)
	f("a"+strings.Repeat("\xff", n/3), true)
	f("aa"+strings.Repeat("\xff", n/3), false)
	f("a"+strings.Repeat("%e2%82", n/3), true)
	f(strings.Repeat("\xff", n), false)
}

// refSearchParam is new URLSearchParams(query).get(name) ?? "", from the letter
// of the URL standard §5.1 and the Encoding standard §8.1.1, step by step.
func refSearchParam(query, name string) string {
	for _, sequence := range strings.Split(query, "&") {
		if sequence == "" {
			continue
		}
		key, value := sequence, ""
		if i := strings.Index(sequence, "="); i >= 0 {
			key, value = sequence[:i], sequence[i+1:]
		}
		key, value = strings.ReplaceAll(key, "+", " "), strings.ReplaceAll(value, "+", " ")
		if refUTF8(refPercentDecode(key)) == name {
			return refUTF8(refPercentDecode(value))
		}
	}
	return ""
}

func refPercentDecode(input string) (output []byte) {
	const digits = "0123456789abcdef"
	for i := 0; i < len(input); i++ {
		if input[i] == '%' && i+2 < len(input) {
			high := strings.IndexByte(digits, strings.ToLower(input[i+1 : i+2])[0])
			low := strings.IndexByte(digits, strings.ToLower(input[i+2 : i+3])[0])
			if high >= 0 && low >= 0 {
				output = append(output, byte(16*high+low))
				i += 2
				continue
			}
		}
		output = append(output, input[i])
	}
	return output
}

// refUTF8 is the UTF-8 decoder's handler, called for each byte and once for the end of the queue.
func refUTF8(bytes []byte) string {
	var out []rune
	var point, seen, needed int
	lower, upper := 0x80, 0xbf
	for i := 0; i < len(bytes); i++ {
		b := int(bytes[i])
		if needed == 0 {
			switch {
			case b <= 0x7f:
				out = append(out, rune(b))
			case b >= 0xc2 && b <= 0xdf:
				needed, point = 1, b&0x1f
			case b >= 0xe0 && b <= 0xef:
				if b == 0xe0 {
					lower = 0xa0
				}
				if b == 0xed {
					upper = 0x9f
				}
				needed, point = 2, b&0xf
			case b >= 0xf0 && b <= 0xf4:
				if b == 0xf0 {
					lower = 0x90
				}
				if b == 0xf4 {
					upper = 0x8f
				}
				needed, point = 3, b&0x7
			default:
				out = append(out, utf8.RuneError)
			}
			continue
		}
		if b < lower || b > upper {
			point, needed, seen, lower, upper = 0, 0, 0, 0x80, 0xbf
			i-- // restore byte to ioQueue
			out = append(out, utf8.RuneError)
			continue
		}
		lower, upper = 0x80, 0xbf
		point = point<<6 | b&0x3f
		seen++
		if seen == needed {
			out = append(out, rune(point))
			point, needed, seen = 0, 0, 0
		}
	}
	if needed != 0 {
		out = append(out, utf8.RuneError)
	}
	return string(out)
}

func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		"relayId=a&peerId=b", "relayId=%F0%9F%98%80+%2B", "%72elayId=%e2%82%", "relayId&relayId=b",
		"&=&relayId=%ed%a0%80%&relay+Id", "relayId=%f4%90\xc3\xa9%c3", "relayId=%f0%90%80&peerId=%f4%8f%bf", "relayId=" + strings.Repeat("\xe2%82", 342),
	} {
		f.Add([]byte(seed))
	}
	var s idScratch
	f.Fuzz(func(t *testing.T, query []byte) {
		for _, name := range []string{"relayId", "a", "peerId"} {
			before := string(query)
			id, ok := s.decode(queryFirst(query, name))
			want := refSearchParam(before, name)
			if ok != (len(want) <= maxIDBytes) || ok && string(id) != want {
				t.Errorf("%s of %q = %q, %t; want %q", name, query, id, ok, want)
			}
			if string(query) != before {
				t.Errorf("%q became %q", before, query)
			}
		}
	})
}
