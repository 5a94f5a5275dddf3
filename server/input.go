package server

import "sync"

// input holds data from a peer that is incomplete or waits for the peer's next turn. Most peers have none:
// their data is handled in the loop's buffer. The buffers are pooled and grow with the data that has come,
// whatever a header promises. An input is owned by the peer's loop.
type input struct {
	part    *buffer // the beginning of a header block or of a frame
	need    int     // size of the frame in part, header included; 0 while the header is incomplete
	scanned int     // bytes of a header block in part that upgrade.Handshaker has seen

	later     *buffer // input that was left when the peer's turn ended
	laterFrom int     // bytes of later that have been handled

	message *buffer // maxServerHeader free bytes, then the fragments of a message so far
	opcode  byte    // of that message

	skip        int64 // in phaseCloseSent: bytes of the current payload still to be thrown away
	skipIsClose bool  // in phaseCloseSent: that is the payload of the peer's close frame
}

var inputs = sync.Pool{New: func() any { return new(input) }}

// input returns p's input, and makes one if there is none.
func (p *peer) input() *input {
	if p.in == nil {
		p.in = inputs.Get().(*input)
	}
	return p.in
}

// gather returns data, or what is kept of a request or header together with the beginning of data, up to most
// bytes. had is how many of the bytes were kept before.
func (p *peer) gather(data []byte, most int) (block []byte, had int) {
	if p.in == nil || p.in.part == nil {
		return data, 0
	}
	in := p.in
	had = len(in.part.b)
	in.part = appendTo(in.part, data[:min(len(data), most-had)], most)
	return in.part.b, had
}

// releaseInput drops p's unfinished input.
func (p *peer) releaseInput() {
	if in := p.in; in != nil {
		p.in = nil
		putBuffer(in.part)
		putBuffer(in.later)
		putBuffer(in.message)
		*in = input{}
		inputs.Put(in)
	}
}

// releaseInputIfEmpty releases p's input when nothing in it is unfinished.
func (p *peer) releaseInputIfEmpty() {
	if in := p.in; in != nil && in.part == nil && in.later == nil && in.message == nil && in.skip == 0 && !in.skipIsClose {
		p.releaseInput()
	}
}

// dropPart drops the header block or frame that was kept in part.
func (in *input) dropPart() {
	putBuffer(in.part)
	in.part, in.need, in.scanned = nil, 0, 0
}

// fragmented reports whether a message of several frames has begun and not ended, and how many bytes of it
// have come.
func (p *peer) fragmented() (yes bool, n int) {
	if p.in == nil || p.in.message == nil {
		return false, 0
	}
	return true, len(p.in.message.b) - maxServerHeader
}
