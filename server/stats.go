package server

import (
	"maps"
	"slices"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"relaygate/server/upgrade"
)

// stats holds the server's counters.
type stats struct {
	connections atomic.Int64 // open sockets
	accepted    atomic.Int64
	upgraded    atomic.Int64
	refused     [len(upgrade.Refusals)]atomic.Int64
	closed      [closeCauses]atomic.Int64

	queueDropped [closeCauses]atomic.Int64 // bytes that waited for a connection when it ended

	acceptFails atomic.Int64
	acceptError atomic.Uint32 // the latest, as a syscall.Errno
	watchFails  atomic.Int64  // connections that could not be added to a pollset
	watchError  atomic.Uint32 // the latest, as a syscall.Errno

	acceptPauses atomic.Int64 // times that accepting stopped because too many waited for a refusal

	heldBack atomic.Int64
	panics   atomic.Int64
	left     atomic.Int64
}

// answered counts a request's refusal. Upgrades are counted by peer.open.
func (s *stats) answered(v upgrade.Verdict) {
	if v.Reason == "" {
		return
	}
	s.refusedFor(v.Reason).Add(1)
}

// refusedFor returns the counter of a reason.
func (s *stats) refusedFor(why upgrade.Refusal) *atomic.Int64 {
	return &s.refused[slices.Index(upgrade.Refusals[:], why)]
}

// Stats is a snapshot of the server's state and counters.
type Stats struct {
	Connections  int              // open sockets, peers included
	Peers        int              // members of rooms
	Rooms        int              // rooms with at least one member
	Seats        int              // connections in the timing wheels; equals Connections when nothing moves
	Accepted     int64            // sockets accepted since the start
	Upgraded     int64            // of these, upgraded to WebSocket
	AcceptErrors int64            // failed accepts, mostly for lack of descriptors
	HeldBack     int64            // times that a peer began to be held back by a rate
	Panics       int64            // bugs that cost one connection each
	Left         int64            // connections cut off at the end of the drain
	Refused      map[string]int64 // requests by reason
	Closed       map[string]int64 // connections by cause
}

// Stats returns a snapshot.
func (s *Server) Stats() Stats {
	st := Stats{
		Connections:  int(s.stats.connections.Load()),
		Peers:        s.table.Members(),
		Rooms:        s.table.Rooms(),
		Accepted:     s.stats.accepted.Load(),
		Upgraded:     s.stats.upgraded.Load(),
		AcceptErrors: s.stats.acceptFails.Load(),
		HeldBack:     s.stats.heldBack.Load(),
		Panics:       s.stats.panics.Load(),
		Left:         s.stats.left.Load(),
		Refused:      make(map[string]int64),
		Closed:       make(map[string]int64),
	}
	for _, w := range s.wheels {
		st.Seats += w.Len()
	}
	for i, r := range upgrade.Refusals {
		st.Refused[string(r)] = s.stats.refused[i].Load()
	}
	for c := range closeCauses {
		st.Closed[c.String()] = s.stats.closed[c].Load()
	}
	return st
}

// MarshalLogObject logs every counter, those at zero as well, so that a reader can tell zero from unknown.
func (s Stats) MarshalLogObject(o zapcore.ObjectEncoder) error {
	o.AddInt64("accepted", s.Accepted)
	o.AddInt64("upgraded", s.Upgraded)
	o.AddInt64("accept_errors", s.AcceptErrors)
	o.AddInt64("held_back", s.HeldBack)
	o.AddInt64("panics", s.Panics)
	zap.Object("refused", counters(s.Refused)).AddTo(o)
	zap.Object("closed", counters(s.Closed)).AddTo(o)
	return nil
}

// counters are logged by their labels in alphabetical order.
type counters map[string]int64

func (c counters) MarshalLogObject(o zapcore.ObjectEncoder) error {
	for _, label := range slices.Sorted(maps.Keys(c)) {
		o.AddInt64(label, c[label])
	}
	return nil
}
