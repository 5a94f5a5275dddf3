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
	leaving          // close frame written, waiting for the end
)

// conn is one peer's socket. Its index is also the peer's index in the ledger.
type conn struct {
	fd      int32
	life    int32 // counts reconnects, so that an old socket's event is not taken for the new one's
	state   uint8
	stuck   bool // does not read for now
	dirty   bool // on the loop's list of connections with something to write
	inFrame bool // a data message's head was read and its rest is awaited
	fin     bool // the frame under way is its message's last
	key     [4]byte
	nth     int32  // among all of the fleet's: decides its addresses
	out     []byte // waiting to be written, owned by the connection
	left    []byte // an incomplete header or head, carried over to the next read
	// The data message under way:
	head msgHead
	body int // bytes of its payload so far
	rest int // bytes of its present frame to come
}

// readable reads until the socket is empty (the events are edge-triggered). A read that does not fill the buffer emptied
// it, unless the event also told of the stream's end: then last is set and only the end itself will do.
func (w *worker) readable(i int32, last bool) {
	c := &w.conns[i]
	for c.fd >= 0 && !c.stuck {
		n := copy(w.buf, c.left)
		c.left = c.left[:0]
		got, err := rawRead(int(c.fd), w.buf[n:])
		switch {
		case err == unix.EAGAIN:
			c.left = append(c.left, w.buf[:n]...)
			return
		case err == unix.EINTR:
			c.left = append(c.left, w.buf[:n]...)
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
		life := c.life
		if err := w.consume(i, w.buf[:n+got]); err != nil {
			w.ended(i, err)
			return
		}
		if c.life != life || !last && got < len(w.buf)-n {
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
		w.joined(i)
		b = b[end+4:]
	}
	for len(b) > 0 && c.fd >= 0 {
		if c.rest > 0 {
			n := min(c.rest, len(b))
			w.checkBody(c, b[:n])
			c.rest -= n
			b = b[n:]
			if c.rest == 0 {
				w.frameEnded(i)
			}
			continue
		}
		n, err := w.frame(i, b)
		if err != nil {
			return err
		}
		if n == 0 {
			c.left = append(c.left, b...)
			return nil
		}
		b = b[n:]
	}
	return nil
}

// frame handles the frame that starts b and returns how many bytes it took; 0 means that more are needed to begin.
// Of a data frame only the leading fields are needed; the rest of its payload is checked as it comes.
func (w *worker) frame(i int32, b []byte) (int, error) {
	c := &w.conns[i]
	h, ok, err := parseHeader(b)
	if err != nil || !ok {
		return 0, err
	}
	if h.opcode >= opClose {
		if len(b) < h.size+h.length {
			return 0, nil
		}
		return h.size + h.length, w.control(i, h.opcode, b[h.size:h.size+h.length])
	}
	c.fin = h.fin
	payload := b[h.size:]
	if h.opcode == opContinuation {
		if !c.inFrame {
			return 0, fmt.Errorf("continuation frame without a beginning")
		}
		c.rest = h.length
		if h.length == 0 {
			w.frameEnded(i)
		}
		return h.size, nil
	}
	if c.inFrame {
		return 0, fmt.Errorf("new message inside a fragmented one")
	}
	need := min(h.length, maxHead)
	if len(payload) < need {
		return 0, nil
	}
	if h.length <= 8 && w.heartbeat(i, h, payload[:h.length]) {
		return h.size + h.length, nil
	}
	if want := w.shape.opcode(); h.opcode != want {
		w.led.v.Corrupted++
		w.led.v.example("peer %d got a frame with opcode %d where %d was sent", i, h.opcode, want)
	}
	if !parseHead(payload[:need], &c.head) {
		w.led.v.example("peer %d got %d bytes that nobody sent: %.60q", i, h.length, payload[:need])
		c.head = msgHead{}
	}
	c.inFrame = true
	c.body = min(c.head.size, h.length)
	c.rest = h.length - c.body
	if c.rest == 0 {
		w.frameEnded(i)
	}
	return h.size + c.body, nil
}

// heartbeat answers the contract's text ping with a text pong, and counts the answers to our own.
func (w *worker) heartbeat(i int32, h frameHeader, payload []byte) bool {
	if h.opcode != opText || !h.fin {
		return false
	}
	if string(payload) == "pong" {
		w.pongs++
		return true
	}
	if string(payload) != "ping" {
		return false
	}
	w.marks.Pings++
	c := &w.conns[i]
	c.out = appendClientFrame(c.out, opText, c.key, []byte("pong"))
	w.touch(i)
	return true
}

func (w *worker) control(i int32, opcode byte, payload []byte) error {
	c := &w.conns[i]
	switch opcode {
	case opPing:
		c.out = appendClientFrame(c.out, opPong, c.key, payload)
		w.touch(i)
	case opClose:
		if c.state == leaving {
			return io.EOF
		}
		if len(payload) >= 2 {
			return fmt.Errorf("close frame %d %q", int(payload[0])<<8|int(payload[1]), payload[2:])
		}
		return fmt.Errorf("close frame without a code")
	}
	return nil
}

// checkBody compares received padding with what was sent.
func (w *worker) checkBody(c *conn, b []byte) {
	size := w.shape.Size
	from := c.body - c.head.size
	c.body += len(b)
	pad := size - c.head.size - len(tail)
	n := min(len(b), max(pad-from, 0))
	if n > 0 && !bytes.Equal(b[:n], pattern[from:from+n]) {
		c.head.seq = 0
	}
	for k, x := range b[n:] {
		if at := from + n + k - pad; at >= len(tail) || x != tail[at] {
			c.head.seq = 0
		}
	}
}

// frameEnded is called when all bytes of a data frame were read.
func (w *worker) frameEnded(i int32) {
	c := &w.conns[i]
	if !c.fin {
		return
	}
	c.inFrame = false
	if c.body != w.shape.Size || c.head.seq == 0 {
		w.led.v.Corrupted++
		w.led.v.example("peer %d got a message of %d bytes whose bytes were changed", i, c.body)
		return
	}
	w.arrived(i, &c.head)
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
