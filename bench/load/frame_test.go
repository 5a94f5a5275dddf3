package load

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
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
		maskBytes(got, key)
		if !bytes.Equal(got, want) || !bytes.Equal(b[len(b)-n-4:len(b)-n], key[:]) {
			t.Errorf("length %d: does not unmask to its payload", n)
		}
	}
}

func TestMessageRoundTrip(t *testing.T) {
	for _, target := range []int32{everyone, 0, 0xabcdef} {
		b, at := newMessage(300, 7, target)
		if len(b) != 300 || !json.Valid(b) {
			t.Fatalf("target %d: %d bytes, want JSON of 300: %s", target, len(b), b)
		}
		sent := bytes.Clone(b)
		stamp(sent[at:], 0x12345678, 0x123456789abcdef0)
		if h := readNumbers(sent[at:]); h != (msgHead{7, 0x12345678, 0x123456789abcdef0}) {
			t.Errorf("target %d: got %+v", target, h)
		}
		if !json.Valid(sent) || !same(sent, b, at) {
			t.Errorf("target %d: more than the numbers has changed: %s", target, sent)
		}
	}
}

func TestAnyChangedByteShows(t *testing.T) {
	good, at := newMessage(128, 2, everyone)
	for i := range good {
		if i >= at && i < at+numbersLen {
			continue // a number: any bytes give one, which is checked by the ledger
		}
		b := bytes.Clone(good)
		b[i] ^= 1
		if same(b, good, at) {
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
