package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A message of the load is one JSON object of fixed width, so that every field has a fixed place and a recipient can
// check it without parsing:
//
//	{"r":"<room>","f":"<stream>","n":"<sequence>","t":"<intended send time>","p":"<padding>"}
//	{"targetPeerId":"p<peer>","r":…
//
// Numbers are lower-case hexadecimal: 8 digits for room, stream and sequence, 16 for nanoseconds on the worker's clock.
// The padding is a fixed pattern, so that a changed byte anywhere shows. Binary messages have the same bytes.
const (
	plainHead  = `{"r":"00000000","f":"00000000","n":"00000000","t":"0000000000000000","p":"`
	targetPart = `"targetPeerId":"p0000000",`
	tail       = `"}`

	roomAt   = len(`{"r":"`)
	streamAt = roomAt + 8 + len(`","f":"`)
	seqAt    = streamAt + 8 + len(`","n":"`)
	timeAt   = seqAt + 8 + len(`","t":"`)

	// MinSize is the smallest message, in bytes: a targeted one without padding.
	MinSize = len(plainHead) + len(targetPart) + len(tail)
	// maxHead is how many leading bytes of a payload hold all the fields.
	maxHead = len(plainHead) + len(targetPart)
)

// pattern is the padding, long enough for the largest message and shared by all.
var pattern = func() []byte {
	const letters = "the quick brown fox jumps over the lazy dog; "
	p := make([]byte, MaxSize)
	for i := range p {
		p[i] = letters[i%len(letters)]
	}
	return p
}()

// MaxSize is the largest message the load sends, in bytes.
const MaxSize = 1 << 20

// msgHead is the fixed part of a message as received.
type msgHead struct {
	room, stream, seq uint32
	sent              int64 // intended send time, nanoseconds on the worker's clock
	size              int   // bytes of payload before the padding
}

// appendMessage appends a whole payload of size bytes with sequence and time zero. target is a peer's number, or
// negative for everybody in the room.
func appendMessage(dst []byte, size int, room, stream uint32, target int) []byte {
	start := len(dst)
	if target >= 0 {
		dst = append(dst, '{')
		dst = append(dst, targetPart...)
		copy(dst[len(dst)-len(`0000000",`):], fmt.Sprintf("%07x", target))
		dst = append(dst, plainHead[1:]...)
	} else {
		dst = append(dst, plainHead...)
	}
	fields := dst[len(dst)-len(plainHead):]
	putHex8(fields[roomAt:], room)
	putHex8(fields[streamAt:], stream)
	pad := size - (len(dst) - start) - len(tail)
	dst = append(dst, pattern[:max(pad, 0)]...)
	return append(dst, tail...)
}

// parseHead reads the fields at the start of a payload; false means that the bytes are not a message of ours.
func parseHead(b []byte, h *msgHead) bool {
	if len(b) < len(plainHead) || b[0] != '{' || b[1] != '"' {
		return false
	}
	h.size = len(plainHead)
	if b[2] == 't' {
		if len(b) < maxHead || string(b[1:len(`"targetPeerId":"`)]) != targetPart[:len(`"targetPeerId":`)] {
			return false
		}
		h.size = maxHead
		b = b[len(targetPart):]
	}
	if string(b[1:roomAt]) != `"r":"` || string(b[roomAt+8:streamAt]) != `","f":"` || string(b[streamAt+8:seqAt]) != `","n":"` ||
		string(b[seqAt+8:timeAt]) != `","t":"` || string(b[timeAt+16:len(plainHead)]) != `","p":"` {
		return false
	}
	h.room, h.stream, h.seq = hex8(b[roomAt:]), hex8(b[streamAt:]), hex8(b[seqAt:])
	h.sent = int64(hex8(b[timeAt:]))<<32 | int64(hex8(b[timeAt+8:]))
	return true
}

// intact tells whether the rest of a message, from the padding on, is as it was sent.
func intact(b []byte) bool {
	pad := len(b) - len(tail)
	return pad >= 0 && bytes.Equal(b[:pad], pattern[:pad]) && string(b[pad:]) == tail
}

// hex8 reads eight hexadecimal digits at once. Other bytes give some number, which then fails the checks on it.
func hex8(b []byte) uint32 {
	x := binary.LittleEndian.Uint64(b)
	x = x&0x0f0f0f0f0f0f0f0f + (x>>6&0x0101010101010101)*9
	x = (x<<4 | x>>8) & 0x00ff00ff00ff00ff
	return uint32(x<<24) | uint32(x>>16&0xff)<<16 | uint32(x>>32&0xff)<<8 | uint32(x>>48&0xff)
}

const digits = "0123456789abcdef"

func putHex8(b []byte, v uint32) {
	_ = b[7]
	for i := 7; i >= 0; i-- {
		b[i] = digits[v&15]
		v >>= 4
	}
}

// stamp is a sender's prepared frame: everything but sequence number and time is written and masked once.
type stamp struct {
	frame  []byte
	fields int // index in frame of the plain head
	offset int // that index counted from the payload's start, for the mask
	key    [4]byte
}

func newStamp(opcode byte, key [4]byte, payload []byte, targeted bool) stamp {
	s := stamp{frame: AppendClientFrame(nil, opcode, key, payload), key: key}
	if targeted {
		s.offset = len(targetPart)
	}
	s.fields = len(s.frame) - len(payload) + s.offset
	return s
}

// set writes sequence number and intended send time; the frame is then ready to be copied to a socket.
func (s *stamp) set(seq uint32, sent int64) {
	var b [16]byte
	putHex8(b[:], seq)
	at := s.fields + seqAt
	copy(s.frame[at:at+8], b[:8])
	maskBytes(s.frame[at:at+8], s.key, s.offset+seqAt)
	putHex8(b[:], uint32(sent>>32))
	putHex8(b[8:], uint32(sent))
	at = s.fields + timeAt
	copy(s.frame[at:at+16], b[:])
	maskBytes(s.frame[at:at+16], s.key, s.offset+timeAt)
}
