package server

import (
	"hash/maphash"
	"sync"
)

// addressTable counts the connections and relays of each network. It holds only networks that have a
// connection, so it is bounded by the number of connections. It is safe for concurrent use.
type addressTable struct {
	seed   maphash.Seed
	shards [addressShards]addressShard
}

// addressShards is the number of stripes of the table's lock, a power of two.
const addressShards = 64

type addressShard struct {
	mu       sync.Mutex
	networks shrinkingMap[network, usage]
	relays   shrinkingMap[relayOf, uint32] // peers of a network in a relay
	_        [64]byte                      // a cache line of its own
}

// usage is what one network has.
type usage struct {
	connections uint32 // within MAX_CONNECTIONS_PER_IP
	over        uint32 // above it, waiting to be refused
	relays      uint32 // in which it has a peer
}

// relayOf is a relay and a network that has a peer in it. The relay is a hash of its relayId with a secret
// seed. If two of them ever had the same hash, they would count as one.
type relayOf struct {
	network network
	relay   uint64
}

func newAddressTable() *addressTable { return &addressTable{seed: maphash.MakeSeed()} }

func (t *addressTable) shard(n network) *addressShard {
	return &t.shards[maphash.Bytes(t.seed, n[:])%addressShards]
}

// maxOver is the number of connections above MAX_CONNECTIONS_PER_IP that one network may have. They are
// refused with an HTTP answer when their request has come. More are closed without one.
const maxOver = 8

// enter counts a connection of n. It returns holdsIPPlace or, above the limit of most, overIP. If n has too
// many of those, the connection is not counted, and enter returns false.
func (t *addressTable) enter(n network, most int) (held standing, ok bool) {
	s := t.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.networks.get(n)
	switch {
	case int(u.connections) < most:
		u.connections++
		held = holdsIPPlace
	case u.over < maxOver:
		u.over++
		held = overIP
	default:
		return 0, false
	}
	s.networks.set(n, u)
	return held, true
}

// promote turns a connection above the limit into one within it, if there is a place by now.
func (t *addressTable) promote(n network, most int) bool {
	s := t.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.networks.get(n)
	if int(u.connections) >= most {
		return false
	}
	u.connections++
	u.over--
	s.networks.set(n, u)
	return true
}

// leave ends what enter has counted. held says as what.
func (t *addressTable) leave(n network, held standing) {
	s := t.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.networks.get(n)
	if held&overIP != 0 {
		u.over--
	} else {
		u.connections--
	}
	s.networks.set(n, u)
}

// enterRelay counts a peer of n in relayID. If that would give n more than most relays, it does nothing and
// returns false.
func (t *addressTable) enterRelay(n network, relayID []byte, most int) bool {
	s, r := t.shard(n), relayOf{n, maphash.Bytes(t.seed, relayID)}
	s.mu.Lock()
	defer s.mu.Unlock()
	peers := s.relays.get(r)
	if peers == 0 {
		u := s.networks.get(n)
		if int(u.relays) >= most {
			return false
		}
		u.relays++
		s.networks.set(n, u)
	}
	s.relays.set(r, peers+1)
	return true
}

// leaveRelay ends what enterRelay has counted.
func (t *addressTable) leaveRelay(n network, relayID []byte) {
	s, r := t.shard(n), relayOf{n, maphash.Bytes(t.seed, relayID)}
	s.mu.Lock()
	defer s.mu.Unlock()
	peers := s.relays.get(r) - 1
	s.relays.set(r, peers)
	if peers == 0 {
		u := s.networks.get(n)
		u.relays--
		s.networks.set(n, u)
	}
}

// size returns the number of networks and of pairs of network and relay.
func (t *addressTable) size() (networks, relays int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		networks += len(s.networks.m)
		relays += len(s.relays.m)
		s.mu.Unlock()
	}
	return networks, relays
}

// shrinkingMap is a map without zero values: setting one deletes the key. Since Go's maps never give memory
// back, it moves to a smaller one when it has become much emptier.
type shrinkingMap[K, V comparable] struct {
	m    map[K]V
	peak int // most keys that m has had
}

// shrinkAbove is the number of keys below which a map is left as it is, unless it is empty.
const shrinkAbove = 32

func (s *shrinkingMap[K, V]) get(k K) V { return s.m[k] }

func (s *shrinkingMap[K, V]) set(k K, v V) {
	var zero V
	if v != zero {
		if s.m == nil {
			s.m = make(map[K]V)
		}
		s.m[k] = v
		s.peak = max(s.peak, len(s.m))
		return
	}
	delete(s.m, k)
	switch n := len(s.m); {
	case n == 0:
		s.m, s.peak = nil, 0
	case s.peak > shrinkAbove && n < s.peak/4:
		smaller := make(map[K]V, n)
		for k, v := range s.m {
			smaller[k] = v
		}
		s.m, s.peak = smaller, n
	}
}
