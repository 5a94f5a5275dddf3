package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"

	"relaygate/router"
)

// How the relay goes away. Drain's stages, counted from the signal:
//
//	0                    it is not ready any more (GET /readyz), but serves as before
//	DRAIN_DELAY          accepting ends (takeover.go). Each loop sorts its peers and closes one after another,
//	                     those that have said nothing for longest first
//	then DRAIN_PERIOD    whoever is left is closed: requests that never became peers
//	then drainGrace      connections that have not ended by now are cut off
//
// It ends as soon as no connection is left.

const (
	// drainGrace is how long the last closed peers have to read what waits for them and to answer the close
	// frame.
	drainGrace = 3 * time.Second

	// leaveStep is the time between two looks at who is to be closed.
	leaveStep = 10 * time.Millisecond

	// maxLooked is the number of slots that a loop looks at before it serves others.
	maxLooked = 16 << 10

	// maxLeaves is the number of peers that a loop closes before it serves others.
	maxLeaves = 256
)

// DrainTime returns the longest time that a drain should take: the timeout for the context of Drain.
func (c *Config) DrainTime() time.Duration {
	return time.Duration(c.DrainDelay) + time.Duration(c.DrainPeriod) + drainGrace
}

// Unready returns the reasons why a balancer should send no connections here, each of one line. There is none
// if the server is ready.
func (s *Server) Unready() (reasons []string) {
	if s.draining.Load() {
		reasons = append(reasons, "draining")
	}
	if s.nearLimit() {
		reasons = append(reasons, "memory")
	}
	if most := int64(s.config().MaxConnections); most > 0 && s.places.Load() >= most {
		reasons = append(reasons, "connections")
	}
	return reasons
}

// Drain stops the relay: see above. When ctx ends, connections that are left are counted in Stats.Left and
// closed, and the error says how many they are. It is called once.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	s.log.Info("draining", zap.Int("peers", s.table.Members()), zap.Int64("connections", s.stats.connections.Load()),
		zap.Stringer("delay", s.config().DrainDelay), zap.Stringer("period", s.config().DrainPeriod))
	select {
	case <-time.After(time.Duration(s.config().DrainDelay)):
	case <-ctx.Done():
	}
	s.closePeers(ctx)
	err := s.awaitEmpty(ctx)
	close(s.stop)
	s.running.Wait()
	s.stopLoops()
	return err
}

// closePeers ends accepting, and starts to close every connection, within DRAIN_PERIOD.
func (s *Server) closePeers(ctx context.Context) {
	tick := time.NewTicker(leaveStep)
	defer tick.Stop()
	began, period := time.Now(), time.Duration(s.config().DrainPeriod)
	endAccepting := func() { s.loops[0].post(task{do: (*loop).closeListener}) }
	s.loops[0].post(task{do: (*loop).stopAccepting})
	time.AfterFunc(s.handover, endAccepting)
	if period > 0 {
		s.postAll(func(l *loop, _ *peer) { l.beginLeaving(began, period) })
	}
	over := func() bool {
		return s.refusing.Load() && (time.Since(began) >= period || s.stats.connections.Load() == 0)
	}
	for !over() && ctx.Err() == nil {
		<-tick.C
		s.postAll((*loop).leaveDue)
	}
	// Once refusing is set, each accepted socket is with its loop or posted to it, and none becomes a peer any
	// more. So after leaveRest no connection can be left over.
	endAccepting()
	s.postAll((*loop).leaveRest)
}

// postAll gives every loop a task.
func (s *Server) postAll(do func(*loop, *peer)) {
	for _, l := range s.loops {
		l.post(task{do: do})
	}
}

// awaitEmpty waits until no connection is left. If ctx ends first, the error says how many are.
func (s *Server) awaitEmpty(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.stats.connections.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			left := s.stats.connections.Load()
			s.stats.left.Store(left)
			return fmt.Errorf("%d connections had not closed: %w", left, ctx.Err())
		}
	}
	return nil
}

// leaves is the order in which a loop closes its peers in a drain. Only the loop uses it.
type leaves struct {
	began  time.Time
	period time.Duration
	order  []uint64      // how long each peer has been silent and its slot: see leaveKey
	next   int           // position in order
	due    time.Duration // time after began when order[next] is closed

	looked   int      // slots that collectLeaves has looked at
	unsorted []uint64 // what becomes order, until all slots were looked at
}

// leaveKey makes a number that is the smaller the longer a peer has been silent. Its low half is the slot.
func leaveKey(silent uint32, slot int) uint64 { return uint64(^silent)<<32 | uint64(slot) }

// draw sets the time for the next peer. Peer i of n has the i-th of n equal parts of the period, and a random
// moment in it: so peers are closed at an even pace, but clients that come back do not come in step.
func (d *leaves) draw() {
	d.due = time.Duration((float64(d.next) + rand.Float64()) / float64(len(d.order)) * float64(d.period))
}

// beginLeaving begins to set up the order.
func (l *loop) beginLeaving(began time.Time, period time.Duration) {
	l.drained = &leaves{began: began, period: period}
	l.collectLeaves(nil)
}

// collectLeaves looks at the next slots, and at the end leaves the sorting to a goroutine. For 100,000 peers
// each of the two takes some 18 ms (BenchmarkCollectLeaves, BenchmarkSortLeaves), in which the loop would
// serve nobody.
func (l *loop) collectLeaves(*peer) {
	d := l.drained
	from := d.looked
	d.looked = min(from+maxLooked, len(l.peers))
	now := l.srv.now()
	for slot, p := range l.peers[from:d.looked] {
		if p != nil && p.phase == phaseOpen {
			d.unsorted = append(d.unsorted, leaveKey(now-p.spoke, from+slot))
		}
	}
	if d.looked < len(l.peers) {
		l.post(task{do: (*loop).collectLeaves})
		return
	}
	order := d.unsorted
	d.unsorted = nil
	go func() {
		slices.Sort(order)
		l.post(task{do: func(*loop, *peer) {
			d.order = order
			d.draw()
		}})
	}()
}

// leaveDue closes the peers whose time has come.
func (l *loop) leaveDue(*peer) {
	d := l.drained
	if d == nil {
		return
	}
	now := time.Since(d.began)
	var peers []*peer
	for d.next < len(d.order) && d.due <= now {
		if len(peers) == maxLeaves {
			l.post(task{do: (*loop).leaveDue})
			break
		}
		// A slot may have a new owner, which is no peer yet or has a time of its own: see leaveLater.
		if p := l.peers[uint32(d.order[d.next])]; p != nil && p.phase == phaseOpen {
			peers = append(peers, p)
		}
		d.next++
		d.draw()
	}
	l.leaveNow(peers)
}

// leaveLater is called for a peer that comes open after the order was made. Such peers were accepted in the
// last moment before accepting ended, so they are few. Each has a random time in the rest of the period.
func (l *loop) leaveLater(p *peer) {
	d := l.drained
	left := d.period - time.Since(d.began)
	time.AfterFunc(time.Duration(rand.Float64()*float64(max(left, 0))), func() {
		l.post(task{peer: p, do: func(l *loop, p *peer) { l.leaveNow([]*peer{p}) }})
	})
}

// leaveRest closes all connections that are left.
func (l *loop) leaveRest(*peer) {
	var all []*peer
	for _, p := range l.peers {
		if p != nil {
			all = append(all, p)
		}
	}
	l.leaveNow(all)
}

// leaveNow closes peers. Before that, what they have sent is read once more, and all that has been published
// in their rooms is delivered.
func (l *loop) leaveNow(peers []*peer) {
	for _, p := range peers {
		if p.phase <= phaseOpen && !p.inTurns {
			l.turn(p)
		}
	}
	flushed := make(map[*router.Room]struct{}, len(peers))
	for _, p := range peers {
		if p.phase != phaseOpen {
			continue
		}
		r := p.Room()
		if _, done := flushed[r]; done {
			continue
		}
		flushed[r] = struct{}{}
		if r.Drain(&l.scratch) {
			l.noted = append(l.noted, r) // a member has published more in the meantime
		}
	}
	for _, p := range peers {
		l.closeWith(p, closingDrain)
	}
}
