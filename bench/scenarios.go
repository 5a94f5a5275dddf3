package main

import (
	"context"
	"fmt"
	"regexp"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// scenario is one declared load.
type scenario struct {
	name, title, about string

	// measure is one round on one server. Without it the scenario is a closed loop: senders keep a window of messages on
	// the way, and all servers are measured in turns (traffic.go).
	measure func(s *session, ctx context.Context) error

	shape   load.Shape
	rate    float64 // messages per second (open loops), or peers that leave
	primary []string
	pings   bool // heartbeats are measured (idle)
	loops   bool // compares relaygate with one event loop and with two, not servers
	all     bool // measured on every server, those too that are left out elsewhere to save time
	quick   bool // part of -quick
}

// small is the size of an ordinary message: a JSON text of a few fields.
const small = 128

var (
	cost = []string{report.CPUPerDelivery}
	both = []string{report.CPUPerDelivery, report.Deliveries}
	tens = load.Shape{Rooms: 100, Peers: 10, Senders: 1, Window: 1, Size: small}
)

const oneLoop = "relaygate with one event loop on one CPU, and with two on two CPUs; without a third and fourth CPU the load shares them, so that deliveries per second say less than CPU per delivery; ratios are to one loop"

var scenarios = []*scenario{
	{
		name: "fanout-10", title: "rooms of 10", primary: cost, all: true, quick: true, shape: tens,
		about: "100 rooms of 10; one sender per room, one message in flight",
	},
	{
		name: "fanout-1000", title: "rooms of 1,000", primary: cost,
		about: "2 rooms of 1,000; one sender per room, two messages in flight",
		shape: load.Shape{Rooms: 2, Peers: 1000, Senders: 1, Window: 2, Size: small},
	},
	{
		name: "chat", title: "rooms of 100, 16 busy senders", primary: cost, all: true, quick: true,
		about: "4 rooms of 100; 16 busy senders per room, four messages in flight each",
		shape: load.Shape{Rooms: 4, Peers: 100, Senders: 16, Window: 4, Size: small},
	},
	{
		name: "direct", title: "direct messages", primary: cost, all: true, quick: true,
		about: "50 rooms of 10; everyone sends to one other by targetPeerId, one message in flight each",
		shape: load.Shape{Rooms: 50, Peers: 10, Senders: 10, Window: 1, Size: small, Direct: true},
	},
	{
		name: "pair", title: "rooms of 2", primary: cost,
		about: "200 rooms of 2; both send, one message in flight each",
		shape: load.Shape{Rooms: 200, Peers: 2, Senders: 2, Window: 1, Size: small},
	},
	{
		name: "star", title: "many to one and back", primary: cost,
		about: "4 rooms of 100; 99 send to the hub by targetPeerId, which answers each",
		shape: load.Shape{Rooms: 4, Peers: 100, Senders: 99, Window: 1, Size: small, Star: true},
	},
	{
		name: "big-16k", title: "rooms of 10, 16 KiB", primary: cost,
		about: "20 rooms of 10; one sender per room, one binary message of 16 KiB in flight",
		shape: load.Shape{Rooms: 20, Peers: 10, Senders: 1, Window: 1, Size: 16 << 10, Binary: true},
	},
	{
		name: "big-256k", title: "rooms of 10, 256 KiB", primary: cost,
		about: "5 rooms of 10; one sender per room, one binary message of 256 KiB in flight",
		shape: load.Shape{Rooms: 5, Peers: 10, Senders: 1, Window: 1, Size: 256 << 10, Binary: true},
	},
	{
		name: "churn", title: "rooms of 10, peers come and go", primary: cost, rate: 1000,
		about: "50 rooms of 10 as in rooms of 10, while 1,000 peers per second leave and come back (2 of each room take turns); their handshakes are in the CPU time",
		shape: load.Shape{Rooms: 50, Peers: 10, Loose: 2, Senders: 1, Window: 1, Size: small},
	},
	{
		name: "calm", title: "rooms of 10, calm", primary: []string{report.CPUPerDelivery, report.P99}, quick: true,
		measure: (*session).steady, shape: tens, rate: 1500,
		about: "100 rooms of 10; 1,500 messages per second in all, evenly spaced, which are 13,500 deliveries per second: a server that is far from its limit",
	},
	{
		name: "latency", title: "rooms of 10, busy", primary: []string{report.P99}, measure: (*session).steady, shape: tens, rate: 6000,
		about: "the same at 6,000 messages per second, 54,000 deliveries: the latency of a server that has to work",
	},
	{
		name: "connect", title: "handshakes", primary: []string{report.HandshakesPerCPU}, measure: (*session).connects, quick: true,
		about: "3,000 handshakes into rooms of 10 as fast as they come, 128 under way",
		shape: load.Shape{Rooms: 300, Peers: 10, Senders: 1, Window: 1, Size: small},
	},
	{
		name: "idle", title: "silent peers, rooms of 10", primary: []string{report.ResidentPerPeer, report.Empty}, measure: (*session).idle, all: true, pings: true,
		about: "silent peers in rooms of 10; memory with none, half and all of them; heartbeats answered; at the end a broadcast in every room",
		shape: load.Shape{Peers: 10, Senders: 1, Window: 1, Size: small},
	},
	{
		name: "idle-pairs", title: "silent peers, rooms of 2", primary: []string{report.ResidentPerPeer}, measure: (*session).idle,
		about: "the same in rooms of 2, without a measurement of heartbeats, which cost the same",
		shape: load.Shape{Peers: 2, Senders: 1, Window: 1, Size: small},
	},
	{
		name: "loops-rooms", title: "two event loops, rooms of 10", primary: both, loops: true, shape: tens,
		about: "100 rooms of 10; " + oneLoop,
	},
	{
		name: "loops-giant", title: "two event loops, one room of 2,000", primary: both, loops: true,
		about: "1 room of 2,000; two senders, two messages in flight each; " + oneLoop,
		shape: load.Shape{Rooms: 1, Peers: 2000, Senders: 2, Window: 2, Size: small},
	},
}

// pick returns the scenarios whose names match, in declared order.
func pick(pattern string, quick bool) (out []*scenario, err error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("-run: %w", err)
	}
	for _, s := range scenarios {
		if re.MatchString(s.name) && (s.quick || !quick) {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("-run %q: no scenario has such a name, or -quick leaves it out (-h lists them)", pattern)
	}
	return out, nil
}
