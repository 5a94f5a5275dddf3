package main

import (
	"context"

	"relaygate/bench/report"
)

// lateShare is how much of the 99th percentile may be the load's own, before a round is marked.
const lateShare = 0.25

// steady is a fixed rate of messages.
func (s *session) steady(ctx context.Context, sc *scenario, r *report.Round) error {
	if err := s.connect(ctx, sc.shape); err != nil {
		return err
	}
	s.fleet.Begin(sc.rate)
	if err := pause(ctx, s.b.opt.warmup); err != nil {
		return err
	}
	var t totals // of twice the time, since a tail needs samples
	if err := s.span(ctx, 2*s.b.opt.duration, &t); err != nil {
		return err
	}
	s.measured(r, &t)
	// The histograms are read when the last message is in: those under way at the end are the slowest ones.
	if err := s.halt(ctx, r); err != nil {
		return err
	}
	latency, lag := s.fleet.Histograms()
	if latency.TotalCount() > 0 {
		r.Metrics[report.P50] = float64(latency.ValueAtPercentile(50)) / 1e6
		r.Metrics[report.P99] = float64(latency.ValueAtPercentile(99)) / 1e6
		r.Metrics[report.Lag] = float64(lag.ValueAtPercentile(99)) / 1e6
	}
	r.Metrics[report.RateKept] = min(1, r.Metrics[report.Deliveries]/(sc.rate*float64(sc.shape.Peers-1)))
	// In an open loop nobody needs to be at a limit. But lateness of the load's own counts as the relay's.
	r.LoadBound = r.Metrics[report.Lag] > lateShare*r.Metrics[report.P99]
	return s.countTraffic(ctx, sc, r, s.b.opt.duration/2)
}
