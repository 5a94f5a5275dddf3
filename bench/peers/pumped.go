package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

// wire is what the two libraries have in common that are used as their chat examples do: one goroutine reads, one writes,
// and a queue stands in front of the writer. Both goroutines are new ones, so that net/http's request, buffers and stack
// are free after the upgrade.
type wire interface {
	read() (text bool, payload []byte, err error)
	write(text bool, payload []byte) error
	CloseNow() error
}

// slotBytes is what a queued message costs besides its payload; keepSlots is the room that a drained queue keeps.
const (
	slotBytes = 32
	keepSlots = 64
)

type message struct {
	text    bool
	payload []byte
}

// pumped is a connection with a queue that is bounded in bytes and grows on demand: a channel's ring is allocated whole,
// and room for a burst of thousands would cost every silent connection tens of KiB.
type pumped struct {
	wire
	member *member
	limit  int

	mu      sync.Mutex
	filled  sync.Cond
	queue   []message
	waiting int // bytes queued and not known to be written
	closed  bool
}

func (r *relay) pump(w wire, relayID, peerID string) {
	c := &pumped{wire: w, limit: r.settings.maxQueueBytes}
	c.filled.L = &c.mu
	c.member = r.join(relayID, peerID, c)
	go c.writeAll()
	go func() {
		defer r.leave(c.member)
		defer c.close()
		for {
			text, payload, err := c.read()
			if err != nil {
				return
			}
			c.member.receive(text, payload)
		}
	}()
}

// send queues a message. The first one that does not fit ends the connection: what a peer receives has no gaps.
func (c *pumped) send(text bool, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if c.waiting += len(payload) + slotBytes; c.waiting > c.limit {
		c.closeLocked()
		return
	}
	if c.queue = append(c.queue, message{text, payload}); len(c.queue) == 1 {
		c.filled.Signal()
	}
}

func (c *pumped) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked()
}

// closeLocked also ends a read and a write under way. CloseNow may wait for others, so it has its own goroutine.
func (c *pumped) closeLocked() {
	if !c.closed {
		c.closed, c.queue = true, nil
		c.filled.Signal()
		go c.CloseNow()
	}
}

func (c *pumped) writeAll() {
	defer c.close()
	var batch []message
	taken := 0
	for {
		clear(batch)
		if cap(batch) > keepSlots {
			batch = nil
		}
		c.mu.Lock()
		c.waiting -= taken
		for len(c.queue) == 0 && !c.closed {
			c.filled.Wait()
		}
		taken = c.waiting
		batch, c.queue = c.queue, batch[:0]
		closed := c.closed
		c.mu.Unlock()
		if closed {
			return
		}
		for _, m := range batch {
			if c.write(m.text, m.payload) != nil {
				return
			}
		}
	}
}

var readers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// readMessage reads to the end into a slice of just that size: io.ReadAll begins with 512 bytes and grows by copying.
func readMessage(r io.Reader) ([]byte, error) {
	b := readers.Get().(*bytes.Buffer)
	defer func() {
		if b.Cap() <= 64<<10 {
			b.Reset()
			readers.Put(b)
		}
	}()
	_, err := b.ReadFrom(r)
	return bytes.Clone(b.Bytes()), err
}

// gorillaWire: WriteMessage makes one write call and allocates nothing but the pool's entry; PreparedMessage saves a copy
// per recipient, costs 5 KB of garbage per message and pays off with compression only. A write buffer is borrowed for a
// write, since most connections are silent. The read buffer is 1 KiB as in the library's example: at 4 KiB a silent peer
// takes 16 KB instead of 12, and what is longer is read straight into the message.
type gorillaWire struct{ *gorilla.Conn }

func serveGorilla(r *relay) error {
	u := gorilla.Upgrader{
		ReadBufferSize: 1 << 10, WriteBufferSize: 4 << 10, WriteBufferPool: &sync.Pool{},
		CheckOrigin: func(*http.Request) bool { return true },
	}
	return serve(r.settings, func(w http.ResponseWriter, req *http.Request, relayID, peerID string) {
		if ws, err := u.Upgrade(w, req, nil); err == nil { // else Upgrade has answered
			ws.SetReadLimit(maxMessageBytes)
			r.pump(gorillaWire{ws}, relayID, peerID)
		}
	})
}

func (c gorillaWire) CloseNow() error { return c.Close() }

func (c gorillaWire) read() (bool, []byte, error) {
	kind, r, err := c.NextReader()
	if err != nil {
		return false, nil, err
	}
	b, err := readMessage(r)
	return kind == gorilla.TextMessage, b, err
}

func (c gorillaWire) write(text bool, payload []byte) error {
	if text {
		return c.WriteMessage(gorilla.TextMessage, payload)
	}
	return c.WriteMessage(gorilla.BinaryMessage, payload)
}

// coderWire: reads and writes run under the background context, as the library arms a context.AfterFunc per call for any
// other; a full queue ends the connection, and with it a write in progress, as a time-out would. net/http's two 4 KiB
// buffers stay with the connection: the library has no setting for that.
type coderWire struct{ *coder.Conn }

func serveCoder(r *relay) error {
	return serve(r.settings, func(w http.ResponseWriter, req *http.Request, relayID, peerID string) {
		if ws, err := coder.Accept(w, req, &coder.AcceptOptions{InsecureSkipVerify: true}); err == nil {
			ws.SetReadLimit(maxMessageBytes)
			r.pump(coderWire{ws}, relayID, peerID)
		}
	})
}

func (c coderWire) read() (bool, []byte, error) {
	kind, r, err := c.Reader(context.Background())
	if err != nil {
		return false, nil, err
	}
	b, err := readMessage(r)
	return kind == coder.MessageText, b, err
}

func (c coderWire) write(text bool, payload []byte) error {
	kind := coder.MessageBinary
	if text {
		kind = coder.MessageText
	}
	return c.Write(context.Background(), kind, payload)
}
