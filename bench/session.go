package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// session is one round of a scenario on one server: the server, started or already running, the load connected to it, and
// what is measured.
type session struct {
	b      *bench
	sc     *scenario
	round  *report.Round
	over   bool     // it failed or was ended
	proc   *process // nil for a running one
	pid    int      // 0: unknown, so there are no CPU and memory figures
	cpus   int      // how many the server may use
	load   []int    // the load's CPUs, as far as it has threads for them
	target *load.Target
	fleet  *load.Fleet
	total  load.Marks // of all spans
}

// begin starts a server and the load's threads.
func (b *bench) begin(ctx context.Context, sc *scenario, srv *server) *session {
	s := &session{b: b, sc: sc, round: &report.Round{Metrics: map[string]float64{}}, pid: srv.pid, load: srv.loadCPUs}
	s.try(func() error { return s.start(ctx, srv) })
	return s
}

func (s *session) start(ctx context.Context, srv *server) (err error) {
	if rooms := s.sc.shape.Rooms; rooms > 0 && rooms < len(s.load) {
		s.load = s.load[:rooms] // a room is one thread's
	}
	if srv.running != nil {
		s.target, s.cpus = srv.running, len(cpusOf(srv.pid))
	} else {
		var env []string
		if s.sc.shape.Rooms == 0 {
			env = append(env, fmt.Sprintf("CONNECTION_CHECK_INTERVAL=%d", s.b.opt.heartbeat.Milliseconds()))
		}
		if s.proc, err = s.b.startServer(ctx, srv, env...); err != nil {
			return err
		}
		s.pid, s.cpus = s.proc.cmd.Process.Pid, len(srv.cpus)
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(s.proc.port))
		s.target = &load.Target{Host: at.String(), Path: "/v1?", Addr: at}
	}
	s.target.Sources = s.b.sources(s.target.Addr.Addr())
	s.fleet, err = load.Start(s.load)
	return err
}

// try takes a step of the round unless it is over. A failure ends it, also when a promise was broken; a server that has
// ended is then the error, whatever else it broke by that.
func (s *session) try(step func() error) {
	if s.over {
		return
	}
	err := step()
	if err == nil && s.round.Violations.Total() == 0 {
		return
	}
	if s.proc != nil {
		if dead := s.proc.ended(200 * time.Millisecond); dead != nil && err != nil {
			err = fmt.Errorf("%w (%v)", dead, err)
		} else if dead != nil {
			err = dead
		}
	}
	if err != nil {
		s.round.Error = err.Error()
	}
	s.end()
}

// end stops both, if that has not been done. The load goes first and resets its sockets, so that no port waits in TIME_WAIT.
func (s *session) end() {
	if s.over {
		return
	}
	s.over = true
	if s.fleet != nil {
		s.fleet.Close()
	}
	if s.proc != nil {
		s.proc.stop()
	}
}

// sources are the addresses that connections come from: those of -addresses, or to this machine 127.0.0.1 and up.
func (b *bench) sources(to netip.Addr) []netip.Addr {
	if len(b.opt.addresses) > 0 || !to.IsLoopback() {
		return b.opt.addresses
	}
	a := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	var out []netip.Addr
	for range max(b.opt.conns/b.limits.perPair()+2, 4) {
		out = append(out, a)
		a = a.Next()
	}
	return out
}

// connect opens a shape's rooms and waits until everyone can be reached.
func (s *session) connect(ctx context.Context, shape load.Shape) error {
	if _, err := s.fleet.Connect(ctx, s.b.opt.timeout, s.target, shape, parallel); err != nil {
		return err
	}
	return s.fleet.Greet(ctx, s.b.opt.timeout)
}

// parallel is how many handshakes are under way at once.
const parallel = 128

// span starts the traffic and measures a while of it.
func (s *session) span(ctx context.Context, warmup, length time.Duration) error {
	s.fleet.Begin(s.sc.rate)
	if err := pause(ctx, warmup); err != nil {
		return err
	}
	s.fleet.Forget()
	from := s.fleet.Mark(s.pid)
	if err := pause(ctx, length); err != nil {
		return err
	}
	s.total.Add(s.fleet.Mark(s.pid), 1)
	s.total.Add(from, -1)
	return nil
}

// loadFull is the share of its CPUs at which the load may be what limits a closed loop, unless the server is as busy.
const loadFull = 0.9

// conclude turns what the spans counted into the metrics that all scenarios with traffic have.
func (s *session) conclude() error {
	t, r := &s.total, s.round
	r.Metrics[report.Deliveries] = t.Delivered / t.Seconds
	if t.Reads > 0 {
		r.Metrics[report.PerRead] = t.Delivered / t.Reads
	}
	if t.Joins > 0 {
		r.Metrics[report.Joins] = t.Joins / t.Seconds
	}
	r.Metrics[report.LoadCPU] = t.CPU / t.Seconds / float64(len(s.load))
	r.LoadBound = r.Metrics[report.LoadCPU] > loadFull
	if t.ServerCPU <= 0 {
		return nil
	}
	if t.Delivered > 0 {
		r.Metrics[report.CPUPerDelivery] = t.ServerCPU * 1e6 / t.Delivered
	}
	busy := t.ServerCPU / t.Seconds / float64(s.cpus)
	others := max(t.AllCPU-t.ServerCPU-t.CPU, 0) / t.Seconds
	r.Metrics[report.ServerCPU], r.Metrics[report.OtherCPU] = busy, others
	r.Disturbed = others > 0.1
	r.LoadBound = r.LoadBound && busy < loadFull
	return nil
}

// counted has the system calls of something counted, in a pass of its own; where they cannot be, it is left out, there are
// none, and the report says why.
func (s *session) counted(pass func() error) (calls, writes float64, err error) {
	if s.pid == 0 || s.b.countless {
		return 0, 0, nil
	}
	c, err := count(s.pid)
	if err != nil {
		s.b.countless = true
		s.b.report.Notes = append(s.b.report.Notes, fmt.Sprintf("System calls could not be counted: %v.", err))
		return 0, 0, nil
	}
	err = pass()
	calls, writes = c.stop()
	return calls, writes, err
}

// countTraffic counts the system calls of a while of traffic, from its first message to its last.
func (s *session) countTraffic(ctx context.Context, d time.Duration) error {
	before := s.fleet.Mark(0).Delivered
	calls, writes, err := s.counted(func() error {
		s.fleet.Begin(s.sc.rate)
		if err := pause(ctx, d); err != nil {
			return err
		}
		return s.halt(ctx)
	})
	if n := s.fleet.Mark(0).Delivered - before; n > 0 {
		s.round.Metrics[report.CallsPerDelivery], s.round.Metrics[report.WritesPerDelivery] = calls/n, writes/n
	}
	return err
}

// halt stops the traffic, waits for what is under way and takes the verdict of the checks.
func (s *session) halt(ctx context.Context) (err error) {
	s.round.Violations, err = s.fleet.Halt(ctx, s.b.opt.timeout)
	return err
}

// pause waits, or returns early when the run is interrupted.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
