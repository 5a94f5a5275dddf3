package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// latest is how long messages that were due in a span may take to be in its histogram, where traffic goes on.
const latest = 200 * time.Millisecond

// percentile is in milliseconds; NaN of nothing.
func percentile(h *hdrhistogram.Histogram, p float64) float64 {
	if h.TotalCount() == 0 {
		return math.NaN()
	}
	return float64(h.ValueAtPercentile(p)) / 1e6
}

// lateShare is how much of the 99th percentile may be the load's own, before a round is marked.
const lateShare = 0.25

// openLoop measures a span of traffic at a fixed rate that has begun, and records latency and cost. traffic goes on.
func (s *session) openLoop(ctx context.Context, r *report.Round, d time.Duration) error {
	var t totals
	if err := s.span(ctx, d, &t); err != nil {
		return err
	}
	// The histogram is read when the last message is in: those under way at the end are the slowest ones.
	if err := pause(ctx, latest); err != nil {
		return err
	}
	s.measured(r, &t)
	latency, lag := s.fleet.Histograms()
	for name, p := range map[string]float64{report.P50: 50, report.P99: 99, report.P999: 99.9} {
		r.Metrics[name] = percentile(latency, p)
	}
	r.Metrics[report.Lag] = percentile(lag, 99)
	// In an open loop nobody needs to be at a limit. But lateness of the load's own counts as the relay's.
	r.LoadBound = r.Metrics[report.Lag] > lateShare*r.Metrics[report.P99]
	return nil
}

// calm is a fixed, low rate.
func (s *session) calm(ctx context.Context, sc *scenario, r *report.Round) error {
	if err := s.connect(ctx, sc.shape); err != nil {
		return err
	}
	s.fleet.Begin(sc.rate, 0)
	if err := pause(ctx, s.b.opt.warmup); err != nil {
		return err
	}
	if err := s.openLoop(ctx, r, sc.length(s.b.opt)); err != nil {
		return err
	}
	if err := s.halt(ctx, r); err != nil {
		return err
	}
	return s.countTraffic(ctx, sc, r, s.b.opt.duration/2)
}

// shares of the reference's saturation at which latency is measured, in rising order; half is the one that is compared.
var shares = []float64{0.25, 0.5, 0.75, 1}

const half = 0.5

// calibrate measures the rate of messages that saturates a server in a closed loop: not relaygate's own, if there is
// another. It is done once in a run, and is the same for all servers.
func (b *bench) calibrate(ctx context.Context, sc *scenario) error {
	if b.saturation > 0 || b.uncalibrated != nil {
		return b.uncalibrated
	}
	for i := range b.usable {
		of := b.usable[(i+1)%len(b.usable)]
		rounds, best := 3, 0.0
		for range rounds {
			r := b.closedRound(ctx, sc, []*server{of}, 0)[0]
			if r.Failed() {
				b.uncalibrated = fmt.Errorf("no server could be saturated to set the rates: %s", r.Fault())
				best = 0
				break
			}
			best = max(best, r.Metrics[report.Deliveries]/float64(sc.shape.Peers-1))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if best > 0 {
			b.saturation, b.uncalibrated = best, nil
			b.note("Rates are shares of %.0f messages per second, the best of %d rounds in which %s was saturated in a closed loop just before.", best, rounds, of.name)
			return nil
		}
	}
	return b.uncalibrated
}

// latency offers rising rates, from intended send times, until the server no longer keeps up; half of the reference's,
// which is compared, in any case.
func (s *session) latency(ctx context.Context, sc *scenario, r *report.Round) error {
	if s.b.saturation == 0 {
		return errors.New("no rates") // run.go has calibrated
	}
	if err := s.connect(ctx, sc.shape); err != nil {
		return err
	}
	for _, share := range shares {
		kept, err := s.offer(ctx, sc, r, share)
		if err != nil {
			return err
		}
		if !kept && share < 1 {
			s.b.note("%s did not keep up with %.0f %% of that in some round.", s.name, 100*share)
		}
		if !kept && share >= half {
			break
		}
	}
	return nil
}

// offer measures one rate and tells whether the server kept it. Only the figures at half are the round's.
func (s *session) offer(ctx context.Context, sc *scenario, r *report.Round, share float64) (bool, error) {
	rate := share * s.b.saturation
	offered := rate * float64(sc.shape.Peers-1)
	length := s.b.opt.duration
	x := report.NewRound()
	if share == half {
		x, length = r, 2*length // a tail needs samples
	}
	s.fleet.Begin(rate, 0)
	if err := pause(ctx, s.b.opt.warmup); err != nil {
		return false, err
	}
	if err := s.openLoop(ctx, x, length); err != nil {
		return false, err
	}
	delivered := x.Metrics[report.Deliveries]
	delete(x.Metrics, report.Deliveries)
	if err := s.halt(ctx, r); err != nil {
		return false, err
	}
	kept := delivered > 0.95*offered
	if v := &r.Violations; !kept && v.Total() == v.Counts[load.Disconnected] {
		// Closing peers that fall behind is what a relay should do when it is asked for more than it can. Losing a message
		// of one that stays connected is not.
		*v = load.Violations{}
	}
	if kept {
		r.Metrics[report.Sustained] = delivered
	}
	return kept, nil
}

// beside compares what the others feel before and while one peer of each room does not read.
func (s *session) beside(ctx context.Context, sc *scenario, r *report.Round) error {
	o := s.b.opt
	if err := s.connect(ctx, sc.shape); err != nil {
		return err
	}
	s.fleet.Begin(sc.rate, 0)
	if err := pause(ctx, o.warmup); err != nil {
		return err
	}
	alone := report.NewRound()
	if err := s.openLoop(ctx, alone, o.duration); err != nil {
		return err
	}
	before := resident(s.pid)
	s.fleet.Stick(true)
	if err := s.openLoop(ctx, r, sc.length(o)); err != nil {
		return err
	}
	r.Metrics[report.P99Alone] = alone.Metrics[report.P99]
	if before > 0 {
		r.Metrics[report.StuckGrowth] = (resident(s.pid) - before) / (1 << 20)
	}
	firm := float64(sc.shape.Peers - sc.shape.Loose - 1)
	r.Metrics[report.RateKept] = min(1, r.Metrics[report.Deliveries]/(sc.rate*firm))
	// What was delivered to the stuck before they were stuck is in these; they would compare nothing.
	delete(r.Metrics, report.Deliveries)
	delete(r.Metrics, report.CPUPerDelivery)
	s.fleet.Stick(false) // reading again shows whether the relay had closed them
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return err
	}
	err := s.halt(ctx, r)
	r.Metrics[report.StuckClosed] = float64(s.fleet.Mark(0, load.Within).Dropped) / float64(sc.shape.Rooms*sc.shape.Loose)
	return err
}
