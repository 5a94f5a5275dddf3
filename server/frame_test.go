package server

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestValidCloseCode(t *testing.T) {
	for code := range 1 << 16 {
		// RFC 6455 §7.4.1 and the registry of close codes.
		want := code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999
		if got := validCloseCode(uint16(code)); got != want {
			t.Errorf("code %d: %v, want %v", code, got, want)
		}
	}
}

func TestUnmask(t *testing.T) {
	key := [4]byte{0x11, 0x92, 0x03, 0xf4}
	for n := range 150 {
		got, want := make([]byte, n), make([]byte, n)
		for i := range got {
			got[i] = byte(i * 7)
			want[i] = got[i] ^ key[i%4]
		}
		unmask(got, key)
		if !bytes.Equal(got, want) {
			t.Fatalf("%d bytes: % x, want % x", n, got, want)
		}
	}
}

func TestEncodeInPlace(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 70000} {
		client := maskedFrame(0x82, repeat("x", n))
		h, err := parseHeader(client)
		if err != nil || h.size+n != len(client) || h.length != int64(n) {
			t.Fatalf("header of %d bytes: %+v, %v", n, h, err)
		}
		unmask(client[h.size:], h.mask)
		got := encodeInPlace(client, h.size, n, opBinary)
		want := append(frameHeader(0x82, 0, n), repeat("x", n)...)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d bytes % x…, want %d bytes % x…", n, len(got), got[:min(12, len(got))], len(want), want[:min(12, len(want))])
		}
		if again := appendFrame(nil, opBinary, repeat("x", n)); !bytes.Equal(again, want) {
			t.Errorf("%d bytes: appendFrame differs from encodeInPlace", n)
		}
	}
}

// referenceLimit is MAX_MESSAGE_BYTES in FuzzFrames.
const referenceLimit = 300

// reference decodes a client's whole stream the plain way, straight from RFC 6455,
// and writes what the relay has to send: to the sender, and to everyone else.
func reference(stream []byte) (back, heard string) {
	var replies, relayed []string
	var message []byte
	messageOp := byte(0)
	fail := func(code int) (string, string) {
		return strings.Join(append(replies, fmt.Sprintf("close:%d", code)), " "), strings.Join(relayed, " ")
	}
	for {
		if len(stream) < 2 {
			return strings.Join(replies, " "), strings.Join(relayed, " ")
		}
		fin, rsv, op := stream[0]&0x80 != 0, stream[0]&0x70, stream[0]&0x0f
		masked, short := stream[1]&0x80 != 0, int(stream[1]&0x7f)
		known := op <= 2 || op >= 8 && op <= 10
		control := op >= 8
		switch {
		case rsv != 0, !known, !masked, control && (!fin || short > 125),
			op == 0 && messageOp == 0, (op == 1 || op == 2) && messageOp != 0:
			return fail(1002)
		}
		length, at := uint64(short), 2
		if short == 126 {
			if len(stream) < 4 {
				return strings.Join(replies, " "), strings.Join(relayed, " ")
			}
			length, at = uint64(binary.BigEndian.Uint16(stream[2:])), 4
			if length < 126 {
				return fail(1002)
			}
		} else if short == 127 {
			if len(stream) < 10 {
				return strings.Join(replies, " "), strings.Join(relayed, " ")
			}
			length, at = binary.BigEndian.Uint64(stream[2:]), 10
			if length < 65536 || length>>63 != 0 {
				return fail(1002)
			}
		}
		if len(stream) < at+4 {
			return strings.Join(replies, " "), strings.Join(relayed, " ")
		}
		if !control && length+uint64(len(message)) > referenceLimit {
			return fail(1009)
		}
		if uint64(len(stream)-at-4) < length {
			return strings.Join(replies, " "), strings.Join(relayed, " ")
		}
		payload := make([]byte, length)
		for i := range payload {
			payload[i] = stream[at+4+i] ^ stream[at+i%4]
		}
		stream = stream[at+4+int(length):]
		switch op {
		case 8:
			code, reason := 0, ""
			if len(payload) >= 2 {
				code, reason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
			}
			switch {
			case len(payload) == 1 || len(payload) > 1 && !validCloseCode(uint16(code)):
				return fail(1002)
			case !utf8.ValidString(reason):
				return fail(1007)
			case code == 0:
				return strings.Join(append(replies, "close:"), " "), strings.Join(relayed, " ")
			}
			return fail(code)
		case 9:
			replies = append(replies, script(0xa, payload))
			continue
		case 10:
			continue
		}
		if op != 0 {
			messageOp = op
		}
		message = append(message, payload...)
		if !fin {
			continue
		}
		whole, kind := message, messageOp
		message, messageOp = nil, 0
		switch {
		case kind == 1 && !utf8.Valid(whole):
			return fail(1007)
		case kind == 1 && string(whole) == "ping":
			replies = append(replies, "text:pong")
		case kind == 1 && string(whole) == "pong":
		default:
			relayed = append(relayed, script(kind, whole))
		}
	}
}

// FuzzFrames sends a stream to a relay in pieces, and wants of it what reference
// says. The stream ends with FIN, so that what is incomplete stays so.
func FuzzFrames(f *testing.F) {
	add := func(piece uint8, parts ...[]byte) { f.Add(bytes.Join(parts, nil), piece) }
	add(1, text("hello"), text("ping"), end)
	add(3, maskedFrame(0x01, []byte("a")), maskedFrame(0x89, []byte("p")), maskedFrame(0x80, []byte("b")))
	add(7, maskedFrame(0x82, repeat("x", 200)), maskedFrame(0x02, repeat("x", 200)), maskedFrame(0x80, repeat("x", 101)))
	add(50, text("\xff"), text("after"))
	add(2, closeFrame(1000, "\xff"))
	add(9, []byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4})
	add(4, maskedFrame(0x83, nil))
	s := start(f, "MAX_MESSAGE_BYTES=300", "CONNECTION_CHECK_INTERVAL=1h")
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		if bytes.Contains(stream, []byte("{")) || len(stream) > 4096 {
			return // direct messages have a fuzz target of their own
		}
		wantBack, wantHeard := reference(stream)
		other := open(t, s, "r", "other")
		defer other.Close()
		sender := open(t, s, "r", "sender")
		defer sender.Close()
		other.awaitHandled()
		for len(stream) > 0 {
			n := min(int(piece)+1, len(stream))
			if _, err := sender.Write(stream[:n]); err != nil {
				break // it is closed, and says why
			}
			stream = stream[n:]
		}
		_ = sender.CloseWrite()
		back := untilEnd(sender)
		if back != wantBack && !strings.HasPrefix(wantBack, back) {
			t.Fatalf("the sender got %q, want %q", back, wantBack)
		}
		eventually(t, "the sender has left", func() bool { return s.Stats().Peers == 1 })
		other.send(end)
		heard := strings.TrimSuffix(strings.TrimSuffix(untilClose(other), "close:1000"), " ")
		if heard != wantHeard {
			t.Fatalf("the other peer heard %q, want %q", heard, wantHeard)
		}
		if n := s.Stats().Panics; n > 0 {
			t.Fatalf("%d panics", n)
		}
		other.Close()
		eventually(t, "nothing is held", func() bool { return s.Stats().Connections == 0 })
	})
}

// untilEnd reads frames until the connection ends. A peer that half-closes is
// closed at once, so the last replies may be missing.
func untilEnd(c *raw) string {
	var words []string
	for {
		if _, err := c.in.Peek(2); err != nil {
			return strings.Join(words, " ")
		}
		words = append(words, script(c.frame()))
	}
}

func BenchmarkParseHeader(b *testing.B) {
	frame := maskedFrame(0x81, repeat("x", 128))
	for b.Loop() {
		if h, err := parseHeader(frame); err != nil || h.size == 0 {
			b.Fatal(h, err)
		}
	}
}

func BenchmarkUnmask(b *testing.B) {
	for _, n := range []int{16, 128, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				unmask(p, [4]byte{1, 2, 3, 4})
			}
		})
	}
}
