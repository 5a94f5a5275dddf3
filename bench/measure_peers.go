package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"relaygate/bench/host"
	"relaygate/bench/load"
	"relaygate/bench/report"
)

// measureConnect counts handshakes per CPU second, then lets everybody come back at once.
func (b *bench) measureConnect(ctx context.Context, sc scenario, srv server) (r report.Round, err error) {
	r.Metrics = map[string]float64{}
	s, err := b.begin(ctx, srv, sc.shape.Conns(), sc.shape.Rooms)
	if err != nil {
		return r, err
	}
	defer s.end()
	defer func() { err = s.t.fault(err) }()
	n := float64(sc.shape.Conns())
	before := s.t.cpu()
	t, err := s.fleet.connect(ctx, s.t, sc.shape)
	if err != nil {
		return r, err
	}
	if used := s.t.cpu() - before; used > 0 {
		r.Metrics[report.HandshakesPerCPU] = n / used.Seconds()
		r.Metrics[report.ServerCPU] = used.Seconds() / (float64(t.Took) / 1e9) / float64(s.t.cpus)
	}
	r.Metrics[report.Handshakes] = n / (float64(t.Took) / 1e9)

	if err = s.fleet.greet(ctx); err != nil {
		return r, err
	}
	before = s.t.cpu()
	if _, err = s.fleet.all(ctx, b.opt.timeout, load.Command{Do: load.DoDrop}); err != nil {
		return r, err
	}
	t, err = s.fleet.all(ctx, b.opt.timeout, load.Command{Do: load.DoRedial})
	if err != nil {
		return r, err
	}
	if t.Failed > 0 {
		return r, fmt.Errorf("%d of %.0f peers did not come back: %s", t.Failed, n, t.Why)
	}
	r.Metrics[report.StormSeconds] = float64(t.Took) / 1e9
	if used := s.t.cpu() - before; used > 0 {
		r.Metrics[report.StormPerCPU] = n / used.Seconds()
	}
	if err = s.fleet.greet(ctx); err != nil {
		return r, err
	}
	return r, s.broadcastAll(ctx, &r, sc.shape.Conns())
}

// broadcastAll lets one member of every room send one message, and expects everyone to be served.
func (s *session) broadcastAll(ctx context.Context, r *report.Round, peers int) error {
	t, err := s.fleet.all(ctx, s.b.opt.timeout, load.Command{Do: load.DoOnce})
	if err != nil {
		return err
	}
	r.Metrics[report.BroadcastsServed] = float64(t.Opened)
	if _, err := s.halt(ctx, r); err != nil {
		return err
	}
	if t.Opened < peers && r.Violations.Total() == 0 {
		return fmt.Errorf("broadcast: %d of %d peers served", t.Opened, peers)
	}
	return nil
}

// settle is added to a heartbeat interval before memory is read, for what the server does after a burst.
const settle = 200 * time.Millisecond

// measureIdle reads memory at three sizes, then the cost of heartbeats, then checks that everybody is still served.
func (b *bench) measureIdle(ctx context.Context, sc scenario, srv server) (r report.Round, err error) {
	r.Metrics, r.Series = map[string]float64{}, map[string][]report.Point{}
	conns := max(b.fitting(b.opt.conns), 3*sc.shape.Peers)
	interval := fmt.Sprintf("CONNECTION_CHECK_INTERVAL=%d", b.opt.heartbeat.Milliseconds())
	s, err := b.begin(ctx, srv, conns, conns/sc.shape.Peers, interval)
	if err != nil {
		return r, err
	}
	defer s.end()
	defer func() { err = s.t.fault(err) }()
	if err = pause(ctx, settle); err != nil {
		return r, err
	}
	empty := s.t.resident()
	slab, tcp := host.Kernel()
	total := sc.shape.Peers * len(s.fleet.loaders) // rooms are added in multiples of this, so that each process has some
	total = max(conns/total, 3) * total
	peers := 0
	for _, part := range []int{5, 2, 1} { // a fifth, half, all
		shape := sc.shape
		shape.Rooms = total/part/shape.Peers - peers/shape.Peers
		reply, err := s.fleet.connect(ctx, s.t, shape)
		if err != nil {
			return r, err
		}
		peers += shape.Conns()
		b.connected(peers, time.Duration(reply.Took))
		// Every peer has been pinged once and has answered.
		if err = pause(ctx, b.opt.heartbeat+settle); err != nil {
			return r, err
		}
		if empty > 0 {
			r.Series[report.MemoryCurve] = append(r.Series[report.MemoryCurve], report.Point{X: float64(peers), Y: float64(s.t.resident() - empty)})
		}
	}
	nowSlab, nowTCP := host.Kernel()
	r.Metrics[report.KernelPerPeer] = float64(nowSlab+nowTCP-slab-tcp) / float64(peers)
	if points := r.Series[report.MemoryCurve]; len(points) > 0 {
		r.Metrics[report.ResidentPerPeer] = points[len(points)-1].Y / float64(peers)
		r.Metrics[report.ResidentSlope] = report.Slope(points)
		r.Metrics[report.Empty] = float64(empty) / (1 << 20)
		// A peer's record and buffers cannot be less than this.
		const least = 100
		if each := r.Metrics[report.ResidentPerPeer]; s.t.proc == nil && each < max(0.8*r.Metrics[report.ResidentSlope], least) {
			delete(r.Metrics, report.ResidentPerPeer)
			delete(r.Metrics, report.ResidentSlope)
			b.note("The target had held peers before: what it freed and uses again is in no figure per peer. Measure a relay that has just been started.")
		}
	}
	if err = s.heartbeats(ctx, &r, peers); err != nil {
		return r, err
	}
	err = s.broadcastAll(ctx, &r, peers)
	b.progress.line("broadcast: %.0f of %d peers served", r.Metrics[report.BroadcastsServed], peers)
	return r, err
}

// connected tells how far a long idle run is.
func (b *bench) connected(peers int, took time.Duration) {
	if took > 5*time.Second {
		b.progress.line("%d peers connected, the last of them after %.1f s", peers, took.Seconds())
	} else {
		b.progress.detail("%d peers", peers)
	}
}

// heartbeats measures one interval of pings and pongs and scales it to the contract's 30 s. Without a ping to about every
// peer there is no figure: silence is cheap.
func (s *session) heartbeats(ctx context.Context, r *report.Round, peers int) error {
	from, err := s.fleet.all(ctx, s.b.opt.timeout, load.Command{Do: load.DoMark})
	if err != nil {
		return err
	}
	before, began := s.t.cpu(), time.Now()
	if err := pause(ctx, s.b.opt.heartbeat); err != nil {
		return err
	}
	used, took := s.t.cpu()-before, time.Since(began)
	to, err := s.fleet.all(ctx, s.b.opt.timeout, load.Command{Do: load.DoMark})
	if err != nil {
		return err
	}
	r.Metrics[report.Pinged] = float64(to.Marks.Pings-from.Marks.Pings) / float64(peers)
	if used > 0 && math.Abs(r.Metrics[report.Pinged]-1) < 0.25 {
		each := used.Seconds() / took.Seconds() * s.b.opt.heartbeat.Seconds() / float64(peers)
		r.Metrics[report.HeartbeatCPU] = each * 1e6
		r.Metrics[report.HeartbeatShare] = each * 100000 / 30
	}
	return nil
}

// resident and cpu are zero for a process that is not known.
func (t *target) resident() int64 {
	if t.pid == 0 {
		return 0
	}
	n, _ := host.Resident(t.pid)
	return n
}

func (t *target) cpu() time.Duration {
	if t.pid == 0 {
		return 0
	}
	d, _ := host.CPUTime(t.pid)
	return d
}
