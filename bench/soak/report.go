package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// What is promised beside the ledger.
const (
	latencyFactor = 10 // a phase's 99th percentile, in calm ones
	calmAtMost    = 50 * time.Millisecond
	memorySlack   = 24 << 20 // bytes that a relay may hold above its calm size after a phase
	memoryWithin  = 40 * time.Second
)

// judge holds a phase's latency against the calm one's. In a short run a handful of messages make the 99th percentile,
// which is then told in the table alone.
func (s *soak) judge(p *phase) {
	if s.length <= short {
		return
	}
	if len(s.phases) == 0 {
		s.promise(p.p99 <= calmAtMost, "%s: 99th percentile %s, at most %v: above, the machine is too busy to judge latencies", p.name, ms(p.p99), calmAtMost)
		return
	}
	calm := s.phases[0].p99
	s.promise(p.p99 <= latencyFactor*calm, "%s: 99th percentile %s, at most %d times the calm one's %s", p.name, ms(p.p99), latencyFactor, ms(calm))
}

// phase is a row of the table.
type phase struct {
	name, done      string
	took            time.Duration
	sent, delivered uint64
	p50, p99        time.Duration
	lag             time.Duration // 99th percentile of how late the load itself was with sending
	resident        [2]int        // of the relays, after it
	others          float64       // cores that processes of others used meanwhile
}

// phase runs act for at least the given time, and holds what was seen against what is promised.
func (s *soak) phase(name string, least time.Duration, act func() (string, error)) error {
	w, began := s.crowd, time.Now()
	fmt.Fprintf(os.Stderr, "soak: %s after %v\n", name, time.Since(s.began).Round(time.Second))
	w.do(func() { w.latency.Reset(); w.lag.Reset(); w.sent, w.delivered = 0, 0 })
	busy := s.othersCPU()
	done, err := act()
	if err != nil {
		return err
	}
	time.Sleep(time.Until(began.Add(least)))
	p := phase{name: name, done: done, took: time.Since(began)}
	p.others = max(0, (s.othersCPU()-busy).Seconds()/p.took.Seconds())
	w.do(func() {
		p.sent, p.delivered = w.sent, w.delivered
		p.p50 = time.Duration(w.latency.ValueAtQuantile(50))
		p.p99 = time.Duration(w.latency.ValueAtQuantile(99))
		p.lag = time.Duration(w.lag.ValueAtQuantile(99))
	})
	s.settle(name)
	p.resident = s.resident()
	s.judge(&p)
	if len(s.phases) > 0 {
		p.resident = s.awaitFlat(name, s.phases[0].resident)
	}
	s.phases = append(s.phases, p)
	return nil
}

// settle pauses the traffic until nothing is on its way, and looks whether all has come.
func (s *soak) settle(name string) {
	w := s.crowd
	w.do(func() { w.paused = true })
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && ask(w.fleet, w.led.outstanding) > 0; {
		time.Sleep(20 * time.Millisecond)
	}
	var wrong uint64
	var surprises int64
	w.do(func() {
		w.led.settle()
		wrong = w.led.wrongs()
		for _, n := range w.surprises {
			surprises += n
		}
		w.paused = false
	})
	s.promise(wrong == 0, "%s: the healthy lose nothing: %d messages lost, doubled or strange so far", name, wrong)
	s.promise(surprises == 0, "%s: clients see what is promised: %d saw something else so far", name, surprises)
}

func (s *soak) resident() (bytes [2]int) {
	for i, r := range s.relays {
		bytes[i] = r.resident()
	}
	return bytes
}

// awaitFlat waits until each relay is as small as it was in the calm phase.
func (s *soak) awaitFlat(name string, calm [2]int) (now [2]int) {
	flat := func() bool {
		now = s.resident()
		return now[0] <= calm[0]+memorySlack && now[1] <= calm[1]+memorySlack
	}
	began := time.Now()
	for !flat() && time.Since(began) < memoryWithin {
		time.Sleep(100 * time.Millisecond)
	}
	s.promise(flat(), "%s: memory is flat: %d and %d MiB, at most %d MiB above the calm %d and %d",
		name, now[0]>>20, now[1]>>20, memorySlack>>20, calm[0]>>20, calm[1]>>20)
	return now
}

// promise notes a promise, and whether it was kept.
func (s *soak) promise(kept bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !kept {
		s.broken = append(s.broken, text)
		text = "BROKEN: " + text
	}
	s.promises = append(s.promises, text)
}

// compare holds the relays' counters against what the load did and saw.
func (s *soak) compare() {
	counted, relays := s.crowd.counted(), map[string]int64{}
	for _, r := range s.all {
		r.addCounters(relays)
	}
	var closed, connections int64
	for name, n := range relays {
		if strings.HasPrefix(name, "closed.") {
			closed += n
		}
	}
	for name, n := range counted {
		if strings.HasPrefix(name, "closed.") {
			connections += n
		}
	}
	s.promise(relays["accepted"] == closed, "counters: %d connections accepted, %d closed", relays["accepted"], closed)

	// What is left are the balancers' health checks: one per second, balancer and relay, which end as plain requests do.
	checks := relays["accepted"] - connections
	want := time.Since(s.began).Seconds() * float64(2*len(s.balancers))
	s.promise(float64(checks) > 0.4*want && float64(checks) < 1.2*want, "counters: %d health checks, some %.0f expected", checks, want)
	relays["closed.http"] -= checks
	delete(relays, "accepted")

	slack := ask(s.crowd.fleet, func() int64 { return s.crowd.unanswered })
	names := map[string]bool{}
	for _, of := range []map[string]int64{counted, relays} {
		for name, n := range of {
			names[name] = names[name] || n != 0
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !names[name] {
			continue
		}
		c, r := counted[name], relays[name]
		s.promise(r >= c && r <= c+slack, "counters: %-28s %8d by the load, %8d by the relays", name, c, r)
	}
	if slack > 0 {
		s.promise(true, "counters: %d handshakes ended without an answer and may be among the relays' counters", slack)
	}
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1e3) }

func (s *soak) report(out io.Writer) {
	fmt.Fprintf(out, "%d peers, %.0f messages per second, %d balancers, %v\n\n", s.peers, s.rate, len(s.balancers), time.Since(s.began).Round(time.Second))
	fmt.Fprintf(out, "%-14s %7s %9s %10s %10s %10s %10s %11s %12s  %s\n", "phase", "time", "sent", "delivered", "p50", "p99", "load late", "RSS a/b MiB", "others' cores", "what was done")
	for _, p := range s.phases {
		fmt.Fprintf(out, "%-14s %5.0f s %9d %10d %10s %10s %10s %5d/%-5d %12.2f   %s\n", p.name, p.took.Seconds(), p.sent, p.delivered,
			ms(p.p50), ms(p.p99), ms(p.lag), p.resident[0]>>20, p.resident[1]>>20, p.others, p.done)
	}
	fmt.Fprintln(out)
	for _, line := range s.promises {
		fmt.Fprintln(out, line)
	}
	if s.crowd != nil {
		s.crowd.do(func() {
			for _, e := range append(s.crowd.led.examples, s.crowd.examples...) {
				fmt.Fprintln(out, "example:", e)
			}
		})
	}
	if len(s.broken) > 0 {
		fmt.Fprintf(out, "%d promises broken\n", len(s.broken))
	}
}
