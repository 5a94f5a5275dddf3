package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"

	"github.com/coder/websocket"
)

// faulty is a relay of the v1 subset that commits a fault to order. Its WebSocket is a library's, so that the load's is
// checked against one that nobody here wrote.
type faulty struct {
	mu    sync.Mutex
	peers []*faultyPeer
	fault string
	once  bool   // most faults happen once, at the first opportunity
	count int    // of deliveries
	late  func() // a delivery put off
	lateP *faultyPeer
}

type faultyPeer struct {
	room, id string
	conn     *websocket.Conn
}

func (r *faulty) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	q := req.URL.Query()
	p := &faultyPeer{room: q.Get("relayId"), id: q.Get("peerId")}
	r.mu.Lock()
	refused := r.fault == "refuse" && r.count > 100
	r.mu.Unlock()
	if refused {
		http.Error(w, "full", http.StatusServiceUnavailable)
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
	for {
		kind, b, err := conn.Read(context.Background())
		if err != nil {
			break
		}
		if kind == websocket.MessageText && string(b) == "ping" {
			p.send(kind, []byte("pong"))
		} else if string(b) != "pong" {
			r.relay(p, kind, b)
		}
	}
	conn.CloseNow()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peers = slices.DeleteFunc(r.peers, func(x *faultyPeer) bool { return x == p })
}

// relay delivers under the lock: slow, and in order.
func (r *faulty) relay(from *faultyPeer, kind websocket.MessageType, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var m struct{ TargetPeerID string }
	if kind == websocket.MessageText {
		_ = json.Unmarshal(b, &m)
	}
	for _, p := range r.peers {
		inRoom := p.room == from.room
		switch {
		case inRoom && m.TargetPeerID == "" && p != from, inRoom && m.TargetPeerID != "" && p.id == m.TargetPeerID:
			r.deliver(p, kind, b)
		case inRoom && p != from && r.commit("stranger"), !inRoom && r.commit("wrongroom"):
			p.send(kind, b)
		}
	}
}

// commit says whether this fault is to happen now.
func (r *faulty) commit(fault string) bool {
	if r.fault != fault || r.once {
		return false
	}
	r.once = true
	return true
}

func (r *faulty) deliver(p *faultyPeer, kind websocket.MessageType, b []byte) {
	r.count++
	switch {
	case r.commit("lose"), r.fault == "leak" && r.count%10 == 0:
		return
	case r.fault == "crash" && r.count > 100:
		fmt.Fprintln(os.Stderr, "a crash to order")
		os.Exit(7)
	case r.fault == "hang" && r.count > 100:
		select {}
	case r.fault == "binary":
		kind = websocket.MessageBinary
	case r.commit("double"):
		p.send(kind, b)
	case r.commit("corrupt"):
		b = bytes.Clone(b)
		b[len(b)-5] ^= 1
	case r.commit("close"):
		p.conn.Close(websocket.StatusPolicyViolation, "too slow")
		return
	case r.commit("reorder"):
		r.lateP, r.late = p, func() { p.send(kind, b) }
		return
	}
	p.send(kind, b)
	if r.late != nil && r.lateP == p {
		r.late()
		r.late = nil
	}
}

func (p *faultyPeer) send(kind websocket.MessageType, b []byte) {
	_ = p.conn.Write(context.Background(), kind, b)
}
