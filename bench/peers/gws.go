package main

import (
	"bufio"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/lxzan/gws"
)

// The relay as written with github.com/lxzan/gws: an event handler, a goroutine per connection, and a Broadcaster for
// every message. Choices:
//   - Broadcaster also for a message with one recipient. It encodes once and queues on each connection; WriteMessage would
//
// //   - The library's write queue has no bound. UpgradeFromConn therefore gets the socket inside a net.Conn that counts what
//
//	  is written; what is queued and not written may not exceed the limit, or the connection is closed.
//	- ParallelEnabled is off: with it, messages of one sender would overtake each other.
//	- ReadLoop runs in a goroutine of its own and not in net/http's, as the library's README advises.
//	- The read buffer is 1 KiB: at the library's 4 KiB a silent peer takes 13 KB instead of 9.
type gwsRelay struct {
	gws.BuiltinEventHandler
	*relay
	upgrader *gws.Upgrader
}

// gwsConn is a connection: as a net.Conn it is what gws writes to.
type gwsConn struct {
	net.Conn
	socket  *gws.Conn
	member  *member
	limit   int64
	waiting atomic.Int64 // bytes of frames queued and not written
}

// session leads from a socket to its connection. Of SessionStorage it has the method set; nothing calls it.
type session struct {
	gws.SessionStorage
	conn *gwsConn
}

const gwsReadBuffer = 1 << 10

func serveGWS(r *relay) error {
	g := &gwsRelay{relay: r}
	g.upgrader = gws.NewUpgrader(g, &gws.ServerOption{
		ReadMaxPayloadSize: maxMessageBytes, ReadBufferSize: gwsReadBuffer, Recovery: gws.Recovery,
		NewSession: func() gws.SessionStorage { return new(session) },
	})
	return serve(r.settings, g.upgrade)
}

func (g *gwsRelay) upgrade(w http.ResponseWriter, req *http.Request, relayID, peerID string) {
	raw, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	c := &gwsConn{Conn: raw, limit: int64(g.settings.maxQueueBytes)}
	if c.socket, err = g.upgrader.UpgradeFromConn(c, bufio.NewReaderSize(c, gwsReadBuffer), req); err != nil {
		return // UpgradeFromConn has answered and closed
	}
	c.waiting.Store(0)
	c.socket.Session().(*session).conn = c
	c.member = g.join(relayID, peerID, c)
	go c.socket.ReadLoop()
}

func connOf(socket *gws.Conn) *gwsConn { return socket.Session().(*session).conn }

func (g *gwsRelay) OnClose(socket *gws.Conn, _ error) { g.leave(connOf(socket).member) }

func (g *gwsRelay) OnPing(socket *gws.Conn, payload []byte) {
	c := connOf(socket)
	c.member.heard.Store(true)
	if c.reserve(len(payload)) {
		socket.WritePong(payload)
	}
}

func (g *gwsRelay) OnMessage(socket *gws.Conn, frame *gws.Message) {
	defer frame.Close()
	from, m := connOf(socket).member, &message{text: frame.Opcode == gws.OpcodeText, payload: frame.Bytes()}
	if from.answered(m) {
		return
	}
	to, except := from.recipients(m)
	b := gws.NewBroadcaster(frame.Opcode, m.payload)
	for _, x := range to {
		if c := x.conn.(*gwsConn); x != except && c.reserve(len(m.payload)) {
			b.Broadcast(c.socket)
		}
	}
	b.Close()
}

func (c *gwsConn) send(m *message) {
	if c.reserve(len(m.payload)) { // only pings and pongs come this way
		c.socket.WriteAsync(gws.OpcodeText, m.payload, nil)
	}
}

func (c *gwsConn) close() { c.Close() }

// reserve counts a frame that is about to be queued, or closes a connection that is too slow for it.
func (c *gwsConn) reserve(payloadLen int) bool {
	frame := int64(payloadLen) + 2
	switch {
	case payloadLen > 65535:
		frame += 8
	case payloadLen > 125:
		frame += 2
	}
	if c.waiting.Add(frame) > c.limit {
		c.Close()
		return false
	}
	return true
}

func (c *gwsConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.waiting.Add(int64(-n))
	return n, err
}
