package load

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Opcodes of RFC 6455 §5.2, the ones a relay may send.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// frameHeader is what the first bytes of a server's frame say. size is the header's own length, length the payload's.
type frameHeader struct {
	opcode byte
	fin    bool
	size   int
	length int
}

var errMasked = errors.New("the server masked a frame (RFC 6455 §5.1 forbids it)")

// parseHeader reads a server's frame header. ok is false when b ends before the header does.
func parseHeader(b []byte) (h frameHeader, ok bool, err error) {
	if len(b) < 2 {
		return h, false, nil
	}
	h.fin = b[0]&0x80 != 0
	h.opcode = b[0] & 0x0f
	if b[0]&0x70 != 0 {
		return h, false, fmt.Errorf("reserved bits set in frame byte %#02x", b[0])
	}
	if b[1]&0x80 != 0 {
		return h, false, errMasked
	}
	h.size, h.length = 2, int(b[1])
	switch h.length {
	case 126:
		if len(b) < 4 {
			return h, false, nil
		}
		h.size, h.length = 4, int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if len(b) < 10 {
			return h, false, nil
		}
		n := binary.BigEndian.Uint64(b[2:])
		if n > MaxSize {
			return h, false, fmt.Errorf("frame of %d bytes", n)
		}
		h.size, h.length = 10, int(n)
	}
	return h, true, nil
}

// AppendClientFrame appends one whole masked frame to dst. The payload is not changed.
func AppendClientFrame(dst []byte, opcode byte, key [4]byte, payload []byte) []byte {
	dst = append(dst, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	dst = append(dst, key[:]...)
	at := len(dst)
	dst = append(dst, payload...)
	maskBytes(dst[at:], key)
	return dst
}

// maskBytes applies a mask key in place, from the payload's beginning on.
func maskBytes(b []byte, key [4]byte) {
	word := uint64(binary.LittleEndian.Uint32(key[:]))
	word |= word << 32
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^word)
	}
	for i := range b {
		b[i] ^= key[i&3]
	}
}
