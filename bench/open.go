package main

import (
	"context"
	"math"
	"time"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// latest is how long messages that were due in a span may take to be in its histogram, where traffic goes on.
const latest = 200 * time.Millisecond

// lateShare is how much of the 99th percentile may be the load's own, before a round is marked.
const lateShare = 0.25

// rated measures a span of traffic at a fixed rate that has begun, and records latency and cost. Traffic goes on.
func (s *session) rated(ctx context.Context, sc *scenario, r *report.Round, d time.Duration) error {
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
	r.Metrics[report.P50], r.Metrics[report.P99], r.Metrics[report.Lag] = math.NaN(), math.NaN(), math.NaN() // of nothing
	if latency.TotalCount() > 0 {
		r.Metrics[report.P50] = float64(latency.ValueAtPercentile(50)) / 1e6
		r.Metrics[report.P99] = float64(latency.ValueAtPercentile(99)) / 1e6
		r.Metrics[report.Lag] = float64(lag.ValueAtPercentile(99)) / 1e6
	}
	firm := float64(sc.shape.Peers - sc.shape.Loose - 1)
	r.Metrics[report.RateKept] = min(1, r.Metrics[report.Deliveries]/(sc.rate*firm))
	// In an open loop nobody needs to be at a limit. But lateness of the load's own counts as the relay's.
	r.LoadBound = r.Metrics[report.Lag] > lateShare*r.Metrics[report.P99]
	return nil
}

// steady is a fixed rate.
func (s *session) steady(ctx context.Context, sc *scenario, r *report.Round) error {
	if err := s.offer(ctx, sc); err != nil {
		return err
	}
	if err := s.rated(ctx, sc, r, 2*s.b.opt.duration); err != nil { // a tail needs samples
		return err
	}
	if err := s.halt(ctx, r); err != nil {
		return err
	}
	return s.countTraffic(ctx, sc, r, s.b.opt.duration/2)
}

// offer connects everybody and begins the traffic.
func (s *session) offer(ctx context.Context, sc *scenario) error {
	if err := s.connect(ctx, sc.shape); err != nil {
		return err
	}
	s.fleet.Begin(sc.rate, 0)
	return pause(ctx, s.b.opt.warmup)
}

// beside compares what the others feel before and while one peer of each room does not read.
func (s *session) beside(ctx context.Context, sc *scenario, r *report.Round) error {
	o := s.b.opt
	if err := s.offer(ctx, sc); err != nil {
		return err
	}
	alone := report.NewRound()
	if err := s.rated(ctx, sc, alone, o.duration); err != nil {
		return err
	}
	before := resident(s.pid)
	s.fleet.Stick(true)
	if err := s.rated(ctx, sc, r, 4*o.duration); err != nil { // long enough for a queue of a few MiB to overflow
		return err
	}
	r.Metrics[report.P99Alone] = alone.Metrics[report.P99]
	if before > 0 {
		r.Metrics[report.StuckGrowth] = (resident(s.pid) - before) / (1 << 20)
	}
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
