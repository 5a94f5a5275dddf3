// Command nbhttp is the relay as written with github.com/lesismal/nbio: its HTTP server in non-blocking mode and its
// websocket package, with one Upgrader, OnMessage, and WriteMessage to each recipient.
//
// Choices:
//   - Handlers run on the pollers, since none of them blocks: WriteMessage keeps what the socket refuses. Hence a poller
//     per core. The default, a poller per four cores and a pool of goroutines for handlers that may block, takes a
//     third more CPU for direct messages and about as much for broadcasts.
//   - Read buffers and the buffer pool are the library's defaults, and ReleaseWebsocketPayload is on, as in its author's
//     own benchmark.
//   - MaxWriteBufferSize bounds what waits for a peer that does not read; beyond it the library closes the connection.
//   - MaxWebsocketFramePayloadSize is the largest message, so that each message leaves as one frame and one write.
//   - The Upgrader's KeepaliveTime is 0: it would set a timer anew for every message, and the heartbeat covers it.
//     The engine's is a day: its timer for idle HTTP connections can be armed just after an upgrade, and would then end
//     a living WebSocket.
//
// One thing the library does not do: an empty message never reaches OnMessage, so it is not relayed.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/lesismal/nbio/logging"
	"github.com/lesismal/nbio/nbhttp"
	"github.com/lesismal/nbio/nbhttp/websocket"

	"relaygate/bench/peers/host"
	"relaygate/bench/peers/rooms"
)

type member = rooms.Member[*websocket.Conn]

type relay struct {
	upgrader *websocket.Upgrader
	table    *rooms.Table[*websocket.Conn]
}

func main() {
	settings := host.Start()
	logging.SetLevel(logging.LevelError)
	r := &relay{upgrader: websocket.NewUpgrader(), table: rooms.NewTable[*websocket.Conn]()}
	r.upgrader.KeepaliveTime = 0
	r.upgrader.MessageLengthLimit = host.MaxMessageBytes
	r.upgrader.CheckOrigin = func(*http.Request) bool { return true }
	r.upgrader.OnMessage(r.onMessage)
	r.upgrader.OnClose(r.onClose)
	r.upgrader.SetPingHandler(func(c *websocket.Conn, payload string) {
		memberOf(c).Heard()
		_ = c.WriteMessage(websocket.PongMessage, []byte(payload))
	})
	r.upgrader.SetPongHandler(func(c *websocket.Conn, _ string) { memberOf(c).Heard() })

	engine := nbhttp.NewEngine(nbhttp.Config{
		Network:                      "tcp",
		Addrs:                        []string{settings.Addr},
		Listen:                       host.Listen,
		Handler:                      host.Handler(r.upgrade),
		NPoller:                      runtime.GOMAXPROCS(0),
		ServerExecutor:               func(f func()) { f() },
		MaxWriteBufferSize:           settings.MaxQueueBytes,
		MaxWebsocketFramePayloadSize: host.MaxMessageBytes,
		ReleaseWebsocketPayload:      true,
		KeepaliveTime:                24 * time.Hour,
	})
	if err := engine.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ping := []byte("ping")
	go r.table.Heartbeat(settings.CheckInterval,
		func(c *websocket.Conn) { _ = c.WriteMessage(websocket.TextMessage, ping) },
		func(c *websocket.Conn) { _ = c.Close() })
	host.AwaitSignal()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = engine.Shutdown(ctx)
}

// upgrade joins the room before any of the connection's messages: the library runs the handlers of one connection one
// after another, and this is the first.
func (r *relay) upgrade(w http.ResponseWriter, req *http.Request, relayID, peerID string) {
	c, err := r.upgrader.Upgrade(w, req, nil)
	if err != nil {
		return // Upgrade has answered
	}
	c.SetSession(r.table.Join(relayID, peerID, c))
}

func (r *relay) onClose(c *websocket.Conn, _ error) {
	if m := memberOf(c); m != nil {
		r.table.Leave(m)
	}
}

func (r *relay) onMessage(c *websocket.Conn, kind websocket.MessageType, payload []byte) {
	from, text := memberOf(c), kind == websocket.TextMessage
	from.Heard()
	if text {
		switch string(payload) {
		case "ping":
			_ = c.WriteMessage(websocket.TextMessage, []byte("pong"))
			return
		case "pong":
			return
		}
	}
	to := r.table.Recipients(from, text, payload)
	for _, m := range *to {
		_ = m.Conn.WriteMessage(kind, payload)
	}
	r.table.Release(to)
}

func memberOf(c *websocket.Conn) *member {
	m, _ := c.Session().(*member)
	return m
}
