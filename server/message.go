package server

import (
	"unicode/utf8"

	"relaygate/router"
)

// heartbeatBytes is the length of "ping" and "pong", which are taken from a peer
// however small MAX_MESSAGE_BYTES is.
const heartbeatBytes = 4

// frames handles the frames in data, which begins where a frame begins or, if
// p has unfinished input, where that goes on. It returns what is left when the
// peer is no longer open, nil otherwise. What is left when the room is full it keeps.
func (l *loop) frames(p *peer, data []byte) (rest []byte) {
	for len(data) > 0 {
		if l.keeps(p, data) {
			return nil
		}
		if p.in != nil && len(p.in.buf) > 0 {
			data = l.resumeFrame(p, data)
		} else {
			data = l.nextFrame(p, data)
		}
		if p.at() != phaseOpen {
			return data
		}
		l.replyIfMany(p)
	}
	return nil
}

// nextFrame handles the frame at the beginning of data, or keeps it if it is
// incomplete, and returns what follows.
func (l *loop) nextFrame(p *peer, data []byte) (rest []byte) {
	h, bad := l.header(p, data)
	if bad != nil {
		return l.fail(p, bad, h, data)
	}
	size := h.size + int(h.length)
	if h.size == 0 || size > len(data) {
		in := p.input()
		in.buf = append(in.buf[:0], data...)
		in.need = 0
		if h.size > 0 {
			in.need = size
		}
		return nil
	}
	l.frame(p, h, data[:size])
	return data[size:]
}

// resumeFrame goes on with a frame that came in part.
func (l *loop) resumeFrame(p *peer, data []byte) (rest []byte) {
	in := p.in
	if in.need == 0 {
		had := len(in.buf)
		in.buf = append(in.buf, data[:min(len(data), maxClientHeader-had)]...)
		h, bad := l.header(p, in.buf)
		if bad != nil {
			whole := append(in.buf[:had:had], data...)
			in.buf = in.buf[:0]
			return l.fail(p, bad, h, whole)
		}
		if h.size == 0 {
			return nil // too few bytes for a header, so data is used up
		}
		in.need = h.size + int(h.length)
		used := min(len(in.buf), max(in.need, had)) // not what belongs to the next frame
		in.buf = in.buf[:used]
		data = data[used-had:]
	}
	n := min(in.need-len(in.buf), len(data))
	in.buf = appendUpTo(in.buf, data[:n], in.need)
	if len(in.buf) < in.need {
		return nil
	}
	frame := in.buf
	in.buf = in.buf[:0] // frame stays intact: nobody appends while it is handled
	h, _ := parseHeader(frame)
	l.frame(p, h, frame)
	return data[n:]
}

// header parses the header at the beginning of b and applies all rules that it
// alone can break, as soon as its bytes are there.
func (l *loop) header(p *peer, b []byte) (header, *farewell) {
	h, err := parseHeader(b)
	if err != nil {
		return h, protocolError(err.Error())
	}
	if len(b) < 2 {
		return h, nil
	}
	joined := int64(0)
	fragmented := p.in != nil && p.in.msgOp != 0
	if fragmented {
		joined = int64(len(p.in.msg) - maxServerHeader)
	}
	plain := h.masked && !fragmented && (h.first == finBit|opText || h.first == finBit|opBinary)
	if !plain {
		if err := h.check(fragmented); err != nil {
			return h, protocolError(err.Error())
		}
		if h.opcode() >= opClose {
			return h, nil // a control frame: its size is checked
		}
	}
	if h.size > 0 && h.length > int64(l.srv.cfg.MaxMessage)-joined && !(plain && h.opcode() == opText && h.length == heartbeatBytes) {
		return h, byeTooBig
	}
	return h, nil
}

// fail says farewell for what the header h at the beginning of b breaks. It
// returns what follows the header, and has the payload skipped.
func (l *loop) fail(p *peer, why *farewell, h header, b []byte) (rest []byte) {
	l.reply(p)
	// Where no header can be found any more, neither can the peer's close frame:
	// the end of our sending tells it that all is said.
	p.close(why, h.size == 0)
	if p.in != nil {
		in := p.in
		p.in = nil
		in.release()
	}
	if h.size == 0 { // incomplete or senseless: begin to look for the close frame here
		return b
	}
	p.input().skip = h.length
	return b[h.size:]
}

func (l *loop) farewell(p *peer, why *farewell) {
	l.reply(p)
	p.close(why, false)
}

// frame handles a complete frame, whose payload it unmasks. b is ours to write to.
func (l *loop) frame(p *peer, h header, b []byte) {
	payload := b[h.size:]
	unmask(payload, h.mask)
	op := h.opcode()
	switch {
	case op >= opClose:
		l.control(p, op, payload)
	case h.fin() && op != opContinuation:
		l.message(p, op, b, h.size)
	default:
		l.fragment(p, h, payload)
	}
}

// fragment joins the fragments of a message (RFC 6455 §5.4).
func (l *loop) fragment(p *peer, h header, payload []byte) {
	in := p.input()
	if in.msgOp == 0 {
		in.msgOp = h.opcode()
		in.msg = append(in.msg[:0], make([]byte, maxServerHeader)...)
	}
	in.msg = appendUpTo(in.msg, payload, maxServerHeader+l.srv.cfg.MaxMessage)
	if h.fin() {
		op := in.msgOp
		in.msgOp = 0
		l.message(p, op, in.msg, maxServerHeader)
	}
}

// message handles a whole message: b[at:] is its payload, and in front of it is
// room for a header of ours.
func (l *loop) message(p *peer, op byte, b []byte, at int) {
	payload := b[at:]
	room := p.Room()
	if op == opText {
		if len(payload) == heartbeatBytes {
			switch string(payload) {
			case "ping":
				l.out = appendFrame(l.out, opText, []byte("pong"))
				return
			case "pong":
				return
			}
		}
		if len(payload) > l.srv.cfg.MaxMessage { // as heartbeatBytes may be
			l.farewell(p, byeTooBig)
			return
		}
		if !utf8.Valid(payload) {
			l.farewell(p, byeTextNotUTF8)
			return
		}
		switch route, target := l.peeker.Peek(payload); route {
		case router.Direct:
			if note, _ := room.PublishTo(&p.Member, target, encodeInPlace(b, at, len(payload), op)); note {
				l.note(room)
			}
			return
		case router.Nobody:
			return
		}
	}
	if room.Publish(&p.Member, encodeInPlace(b, at, len(payload), op)) {
		l.note(room)
	}
}

func (l *loop) control(p *peer, op byte, payload []byte) {
	switch op {
	case opPing:
		// RFC 6455 §5.5.3: a pong has "identical Application data".
		l.out = appendFrame(l.out, opPong, payload)
	case opClose:
		code, bad := parseClose(payload)
		if bad != nil {
			l.reply(p)
			p.close(bad, true)
			return
		}
		l.reply(p)
		p.closeAnswered(code)
	}
}
