package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// shares of the reference server's saturation at which latency is measured, in rising order; half is the one compared.
var shares = []float64{0.25, 0.5, 0.75, 1, 1.3}

const half = 0.5

// reference is the server whose saturation sets the rates: the same for all, and not relaygate's own choice.
const reference = "gws"

// calibrate measures the highest closed-loop rate of the reference (without it: of the first server), in messages per
// second, unless an earlier round did.
func (b *bench) calibrate(ctx context.Context, sc scenario) error {
	if b.saturation > 0 {
		return nil
	}
	of := b.servers[0]
	for _, s := range b.servers {
		if s.name == reference && b.usable(s) {
			of = s
		}
	}
	closed := sc
	closed.churn = 0
	var rates []float64
	for range 3 {
		r := b.measureSteady(ctx, closed, []server{of}, 0)[0]
		if r.Error != "" {
			return fmt.Errorf("saturation of %s: %s", of.name, r.Error)
		}
		rates = append(rates, r.Metrics[report.Deliveries]/float64(sc.shape.Peers-1))
	}
	b.saturation = report.Median(rates)
	b.note(fmt.Sprintf("Rates are shares of %.0f messages per second (%.0f deliveries per second), at which %s was saturated in a closed loop just before (median of 3).",
		b.saturation, b.saturation*float64(sc.shape.Peers-1), of.name))
	return nil
}

// measureLatency offers fixed rates, from intended send times, until the server no longer keeps up. Rounds after the
// first measure only the rate that is compared: a tail needs repetition more than a curve does.
func (b *bench) measureLatency(ctx context.Context, sc scenario, srv server, round int) (r report.Round, err error) {
	r.Metrics, r.Series = map[string]float64{}, map[string][]report.Point{}
	if err := b.calibrate(ctx, sc); err != nil {
		return r, err
	}
	s, err := b.begin(ctx, srv, sc.shape.Conns(), sc.shape.Rooms)
	if err != nil {
		return r, err
	}
	defer s.end()
	defer func() { err = s.t.fault(err) }()
	if err = s.connect(ctx, sc.shape); err != nil {
		return r, err
	}
	for _, share := range shares {
		if round > 0 && share != half {
			continue
		}
		kept, err := s.step(ctx, &r, sc, share)
		if err != nil {
			return r, err
		}
		if !kept {
			break
		}
	}
	return r, nil
}

// step measures one rate and tells whether the server kept it.
func (s *session) step(ctx context.Context, r *report.Round, sc scenario, share float64) (bool, error) {
	rate := share * s.b.saturation
	copies := float64(sc.shape.Peers - 1)
	length := s.b.opt.duration
	if share == half {
		length *= 2 // the one whose tail is compared needs the most samples
	}
	start := load.Command{Do: load.DoStart, Rate: rate / float64(len(s.fleet.loaders))}
	if _, err := s.fleet.all(ctx, s.b.opt.timeout, start); err != nil {
		return false, err
	}
	if err := pause(ctx, s.b.opt.warmup); err != nil {
		return false, err
	}
	from, err := s.look(ctx, true)
	if err != nil {
		return false, err
	}
	if err := pause(ctx, length); err != nil {
		return false, err
	}
	to, err := s.look(ctx, false)
	if err != nil {
		return false, err
	}
	seconds := float64(to.marks.Wall-from.marks.Wall) / 1e9
	delivered := float64(to.marks.Delivered-from.marks.Delivered) / seconds
	kept := delivered > 0.95*rate*copies
	point := func(curve string, y float64) {
		if !math.IsNaN(y) {
			r.Series[curve] = append(r.Series[curve], report.Point{X: rate * copies, Y: y})
		}
	}
	point(report.ThroughputCurve, delivered)
	point(report.P99Curve, report.Percentile(to.marks.Latency, 99))
	if kept {
		r.Metrics[report.Sustained] = delivered
	}
	if share == half {
		s.atHalf(r, from, to)
	}
	before := r.Violations
	if err := s.halt(ctx, r); err != nil {
		return false, err
	}
	if !kept {
		// Closing peers that fall behind is what a relay should do when it is asked for more than it can; only in that
		// last step, and the other checks still hold.
		r.Violations.Lost, r.Violations.Disconnected, r.Violations.Examples = before.Lost, before.Disconnected, before.Examples
	}
	return kept, nil
}

// atHalf records the percentiles at half of the reference's saturation.
func (s *session) atHalf(r *report.Round, from, to window) {
	s.measured(r, between(from, to))
	r.LoadBound = false // in an open loop nobody needs to be at a limit
	delete(r.Metrics, report.Deliveries)
	r.Histogram = to.marks.Latency
	for name, p := range map[string]float64{report.P50Half: 50, report.P99Half: 99, report.P999Half: 99.9, report.P9999Half: 99.99} {
		if v := report.Percentile(to.marks.Latency, p); !math.IsNaN(v) {
			r.Metrics[name] = v
		}
	}
	if v := report.Percentile(to.marks.Lag, 99); !math.IsNaN(v) {
		r.Metrics[report.LagHalf] = v
	}
}

// stuckFor is how long readers stay stuck, in measurements: long enough for a queue of a few MiB to overflow.
const stuckFor = 4

// measureSlow compares what the others feel before and while one peer of each room does not read.
func (b *bench) measureSlow(ctx context.Context, sc scenario, srv server) (r report.Round, err error) {
	r.Metrics = map[string]float64{}
	s, err := b.begin(ctx, srv, sc.shape.Conns(), sc.shape.Rooms)
	if err != nil {
		return r, err
	}
	defer s.end()
	defer func() { err = s.t.fault(err) }()
	if err = s.connect(ctx, sc.shape); err != nil {
		return r, err
	}
	start := load.Command{Do: load.DoStart, Rate: sc.rate / float64(len(s.fleet.loaders))}
	if _, err = s.fleet.all(ctx, b.opt.timeout, start); err != nil {
		return r, err
	}
	if err = pause(ctx, b.opt.warmup); err != nil {
		return r, err
	}
	_, alone, err := s.span(ctx, 2*b.opt.duration)
	if err != nil {
		return r, err
	}
	r.Metrics[report.P99Alone] = report.Percentile(alone.marks.Latency, 99)
	before := s.t.resident()
	if _, err = s.fleet.all(ctx, b.opt.timeout, load.Command{Do: load.DoStick}); err != nil {
		return r, err
	}
	from, to, err := s.span(ctx, stuckFor*b.opt.duration)
	if err != nil {
		return r, err
	}
	if before > 0 {
		r.Metrics[report.StuckGrowth] = float64(s.t.resident()-before) / (1 << 20)
	}
	s.measured(&r, between(from, to))
	r.LoadBound = false
	delete(r.Metrics, report.CPUPerDelivery)
	if p := report.Percentile(to.marks.Latency, 99); !math.IsNaN(p) {
		r.Metrics[report.P99Stuck] = p
	}
	firm := float64(sc.shape.Peers - sc.shape.Loose - 1)
	r.Metrics[report.RateStuck] = min(1, r.Metrics[report.Deliveries]/(sc.rate*firm))
	delete(r.Metrics, report.Deliveries)
	return r, s.unstick(ctx, &r, sc)
}

// unstick lets the stuck peers read again, which shows whether the relay had closed them.
func (s *session) unstick(ctx context.Context, r *report.Round, sc scenario) error {
	if _, err := s.fleet.all(ctx, s.b.opt.timeout, load.Command{Do: load.DoUnstick}); err != nil {
		return err
	}
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return err
	}
	t, err := s.fleet.all(ctx, s.b.opt.timeout, load.Command{Do: load.DoHalt})
	r.Violations = t.Violations
	r.Metrics[report.StuckClosed] = float64(t.Marks.Dropped) / float64(sc.shape.Rooms*sc.shape.Loose)
	return err
}

// span measures for a while.
func (s *session) span(ctx context.Context, d time.Duration) (from, to window, err error) {
	if from, err = s.look(ctx, true); err != nil {
		return from, to, err
	}
	if err = pause(ctx, d); err != nil {
		return from, to, err
	}
	to, err = s.look(ctx, false)
	return from, to, err
}
