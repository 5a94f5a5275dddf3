package main

import (
	"net/http"
	"runtime"
	"time"

	"github.com/lesismal/nbio/logging"
	"github.com/lesismal/nbio/nbhttp"
	"github.com/lesismal/nbio/nbhttp/websocket"
)

// The relay as written with github.com/lesismal/nbio: its HTTP server in non-blocking mode and its websocket package, with
// one Upgrader, OnMessage, and WriteMessage to each recipient. Choices:
//   - Handlers run on the pollers, since none of them blocks: WriteMessage keeps what the socket refuses. Hence a poller
//     per core. The default, a pool of goroutines for handlers that may block, takes a third more CPU for direct messages.
//   - Buffers are the library's defaults, and ReleaseWebsocketPayload is on, as in its author's own benchmark.
//   - MaxWriteBufferSize bounds what waits for a peer that does not read; beyond it the library closes the connection.
//   - MaxWebsocketFramePayloadSize is the largest message, so that each message leaves as one frame and one write.
//   - The Upgrader's KeepaliveTime is 0: it would set a timer anew for every message, and the heartbeat covers it. The
//     engine's is a day: its timer for idle HTTP connections can be armed just after an upgrade, and would end a living one.
//
// One thing the library does not do: an empty message never reaches OnMessage, so it is not relayed.
type nbConn struct{ *websocket.Conn }

func serveNBHTTP(r *relay) error {
	logging.SetLevel(logging.LevelError)
	u := websocket.NewUpgrader()
	u.KeepaliveTime = 0
	u.MessageLengthLimit = maxMessageBytes
	u.CheckOrigin = func(*http.Request) bool { return true }
	u.OnMessage(func(c *websocket.Conn, opcode websocket.MessageType, payload []byte) {
		c.Session().(*member).receive(&message{int(opcode), payload})
	})
	u.OnClose(func(c *websocket.Conn, _ error) {
		if m, ok := c.Session().(*member); ok {
			r.leave(m)
		}
	})
	u.SetPingHandler(func(c *websocket.Conn, payload string) {
		c.Session().(*member).heard.Store(true)
		c.WriteMessage(websocket.PongMessage, []byte(payload))
	})
	engine := nbhttp.NewEngine(nbhttp.Config{
		Network: "tcp", Addrs: []string{r.addr}, Listen: listen,
		NPoller: runtime.GOMAXPROCS(0), ServerExecutor: func(f func()) { f() },
		MaxWriteBufferSize: 4 << 20, MaxWebsocketFramePayloadSize: maxMessageBytes,
		ReleaseWebsocketPayload: true, KeepaliveTime: 24 * time.Hour,
		// The room is joined before any message: the library runs the handlers of one connection one after another.
		Handler: handler(func(w http.ResponseWriter, req *http.Request, relayID, peerID string) {
			if c, err := u.Upgrade(w, req, nil); err == nil {
				c.SetSession(r.join(relayID, peerID, nbConn{c}))
			}
		}),
	})
	if err := engine.Start(); err != nil {
		return err
	}
	select {} // until a signal ends the process
}

func (c nbConn) send(m *message) {
	c.WriteMessage(websocket.MessageType(m.opcode), m.payload)
}
