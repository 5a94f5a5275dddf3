package load

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The states of a connection.
const (
	gone      = iota // no socket
	dialing          // connect under way
	upgrading        // request written
	open             // frames
	leaving          // close frame sent
)

// conn is one peer's socket. Its index is also the peer's index in the ledger.
type conn struct {
	fd     int32
	nth    int32 // among all of the fleet's: decides its addresses
	state  uint8
	dirty  bool // on the loop's list of connections with something to write
	opcode byte // of the fragmented message under way; 0: there is none
	key    [4]byte
	out    []byte // waiting to be written, owned by the connection
	left   []byte // an incomplete frame, carried over to the next read
	parts  []byte // of the fragmented message
}

// readSize is the most that one read takes.
const readSize = 128 << 10

// readable reads until the socket is empty (the events are edge-triggered). A read that does not fill the buffer emptied
// it, unless the event also told of the stream's end: then last is set and only the end itself will do.
func (w *worker) readable(i int32, last bool) {
	c := &w.conns[i]
	for c.fd >= 0 {
		n := copy(w.buf, c.left)
		got, err := rawRead(int(c.fd), w.buf[n:n+readSize])
		switch {
		case err == unix.EAGAIN:
			return
		case err == unix.EINTR:
			continue
		case err != nil || got == 0:
			if err == nil {
				err = io.EOF
			}
			w.ended(i, err)
			return
		}
		w.marks.Reads++
		w.now = w.clock()
		c.left = c.left[:0]
		if err := w.consume(i, w.buf[:n+got]); err != nil {
			w.ended(i, err)
			return
		}
		if !last && got < readSize {
			return
		}
	}
}

// consume takes received bytes apart. b is the loop's buffer; what is incomplete at its end is copied to c.left.
func (w *worker) consume(i int32, b []byte) error {
	c := &w.conns[i]
	if c.state == upgrading {
		end := bytes.Index(b, []byte("\r\n\r\n"))
		if end < 0 {
			c.left = append(c.left, b...)
			return nil
		}
		if err := checkUpgrade(string(b[:end])); err != nil {
			return err
		}
		c.state = open
		w.marks.Joins++
		if !w.led.members[i].steady {
			w.away--
		}
		w.dialer.flying--
		b = b[end+4:]
	}
	for len(b) > 0 && c.fd >= 0 {
		h, ok, err := parseHeader(b)
		if err != nil {
			return err
		}
		if !ok || len(b) < h.size+h.length {
			c.left = append(c.left, b...)
			return nil
		}
		if err := w.frame(i, h, b[h.size:h.size+h.length]); err != nil {
			return err
		}
		b = b[h.size+h.length:]
	}
	return nil
}

func (w *worker) frame(i int32, h frameHeader, payload []byte) error {
	c := &w.conns[i]
	switch {
	case h.opcode >= opClose:
		return w.control(i, h.opcode, payload)
	case (h.opcode == opContinuation) != (c.opcode != 0):
		return fmt.Errorf("frame with opcode %d while opcode %d is under way", h.opcode, c.opcode)
	case h.fin && h.opcode != opContinuation:
		w.message(i, h.opcode, payload)
		return nil
	case h.opcode != opContinuation:
		c.opcode = h.opcode
	}
	if c.parts = append(c.parts, payload...); h.fin {
		w.message(i, c.opcode, c.parts)
		c.opcode, c.parts = 0, c.parts[:0]
	}
	return nil
}

// message checks every byte of what a peer received, and answers the contract's text ping with a text pong.
func (w *worker) message(i int32, opcode byte, b []byte) {
	if opcode == opText && string(b) == "pong" {
		w.pongs++
		return
	}
	if opcode == opText && string(b) == "ping" {
		w.marks.Pings++
		c := &w.conns[i]
		c.out = AppendClientFrame(c.out, opText, c.key, []byte("pong"))
		w.touch(i)
		return
	}
	if want := w.shape.opcode(); opcode != want {
		w.led.v.add(Corrupted, 1, "peer %d got a message with opcode %d where %d was sent", i, opcode, want)
	}
	var h msgHead
	if len(b) != w.shape.Size || !parseHead(b, &h) || !intact(b[h.size:]) {
		w.led.v.add(Corrupted, 1, "peer %d got %d bytes that nobody sent: %.60q", i, len(b), b)
		return
	}
	w.arrived(i, &h)
}

func (w *worker) control(i int32, opcode byte, payload []byte) error {
	c := &w.conns[i]
	switch opcode {
	case opPing:
		c.out = AppendClientFrame(c.out, opPong, c.key, payload)
		w.touch(i)
	case opClose:
		if len(payload) >= 2 {
			return fmt.Errorf("close frame %d %q", int(payload[0])<<8|int(payload[1]), payload[2:])
		}
		return fmt.Errorf("close frame without a code")
	}
	return nil
}

// touch puts a connection on the list of those to be written at the end of this round of events.
func (w *worker) touch(i int32) {
	if c := &w.conns[i]; !c.dirty {
		c.dirty = true
		w.dirty = append(w.dirty, i)
	}
}

// flush writes what the round left behind, one write per connection.
func (w *worker) flush() {
	for k := 0; k < len(w.dirty); k++ {
		i := w.dirty[k]
		w.conns[i].dirty = false
		w.writeOut(i)
	}
	w.dirty = w.dirty[:0]
}

// writeOut writes until the socket is full; the event loop calls again when it has room.
func (w *worker) writeOut(i int32) {
	c := &w.conns[i]
	done := 0
	for done < len(c.out) && c.fd >= 0 && c.state >= upgrading {
		n, err := rawWrite(int(c.fd), c.out[done:])
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			w.ended(i, err)
			return
		}
		done += n
	}
	if done > 0 {
		c.out = c.out[:copy(c.out, c.out[done:])]
	}
}

// rawRead and rawWrite never block (the sockets do not), so they need not tell the scheduler that they might.
func rawRead(fd int, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func rawWrite(fd int, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// checkUpgrade wants the answer to our key, as RFC 6455 §4.1 asks of a client.
func checkUpgrade(response string) error {
	status, rest, _ := strings.Cut(response, "\r\n")
	if !strings.HasPrefix(status, "HTTP/1.1 101") {
		_, body, _ := strings.Cut(rest, "\r\n\r\n")
		return fmt.Errorf("upgrade refused: %s %s", status, body)
	}
	for line := range strings.SplitSeq(rest, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Sec-WebSocket-Accept") {
			if strings.TrimSpace(value) != acceptKey {
				return fmt.Errorf("wrong Sec-WebSocket-Accept %q", value)
			}
			return nil
		}
	}
	return fmt.Errorf("no Sec-WebSocket-Accept in the answer")
}
