package server

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// RFC 6455, byte by byte: what a peer sends on a connection of its own, what comes
// back to it, and what another peer in its relay hears. The cases follow the
// sections of the RFC and the kinds that public conformance suites have.

// rfcCase is one connection's life.
type rfcCase struct {
	name  string
	send  []byte
	back  string // frames the sender gets, see script
	heard string // frames the other peer gets
}

// script writes frames the relay sends as words: "text:hello", "binary:ab",
// "pong:x", "close:1002" (its reason is not compared), "close:" for an empty one.
func script(opcode byte, payload []byte) string {
	switch opcode {
	case 0x1:
		return "text:" + brief(payload)
	case 0x2:
		return "binary:" + brief(payload)
	case 0xa:
		return "pong:" + brief(payload)
	case 0x8:
		if len(payload) < 2 {
			return "close:"
		}
		return fmt.Sprintf("close:%d", binary.BigEndian.Uint16(payload))
	}
	return fmt.Sprintf("opcode%#x:%s", opcode, brief(payload))
}

func brief(b []byte) string {
	if len(b) > 130 {
		return fmt.Sprintf("%d bytes of %q", len(b), b[:1])
	}
	return string(b)
}

func frames(all ...[]byte) []byte { return bytes.Join(all, nil) }

// end is the peer's own close frame, by which every case ends that the relay does
// not end: it shows that the connection had survived.
var end = closeFrame(1000, "")

func run(t *testing.T, cases []rfcCase) {
	t.Helper()
	for _, pieces := range []int{0, 1, 7} {
		t.Run(fmt.Sprintf("pieces=%d", pieces), func(t *testing.T) {
			s := start(t, "CONNECTION_CHECK_INTERVAL=1h", "MAX_MESSAGE_BYTES=100000")
			for i, c := range cases {
				if pieces > 0 && len(c.send) > 2000 {
					continue // 100,000 segments show no more than 1,000
				}
				relayID := fmt.Sprint(i)
				other := open(t, s, relayID, "other")
				other.awaitHandled()
				sender := open(t, s, relayID, "sender")
				size := pieces
				if size == 0 {
					size = len(c.send)
				}
				for part := range slices.Chunk(c.send, size) {
					if _, err := sender.Write(part); err != nil {
						break // the relay has closed already; what it said is to be read
					}
				}
				if got := untilClose(sender); got != c.back {
					t.Errorf("%s: the sender got %q, want %q", c.name, got, c.back)
				}
				if !bytes.HasSuffix(c.send, end) { // a relay that has seen it may be gone
					_, _ = sender.Write(end)
				}
				sender.ended()
				// What it said went out before its connection ended.
				other.send(closeFrame(1000, ""))
				if got := strings.TrimSuffix(strings.TrimSuffix(untilClose(other), "close:1000"), " "); got != c.heard {
					t.Errorf("%s: the other peer heard %q, want %q", c.name, got, c.heard)
				}
				other.ended()
			}
		})
	}
}

// untilClose reads frames up to the relay's close frame.
func untilClose(c *raw) string {
	var words []string
	for {
		op, payload := c.frame()
		words = append(words, script(op, payload))
		if op == 0x8 {
			return strings.Join(words, " ")
		}
	}
}

func TestRFCFraming(t *testing.T) {
	var cases []rfcCase
	for _, n := range []int{0, 1, 125, 126, 127, 128, 65535, 65536, 65537, 100000} {
		p := repeat("x", n)
		cases = append(cases,
			rfcCase{fmt.Sprintf("text of %d bytes", n), frames(maskedFrame(0x81, p), end), "close:1000", "text:" + brief(p)},
			rfcCase{fmt.Sprintf("binary of %d bytes", n), frames(maskedFrame(0x82, p), end), "close:1000", "binary:" + brief(p)})
	}
	unmasked := func(first byte, p string) []byte { return append(frameHeader(first, 0, len(p)), p...) }
	cases = append(cases,
		rfcCase{"unmasked text", unmasked(0x81, "x"), "close:1002", ""},
		rfcCase{"unmasked ping", unmasked(0x89, ""), "close:1002", ""},
		rfcCase{"unmasked close", unmasked(0x88, "\x03\xe8"), "close:1002", ""},
		rfcCase{"16-bit length of 125", []byte{0x81, 0xfe, 0, 125}, "close:1002", ""},
		rfcCase{"64-bit length of 65535", []byte{0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, "close:1002", ""},
		rfcCase{"64-bit length with the top bit", []byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0}, "close:1002", ""},
		rfcCase{"several in one segment", frames(text("a"), text("b"), maskedFrame(0x82, []byte("c")), end), "close:1000", "text:a text:b binary:c"})
	run(t, cases)
}

func TestRFCPings(t *testing.T) {
	many, pongs := []byte(nil), ""
	for i := range 20 {
		many = append(many, maskedFrame(0x89, fmt.Append(nil, i))...)
		pongs += fmt.Sprintf("pong:%d ", i)
	}
	run(t, []rfcCase{
		{"empty ping", frames(maskedFrame(0x89, nil), end), "pong: close:1000", ""},
		{"ping", frames(maskedFrame(0x89, []byte("hi")), end), "pong:hi close:1000", ""},
		{"binary ping", frames(maskedFrame(0x89, []byte("\x00\xff\xfe")), end), "pong:\x00\xff\xfe close:1000", ""},
		{"ping of 125 bytes", frames(maskedFrame(0x89, repeat("p", 125)), end), "pong:" + string(repeat("p", 125)) + " close:1000", ""},
		{"ping of 126 bytes", maskedFrame(0x89, repeat("p", 126)), "close:1002", ""},
		{"unsolicited pong", frames(maskedFrame(0x8a, []byte("x")), text("on"), end), "close:1000", "text:on"},
		{"many pings", frames(many, end), pongs + "close:1000", ""},
		{"text ping", frames(text("ping"), end), "text:pong close:1000", ""},
		{"text pong", frames(text("pong"), end), "close:1000", ""},
		{"text ping in fragments", frames(maskedFrame(0x01, []byte("pi")), maskedFrame(0x80, []byte("ng")), end), "text:pong close:1000", ""},
		{"binary message ping", frames(maskedFrame(0x82, []byte("ping")), end), "close:1000", "binary:ping"},
		{"Ping is no ping", frames(text("Ping"), text("ping "), end), "close:1000", "text:Ping text:ping "},
	})
}

func TestRFCReservedBitsAndOpcodes(t *testing.T) {
	var cases []rfcCase
	for rsv := byte(1); rsv < 8; rsv++ {
		for _, opcode := range []byte{0x0, 0x1, 0x2, 0x8, 0x9, 0xa} {
			cases = append(cases, rfcCase{
				fmt.Sprintf("rsv %d, opcode %#x", rsv, opcode),
				frames(text("before"), maskedFrame(0x80|rsv<<4|opcode, nil), text("after")), "close:1002", "text:before",
			})
		}
	}
	for _, opcode := range []byte{3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf} {
		cases = append(cases, rfcCase{
			fmt.Sprintf("reserved opcode %#x", opcode),
			frames(text("before"), maskedFrame(0x80|opcode, []byte("x")), text("after")), "close:1002", "text:before",
		})
	}
	run(t, cases)
}

func TestRFCFragmentation(t *testing.T) {
	first, middle, last := maskedFrame(0x01, []byte("a")), maskedFrame(0x00, []byte("b")), maskedFrame(0x80, []byte("c"))
	ping := maskedFrame(0x89, []byte("p"))
	run(t, []rfcCase{
		{"two fragments", frames(first, last, end), "close:1000", "text:ac"},
		{"three fragments, pings between", frames(first, ping, middle, ping, last, end), "pong:p pong:p close:1000", "text:abc"},
		{"empty fragments", frames(maskedFrame(0x02, nil), maskedFrame(0, nil), maskedFrame(0x80, nil), end), "close:1000", "binary:"},
		{"two messages", frames(first, last, first, middle, last, end), "close:1000", "text:ac text:abc"},
		{"continuation of nothing", frames(last), "close:1002", ""},
		{"unfinished continuation of nothing", frames(middle, last), "close:1002", ""},
		{"continuation after a whole message", frames(text("x"), last), "close:1002", "text:x"},
		{"text inside a fragmented message", frames(first, text("x"), last), "close:1002", ""},
		{"second first fragment", frames(first, first, last), "close:1002", ""},
		{"fragmented ping", maskedFrame(0x09, []byte("p")), "close:1002", ""},
		{"fragmented pong", maskedFrame(0x0a, nil), "close:1002", ""},
		{"fragmented close", maskedFrame(0x08, nil), "close:1002", ""},
		{"close inside a fragmented message", frames(first, end), "close:1000", ""},
		{"limit reached by fragments", frames(maskedFrame(0x02, repeat("x", 60000)), maskedFrame(0x80, repeat("x", 40000)), end), "close:1000", "binary:100000 bytes of \"x\""},
		{"limit passed by fragments", frames(maskedFrame(0x02, repeat("x", 60000)), maskedFrame(0x80, repeat("x", 40001))), "close:1009", ""},
	})
	s := start(t, "MAX_MESSAGE_BYTES=100000")
	c := open(t, s, "r", "p")
	c.send(frameHeader(0x82, 0x80, 100001), []byte("mask")) // and no payload
	if got := untilClose(c); got != "close:1009" {
		t.Errorf("a header over the limit brings %q, want close 1009", got)
	}
}

func TestRFCUTF8(t *testing.T) {
	var cases []rfcCase
	for _, valid := range []string{"", "κόσμε", "\x00", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufffd", "\uffff", "\U00010000", "\U0010ffff", "\ufeffx"} {
		cases = append(cases, rfcCase{fmt.Sprintf("valid %+q", valid), frames(text(valid), end), "close:1000", "text:" + valid})
		for cut := 1; cut < len(valid); cut++ { // also within a code point
			cases = append(cases, rfcCase{
				fmt.Sprintf("valid %+q cut at %d", valid, cut),
				frames(maskedFrame(0x01, []byte(valid[:cut])), maskedFrame(0x80, []byte(valid[cut:])), end), "close:1000", "text:" + valid,
			})
		}
	}
	for _, invalid := range []string{
		"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xed\xbf\xbf", "\xe2\x82",
		"\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xf8\x88\x80\x80\x80", "\xfe", "\xff", "κόσμε\xff",
	} {
		cases = append(cases,
			rfcCase{fmt.Sprintf("invalid %+q", invalid), frames(text(invalid), text("after")), "close:1007", ""},
			rfcCase{
				fmt.Sprintf("invalid %+q in fragments", invalid),
				frames(maskedFrame(0x01, []byte(invalid[:1])), maskedFrame(0x80, []byte(invalid[1:]))), "close:1007", "",
			},
			rfcCase{fmt.Sprintf("binary %+q", invalid), frames(maskedFrame(0x82, []byte(invalid)), end), "close:1000", "binary:" + invalid})
	}
	run(t, cases)
}

func TestRFCClosing(t *testing.T) {
	cases := []rfcCase{
		{"empty", closeFrame(0, ""), "close:", ""},
		{"one byte", maskedFrame(0x88, []byte{3}), "close:1002", ""},
		{"reason", closeFrame(1000, "bye"), "close:1000", ""},
		{"reason of 123 bytes", closeFrame(1000, string(repeat("r", 123))), "close:1000", ""},
		{"reason of 124 bytes", closeFrame(1000, string(repeat("r", 124))), "close:1002", ""},
		{"reason not UTF-8", closeFrame(1000, "\xff"), "close:1007", ""},
		{"frames behind a close", frames(text("a"), end, text("b"), maskedFrame(0x89, nil)), "close:1000", "text:a"},
		{"frames behind a violation", frames(maskedFrame(0x83, nil), maskedFrame(0xf3, repeat("x", 5000)), end), "close:1002", ""},
	}
	for _, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		cases = append(cases, rfcCase{fmt.Sprintf("code %d", code), closeFrame(code, ""), fmt.Sprintf("close:%d", code), ""})
	}
	for _, code := range []uint16{1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		cases = append(cases, rfcCase{fmt.Sprintf("code %d", code), closeFrame(code, ""), "close:1002", ""})
	}
	run(t, cases)
}
