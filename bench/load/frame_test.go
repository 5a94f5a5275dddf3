package load

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// serverFrame is what a server sends: no mask.
func serverFrame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

func TestParseHeader(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 1 << 20} {
		b := serverFrame(0x82, make([]byte, n))
		h, ok, err := parseHeader(b)
		if err != nil || !ok {
			t.Fatalf("length %d: got ok %v, error %v", n, ok, err)
		}
		if h.length != n || h.opcode != opBinary || !h.fin || h.size != len(b)-n {
			t.Errorf("length %d: got %+v", n, h)
		}
		for k := range h.size {
			if _, ok, err := parseHeader(b[:k]); ok || err != nil {
				t.Errorf("length %d, %d bytes of the header: got ok %v, error %v; want to wait", n, k, ok, err)
			}
		}
	}
}

func TestParseHeaderRefuses(t *testing.T) {
	f := func(what string, b ...byte) {
		t.Helper()
		if _, ok, err := parseHeader(b); ok || err == nil {
			t.Errorf("%s: got ok %v, no error", what, ok)
		}
	}
	f("masked", 0x81, 0x80)
	f("reserved bit", 0xc1, 0)
	f("absurd length", 0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0)
}

func TestClientFrameUnmasksToPayload(t *testing.T) {
	key := [4]byte{1, 2, 3, 4}
	for _, n := range []int{0, 1, 3, 4, 5, 125, 126, 70000} {
		want := bytes.Repeat([]byte("x"), n)
		b := AppendClientFrame([]byte("before"), opText, key, want)[len("before"):]
		if b[0] != 0x81 || b[1]&0x80 == 0 {
			t.Fatalf("length %d: header % x is not a masked text frame", n, b[:2])
		}
		got := bytes.Clone(b[len(b)-n:])
		if n > 4 && bytes.Equal(got, want) {
			t.Errorf("length %d: payload is not masked", n)
		}
		maskBytes(got, key, 0)
		if !bytes.Equal(got, want) || !bytes.Equal(b[len(b)-n-4:len(b)-n], key[:]) {
			t.Errorf("length %d: does not unmask to its payload", n)
		}
	}
}

func TestMessageRoundTrip(t *testing.T) {
	for _, target := range []int{everyone, 0, 0xabcdef} {
		p := appendMessage(nil, 300, 0xdeadbeef, 7, target)
		if len(p) != 300 {
			t.Fatalf("target %d: %d bytes, want 300", target, len(p))
		}
		s := newStamp(opText, [4]byte{9, 8, 7, 6}, p, target >= 0)
		s.set(0x12345678, 0x123456789abcdef0)
		payload := bytes.Clone(s.frame[len(s.frame)-300:])
		maskBytes(payload, s.key, 0)
		var h msgHead
		if !parseHead(payload[:min(300, maxHead)], &h) {
			t.Fatalf("target %d: %s does not parse", target, payload)
		}
		if h.room != 0xdeadbeef || h.stream != 7 || h.seq != 0x12345678 || h.sent != 0x123456789abcdef0 {
			t.Errorf("target %d: got %+v", target, h)
		}
	}
}

func TestParseHeadRefusesOthersBytes(t *testing.T) {
	good := appendMessage(nil, MinSize, 1, 2, everyone)
	for i := range len(plainHead) {
		if i >= roomAt && i < roomAt+8 || i >= streamAt && i < streamAt+8 || i >= seqAt && i < seqAt+8 || i >= timeAt && i < timeAt+16 {
			continue // a number: any bytes give one, which is checked later
		}
		b := bytes.Clone(good)
		b[i] ^= 1
		var h msgHead
		if parseHead(b[:len(plainHead)], &h) {
			t.Errorf("changed byte %d of %q went unnoticed", i, b)
		}
	}
}

func TestHex8(t *testing.T) {
	for _, v := range []uint32{0, 1, 0xf, 0x10, 0xdeadbeef, 0xffffffff, 0x0a0b0c0d} {
		var b [8]byte
		putHex8(b[:], v)
		if got := hex8(b[:]); got != v {
			t.Errorf("%08x: written %s, read %08x", v, b, got)
		}
	}
}
