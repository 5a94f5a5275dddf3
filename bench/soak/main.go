// Command soak shows that relaygate keeps its promises while everything goes wrong at once.
//
// It starts two relays behind two HAProxy processes (deploy/haproxy.cfg, PROXY protocol version 2) and lets a crowd of
// peers talk. Then, in one run: peers come and go, some do not read, others send garbage or stop in the middle of their
// handshake, a third is cut off and comes back, both relays are replaced on their ports, one is taken out, and the last
// one stops. It ends with a table, and with status 1 if a promise was broken:
//
//   - no healthy peer loses a message, gets one twice, or is disconnected (ledger.go),
//   - the 99th percentile of a phase's latency is at most ten times that of the calm one (not judged up to a minute),
//   - memory is flat: a relay's resident size after a phase is what it was in the calm one,
//   - the relays' own counters are what the load did and saw.
//
// The walk: main → soak.run, phase by phase (plan.go) → crowd and its faults on one thread (fleet.go, conn.go, crowd.go,
// faults.go) → report (report.go).
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.relay, "relay", "bin/relaygate", "the relay's binary")
	flag.StringVar(&o.haproxy, "haproxy", "haproxy", "HAProxy's binary")
	flag.StringVar(&o.config, "config", "deploy/haproxy.cfg", "its configuration")
	flag.IntVar(&o.peers, "peers", 15000, "healthy peers")
	flag.DurationVar(&o.length, "length", 10*time.Minute, "of the whole run, about")
	flag.Float64Var(&o.rate, "rate", 0, "messages per second in all; 0: one for each 30 peers")
	flag.Parse()
	if flag.NArg() > 0 || o.peers < 100 || o.length < 20*time.Second {
		fmt.Fprintln(os.Stderr, "soak: no arguments, at least 100 peers and 20 s; -help lists what there is")
		os.Exit(2)
	}
	if o.rate == 0 {
		o.rate = float64(o.peers) / 30
	}
	s := &soak{options: o}
	err := s.run()
	s.kill()
	s.report(os.Stdout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "soak: %v\n", err)
	}
	if err != nil || len(s.broken) > 0 {
		os.Exit(1)
	}
}
