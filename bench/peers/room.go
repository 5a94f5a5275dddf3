package main

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fastjson"
)

// message is a text or a binary one. All its recipients share it; nobody writes to it.
type message struct {
	opcode  int // of RFC 6455, by which all three libraries tell the kinds
	payload []byte
}

const opText = 1

// conn is a library's connection. send keeps or writes the message and never waits for a peer that does not read.
type conn interface {
	send(m *message)
	Close() error
}

// relay is the rooms by relay id. The lock is for joining and leaving; messages find their room through their sender.
type relay struct {
	addr     string        // to listen on
	interval time.Duration // of the heartbeat
	mu       sync.Mutex
	rooms    map[string]*room
}

// room holds its members as a list that is never changed, only replaced, so that nobody locks to read it.
type room struct {
	id   string
	list atomic.Pointer[[]*member]
}

// member is one connection in its room.
type member struct {
	conn  conn
	id    string
	room  *room
	heard atomic.Bool
	timer *time.Timer // of the next ping
}

func (r *relay) join(relayID, peerID string, c conn) *member {
	m := &member{conn: c, id: peerID}
	m.heard.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.rooms[relayID]
	if x == nil {
		x = &room{id: relayID}
		x.list.Store(new([]*member))
		r.rooms[relayID] = x
	}
	m.room = x
	old := *x.list.Load()
	list := append(old[:len(old):len(old)], m)
	x.list.Store(&list)
	m.timer = time.AfterFunc(r.interval, func() { r.check(m) })
	return m
}

// leave takes m out of its room. A second time it does nothing.
func (r *relay) leave(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := *m.room.list.Load()
	i := slices.Index(old, m)
	if i < 0 {
		return
	}
	if len(old) == 1 {
		delete(r.rooms, m.room.id)
	}
	list := slices.Concat(old[:i], old[i+1:])
	m.room.list.Store(&list)
	m.timer.Stop()
}

var (
	ping      = &message{opText, []byte("ping")}
	pong      = &message{opText, []byte("pong")}
	targetKey = []byte("targetPeerId")
	parsers   fastjson.ParserPool
)

// answered notes that something came from m, and answers or swallows what is not to be relayed.
func (m *member) answered(x *message) bool {
	if !m.heard.Load() {
		m.heard.Store(true)
	}
	if x.opcode == opText && string(x.payload) == "ping" {
		m.conn.send(pong)
		return true
	}
	return x.opcode == opText && string(x.payload) == "pong"
}

// receive relays what came from m.
func (m *member) receive(x *message) {
	if m.answered(x) {
		return
	}
	to, except := m.recipients(x)
	for _, r := range to {
		if r != except {
			r.conn.send(x)
		}
	}
}

// recipients are all in the room but the sender, or those that a text message names at the top level of a JSON object.
func (m *member) recipients(x *message) (to []*member, except *member) {
	all := *m.room.list.Load()
	if x.opcode != opText || !bytes.Contains(x.payload, targetKey) {
		return all, m
	}
	p := parsers.Get()
	defer parsers.Put(p)
	v, err := p.ParseBytes(x.payload)
	if err != nil {
		return all, m
	}
	id := v.GetStringBytes("targetPeerId")
	if len(id) == 0 {
		return all, m
	}
	for _, r := range all {
		if r.id == string(id) {
			to = append(to, r)
		}
	}
	return to, nil
}

// check comes once per interval: it closes a member from which nothing came since the last time, and pings the others.
func (r *relay) check(m *member) {
	if !m.heard.Swap(false) {
		m.conn.Close()
		return
	}
	r.mu.Lock() // join has set the timer by then
	m.timer.Reset(r.interval)
	r.mu.Unlock()
	m.conn.send(ping)
}
