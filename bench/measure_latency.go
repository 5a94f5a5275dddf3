package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// shares of the reference server's saturation at which latency is measured, in rising order; half is the one compared.
var shares = []float64{0.25, 0.5, 0.75, 1, 1.3}

const half = 0.5

// reference is the server whose saturation sets the rates: the same for all, and not relaygate's own choice.
const reference = "gws"

// calibrate measures the highest closed-loop rate of the reference, or of the first other server where that cannot be
// measured, in messages per second, unless an earlier round did.
func (b *bench) calibrate(ctx context.Context, sc scenario) error {
	if b.saturation > 0 || b.uncalibrated != nil {
		return b.uncalibrated
	}
	var candidates []server
	for _, s := range b.servers {
		if b.usable(s) {
			if s.name == reference {
				candidates = slices.Insert(candidates, 0, s)
			} else {
				candidates = append(candidates, s)
			}
		}
	}
	for _, of := range candidates {
		rate, err := b.saturate(ctx, sc, of)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			b.note(fmt.Sprintf("%s was to set the rates, but could not be measured: %v", of.name, err))
			b.uncalibrated = fmt.Errorf("no server could be saturated to set the rates: %w", err)
			continue
		}
		b.saturation, b.uncalibrated = rate, nil
		b.note(fmt.Sprintf("Rates are shares of %.0f messages per second (%.0f deliveries per second), at which %s was saturated in a closed loop just before (median of 3).",
			rate, rate*float64(sc.shape.Peers-1), of.name))
		break
	}
	return b.uncalibrated
}

// saturate measures one server's highest closed-loop rate, in messages per second.
func (b *bench) saturate(ctx context.Context, sc scenario, of server) (float64, error) {
	sc.churn = 0
	var rates []float64
	for range 3 {
		r := b.measureSteady(ctx, sc, []server{of}, 0)[0]
		if r.Failed() {
			return 0, errors.New(r.Fault())
		}
		rates = append(rates, r.Metrics[report.Deliveries]/float64(sc.shape.Peers-1))
	}
	return report.Median(rates), nil
}

// measureLatency offers fixed rates, from intended send times, until the server no longer keeps up.
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
		if round >= curveRounds && share != half {
			continue
		}
		kept, err := s.step(ctx, &r, sc, share)
		if err == nil && !kept && share < 1 {
			kept, err = s.step(ctx, &r, sc, share) // once more: on a busy machine a hiccup is no limit
		}
		if err != nil {
			return r, err
		}
		if !kept {
			if share < 1 {
				b.note(fmt.Sprintf("%s kept up with less than %.0f %% of these rates in round %d.", srv.name, 100*share, round+1))
			}
			break
		}
	}
	return r, nil
}

// curveRounds is the number of rounds that measure all rates. Those after them measure only the one that is compared: a
// tail needs repetition more than a curve does.
const curveRounds = 2

// step measures one rate and tells whether the server kept it.
func (s *session) step(ctx context.Context, r *report.Round, sc scenario, share float64) (bool, error) {
	rate := share * s.b.saturation
	copies := float64(sc.shape.Peers - 1)
	length := s.b.opt.duration
	if share == half {
		length = s.b.opt.length(sc)
	}
	start := load.Command{Do: load.DoStart, Rate: rate / float64(len(s.fleet.loaders))}
	if _, err := s.fleet.all(ctx, s.b.opt.timeout, start); err != nil {
		return false, err
	}
	if err := pause(ctx, s.b.opt.warmup); err != nil {
		return false, err
	}
	from, to, err := s.span(ctx, length)
	if err != nil {
		return false, err
	}
	seconds := float64(to.marks.Wall-from.marks.Wall) / 1e9
	delivered := float64(to.marks.Delivered-from.marks.Delivered) / seconds
	kept := delivered > 0.95*rate*copies
	before := r.Violations
	// The histogram is read when the last message is in: those under way at the end are the slowest ones.
	last, err := s.halt(ctx, r)
	if err != nil {
		return false, err
	}
	to.marks.Latency, to.marks.Lag = last.Latency, last.Lag
	if !kept && r.Violations.Total() == r.Violations.Disconnected {
		// Closing peers that fall behind is what a relay should do when it is asked for more than it can. Losing a message
		// of one that stays connected is not.
		r.Violations.Disconnected, r.Violations.Examples = before.Disconnected, before.Examples
	}
	r.Series[report.ThroughputCurve] = setPoint(r.Series[report.ThroughputCurve], rate*copies, delivered)
	r.Series[report.P99Curve] = setPoint(r.Series[report.P99Curve], rate*copies, report.Percentile(to.marks.Latency, 99))
	if kept {
		r.Metrics[report.Sustained] = delivered
	}
	if share == half {
		s.atHalf(r, from, to)
	}
	return kept, nil
}

// setPoint appends a point to a curve, in place of one at the same rate.
func setPoint(curve []report.Point, x, y float64) []report.Point {
	curve = slices.DeleteFunc(curve, func(p report.Point) bool { return p.X == x })
	if math.IsNaN(y) {
		return curve
	}
	return append(curve, report.Point{X: x, Y: y})
}

// atHalf records the percentiles at half of the reference's saturation.
func (s *session) atHalf(r *report.Round, from, to window) {
	s.measured(r, between(from, to))
	delete(r.Metrics, report.Deliveries)
	r.Histogram = to.marks.Latency
	for name, p := range map[string]float64{report.P50Half: 50, report.P99Half: 99, report.P999Half: 99.9, report.P9999Half: 99.99} {
		if v := report.Percentile(to.marks.Latency, p); !math.IsNaN(v) {
			r.Metrics[name] = v
		}
	}
	// In an open loop nobody needs to be at a limit. But lateness of the load's own counts as the relay's.
	r.LoadBound = false
	if v := report.Percentile(to.marks.Lag, 99); !math.IsNaN(v) {
		r.Metrics[report.LagHalf] = v
		r.LoadBound = v > lateShare*r.Metrics[report.P99Half]
	}
}

// lateShare is how much of the 99th percentile may be the load's own, before a round is marked.
const lateShare = 0.25

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
	_, alone, err := s.spanAndLatest(ctx, 2*b.opt.duration)
	if err != nil {
		return r, err
	}
	r.Metrics[report.P99Alone] = report.Percentile(alone.marks.Latency, 99)
	before := s.t.resident()
	if _, err = s.fleet.all(ctx, b.opt.timeout, load.Command{Do: load.DoStick}); err != nil {
		return r, err
	}
	from, to, err := s.spanAndLatest(ctx, b.opt.length(sc))
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
	last, err := s.halt(ctx, r)
	r.Metrics[report.StuckClosed] = float64(last.Dropped) / float64(sc.shape.Rooms*sc.shape.Loose)
	return err
}

// span measures for a while.
func (s *session) span(ctx context.Context, d time.Duration) (from, to window, err error) {
	if from, err = s.look(ctx, begins); err != nil {
		return from, to, err
	}
	if err = pause(ctx, d); err != nil {
		return from, to, err
	}
	to, err = s.look(ctx, ends)
	return from, to, err
}

// latest is how long messages that were due in a span may take to be in its histogram, where traffic goes on.
const latest = 200 * time.Millisecond

// spanAndLatest is span with a histogram that was read when the last messages were in.
func (s *session) spanAndLatest(ctx context.Context, d time.Duration) (from, to window, err error) {
	if from, to, err = s.span(ctx, d); err != nil {
		return from, to, err
	}
	if err = pause(ctx, latest); err != nil {
		return from, to, err
	}
	t, err := s.fleet.all(ctx, s.b.opt.timeout, load.Command{Do: load.DoMark})
	to.marks.Latency, to.marks.Lag = t.Marks.Latency, t.Marks.Lag
	return from, to, err
}
