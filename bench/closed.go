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

// turns is how many turns make up one measurement.
func (o *options) turns() int { return max(int(o.duration/turnLength), 1) }

// closedRun is one server in a round of a closed loop.
type closedRun struct {
	s     *session // nil once it has failed
	done  bool     // it broke a promise: no need to go on
	round *report.Round
	total totals
}

// closedRound is one round of a closed loop on all servers: what a delivery costs when the server has as much to do as its
// senders allow. The result is in the order of servers; first says who begins.
// After the turns that are timed, each server has one in which its system calls are counted.
func (b *bench) closedRound(ctx context.Context, sc *scenario, servers []*server, first int) []*report.Round {
	runs := make([]*closedRun, len(servers))
	for i, srv := range servers {
		x := &closedRun{round: report.NewRound()}
		runs[i] = x
		var err error
		if x.s, err = b.begin(ctx, srv, sc); err != nil {
			x.round.Error = err.Error()
			continue
		}
		x.check(x.s.connect(ctx, sc.shape))
	}
	for n := range b.opt.turns() + 1 {
		for i := range runs {
			if x := runs[(i+first+n)%len(runs)]; x.s != nil && !x.done && ctx.Err() == nil {
				x.check(x.turn(ctx, sc, n))
			}
		}
	}
	out := make([]*report.Round, len(runs))
	for i, x := range runs {
		if out[i] = x.round; x.s != nil {
			x.s.measured(x.round, &x.total)
			x.s.end()
		}
	}
	return out
}

// check ends a server's part in the round if something went wrong.
func (x *closedRun) check(err error) {
	if err != nil {
		x.round.Error = x.s.fault(err).Error()
		x.s.end()
		x.s = nil
	}
}

// turn lets one server work for a while, and waits until nothing is under way.
func (x *closedRun) turn(ctx context.Context, sc *scenario, n int) error {
	o := x.s.b.opt
	if n == o.turns() {
		return x.s.countTraffic(ctx, sc, x.round, 2*turnLength)
	}
	warm := min(turnWarmup, o.warmup)
	if n == 0 {
		warm = o.warmup
	}
	x.s.fleet.Begin(sc.rate)
	if err := pause(ctx, warm); err != nil {
		return err
	}
	if err := x.s.span(ctx, o.duration/time.Duration(o.turns()), &x.total); err != nil {
		return err
	}
	err := x.s.halt(ctx, x.round)
	x.done = x.round.Violations.Total() > 0
	return err
}
