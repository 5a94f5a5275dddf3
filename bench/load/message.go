package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A message of the load is a JSON object in which everything that changes has a fixed place:
//
//	{"n":"<stream><sequence><intended send time>","p":"<padding>"}
//	{"targetPeerId":"p<peer>","n":…
//
// Numbers are lower-case hexadecimal: 8 digits for stream and sequence, 16 for nanoseconds on the worker's clock. All the
// rest is the same in every message of a stream, so that a changed byte anywhere shows. Binary messages have the same bytes.
const (
	seqAt      = 8  // from the stream number on
	timeAt     = 16 // from there as well
	numbersLen = 32
)

// MaxSize is the largest message, in bytes.
const MaxSize = 1 << 20

// msgHead is what a received message says of itself.
type msgHead struct {
	stream, seq uint32
	sent        int64 // intended send time, nanoseconds on the worker's clock
}

// newMessage is a stream's message of size bytes, with sequence and time zero, and where its numbers begin. target is a
// peer's number, or everyone.
func newMessage(size int, stream uint32, target int32) (b []byte, numbersAt int) {
	b = append(b, '{')
	if target != everyone {
		b = fmt.Appendf(b, `"targetPeerId":"p%07x",`, target)
	}
	b = append(b, `"n":"`...)
	numbersAt = len(b)
	b = fmt.Appendf(b, `%08x%024x","p":"`, stream, 0)
	const letters, tail = "the quick brown fox jumps over the lazy dog; ", `"}`
	for len(b) < size-len(tail) {
		b = append(b, letters[len(b)%len(letters)])
	}
	return append(b, tail...), numbersAt
}

// stamp writes sequence number and intended send time into a message, whose numbers are given.
func stamp(numbers []byte, seq uint32, sent int64) {
	putHex8(numbers[seqAt:], seq)
	putHex8(numbers[timeAt:], uint32(sent>>32))
	putHex8(numbers[timeAt+8:], uint32(sent))
}

func readNumbers(b []byte) msgHead {
	return msgHead{
		stream: hex8(b), seq: hex8(b[seqAt:]),
		sent: int64(hex8(b[timeAt:]))<<32 | int64(hex8(b[timeAt+8:])),
	}
}

// same tells whether two messages differ in nothing but their numbers.
func same(a, b []byte, numbersAt int) bool {
	rest := numbersAt + numbersLen
	return bytes.Equal(a[:numbersAt], b[:numbersAt]) && bytes.Equal(a[rest:], b[rest:])
}

// hex8 reads eight hexadecimal digits at once. Other bytes give some number, which then fails the checks on it.
func hex8(b []byte) uint32 {
	x := binary.LittleEndian.Uint64(b)
	x = x&0x0f0f0f0f0f0f0f0f + (x>>6&0x0101010101010101)*9
	x = (x<<4 | x>>8) & 0x00ff00ff00ff00ff
	return uint32(x<<24) | uint32(x>>16&0xff)<<16 | uint32(x>>32&0xff)<<8 | uint32(x>>48&0xff)
}

func putHex8(b []byte, v uint32) {
	for i := 7; i >= 0; i-- {
		b[i] = "0123456789abcdef"[v&15]
		v >>= 4
	}
}
