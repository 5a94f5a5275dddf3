package server

import (
	"encoding/binary"

	"github.com/gobwas/ws"
)

// Frames on the wire (RFC 6455 §5.2):
//
//	byte 0      FIN 1 bit, RSV 3 bits, opcode 4 bits
//	byte 1      MASK 1 bit, length 7 bits: 0-125; 126: 2 bytes follow; 127: 8 bytes follow
//	0, 2 or 8   length, big-endian
//	0 or 4      masking key, if MASK
//	length      payload
//
// A client's frames are masked, ours are not. So our header for a payload is 4 bytes shorter than the
// client's and fits right in front of the unmasked payload: a message is relayed from the buffer it was read
// into.
const (
	opContinuation = byte(ws.OpContinuation)
	opText         = byte(ws.OpText)
	opBinary       = byte(ws.OpBinary)
	opClose        = byte(ws.OpClose)
	opPing         = byte(ws.OpPing)
	opPong         = byte(ws.OpPong)

	finBit     = 0x80
	rsvBits    = 0x70
	opcodeBits = 0x0f
	maskBit    = 0x80
	lengthBits = 0x7f

	maxControlPayload = ws.MaxControlFramePayloadSize // 125, RFC 6455 §5.5
	maxClientHeader   = 2 + 8 + 4
	maxServerHeader   = 2 + 8
)

// header is a parsed frame header.
type header struct {
	first  byte // byte 0 as it came
	masked bool
	size   int   // of the header itself, masking key included
	length int64 // of the payload
	mask   [4]byte
}

func (h *header) fin() bool    { return h.first&finBit != 0 }
func (h *header) opcode() byte { return h.first & opcodeBits }

// parseHeader reads a frame header from the beginning of b. If b does not hold all of it, size is 0, but the
// fields of the first two bytes are set if these are there. err is set if the length is not encoded as RFC
// 6455 §5.2 requires.
func parseHeader(b []byte) (h header, err error) {
	if len(b) < 2 {
		return h, nil
	}
	h.first = b[0]
	h.masked = b[1]&maskBit != 0
	h.length = int64(b[1] & lengthBits)
	n := 2
	switch h.length {
	case 126:
		if len(b) < 4 {
			return h, nil
		}
		h.length = int64(binary.BigEndian.Uint16(b[2:]))
		n = 4
		if h.length <= maxControlPayload {
			return h, errLengthNotMinimal
		}
	case 127:
		if len(b) < 10 {
			return h, nil
		}
		v := binary.BigEndian.Uint64(b[2:])
		n = 10
		// "The most significant bit MUST be 0", "the minimal number of bytes MUST be used to encode the
		// length".
		if v > 1<<63-1 || v <= 0xffff {
			return h, errLengthNotMinimal
		}
		h.length = int64(v)
	}
	if h.masked {
		if len(b) < n+4 {
			return h, nil
		}
		h.mask = [4]byte(b[n:])
		n += 4
	}
	h.size = n
	return h, nil
}

const errLengthNotMinimal = ws.ProtocolError("payload length is not encoded in the minimal number of bytes")

// check applies the rules that a header alone can break. fragmented means that a message of several frames
// has begun and not ended. Only byte 0 and the mask and length bits of byte 1 are used.
func (h *header) check(fragmented bool) error {
	state := ws.StateServerSide
	if fragmented {
		state = state.Set(ws.StateFragmented)
	}
	return ws.CheckHeader(ws.Header{
		Fin:    h.fin(),
		Rsv:    h.first & rsvBits >> 4,
		OpCode: ws.OpCode(h.opcode()),
		Masked: h.masked,
		Length: h.length,
	}, state)
}

// unmask applies the masking key to a whole payload in place (RFC 6455 §5.3).
func unmask(b []byte, mask [4]byte) {
	if mask != [4]byte{} {
		ws.Cipher(b, mask, 0)
	}
}

// serverHeaderSize returns the size of our header for a payload of n bytes.
func serverHeaderSize(n int) int {
	switch {
	case n <= 125:
		return 2
	case n <= 0xffff:
		return 4
	}
	return 10
}

// putHeader writes our header for a final frame of n payload bytes to the beginning of b, which must have
// room for it.
func putHeader(b []byte, opcode byte, n int) {
	b[0] = finBit | opcode
	switch {
	case n <= 125:
		b[1] = byte(n)
	case n <= 0xffff:
		b[1] = 126
		binary.BigEndian.PutUint16(b[2:], uint16(n))
	default:
		b[1] = 127
		binary.BigEndian.PutUint64(b[2:], uint64(n))
	}
}

// encodeInPlace makes buf[at:at+n], an unmasked payload, a frame of ours. It writes the header in front of
// the payload, where at least serverHeaderSize(n) bytes must be free. The frame aliases buf.
func encodeInPlace(buf []byte, at, n int, opcode byte) []byte {
	start := at - serverHeaderSize(n)
	putHeader(buf[start:], opcode, n)
	return buf[start : at+n]
}

// appendFrame appends an unmasked final frame.
func appendFrame(dst []byte, opcode byte, payload []byte) []byte {
	var h [maxServerHeader]byte
	putHeader(h[:], opcode, len(payload))
	dst = append(dst, h[:serverHeaderSize(len(payload))]...)
	return append(dst, payload...)
}

// appendClose appends a close frame. With code 0 the frame is empty (RFC 6455 §5.5.1), and reason is ignored.
func appendClose(dst []byte, code ws.StatusCode, reason string) []byte {
	if code == 0 {
		return append(dst, finBit|opClose, 0)
	}
	dst = append(dst, finBit|opClose, byte(2+len(reason)), byte(code>>8), byte(code))
	return append(dst, reason...)
}
