package main

import (
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
)

// The relay as written with github.com/gorilla/websocket, after its chat example: one goroutine reads, one writes, and a
// channel of 256 messages stands between. A peer whose channel is full is closed. Choices:
//   - Both goroutines are new ones, so that net/http's request, buffers and stack are free after the upgrade.
//   - A write buffer is borrowed for a write, since most connections are silent; the read buffer is 1 KiB as in the example.
//   - WriteMessage and not PreparedMessage, which costs 5 KB of garbage per message and pays off with compression only.
type gorillaConn struct {
	*websocket.Conn
	member *member
	out    chan *message
	over   chan struct{} // closed when nobody reads from the peer any more
}

func serveGorilla(r *relay) error {
	u := websocket.Upgrader{
		ReadBufferSize: 1 << 10, WriteBufferSize: 4 << 10, WriteBufferPool: &sync.Pool{},
		CheckOrigin: func(*http.Request) bool { return true },
	}
	return serve(r.addr, func(w http.ResponseWriter, req *http.Request, relayID, peerID string) {
		ws, err := u.Upgrade(w, req, nil)
		if err != nil {
			return // Upgrade has answered
		}
		ws.SetReadLimit(maxMessageBytes)
		c := &gorillaConn{Conn: ws, out: make(chan *message, 256), over: make(chan struct{})}
		c.member = r.join(relayID, peerID, c)
		go c.readAll(r)
		go c.writeAll()
	})
}

func (c *gorillaConn) readAll(r *relay) {
	defer close(c.over)
	defer r.leave(c.member)
	defer c.Close()
	for {
		opcode, payload, err := c.ReadMessage()
		if err != nil {
			return
		}
		c.member.receive(&message{opcode, payload})
	}
}

func (c *gorillaConn) writeAll() {
	defer c.Close()
	for {
		select {
		case m := <-c.out:
			if c.WriteMessage(m.opcode, m.payload) != nil {
				return
			}
		case <-c.over:
			return
		}
	}
}

func (c *gorillaConn) send(m *message) {
	select {
	case c.out <- m:
	default:
		c.Close()
	}
}
