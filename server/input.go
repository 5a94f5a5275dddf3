package server

import (
	"math"
	"sync"
)

// input is what a peer has begun to send and not finished. Most peers have none:
// what comes is handled in the buffer that it was read into. It grows with the
// bytes that came, not with what a header promises.
type input struct {
	buf  []byte // a header block, or a frame as it came, up to now
	need int    // size of the frame in buf, header and all; 0 while the header is incomplete

	scanned int // how much of a header block upgrade.Handshaker has seen

	rest []byte // came behind what filled the room, and is to be handled when that is flushed

	msg   []byte // maxServerHeader free bytes, then the payload of the fragments so far
	msgOp byte   // opcode of the fragmented message, 0 if there is none

	skip int64 // in phaseClosing: bytes to throw away before the next header
	last bool  // in phaseClosing: they are the payload of the peer's close frame
}

// maxKeepInput bounds the buffers that go back to the pool, in bytes.
const maxKeepInput = 64 << 10

var inputs = sync.Pool{New: func() any { return new(input) }}

func (in *input) release() {
	buf, msg := in.buf[:0], in.msg[:0]
	if cap(buf) > maxKeepInput {
		buf = nil
	}
	if cap(msg) > maxKeepInput {
		msg = nil
	}
	*in = input{buf: buf, msg: msg}
	inputs.Put(in)
}

// input returns p's, which it makes if there is none.
func (p *peer) input() *input {
	if p.in == nil {
		p.in = inputs.Get().(*input)
	}
	return p.in
}

// settle gives p's input back if nothing in it is unfinished.
func (p *peer) settle() {
	if in := p.in; in != nil && len(in.buf) == 0 && len(in.rest) == 0 && in.msgOp == 0 && in.skip == 0 {
		p.in = nil
		in.release()
	}
}

// appendUpTo appends b to dst, whose final length will be need: capacity doubles
// with what has come, and never passes need.
func appendUpTo(dst, b []byte, need int) []byte {
	n := len(dst) + len(b)
	if n > cap(dst) {
		dst = append(make([]byte, 0, min(need, max(n, 2*cap(dst)))), dst...)
	}
	return append(dst, b...)
}

// discard throws away what came after our last word. Where the peer's close
// frame is awaited it walks from header to header, and reports whether it came.
func (p *peer) discard(data []byte) (closeCame bool) {
	if !p.awaits {
		return false
	}
	in := p.input()
	if in.need > 0 { // closed by another goroutine while a frame was coming in
		if len(in.buf) > 0 {
			in.skip = int64(in.need - len(in.buf))
			in.last = in.buf[0]&opcodeBits == opClose
			in.buf = in.buf[:0]
		}
		in.need = 0
	}
	for len(data) > 0 || in.last {
		if in.skip > 0 {
			n := min(in.skip, int64(len(data)))
			in.skip -= n
			data = data[n:]
			if in.skip > 0 {
				return false
			}
			continue
		}
		if in.last {
			return true // and only now: closed with a part of it unread, the socket would send a reset
		}
		had := len(in.buf)
		in.buf = append(in.buf, data[:min(len(data), maxClientHeader-had)]...)
		h, err := parseHeader(in.buf)
		switch {
		case err != nil:
			in.skip = math.MaxInt64 // no telling where the next header is
			in.buf = in.buf[:0]
		case h.size == 0:
			return false // a part of a header: data is used up
		default:
			data = data[h.size-had:]
			in.skip = h.length
			in.last = h.opcode() == opClose
			in.buf = in.buf[:0]
		}
	}
	return false
}
