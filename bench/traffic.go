package main

import (
	"context"
	"time"

	"relaygate/bench/report"
)

// A round of a closed loop is made of short turns: all servers of the round are up at the same time, those whose turn it
// is not are idle. On a virtual machine the same server costs a quarter more or less from one tenth of a second to the
// next; turns spread that over all of them. Two copies of one server differ by up to 10 % in a round this way, by up to
// 40 % when each is measured in one piece.
const (
	turnLength = 40 * time.Millisecond
	turnWarmup = 12 * time.Millisecond // the first turn has the flag's
)

// closedRound is one round of a closed loop on all servers: what a delivery costs when the server has as much to do as its
// senders allow. The result is in the order of servers; first says who begins.
// After the turns that are timed, each server has one in which its system calls are counted.
func (b *bench) closedRound(ctx context.Context, sc *scenario, servers []*server, first int) (out []*report.Round) {
	var sessions []*session
	for _, srv := range servers {
		s := b.begin(ctx, sc, srv)
		s.try(func() error { return s.connect(ctx, sc.shape) })
		sessions = append(sessions, s)
		out = append(out, s.round)
	}
	turns := max(int(b.opt.duration/turnLength), 1)
	for n := range turns {
		warm, length := min(turnWarmup, b.opt.warmup), b.opt.duration/time.Duration(turns)
		if n == 0 {
			warm = b.opt.warmup
		}
		for i := range sessions {
			s := sessions[(i+first+n)%len(sessions)]
			s.try(func() error {
				if err := s.span(ctx, warm, length); err != nil {
					return err
				}
				return s.halt(ctx)
			})
		}
	}
	for _, s := range sessions {
		s.try(s.conclude)
		s.try(func() error { return s.countTraffic(ctx, 2*turnLength) })
		s.end()
	}
	return out
}

// lateShare is how much of the 99th percentile may be the load's own, before a round is marked.
const lateShare = 0.25

// steady is a fixed rate of messages.
func (s *session) steady(ctx context.Context) error {
	if err := s.connect(ctx, s.sc.shape); err != nil {
		return err
	}
	// Twice the time, since a tail needs samples.
	if err := s.span(ctx, s.b.opt.warmup, 2*s.b.opt.duration); err != nil {
		return err
	}
	// The histograms are read when the last message is in: those under way at the end are the slowest ones.
	if err := s.halt(ctx); err != nil {
		return err
	}
	if err := s.conclude(); err != nil {
		return err
	}
	m := s.round.Metrics
	latency, lag := s.fleet.Histograms()
	if latency.TotalCount() > 0 {
		m[report.P50] = float64(latency.ValueAtPercentile(50)) / 1e6
		m[report.P99] = float64(latency.ValueAtPercentile(99)) / 1e6
		m[report.Lag] = float64(lag.ValueAtPercentile(99)) / 1e6
	}
	m[report.RateKept] = min(1, m[report.Deliveries]/(s.sc.rate*float64(s.sc.shape.Peers-1)))
	// In an open loop nobody needs to be at a limit. But lateness of the load's own counts as the relay's.
	s.round.LoadBound = m[report.Lag] > lateShare*m[report.P99]
	return s.countTraffic(ctx, s.b.opt.duration/2)
}
