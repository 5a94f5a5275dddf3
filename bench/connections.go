package main

import (
	"context"
	"math"
	"time"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// connects counts handshakes per CPU second, then the system calls of as many again, in rooms of their own.
func (s *session) connects(ctx context.Context) error {
	limit, shape, r := s.b.opt.timeout, s.sc.shape, s.round
	n, before := float64(shape.Conns()), load.CPUSeconds(s.pid)
	took, err := s.fleet.Connect(ctx, limit, s.target, shape, parallel)
	if err != nil {
		return err
	}
	r.Metrics[report.Handshakes] = n / took.Seconds()
	if used := load.CPUSeconds(s.pid) - before; used > 0 {
		r.Metrics[report.HandshakesPerCPU] = n / used
	}
	if err := s.fleet.Greet(ctx, limit); err != nil {
		return err
	}
	if err := s.broadcast(ctx, shape.Rooms); err != nil {
		return err
	}
	calls, _, err := s.counted(func() error {
		_, err := s.fleet.Connect(ctx, limit, s.target, shape, parallel)
		return err
	})
	if calls > 0 {
		r.Metrics[report.CallsPerPeer] = calls / n
	}
	return err
}

// broadcasts is how many messages per second broadcast sends. Tens of thousands at once would test the length of the kernel's
// queue for loopback packets, and its retransmissions.
const broadcasts = 4000

// broadcast lets one member of every room send a message; whom it does not reach, a message was lost for.
func (s *session) broadcast(ctx context.Context, rooms int) error {
	s.fleet.Begin(broadcasts)
	if err := pause(ctx, settle+time.Duration(rooms)*time.Second/broadcasts); err != nil {
		return err
	}
	return s.halt(ctx)
}

// settle is a pause before memory is read, for what the server does after a burst.
const settle = 300 * time.Millisecond

// idle reads memory with none, half and all of the peers, then the cost of heartbeats where it is asked for, then checks
// that everybody is still served.
func (s *session) idle(ctx context.Context) error {
	shape, r := s.sc.shape, s.round
	if err := pause(ctx, settle); err != nil {
		return err
	}
	empty, kernel := resident(s.pid), kernelMemory()
	_, fits := s.b.fitting(s.b.opt.conns)
	rooms := max(fits/shape.Peers, 2*len(s.load))
	// Every peer has said something and was answered when its memory is read.
	grow := func(rooms int) (bytes float64, err error) {
		shape.Rooms = rooms
		if err := s.connect(ctx, shape); err != nil {
			return 0, err
		}
		err = pause(ctx, settle)
		return resident(s.pid) - empty, err
	}
	half, err := grow(rooms / 2)
	if err != nil {
		return err
	}
	all, err := grow(rooms - rooms/2)
	if err != nil {
		return err
	}
	peers, further := float64(rooms*shape.Peers), float64((rooms-rooms/2)*shape.Peers)
	if s.sc.pings {
		if err := s.heartbeats(ctx, peers); err != nil {
			return err
		}
	}
	r.Metrics[report.KernelPerPeer] = (kernelMemory() - kernel) / peers
	if empty > 0 {
		each, slope := (resident(s.pid)-empty)/peers, (all-half)/further
		const least = 100 // a peer's record and buffers cannot be less
		if s.proc == nil && each < max(0.8*slope, least) {
			s.b.note("The target had held peers before: what it freed and uses again is in no figure per peer. Measure a relay that has just been started.")
		} else {
			r.Metrics[report.ResidentPerPeer], r.Metrics[report.ResidentSlope] = each, slope
			r.Metrics[report.Empty] = empty / (1 << 20)
		}
	}
	return s.broadcast(ctx, rooms)
}

// heartbeats measures one interval of pings and pongs and scales it to the contract's 30 s. Without a ping to about every
// peer there is no figure: silence is cheap.
func (s *session) heartbeats(ctx context.Context, peers float64) error {
	from := s.fleet.Mark(s.pid)
	if err := pause(ctx, s.b.opt.heartbeat); err != nil {
		return err
	}
	spent := s.fleet.Mark(s.pid)
	spent.Add(from, -1)
	m := s.round.Metrics
	m[report.Pinged] = spent.Pings / peers
	if spent.ServerCPU > 0 && math.Abs(m[report.Pinged]-1) < 0.25 {
		each := spent.ServerCPU / spent.Seconds * s.b.opt.heartbeat.Seconds() / peers
		m[report.HeartbeatCPU] = each * 1e6
		m[report.HeartbeatShare] = each * 100000 / 30
	}
	return nil
}
