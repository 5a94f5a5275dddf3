package main

import (
	"net/http"

	"github.com/lxzan/gws"
)

// The relay as written with github.com/lxzan/gws: an event handler, a goroutine per connection, and a Broadcaster for
// every message. Choices:
//   - Broadcaster also for a message with one recipient. It encodes once and queues on each connection; WriteMessage would
//     overtake what is queued, and waits for the slow: a peer that does not read would stall everyone who writes to it,
//     which the contract forbids.
//   - The library's write queue has no bound, and gets none here: what waits for a peer that does not read is the relay's
//     memory. A relay for others' peers would count it, which costs a little.
//   - ParallelEnabled is off: with it, messages of one sender would overtake each other.
//   - ReadLoop runs in a goroutine of its own and not in net/http's, as the library's README advises.
//   - The read buffer is 1 KiB: at the library's 4 KiB a silent peer takes 13 KB instead of 9.
type gwsRelay struct {
	gws.BuiltinEventHandler
	*relay
}

// session leads from a socket to its member. Of SessionStorage it has the method set; nothing calls it.
type session struct {
	gws.SessionStorage
	member *member
}

func memberOf(socket *gws.Conn) *member { return socket.Session().(*session).member }

func serveGWS(r *relay) error {
	u := gws.NewUpgrader(&gwsRelay{relay: r}, &gws.ServerOption{
		ReadMaxPayloadSize: maxMessageBytes, ReadBufferSize: 1 << 10, Recovery: gws.Recovery,
		NewSession: func() gws.SessionStorage { return new(session) },
	})
	return serve(r.addr, func(w http.ResponseWriter, req *http.Request, relayID, peerID string) {
		if socket, err := u.Upgrade(w, req); err == nil { // else Upgrade has answered
			socket.Session().(*session).member = r.join(relayID, peerID, gwsConn{socket})
			go socket.ReadLoop()
		}
	})
}

func (g *gwsRelay) OnClose(socket *gws.Conn, _ error) { g.leave(memberOf(socket)) }

func (g *gwsRelay) OnPing(socket *gws.Conn, payload []byte) {
	memberOf(socket).heard.Store(true)
	_ = socket.WritePong(payload)
}

func (g *gwsRelay) OnMessage(socket *gws.Conn, frame *gws.Message) {
	defer frame.Close()
	from, m := memberOf(socket), &message{int(frame.Opcode), frame.Bytes()}
	if from.answered(m) {
		return
	}
	to, except := from.recipients(m)
	b := gws.NewBroadcaster(frame.Opcode, m.payload)
	for _, x := range to {
		if x != except {
			_ = b.Broadcast(x.conn.(gwsConn).Conn)
		}
	}
	_ = b.Close()
}

type gwsConn struct{ *gws.Conn }

// send is for pings and pongs only.
func (c gwsConn) send(m *message) { c.WriteAsync(gws.OpcodeText, m.payload, nil) }

func (c gwsConn) Close() error { return c.NetConn().Close() }
