package server

import (
	"time"

	"relaygate/health/histogram"
	"relaygate/router"
)

// What a loop counts as it works, without locks or atomic operations. Whoever wants to read it asks the loop
// for a copy: see Server.measured.

// kind is what a message from a peer is.
type kind uint8

const (
	kindText kind = iota
	kindBinary
	kindDirect // text that names a target
	kindPing   // the text "ping"
	kindPong   // the text "pong"

	kinds
)

var kindNames = [kinds]string{"text", "binary", "direct", "ping", "pong"}

// kindOf returns the kind of a message for everyone else.
func kindOf(op byte) kind {
	if op == opText {
		return kindText
	}
	return kindBinary
}

// drop is why a message had no recipient.
type drop uint8

const (
	dropAlone      drop = iota // its sender was alone in its room
	dropNoSuchPeer             // it named a target that is not there

	drops
)

var dropNames = [drops]string{"alone", "no_such_peer"}

// meter holds a loop's counters. Only the loop's goroutine uses it. Times are in microseconds.
type meter struct {
	received   [kinds]tally
	dropped    [drops]int64
	heartbeats int64 // pings sent
	traffic    router.Traffic
	rounds     histogram.Histogram // one round of the loop
	roundTrips histogram.Histogram // from our ping to its pong
	handshakes histogram.Histogram // from accept to the 101, in steps of 10,000
	lags       histogram.Histogram // from posting a task to doing it, once per lagInterval
}

// tally counts messages and the bytes of their payloads.
type tally struct{ messages, bytes int64 }

func (m *meter) receive(k kind, payload []byte) {
	m.received[k].messages++
	m.received[k].bytes += int64(len(payload))
}

func (m *meter) merge(other *meter) {
	for k := range m.received {
		m.received[k].messages += other.received[k].messages
		m.received[k].bytes += other.received[k].bytes
	}
	for d := range m.dropped {
		m.dropped[d] += other.dropped[d]
	}
	m.heartbeats += other.heartbeats
	m.traffic.Merge(&other.traffic)
	m.rounds.Merge(&other.rounds)
	m.roundTrips.Merge(&other.roundTrips)
	m.handshakes.Merge(&other.handshakes)
	m.lags.Merge(&other.lags)
}

// report makes a copy of the loop's counters for others to read.
func (l *loop) report() {
	m := l.meter
	m.traffic = l.scratch.Traffic
	l.reported.Store(&m)
}

// measured returns the counters of all loops together. It asks each loop, and waits for up to a second. A
// loop that does not answer is counted as it was when it last did.
func (s *Server) measured() (sum meter) {
	s.ask((*loop).report, time.Second)
	for _, l := range s.loops {
		sum.merge(l.reported.Load())
	}
	return sum
}

// lagInterval is how often it is measured how long a loop takes to do a task.
const lagInterval = time.Second

// watchLoops measures the loops' lag, and looks for trouble, until the server stops.
func (s *Server) watchLoops() {
	ticker := time.NewTicker(lagInterval)
	defer ticker.Stop()
	troubles := s.troubles()
	for {
		select {
		case now := <-ticker.C:
			for _, t := range troubles {
				t.look(now, s.log)
			}
			posted := time.Now()
			s.postAll(func(l *loop, _ *peer) { l.meter.lags.AddTime(time.Since(posted)) })
		case <-s.stop:
			return
		}
	}
}
