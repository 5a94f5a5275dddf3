// Command gorilla is the relay as written with github.com/gorilla/websocket, in the form of its chat example: a hub,
// and per connection a read pump, a write pump and a queue between them.
//
// Choices:
//   - The hub is a locked room table (package rooms) that the read pumps call, not a goroutine that they send to: one
//     hand-over less per message, and rooms do not wait for each other.
//   - The queue between the pumps is bounded in bytes and grows on demand; package pump says why it is not a channel.
//     A peer that overflows it is closed. That also ends a write in progress, so no write needs a deadline of its own.
//   - Each message is one frame by WriteMessage, whose server path makes one write call and allocates nothing but the
//     pool's entry. PreparedMessage saves a copy per recipient and costs 5 KB of garbage per message: no faster in rooms of
//     10 to 1,000, and twice the CPU for direct messages. It pays off with compression, which is off here.
//   - WriteBufferPool, since most connections are silent: a write buffer is borrowed for a write. At 4 KiB all small
//     messages leave in one piece; the rest of a larger one follows from the shared payload by writev.
//   - The read buffer is 1 KiB as in the example, since it is held for the life of the connection: at 4 KiB a silent
//     peer takes 16 KB instead of 12. What is longer is read straight into the message.
//   - Both pumps are goroutines of their own, so that net/http's request, buffers and stack are free after the upgrade.
package main

import (
	"net/http"
	"sync"

	"github.com/gorilla/websocket"

	"relaygate/bench/peers/host"
	"relaygate/bench/peers/pump"
	"relaygate/bench/peers/rooms"
)

type conn struct {
	ws  *websocket.Conn
	out *pump.Queue
}

type member = rooms.Member[*conn]

type relay struct {
	settings host.Settings
	upgrader websocket.Upgrader
	table    *rooms.Table[*conn]
}

func main() {
	r := &relay{
		settings: host.Start(),
		upgrader: websocket.Upgrader{
			ReadBufferSize:  1 << 10,
			WriteBufferSize: 4 << 10,
			WriteBufferPool: &sync.Pool{},
			CheckOrigin:     func(*http.Request) bool { return true },
		},
		table: rooms.NewTable[*conn](),
	}
	go r.table.Heartbeat(r.settings.CheckInterval,
		func(c *conn) { c.send(pump.Message{Text: true, Payload: []byte("ping")}) },
		func(c *conn) { _ = c.ws.Close() })
	host.Serve(r.settings, r.upgrade)
}

func (r *relay) upgrade(w http.ResponseWriter, req *http.Request, relayID, peerID string) {
	ws, err := r.upgrader.Upgrade(w, req, nil)
	if err != nil {
		return // Upgrade has answered
	}
	c := &conn{ws: ws, out: pump.NewQueue(r.settings.MaxQueueBytes)}
	m := r.table.Join(relayID, peerID, c)
	ws.SetReadLimit(host.MaxMessageBytes)
	answerPing := ws.PingHandler()
	ws.SetPingHandler(func(s string) error { m.Heard(); return answerPing(s) })
	ws.SetPongHandler(func(string) error { m.Heard(); return nil })
	go c.writePump()
	go r.readPump(m)
}

func (r *relay) readPump(m *member) {
	c := m.Conn
	defer func() {
		r.table.Leave(m)
		c.out.Close()
		_ = c.ws.Close()
	}()
	for {
		kind, reader, err := c.ws.NextReader()
		if err != nil {
			return
		}
		payload, err := pump.ReadMessage(reader)
		if err != nil {
			return
		}
		m.Heard()
		r.relay(m, pump.Message{Text: kind == websocket.TextMessage, Payload: payload})
	}
}

func (r *relay) relay(from *member, msg pump.Message) {
	if msg.Text {
		switch string(msg.Payload) {
		case "ping":
			from.Conn.send(pump.Message{Text: true, Payload: []byte("pong")})
			return
		case "pong":
			return
		}
	}
	to := r.table.Recipients(from, msg.Text, msg.Payload)
	for _, m := range *to {
		m.Conn.send(msg)
	}
	r.table.Release(to)
}

// send queues msg, or closes a connection that is too slow for it.
func (c *conn) send(msg pump.Message) {
	if !c.out.Put(msg) {
		_ = c.ws.Close()
	}
}

func (c *conn) writePump() {
	defer c.ws.Close()
	var batch []pump.Message
	for {
		var ok bool
		if batch, ok = c.out.Take(batch); !ok {
			return
		}
		for _, msg := range batch {
			kind := websocket.BinaryMessage
			if msg.Text {
				kind = websocket.TextMessage
			}
			if c.ws.WriteMessage(kind, msg.Payload) != nil {
				return
			}
		}
	}
}
