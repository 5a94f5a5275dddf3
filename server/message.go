package server

import (
	"math"
	"unicode/utf8"

	"relaygate/router"
)

// heartbeatBytes is the length of "ping" and "pong". A peer may send these however small MAX_MESSAGE_BYTES
// is.
const heartbeatBytes = 4

// nextFrame handles the frame at the beginning of data or, if a part of a frame came before, the rest of that
// one. It keeps an incomplete frame, and returns the bytes after the frame.
func (l *loop) nextFrame(p *peer, data []byte) (rest []byte) {
	l.work -= frameWork
	if p.in != nil && p.in.part != nil {
		return l.resumeFrame(p, data)
	}
	h, bad := l.header(p, data)
	if bad != nil {
		return l.fail(p, bad, h, data[h.size:])
	}
	size := h.size + int(h.length)
	if h.size == 0 || size > len(data) {
		in := p.input()
		in.part = appendTo(nil, data, len(data))
		if h.size > 0 {
			in.need = size
			p.large = size >= largeFrame
		}
		return nil
	}
	p.large = size >= largeFrame
	l.frame(p, h, data[:size])
	return data[size:]
}

// resumeFrame continues a frame of which a part came before.
func (l *loop) resumeFrame(p *peer, data []byte) (rest []byte) {
	in := p.in
	if in.need == 0 {
		had := len(in.part.b)
		in.part = appendTo(in.part, data[:min(len(data), maxClientHeader-had)], maxClientHeader)
		h, bad := l.header(p, in.part.b)
		if bad != nil {
			return l.fail(p, bad, h, data[max(h.size-had, 0):])
		}
		if h.size == 0 {
			return nil // too few bytes for a header, so data is used up
		}
		in.need = h.size + int(h.length)
		p.large = in.need >= largeFrame
		in.part.b = in.part.b[:min(len(in.part.b), max(in.need, had))] // without bytes of the next frame
		data = data[len(in.part.b)-had:]
	}
	n := min(in.need-len(in.part.b), len(data))
	in.part = appendTo(in.part, data[:n], in.need)
	if len(in.part.b) < in.need {
		return nil
	}
	part := in.part
	in.part, in.need = nil, 0 // part must not be released while it is handled
	defer putBuffer(part)     // also after a panic
	h, _ := parseHeader(part.b)
	l.frame(p, h, part.b)
	return data[n:]
}

// header parses the header at the beginning of b. It applies all rules that a header alone can break as soon
// as the bytes for them are there.
func (l *loop) header(p *peer, b []byte) (header, *ending) {
	h, err := parseHeader(b)
	if err != nil {
		return h, protocolError(err.Error())
	}
	if len(b) < 2 {
		return h, nil
	}
	fragmented, joined := p.fragmented()
	plain := h.masked && !fragmented && (h.first == finBit|opText || h.first == finBit|opBinary)
	if !plain {
		if err := h.check(fragmented); err != nil {
			return h, protocolError(err.Error())
		}
		if h.opcode() >= opClose {
			return h, nil // a control frame: its size is checked
		}
	}
	if h.size > 0 && h.length > int64(l.srv.cfg.MaxMessage-joined) && !(plain && h.opcode() == opText && h.length == heartbeatBytes) {
		return h, closingTooBig
	}
	return h, nil
}

// fail closes p because its header h breaks a rule. data begins after the header.
func (l *loop) fail(p *peer, why *ending, h header, data []byte) (rest []byte) {
	l.reply(p)
	if h.size == 0 {
		l.closeAtOnce(p, why)
		return nil
	}
	l.closeWith(p, why)
	p.skip(h.length, false) // even if it is a close frame: an invalid one is no answer to ours
	return data
}

// failMessage closes p because a whole message breaks a rule.
func (l *loop) failMessage(p *peer, why *ending) {
	l.reply(p)
	l.closeWith(p, why)
}

// frame handles b, a complete frame. It unmasks the payload in place.
func (l *loop) frame(p *peer, h header, b []byte) {
	payload := b[h.size:]
	unmask(payload, h.mask)
	op := h.opcode()
	if l.pacer != nil {
		l.pay(p, h, payload, len(b))
	}
	switch {
	case op >= opClose:
		l.control(p, op, payload)
	case h.fin() && op != opContinuation:
		l.message(p, op, b, h.size)
	default:
		l.fragment(p, h, payload)
	}
}

// pay takes a frame of n bytes from p's rates. One ping or pong is free after the upgrade and after each of our
// pings, so that silent peers need no memory for rates.
func (l *loop) pay(p *peer, h header, payload []byte, n int) {
	if l.freeBeat && h.first == finBit|opText && (string(payload) == "pong" || string(payload) == "ping") {
		l.freeBeat = false
		return
	}
	l.pacer.take(p, n, h.fin())
}

// fragment joins the fragments of a message (RFC 6455 §5.4).
func (l *loop) fragment(p *peer, h header, payload []byte) {
	in := p.input()
	if in.message == nil {
		in.opcode = h.opcode()
		in.message = getBuffer(maxServerHeader + len(payload))
		in.message.b = in.message.b[:maxServerHeader]
	}
	in.message = appendTo(in.message, payload, maxServerHeader+l.srv.cfg.MaxMessage)
	if h.fin() {
		message := in.message
		in.message = nil         // must not be released while it is handled
		defer putBuffer(message) // also after a panic
		l.message(p, in.opcode, message.b, maxServerHeader)
	}
}

// message handles a whole message. b[at:] is its payload. In front of it there is room for our header.
func (l *loop) message(p *peer, op byte, b []byte, at int) {
	payload := b[at:]
	room := p.Room()
	first := l.awaited
	l.awaited = false
	if op == opText {
		l.work -= len(payload) / textPerWork
		if len(payload) == heartbeatBytes {
			switch string(payload) {
			case "ping":
				l.meter.receive(kindPing, payload)
				l.out = appendFrame(l.out, opText, []byte("pong"))
				return
			case "pong":
				l.meter.receive(kindPong, payload)
				if first {
					l.pongCame(p)
				}
				return
			}
		}
		if len(payload) > l.srv.cfg.MaxMessage { // as heartbeatBytes may be
			l.failMessage(p, closingTooBig)
			return
		}
		if !utf8.Valid(payload) {
			l.failMessage(p, closingTextNotUTF8)
			return
		}
		p.spoke = l.clock
		switch route, target := l.peeker.Peek(payload); route {
		case router.Direct:
			l.count(p, kindDirect, payload)
			note, found := room.PublishTo(&p.Member, target, encodeInPlace(b, at, len(payload), op))
			l.published(room, note, found, dropNoSuchPeer)
			return
		case router.Nobody:
			l.count(p, kindDirect, payload)
			l.meter.dropped[dropNoSuchPeer]++
			return
		}
	}
	p.spoke = l.clock
	l.count(p, kindOf(op), payload)
	note, found := room.Publish(&p.Member, encodeInPlace(b, at, len(payload), op))
	l.published(room, note, found, dropAlone)
}

// count counts a message of p that is to be relayed.
func (l *loop) count(p *peer, k kind, payload []byte) {
	l.meter.receive(k, payload)
	if l.relayed != nil {
		l.relayed[p.slot]++
	}
}

// published notes the room of a message for the next flush, or counts that the message had no recipient.
func (l *loop) published(room *router.Room, note, found bool, why drop) {
	if note {
		l.noted = append(l.noted, room)
	}
	if !found {
		l.meter.dropped[why]++
	}
}

func (l *loop) control(p *peer, op byte, payload []byte) {
	switch op {
	case opPing:
		// RFC 6455 §5.5.3: a pong has "identical Application data".
		l.out = appendFrame(l.out, opPong, payload)
	case opClose:
		l.reply(p)
		code, bad := parseClose(payload)
		if bad != nil {
			l.closeAtOnce(p, bad)
			return
		}
		l.closeAnswered(p, code)
	}
}

// skip starts to throw away input after our close frame, beginning with a payload of n bytes. isClose says
// that this payload is that of the peer's own close frame.
func (p *peer) skip(n int64, isClose bool) {
	in := p.input()
	in.dropPart()
	in.skip, in.skipIsClose = n, isClose
}

// startSkipping is skip from the current position, which may be in the middle of a frame.
func (p *peer) startSkipping() {
	in := p.in
	if in == nil {
		return
	}
	putBuffer(in.message)
	in.message = nil
	if in.need > 0 {
		p.skip(int64(in.need-len(in.part.b)), in.part.b[0]&opcodeBits == opClose)
	}
}

// skipFrame throws away data up to the end of a frame. The peer's close frame ends its input.
func (l *loop) skipFrame(p *peer, data []byte) (rest []byte) {
	l.work -= frameWork
	in := p.input()
	if in.skip == 0 && !in.skipIsClose {
		had := 0
		if in.part != nil {
			had = len(in.part.b)
		}
		in.part = appendTo(in.part, data[:min(len(data), maxClientHeader-had)], maxClientHeader)
		h, err := parseHeader(in.part.b)
		switch {
		case err != nil: // the next header cannot be found any more
			in.dropPart()
			in.skip = math.MaxInt64
			return nil
		case h.size == 0:
			return nil // a part of a header: data is used up
		}
		data = data[h.size-had:]
		p.skip(h.length, h.opcode() == opClose)
	}
	n := min(in.skip, int64(len(data)))
	in.skip -= n
	if in.skip == 0 && in.skipIsClose { // not earlier: closing with a part of it unread would send a reset
		p.saidAll = true
		l.finish(p, nil)
		return nil
	}
	return data[n:]
}
