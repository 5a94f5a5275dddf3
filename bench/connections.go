package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// connects counts handshakes per CPU second, then lets everybody come back at once.
func (s *session) connects(ctx context.Context, sc *scenario, r *report.Round) error {
	limit := s.b.opt.timeout
	handshakes := func(do func() (load.Handshakes, error)) (perCPU float64, h load.Handshakes, err error) {
		before := load.CPUClock(s.pid)
		if h, err = do(); err != nil {
			return 0, h, err
		}
		if used := load.CPUClock(s.pid) - before; used > 0 {
			perCPU = float64(h.Opened) / used.Seconds()
		}
		return perCPU, h, s.fleet.Greet(ctx, limit)
	}
	perCPU, h, err := handshakes(func() (load.Handshakes, error) {
		return s.fleet.Connect(ctx, limit, s.target, sc.shape, parallel)
	})
	if err != nil {
		return err
	}
	r.Metrics[report.Handshakes] = float64(h.Opened) / h.Took.Seconds()
	if perCPU > 0 {
		r.Metrics[report.HandshakesPerCPU] = perCPU
	}
	perCPU, h, err = handshakes(func() (load.Handshakes, error) { return s.fleet.Storm(ctx, limit) })
	if err != nil {
		return err
	}
	r.Metrics[report.StormSeconds] = h.Took.Seconds()
	if perCPU > 0 {
		r.Metrics[report.StormPerCPU] = perCPU
	}
	if err := s.broadcast(ctx, r, sc.shape.Conns()); err != nil {
		return err
	}
	// The same number again, in rooms of their own, and nothing else happens meanwhile.
	return s.counted(func() (float64, error) {
		h, err := s.fleet.Connect(ctx, limit, s.target, sc.shape, parallel)
		return float64(h.Opened), err
	}, func(calls, _ float64) { r.Metrics[report.CallsPerPeer] = calls })
}

// broadcast lets one member of every room send one message, and expects everyone to be served.
func (s *session) broadcast(ctx context.Context, r *report.Round, peers int) error {
	served, err := s.fleet.Once(ctx, s.b.opt.timeout)
	if err != nil {
		return err
	}
	r.Metrics[report.Served] = float64(served)
	if err := s.halt(ctx, r); err != nil {
		return err
	}
	if served < peers && r.Violations.Total() == 0 {
		return fmt.Errorf("broadcast: %d of %d peers served", served, peers)
	}
	return nil
}

// settle is added to a heartbeat interval before memory is read, for what the server does after a burst.
const settle = 200 * time.Millisecond

// idle reads memory with half and with all of the peers, then the cost of heartbeats, then checks that everybody is still
// served.
func (s *session) idle(ctx context.Context, sc *scenario, r *report.Round) error {
	b, shape := s.b, sc.shape
	_, fits := b.fitting(b.opt.conns)
	if err := pause(ctx, settle); err != nil {
		return err
	}
	empty, kernel := resident(s.pid), kernelMemory()
	rooms := max(fits/shape.Peers, 2*len(s.load))
	var halfBytes, bytes, halfPeers float64
	peers := 0
	for _, part := range []int{rooms / 2, rooms - rooms/2} {
		halfPeers, halfBytes = float64(peers), bytes
		shape.Rooms = part
		h, err := s.fleet.Connect(ctx, b.opt.timeout, s.target, shape, parallel)
		if err != nil {
			return err
		}
		peers += shape.Conns()
		if h.Took > 5*time.Second {
			b.say("%d peers connected, the last of them after %.1f s", peers, h.Took.Seconds())
		}
		// Every peer has been pinged once and has answered.
		if err := pause(ctx, b.opt.heartbeat+settle); err != nil {
			return err
		}
		bytes = resident(s.pid) - empty
	}
	r.Metrics[report.KernelPerPeer] = (kernelMemory() - kernel) / float64(peers)
	if empty > 0 {
		each, slope := bytes/float64(peers), (bytes-halfBytes)/(float64(peers)-halfPeers)
		const least = 100 // a peer's record and buffers cannot be less
		if s.proc == nil && each < max(0.8*slope, least) {
			b.note("The target had held peers before: what it freed and uses again is in no figure per peer. Measure a relay that has just been started.")
		} else {
			r.Metrics[report.ResidentPerPeer], r.Metrics[report.ResidentSlope] = each, slope
			r.Metrics[report.Empty] = empty / (1 << 20)
		}
	}
	if err := s.heartbeats(ctx, r, float64(peers)); err != nil {
		return err
	}
	return s.broadcast(ctx, r, peers)
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
