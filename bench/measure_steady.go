package main

import (
	"context"
	"time"

	"relaygate/bench/load"
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

// turns is how many turns make up one measurement.
func (o *options) turns() int { return max(int(o.duration/turnLength), 1) }

// steadyRun is one server in a round of a closed loop.
type steadyRun struct {
	s     *session // nil once it has failed
	done  bool     // it broke a promise: no need to go on
	round report.Round
	total totals
}

// measureSteady is one round of a closed loop on all servers: what a delivery costs when the server has as much to do as
// its senders allow. The result is in the order of servers; first says who begins.
func (b *bench) measureSteady(ctx context.Context, sc scenario, servers []server, first int) []report.Round {
	runs := make([]steadyRun, len(servers))
	defer func() {
		for i := range runs {
			if runs[i].s != nil {
				runs[i].s.end()
			}
		}
	}()
	for i := range runs {
		x := &runs[i]
		x.round.Metrics = map[string]float64{}
		s, err := b.begin(ctx, servers[i], sc.shape.Conns(), sc.shape.Rooms)
		if err != nil {
			x.round.Error = err.Error()
			continue
		}
		x.s = s
		x.check(s.connect(ctx, sc.shape))
	}
	for n := range b.opt.turns() {
		for i := range runs {
			if x := &runs[(i+first+n)%len(runs)]; x.s != nil && !x.done && ctx.Err() == nil {
				x.check(x.turn(ctx, sc, n == 0))
			}
		}
	}
	out := make([]report.Round, len(runs))
	for i := range runs {
		x := &runs[i]
		if x.s != nil && ctx.Err() == nil {
			x.s.measured(&x.round, x.total)
			if sc.churn > 0 {
				x.round.Metrics[report.Joins] = x.total.joins / x.total.seconds
			}
		}
		out[i] = x.round
	}
	return out
}

// check ends a server's part in the round if something went wrong.
func (x *steadyRun) check(err error) {
	if err == nil {
		return
	}
	x.round.Error = x.s.t.fault(err).Error()
	x.s.end()
	x.s = nil
}

// turn lets one server work for a while, and waits until nothing is under way.
func (x *steadyRun) turn(ctx context.Context, sc scenario, isFirst bool) error {
	s := x.s
	churn := sc.churn / float64(len(s.fleet.loaders))
	if _, err := s.fleet.all(ctx, s.b.opt.timeout, load.Command{Do: load.DoStart, Churn: churn}); err != nil {
		return err
	}
	warm := min(turnWarmup, s.b.opt.warmup)
	if isFirst {
		warm = s.b.opt.warmup
	}
	if err := pause(ctx, warm); err != nil {
		return err
	}
	from, to, err := s.span(ctx, s.b.opt.length(sc)/time.Duration(s.b.opt.turns()))
	if err != nil {
		return err
	}
	x.total.add(from, to)
	_, err = s.halt(ctx, &x.round)
	x.done = x.round.Violations.Total() > 0
	return err
}
