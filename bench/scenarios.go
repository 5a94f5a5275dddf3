package main

import (
	"fmt"
	"regexp"
	"time"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// The kinds of scenario, each with its own way to measure.
const (
	steady  = "steady"  // closed loop: senders keep a window of messages on the way
	latency = "latency" // open loop at rising rates
	slow    = "slow"    // open loop, one peer per room stops reading
	connect = "connect" // handshakes
	idle    = "idle"    // silence
)

// scenario is one declared load. Zero rounds mean the flag's.
type scenario struct {
	name  string
	about string
	kind  string
	shape load.Shape
	rate  float64 // messages per second (slow)
	churn float64 // peers that leave and return, per second

	// duration is the length of the part that is compared, in multiples of the flag's; zero is one.
	duration float64
	rounds   int
	primary  string // the metric its verdict is about
	quick    bool   // part of -quick
}

// length is how long the part of a scenario that is compared takes.
func (o *options) length(sc scenario) time.Duration {
	if sc.duration == 0 {
		return o.duration
	}
	return time.Duration(sc.duration * float64(o.duration))
}

// small is the size of an ordinary message: a JSON text of a few fields.
const small = 128

var scenarios = []scenario{
	{
		name: "fanout-10", kind: steady, primary: report.CPUPerDelivery, quick: true,
		about: "100 rooms of 10; one sender per room, one message in flight",
		shape: load.Shape{Rooms: 100, Peers: 10, Senders: 1, Window: 1, Size: small},
	},
	{
		name: "fanout-1000", kind: steady, primary: report.CPUPerDelivery, quick: true,
		about: "2 rooms of 1,000; one sender per room, two messages in flight",
		shape: load.Shape{Rooms: 2, Peers: 1000, Senders: 1, Window: 2, Size: small},
	},
	{
		name: "chat", kind: steady, primary: report.CPUPerDelivery, quick: true,
		about: "4 rooms of 100; 16 busy senders per room, four messages in flight each",
		shape: load.Shape{Rooms: 4, Peers: 100, Senders: 16, Window: 4, Size: small},
	},
	{
		name: "direct", kind: steady, primary: report.CPUPerDelivery, quick: true,
		about: "50 rooms of 10; everyone sends to one other by targetPeerId, one message in flight each",
		shape: load.Shape{Rooms: 50, Peers: 10, Senders: 10, Window: 1, Size: small, Pattern: load.Direct},
	},
	{
		name: "pair", kind: steady, primary: report.CPUPerDelivery, quick: true,
		about: "200 rooms of 2; both send, one message in flight each",
		shape: load.Shape{Rooms: 200, Peers: 2, Senders: 2, Window: 1, Size: small},
	},
	{
		name: "star", kind: steady, primary: report.CPUPerDelivery, quick: true,
		about: "4 rooms of 100; 99 send to the hub by targetPeerId, which answers each",
		shape: load.Shape{Rooms: 4, Peers: 100, Senders: 1, Window: 1, Size: small, Pattern: load.Star},
	},
	{
		name: "big-16k", kind: steady, primary: report.CPUPerDelivery,
		about: "20 rooms of 10; one sender per room, one binary message of 16 KiB in flight",
		shape: load.Shape{Rooms: 20, Peers: 10, Senders: 1, Window: 1, Size: 16 << 10, Binary: true},
	},
	{
		name: "big-256k", kind: steady, primary: report.CPUPerDelivery,
		about: "5 rooms of 10; one sender per room, one binary message of 256 KiB in flight",
		shape: load.Shape{Rooms: 5, Peers: 10, Senders: 1, Window: 1, Size: 256 << 10, Binary: true},
	},
	{
		name: "churn", kind: steady, primary: report.CPUPerDelivery, churn: 1000,
		about: "50 rooms of 10 as in fanout-10, while 1,000 peers per second leave and come back (2 of each room take turns)",
		shape: load.Shape{Rooms: 50, Peers: 10, Loose: 2, Senders: 1, Window: 1, Size: small},
	},
	{
		name: "latency", kind: latency, primary: report.P99Half, duration: 2, rounds: 5, quick: true, // a tail needs samples
		about: "100 rooms of 10; evenly spaced messages at fixed rates, timed from when each should have been sent",
		shape: load.Shape{Rooms: 100, Peers: 10, Senders: 1, Window: 2, Size: small},
	},
	{
		name: "slow", kind: slow, primary: report.P99Stuck, rate: 800, rounds: 2,
		duration: 4, // long enough for a queue of a few MiB to overflow
		about:    "2 rooms of 10, 400 messages of 16 KiB per second in each; one peer per room stops reading",
		shape:    load.Shape{Rooms: 2, Peers: 10, Loose: 1, Senders: 1, Window: 1, Size: 16 << 10, Binary: true},
	},
	{
		name: "connect", kind: connect, primary: report.HandshakesPerCPU, quick: true,
		about: "3,000 handshakes as fast as they come, 128 under way; then all connections are reset and come back",
		shape: load.Shape{Rooms: 300, Peers: 10, Senders: 1, Window: 1, Size: small},
	},
	{
		name: "idle", kind: idle, primary: report.ResidentPerPeer, rounds: 2,
		about: "silent peers in rooms of 10 at three sizes; heartbeats answered; at the end one broadcast per room",
		shape: load.Shape{Peers: 10, Senders: 1, Window: 1, Size: small},
	},
}

// pick returns the scenarios whose names match, in declared order.
func pick(pattern string, quick bool) ([]scenario, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("-run: %w", err)
	}
	var out, slow []scenario
	for _, s := range scenarios {
		switch {
		case !re.MatchString(s.name):
		case quick && !s.quick:
			slow = append(slow, s)
		default:
			out = append(out, s)
		}
	}
	if len(out) == 0 && len(slow) > 0 {
		return nil, fmt.Errorf("-run %q: %s is left out with -quick", pattern, slow[0].name)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("-run %q: no scenario has such a name (-list shows them)", pattern)
	}
	return out, nil
}
