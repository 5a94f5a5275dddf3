package load

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	state  uint8
	dirty  bool   // on the loop's list of connections with something to write
	opcode byte   // of the fragmented message under way; 0: there is none
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
		got, err := raw(unix.SYS_READ, c.fd, w.buf[n:n+readSize])
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
		if err := checkUpgrade(b); err != nil {
			return err
		}
		c.state = open
		w.marks.Joins++
		w.progress = w.now
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
	case h.opcode == opPing:
		w.queue(i, opPong, payload)
		return nil
	case h.opcode == opClose && len(payload) < 2:
		return errors.New("close frame without a code")
	case h.opcode == opClose:
		return fmt.Errorf("close frame %d %q", binary.BigEndian.Uint16(payload), payload[2:])
	case h.opcode == opPong:
		return nil
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
		w.unanswered--
		return
	}
	if opcode == opText && string(b) == "ping" {
		w.marks.Pings++
		w.queue(i, opText, []byte("pong"))
		return
	}
	if want := w.shape.opcode(); opcode != want {
		w.led.v.add(Corrupted, 1, "peer %d got a message with opcode %d where %d was sent", i, opcode, want)
	}
	if len(b) != w.shape.Size {
		w.led.v.add(Corrupted, 1, "peer %d got %d bytes that nobody sent: %.60q", i, len(b), b)
		return
	}
	w.arrived(i, b)
}

// queue has a frame written at the end of this round of events.
func (w *worker) queue(i int32, opcode byte, payload []byte) {
	c := &w.conns[i]
	// The keys differ, so that a server which mixes them up is found out.
	key := [4]byte{byte(i>>24) ^ 0x5a, byte(i>>16) ^ 0xa5, byte(i>>8) ^ 0x3c, byte(i) | 1}
	c.out = AppendClientFrame(c.out, opcode, key, payload)
	if !c.dirty {
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
		n, err := raw(unix.SYS_WRITE, c.fd, c.out[done:])
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

// raw reads or writes. It never blocks (the sockets do not), so it need not tell the scheduler that it might.
func raw(call uintptr, fd int32, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// Every handshake has the same Sec-WebSocket-Key, which is as much work for the server as a random one, and so the same
// answer (RFC 6455 §4.2.2).
const clientKey, acceptKey = "cmVsYXlnYXRlIGJlbmNoIQ==", "ZA7SdwNDD48Mq2IGdBDzmGHfRMo="

// checkUpgrade wants the answer to our key, as RFC 6455 §4.1 asks of a client.
func checkUpgrade(response []byte) error {
	r, err := http.ReadResponse(bufio.NewReaderSize(bytes.NewReader(response), 512), nil)
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("upgrade refused: %s", r.Status)
	}
	if accept := r.Header.Get("Sec-WebSocket-Accept"); accept != acceptKey {
		return fmt.Errorf("wrong Sec-WebSocket-Accept %q", accept)
	}
	return nil
}
