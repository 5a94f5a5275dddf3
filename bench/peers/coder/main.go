// Command coder is the relay as written with github.com/coder/websocket, in the form of its chat example: a subscriber
// with a queue of messages, one goroutine that reads, one that writes, and CloseNow for who cannot keep up.
//
// Choices:
//   - The queue is bounded in bytes and grows on demand; package pump says why it is not a channel.
//   - Reads and writes run under the background context. The library arms a context.AfterFunc per call for any other;
//     here a full queue ends the connection, and with it the write in progress, as a time-out would.
//   - Reader and a pooled buffer instead of Read, which is io.ReadAll: one allocation of just the message's size.
//   - Both goroutines are new ones, so that net/http's request and stack are free after Accept. Its two 4 KiB buffers
//     are not: the library goes on using them and has no setting for it.
//   - Compression is off, as the library has it.
package main

import (
	"context"
	"net/http"

	"github.com/coder/websocket"

	"relaygate/bench/peers/host"
	"relaygate/bench/peers/pump"
	"relaygate/bench/peers/rooms"
)

type subscriber struct {
	ws     *websocket.Conn
	out    *pump.Queue
	member *member
}

type member = rooms.Member[*subscriber]

type relay struct {
	settings host.Settings
	table    *rooms.Table[*subscriber]
}

func main() {
	r := &relay{settings: host.Start(), table: rooms.NewTable[*subscriber]()}
	go r.table.Heartbeat(r.settings.CheckInterval,
		func(s *subscriber) { s.send(pump.Message{Text: true, Payload: []byte("ping")}) },
		func(s *subscriber) { go s.ws.CloseNow() })
	host.Serve(r.settings, r.upgrade)
}

func (r *relay) upgrade(w http.ResponseWriter, req *http.Request, relayID, peerID string) {
	s := &subscriber{out: pump.NewQueue(r.settings.MaxQueueBytes)}
	ws, err := websocket.Accept(w, req, &websocket.AcceptOptions{
		InsecureSkipVerify: true,
		OnPingReceived:     func(context.Context, []byte) bool { s.member.Heard(); return true },
		OnPongReceived:     func(context.Context, []byte) { s.member.Heard() },
	})
	if err != nil {
		return // Accept has answered
	}
	s.ws = ws
	ws.SetReadLimit(host.MaxMessageBytes)
	s.member = r.table.Join(relayID, peerID, s)
	go s.write()
	go r.read(s)
}

func (r *relay) read(s *subscriber) {
	defer func() {
		r.table.Leave(s.member)
		s.out.Close()
		_ = s.ws.CloseNow()
	}()
	for {
		kind, reader, err := s.ws.Reader(context.Background())
		if err != nil {
			return
		}
		payload, err := pump.ReadMessage(reader)
		if err != nil {
			return
		}
		s.member.Heard()
		r.publish(s, pump.Message{Text: kind == websocket.MessageText, Payload: payload})
	}
}

func (r *relay) publish(from *subscriber, msg pump.Message) {
	if msg.Text {
		switch string(msg.Payload) {
		case "ping":
			from.send(pump.Message{Text: true, Payload: []byte("pong")})
			return
		case "pong":
			return
		}
	}
	to := r.table.Recipients(from.member, msg.Text, msg.Payload)
	for _, m := range *to {
		m.Conn.send(msg)
	}
	r.table.Release(to)
}

// send queues msg, or closes a connection that is too slow for it: in a goroutine, as CloseNow waits for others.
func (s *subscriber) send(msg pump.Message) {
	if !s.out.Put(msg) {
		go s.ws.CloseNow()
	}
}

func (s *subscriber) write() {
	defer s.ws.CloseNow()
	var batch []pump.Message
	for {
		var ok bool
		if batch, ok = s.out.Take(batch); !ok {
			return
		}
		for _, msg := range batch {
			kind := websocket.MessageBinary
			if msg.Text {
				kind = websocket.MessageText
			}
			if s.ws.Write(context.Background(), kind, msg.Payload) != nil {
				return
			}
		}
	}
}
