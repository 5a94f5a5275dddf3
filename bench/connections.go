package main

import (
	"context"
	"math"
	"time"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// connects counts handshakes per CPU second, then the system calls of as many again, in rooms of their own.
func (s *session) connects(ctx context.Context, sc *scenario, r *report.Round) error {
	limit, n := s.b.opt.timeout, float64(sc.shape.Conns())
	before := load.CPUClock(s.pid)
	took, err := s.fleet.Connect(ctx, limit, s.target, sc.shape, parallel)
	if err != nil {
		return err
	}
	r.Metrics[report.Handshakes] = n / took.Seconds()
	if used := load.CPUClock(s.pid) - before; used > 0 {
		r.Metrics[report.HandshakesPerCPU] = n / used.Seconds()
	}
	if err := s.fleet.Greet(ctx, limit); err != nil {
		return err
	}
	if err := s.broadcast(ctx, r); err != nil {
		return err
	}
	calls, _, err := s.counted(func() error {
		_, err := s.fleet.Connect(ctx, limit, s.target, sc.shape, parallel)
		return err
	})
	if calls > 0 {
		r.Metrics[report.CallsPerPeer] = calls / n
	}
	return err
}

// broadcast lets one member of every room send one message; whom it does not reach, a message was lost for.
func (s *session) broadcast(ctx context.Context, r *report.Round) error {
	if err := s.fleet.Once(ctx, s.b.opt.timeout); err != nil {
		return err
	}
	return s.halt(ctx, r)
}

// settle is a pause before memory is read, for what the server does after a burst.
const settle = 300 * time.Millisecond

// idle reads memory with none, half and all of the peers, then the cost of heartbeats where it is asked for, then checks that everybody is still
// served.
func (s *session) idle(ctx context.Context, sc *scenario, r *report.Round) error {
	b, shape := s.b, sc.shape
	_, fits := b.fitting(b.opt.conns)
	if err := pause(ctx, settle); err != nil {
		return err
	}
	empty, kernel := resident(s.pid), kernelMemory()
	rooms := max(fits/shape.Peers, 2*len(s.load))
	peers := 0.0
	var at [2]struct{ peers, bytes float64 } // with half and with all of them
	for i, part := range []int{rooms / 2, rooms - rooms/2} {
		shape.Rooms = part
		// Every peer has said something and was answered.
		if err := s.connect(ctx, shape); err != nil {
			return err
		}
		if err := pause(ctx, settle); err != nil {
			return err
		}
		peers += float64(shape.Conns())
		at[i].peers, at[i].bytes = peers, resident(s.pid)-empty
	}
	if sc.pings {
		if err := s.heartbeats(ctx, r, peers); err != nil {
			return err
		}
	}
	r.Metrics[report.KernelPerPeer] = (kernelMemory() - kernel) / peers
	if empty > 0 {
		each, slope := (resident(s.pid)-empty)/peers, (at[1].bytes-at[0].bytes)/(at[1].peers-at[0].peers)
		const least = 100 // a peer's record and buffers cannot be less
		if s.proc == nil && each < max(0.8*slope, least) {
			b.note("The target had held peers before: what it freed and uses again is in no figure per peer. Measure a relay that has just been started.")
		} else {
			r.Metrics[report.ResidentPerPeer], r.Metrics[report.ResidentSlope] = each, slope
			r.Metrics[report.Empty] = empty / (1 << 20)
		}
	}
	return s.broadcast(ctx, r)
}

// heartbeats measures one interval of pings and pongs and scales it to the contract's 30 s. Without a ping to about every
// peer there is no figure: silence is cheap.
func (s *session) heartbeats(ctx context.Context, r *report.Round, peers float64) error {
	from := s.fleet.Mark(s.pid, load.Within)
	if err := pause(ctx, s.b.opt.heartbeat); err != nil {
		return err
	}
	to := s.fleet.Mark(s.pid, load.Within)
	r.Metrics[report.Pinged] = float64(to.Pings-from.Pings) / peers
	used, took := to.ServerCPU-from.ServerCPU, to.Wall-from.Wall
	if used > 0 && math.Abs(r.Metrics[report.Pinged]-1) < 0.25 {
		each := used.Seconds() / took.Seconds() * s.b.opt.heartbeat.Seconds() / peers
		r.Metrics[report.HeartbeatCPU] = each * 1e6
		r.Metrics[report.HeartbeatShare] = each * 100000 / 30
	}
	return nil
}
