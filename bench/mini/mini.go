// Package mini is a relay of the v1 subset for bench's own tests, with faults to order. Its WebSocket is a library's, so
// that the load's is checked against one that nobody here wrote.
package mini

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"sync"

	"github.com/coder/websocket"
)

// Faults a relay can be asked for. Each happens once, at the first opportunity; the last three go on.
const (
	None      = ""
	Lose      = "lose"
	Double    = "double"
	Reorder   = "reorder"
	Stranger  = "stranger" // a direct message reaches somebody else
	Corrupt   = "corrupt"
	Close     = "close"     // a recipient is disconnected
	WrongRoom = "wrongroom" // a message reaches a peer of another room
	Crash     = "crash"     // the process ends
	Leak      = "leak"      // every tenth delivery is lost
	Binary    = "binary"    // text is delivered as binary
	Refuse    = "refuse"    // a peer that comes back is not let in
)

// Relay is an http.Handler.
type Relay struct {
	mu    sync.Mutex
	peers []*peer
	fault string
	count int             // of deliveries
	known map[string]bool // peers that were here before
	held  *held           // a delivery put off, to be made after the next from the same peer to the same
}

type peer struct {
	room, id string
	conn     *websocket.Conn
}

type held struct {
	from, to *peer
	kind     websocket.MessageType
	b        []byte
}

// New returns a relay that commits one fault.
func New(fault string) *Relay { return &Relay{fault: fault, known: map[string]bool{}} }

func (r *Relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	q := req.URL.Query()
	p := &peer{room: q.Get("relayId"), id: q.Get("peerId")}
	if p.room == "" || p.id == "" {
		http.Error(w, "relayId and peerId are required", http.StatusBadRequest)
		return
	}
	if r.refuses(p) {
		http.Error(w, "you were here before", http.StatusServiceUnavailable)
		return
	}
	conn, err := websocket.Accept(w, req, nil)
	if err != nil {
		return
	}
	conn.SetReadLimit(2 << 20)
	p.conn = conn
	r.mu.Lock()
	r.peers = append(r.peers, p)
	r.mu.Unlock()
	defer r.leave(p)
	for {
		kind, b, err := conn.Read(context.Background())
		if err != nil {
			return
		}
		switch {
		case kind == websocket.MessageText && string(b) == "ping":
			send(p, kind, []byte("pong"))
		case kind == websocket.MessageText && string(b) == "pong":
		default:
			r.relay(p, kind, b)
		}
	}
}

func (r *Relay) refuses(p *peer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := p.room + "/" + p.id
	was := r.known[key]
	r.known[key] = true
	return was && r.fault == Refuse
}

func (r *Relay) leave(p *peer) {
	p.conn.CloseNow()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, x := range r.peers {
		if x == p {
			r.peers = append(r.peers[:i], r.peers[i+1:]...)
			return
		}
	}
}

// relay delivers under the lock: slow, and in order.
func (r *Relay) relay(from *peer, kind websocket.MessageType, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var m struct{ TargetPeerID string }
	if kind == websocket.MessageText && bytes.Contains(b, []byte("targetPeerId")) {
		_ = json.Unmarshal(b, &m)
	}
	for _, p := range append([]*peer(nil), r.peers...) {
		inRoom := p.room == from.room
		wanted := inRoom && p != from
		if m.TargetPeerID != "" {
			wanted = inRoom && p.id == m.TargetPeerID
		}
		if !wanted {
			if inRoom && p != from && r.commit(Stranger) || !inRoom && r.commit(WrongRoom) {
				send(p, kind, b)
			}
			continue
		}
		r.deliver(from, p, kind, b)
	}
}

// commit says whether this fault is to happen now.
func (r *Relay) commit(fault string) bool {
	if r.fault != fault {
		return false
	}
	r.fault = None
	return true
}

func (r *Relay) deliver(from, p *peer, kind websocket.MessageType, b []byte) {
	r.count++
	switch {
	case r.commit(Lose), r.fault == Leak && r.count%10 == 0:
		return
	case r.fault == Crash && r.count > 100:
		fmt.Fprintln(os.Stderr, "a crash to order")
		os.Exit(7)
	case r.fault == Binary:
		kind = websocket.MessageBinary
	case r.commit(Double):
		send(p, kind, b)
	case r.commit(Corrupt):
		b = bytes.Clone(b)
		b[len(b)-5] ^= 1
	case r.commit(Close):
		p.conn.Close(websocket.StatusPolicyViolation, "too slow")
		return
	case r.commit(Reorder):
		r.held = &held{from: from, to: p, kind: kind, b: bytes.Clone(b)}
		return
	}
	send(p, kind, b)
	if late := r.held; late != nil && late.from == from && late.to == p {
		r.held = nil
		send(p, late.kind, late.b)
	}
}

func send(p *peer, kind websocket.MessageType, b []byte) {
	_ = p.conn.Write(context.Background(), kind, b)
}
