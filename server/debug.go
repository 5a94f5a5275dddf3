package server

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"sync"
	"time"

	"relaygate/router"
)

// What /debug/rooms shows.

// hashKey is the key of hashed. It is new in each process, so that nobody can find out which ids the hashes in
// a log stand for, even by trying them all.
var hashKey = sync.OnceValue(func() (key [32]byte) {
	_, _ = rand.Read(key[:]) // it never fails
	return key
})

// hashed returns a short keyed hash of an id: the same id has the same hash as long as the process runs.
func hashed(id string) string {
	key := hashKey()
	sum := sha256.Sum256(append(key[:], id...)) // of which only a part is shown, so it cannot be extended
	return hex.EncodeToString(sum[:8])
}

// shown returns id as it is or hashed.
func shown(id string, asItIs bool) string {
	if asItIs {
		return id
	}
	return hashed(id)
}

// DebugRooms is what /debug/rooms shows.
type DebugRooms struct {
	LargestRooms   []DebugRoom `json:"largest_rooms"`    // by number of peers
	BusiestRooms   []DebugRoom `json:"busiest_rooms"`    // by bytes delivered
	HeaviestPeers  []DebugPeer `json:"heaviest_peers"`   // by bytes held
	Peers          int         `json:"peers"`            // in all rooms
	Rooms          int         `json:"rooms"`            // all
	HoldingPeers   int         `json:"holding_peers"`    // peers that hold anything
	HeldBytes      int64       `json:"held_bytes"`       // by all peers
	HeldLimitBytes int64       `json:"held_limit_bytes"` // 0: no limit
}

// DebugRoom is a room.
type DebugRoom struct {
	Relay     string  `json:"relay"`           // id or its hash
	Peers     int     `json:"peers"`           // members
	Delivered int64   `json:"delivered_bytes"` // since it exists, counted once for each recipient
	LogBytes  int     `json:"log_bytes"`       // not yet written
	Age       float64 `json:"age_seconds"`     // of the connection that has been here for longest
}

// DebugPeer is a peer that holds memory.
type DebugPeer struct {
	Relay  string  `json:"relay"`          // id or its hash
	Peer   string  `json:"peer"`           // id or its hash
	Remote string  `json:"remote"`         // address, or the hash of the address without the port
	Held   int     `json:"held_bytes"`     // unfinished input and queue
	Queue  int     `json:"queue_bytes"`    // of these, waiting for its socket
	Age    float64 `json:"age_seconds"`    // since it was accepted
	Silent float64 `json:"silent_seconds"` // since it last sent a message, or was accepted
}

// Rooms implements health.Relay. It looks at every peer, which takes each loop some milliseconds for 100,000.
func (s *Server) Rooms(most int, showIDs bool) any {
	all := s.table.All()
	d := DebugRooms{
		Peers: s.table.Members(), Rooms: len(all), HeldBytes: bytesHeld(), HeldLimitBytes: s.budget.limit.Load(),
	}
	states := make([]router.State, len(all))
	for i, r := range all {
		states[i] = r.State()
	}
	show := func(by func(router.State) int64) []DebugRoom {
		slices.SortFunc(states, func(a, b router.State) int { return cmp.Compare(by(b), by(a)) })
		rooms := make([]DebugRoom, 0, most)
		for _, st := range states[:min(most, len(states))] {
			rooms = append(rooms, DebugRoom{shown(st.Room.ID(), showIDs), st.Members, st.Delivered, st.LogBytes, s.oldest(st.Room).Seconds()})
		}
		return rooms
	}
	d.LargestRooms = show(func(st router.State) int64 { return int64(st.Members) })
	d.BusiestRooms = show(func(st router.State) int64 { return st.Delivered })
	d.HeaviestPeers, d.HoldingPeers = s.heaviest(most, showIDs)
	return d
}

// oldest returns the age of the member of r that was accepted first.
func (s *Server) oldest(r *router.Room) (age time.Duration) {
	r.Each(func(c router.Conn) {
		if p, ok := c.(*peer); ok {
			age = max(age, s.age(p))
		}
	})
	return age
}

// heaviest returns the peers that hold most, and how many hold anything.
func (s *Server) heaviest(most int, showIDs bool) (peers []DebugPeer, holding int) {
	var mu sync.Mutex
	peers = []DebugPeer{}
	s.ask(func(l *loop) {
		own := l.holders()
		slices.SortFunc(own, heavierFirst)
		var told []DebugPeer
		for _, h := range own[:min(most, len(own))] {
			told = append(told, l.tell(h, showIDs))
		}
		mu.Lock()
		defer mu.Unlock()
		holding += len(own)
		peers = append(peers, told...)
	}, time.Second)
	mu.Lock()
	defer mu.Unlock()
	slices.SortFunc(peers, func(a, b DebugPeer) int { return b.Held - a.Held })
	return slices.Clone(peers[:min(most, len(peers))]), holding
}

// tell describes a peer of the loop.
func (l *loop) tell(h holder, showIDs bool) DebugPeer {
	p := h.peer
	d := DebugPeer{
		Held: h.bytes, Peer: shown(p.ID(), showIDs), Remote: shownAddress(p.remoteAddr(), showIDs), Age: l.srv.age(p).Seconds(),
		Silent: (time.Duration(l.clock-p.spoke) * 10 * time.Millisecond).Seconds(),
	}
	if r := p.Room(); r != nil {
		d.Relay = shown(r.ID(), showIDs)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	d.Queue = p.waitingLocked()
	return d
}

func shownAddress(a netip.AddrPort, asItIs bool) string {
	if asItIs {
		return a.String()
	}
	return hashed(a.Addr().String())
}
