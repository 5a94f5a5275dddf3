// Command gws is the relay as written with github.com/lxzan/gws: an event handler, a goroutine per connection, and a
// Broadcaster for every message.
//
// Choices:
//   - Broadcaster also for a message with one recipient. It encodes once and queues on each connection; WriteMessage
//     would overtake what a Broadcaster has queued, and waits for the slow: a peer that does not read would stall
//     everyone who writes to it, which the contract forbids. With -sync it is used nevertheless, for a single recipient
//     with nothing queued: that costs a fifth less CPU in pairs and direct messages, and is the server gws-sync.
//   - The library's write queue has no bound. UpgradeFromConn therefore gets the socket inside a net.Conn that counts
//     what is written; what is queued and not written may not exceed the limit, or the connection is closed.
//   - ParallelEnabled is off: with it, messages of one sender would overtake each other.
//   - ReadLoop runs in a goroutine of its own and not in net/http's, as the library's README advises.
//   - The read buffer is 1 KiB, since it is held for the life of the connection: at the library's 4 KiB a silent peer
//     takes 13 KB instead of 9. What is longer is read straight into the message.
//   - The session is a struct with one field, in place of the library's locked map.
//   - Compression and the UTF-8 check are off, as the library has it; Recovery is on, as in its README.
package main

import (
	"bufio"
	"flag"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/lxzan/gws"

	"relaygate/bench/peers/host"
	"relaygate/bench/peers/rooms"
)

const readBufferSize = 1 << 10

// peer is a connection: as a net.Conn it is what gws writes to.
type peer struct {
	net.Conn
	socket  *gws.Conn
	member  *rooms.Member[*peer]
	limit   int64
	waiting atomic.Int64 // bytes of frames queued and not written
}

// session leads from a socket to its peer. Of SessionStorage it has the method set; nothing calls it.
type session struct {
	gws.SessionStorage
	peer *peer
}

type relay struct {
	gws.BuiltinEventHandler
	sync     bool
	settings host.Settings
	upgrader *gws.Upgrader
	table    *rooms.Table[*peer]
}

func main() {
	sync := flag.Bool("sync", false, "write to a single recipient at once, and wait for it")
	flag.Parse()
	r := &relay{sync: *sync, settings: host.Start(), table: rooms.NewTable[*peer]()}
	r.upgrader = gws.NewUpgrader(r, &gws.ServerOption{
		ReadMaxPayloadSize: host.MaxMessageBytes,
		ReadBufferSize:     readBufferSize,
		Recovery:           gws.Recovery,
		NewSession:         func() gws.SessionStorage { return new(session) },
	})
	ping := []byte("ping")
	go r.table.Heartbeat(r.settings.CheckInterval,
		func(p *peer) {
			if p.reserve(len(ping)) {
				p.socket.WriteAsync(gws.OpcodeText, ping, nil)
			}
		},
		func(p *peer) { _ = p.Close() })
	host.Serve(r.settings, r.upgrade)
}

func (r *relay) upgrade(w http.ResponseWriter, req *http.Request, relayID, peerID string) {
	raw, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	p := &peer{Conn: raw, limit: int64(r.settings.MaxQueueBytes)}
	socket, err := r.upgrader.UpgradeFromConn(p, bufio.NewReaderSize(p, readBufferSize), req)
	if err != nil {
		return // UpgradeFromConn has answered and closed
	}
	p.socket = socket
	p.waiting.Store(0)
	socket.Session().(*session).peer = p
	p.member = r.table.Join(relayID, peerID, p)
	go socket.ReadLoop()
}

func (r *relay) OnClose(socket *gws.Conn, _ error) {
	r.table.Leave(peerOf(socket).member)
}

func (r *relay) OnPing(socket *gws.Conn, payload []byte) {
	p := peerOf(socket)
	p.member.Heard()
	if p.reserve(len(payload)) {
		_ = socket.WritePong(payload)
	}
}

func (r *relay) OnPong(socket *gws.Conn, _ []byte) {
	peerOf(socket).member.Heard()
}

func (r *relay) OnMessage(socket *gws.Conn, message *gws.Message) {
	defer message.Close()
	from, payload, text := peerOf(socket), message.Bytes(), message.Opcode == gws.OpcodeText
	from.member.Heard()
	if text {
		switch string(payload) {
		case "ping":
			if from.reserve(len("pong")) {
				_ = socket.WriteString("pong")
			}
			return
		case "pong":
			return
		}
	}
	to := r.table.Recipients(from.member, text, payload)
	defer r.table.Release(to)
	if r.sync && len(*to) == 1 && (*to)[0].Conn.waiting.Load() == 0 {
		if p := (*to)[0].Conn; p.reserve(len(payload)) {
			_ = p.socket.WriteMessage(message.Opcode, payload)
		}
		return
	}
	b := gws.NewBroadcaster(message.Opcode, payload)
	for _, m := range *to {
		if m.Conn.reserve(len(payload)) {
			_ = b.Broadcast(m.Conn.socket)
		}
	}
	_ = b.Close()
}

func peerOf(socket *gws.Conn) *peer {
	return socket.Session().(*session).peer
}

// reserve counts a frame that is about to be queued, or closes a connection that is too slow for it.
func (p *peer) reserve(payloadLen int) bool {
	frame := int64(payloadLen) + 2
	switch {
	case payloadLen > 65535:
		frame += 8
	case payloadLen > 125:
		frame += 2
	}
	if p.waiting.Add(frame) > p.limit {
		_ = p.Close()
		return false
	}
	return true
}

func (p *peer) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b)
	p.waiting.Add(int64(-n))
	return n, err
}
