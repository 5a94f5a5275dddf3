package main

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fastjson"
)

// conn is a library's connection. send keeps or writes the payload and never waits for a peer that does not read.
type conn interface {
	send(text bool, payload []byte)
	close()
}

// relay is the rooms by relay id. The lock is for joining and leaving; messages find their room through their sender.
type relay struct {
	settings settings
	mu       sync.Mutex
	rooms    map[string]*room
	slots    [slots][]*member // of the heartbeat
	joins    int
}

// slots is how many parts the members are pinged in, so that an interval's pings spread over it. A member keeps its slot,
// and so has a whole interval for its answer.
const slots = 100

// room holds its members as a list that is never changed, only replaced, so that nobody locks to read it.
type room struct {
	id   string
	list atomic.Pointer[list]
}

type list struct {
	members []*member
	indexed sync.Once
	byID    map[string][]*member // made by the first direct message in a room of some size
}

// member is one connection in its room.
type member struct {
	conn  conn
	id    string
	room  *room
	slot  int
	at    int // place in its slot
	heard atomic.Bool
}

func (r *relay) join(relayID, peerID string, c conn) *member {
	m := &member{conn: c, id: peerID}
	m.heard.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.rooms[relayID]
	if x == nil {
		x = &room{id: relayID}
		x.list.Store(&list{})
		r.rooms[relayID] = x
	}
	m.room = x
	old := x.list.Load().members
	x.list.Store(&list{members: append(old[:len(old):len(old)], m)})
	r.joins++
	m.slot = r.joins % slots
	m.at = len(r.slots[m.slot])
	r.slots[m.slot] = append(r.slots[m.slot], m)
	return m
}

// leave takes m out of its room. A second time it does nothing.
func (r *relay) leave(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := m.room.list.Load().members
	i := slices.Index(old, m)
	if i < 0 {
		return
	}
	if len(old) == 1 {
		delete(r.rooms, m.room.id)
	}
	m.room.list.Store(&list{members: slices.Concat(old[:i], old[i+1:])})
	same := r.slots[m.slot]
	last := len(same) - 1
	same[m.at], same[last].at = same[last], m.at
	same[last] = nil
	r.slots[m.slot] = same[:last]
}

// answered notes that something came from m, and answers or swallows what is not to be relayed.
func (m *member) answered(text bool, payload []byte) bool {
	if !m.heard.Load() {
		m.heard.Store(true)
	}
	if text && string(payload) == "ping" {
		m.conn.send(true, []byte("pong"))
		return true
	}
	return text && string(payload) == "pong"
}

// receive relays what came from m. The payload is shared by all recipients; nobody writes to it.
func (m *member) receive(text bool, payload []byte) {
	if m.answered(text, payload) {
		return
	}
	to, except := m.recipients(text, payload)
	for _, x := range to {
		if x != except {
			x.conn.send(text, payload)
		}
	}
}

var (
	targetKey = []byte("targetPeerId")
	parsers   fastjson.ParserPool
)

// recipients are all in the room but the sender, or those that a text message names at the top level of a JSON object.
func (m *member) recipients(text bool, payload []byte) (to []*member, except *member) {
	all := m.room.list.Load()
	if text && bytes.Contains(payload, targetKey) {
		p := parsers.Get()
		defer parsers.Put(p)
		if v, err := p.ParseBytes(payload); err == nil {
			if id := v.GetStringBytes("targetPeerId"); len(id) > 0 {
				return all.named(id), nil
			}
		}
	}
	return all.members, m
}

// indexFrom is the size from which a room finds a target by a map: up to it a scan is as fast.
const indexFrom = 16

func (l *list) named(id []byte) (to []*member) {
	if len(l.members) < indexFrom {
		for _, m := range l.members {
			if m.id == string(id) {
				to = append(to, m)
			}
		}
		return to
	}
	l.indexed.Do(func() {
		l.byID = make(map[string][]*member, len(l.members))
		for _, m := range l.members {
			l.byID[m.id] = append(l.byID[m.id], m)
		}
	})
	return l.byID[string(id)]
}

// heartbeat looks at every member once per interval: it closes those from which nothing came since the last look and
// pings the others.
func (r *relay) heartbeat(ctx context.Context) {
	tick := time.NewTicker(max(r.settings.checkInterval/slots, time.Microsecond))
	for i := 0; ; i = (i + 1) % slots {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.mu.Lock()
		due := slices.Clone(r.slots[i])
		r.mu.Unlock()
		for _, m := range due {
			if m.heard.Swap(false) {
				m.conn.send(true, []byte("ping"))
			} else {
				m.conn.close()
			}
		}
	}
}
