package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// session is a started server, or the running one, and the load connected to it.
type session struct {
	b      *bench
	proc   *process // nil for a running one
	pid    int      // 0: unknown, so there are no CPU and memory figures
	cpus   int      // how many the server may use
	load   []int    // the load's CPUs, as far as it has threads for them
	target *load.Target
	fleet  *load.Fleet
}

// begin starts a server and the load's threads.
func (b *bench) begin(ctx context.Context, srv *server, sc *scenario) (s *session, err error) {
	s = &session{b: b, pid: srv.pid, load: srv.loadCPUs}
	if rooms := sc.shape.Rooms; rooms > 0 && rooms < len(s.load) {
		s.load = s.load[:rooms] // a room is one thread's
	}
	if srv.url != "" {
		s.cpus = len(cpusOf(srv.pid))
		s.target, err = b.running(srv.url)
	} else {
		var env []string
		if sc.shape.Rooms == 0 {
			env = append(env, fmt.Sprintf("CONNECTION_CHECK_INTERVAL=%d", b.opt.heartbeat.Milliseconds()))
		}
		if s.proc, err = b.startServer(ctx, srv, env...); err != nil {
			return nil, err
		}
		s.pid, s.cpus = s.proc.cmd.Process.Pid, len(srv.cpus)
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(s.proc.port))
		s.target = &load.Target{Host: at.String(), Path: "/v1", Addr: at, Sources: b.sources(), PerSource: b.limits.perPair()}
	}
	if err == nil {
		s.fleet, err = load.Start(s.load)
	}
	if err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// end stops both. The load goes first and resets its sockets, so that no port waits in TIME_WAIT.
func (s *session) end() {
	if s.fleet != nil {
		s.fleet.Close()
	}
	if s.proc != nil {
		s.proc.stop()
	}
}

// running resolves a -target URL.
func (b *bench) running(target string) (*load.Target, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	addr, err := net.ResolveTCPAddr("tcp4", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("-target: %w", err)
	}
	at := addr.AddrPort()
	t := &load.Target{
		Host: u.Host, Path: u.Path, Query: u.RawQuery, Secret: b.opt.secret, PerSource: b.limits.perPair(),
		Sources: b.opt.addresses, Addr: netip.AddrPortFrom(at.Addr().Unmap(), at.Port()),
	}
	if t.Path == "" || t.Path == "/" {
		t.Path = "/v1"
	}
	if t.Addr.Addr().IsLoopback() {
		t.Sources = b.sources()
	}
	return t, nil
}

// sources are the loopback addresses that connections come from: those of -addresses, or 127.0.0.1 and up.
func (b *bench) sources() []netip.Addr {
	if len(b.opt.addresses) > 0 {
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

// span measures for a while.
func (s *session) span(ctx context.Context, d time.Duration, t *totals) error {
	all := cpuTime()
	from := s.fleet.Mark(s.pid, load.Begin)
	if err := pause(ctx, d); err != nil {
		return err
	}
	to := s.fleet.Mark(s.pid, load.End)
	t.all += cpuTime() - all
	t.seconds += (to.Wall - from.Wall).Seconds()
	t.delivered += float64(to.Delivered - from.Delivered)
	t.reads += float64(to.Reads - from.Reads)
	t.joins += float64(to.Joins - from.Joins)
	t.cpu += (to.ServerCPU - from.ServerCPU).Seconds()
	t.load += (to.CPU - from.CPU).Seconds()
	return nil
}

// totals is what was counted in spans; a measurement may consist of several.
type totals struct {
	seconds, delivered, reads, joins float64
	cpu, load, all                   float64 // CPU seconds: of the server, of the load, and of everything on the machine
}

// loadFull is the share of its CPUs at which the load may be what limits a closed loop, unless the server is as busy.
const loadFull = 0.9

// measured turns totals into the metrics that all scenarios with traffic have.
func (s *session) measured(r *report.Round, t *totals) {
	r.Metrics[report.Deliveries] = t.delivered / t.seconds
	if t.reads > 0 {
		r.Metrics[report.PerRead] = t.delivered / t.reads
	}
	if t.joins > 0 {
		r.Metrics[report.Joins] = t.joins / t.seconds
	}
	r.Metrics[report.LoadCPU] = t.load / t.seconds / float64(len(s.load))
	r.LoadBound = r.Metrics[report.LoadCPU] > loadFull
	if s.pid == 0 || t.cpu <= 0 {
		return
	}
	if t.delivered > 0 {
		r.Metrics[report.CPUPerDelivery] = t.cpu * 1e6 / t.delivered
	}
	busy := t.cpu / t.seconds / float64(s.cpus)
	others := max(t.all-t.cpu-t.load, 0) / t.seconds
	r.Metrics[report.ServerCPU], r.Metrics[report.OtherCPU] = busy, others
	r.Disturbed = others > 0.1
	r.LoadBound = r.LoadBound && busy < loadFull
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
func (s *session) countTraffic(ctx context.Context, sc *scenario, r *report.Round, d time.Duration) error {
	before := s.fleet.Mark(0, load.Within).Delivered
	calls, writes, err := s.counted(func() error {
		s.fleet.Begin(sc.rate)
		if err := pause(ctx, d); err != nil {
			return err
		}
		return s.halt(ctx, r)
	})
	if n := float64(s.fleet.Mark(0, load.Within).Delivered - before); n > 0 {
		r.Metrics[report.CallsPerDelivery], r.Metrics[report.WritesPerDelivery] = calls/n, writes/n
	}
	return err
}

// halt stops the traffic, waits for what is under way and takes the verdict of the checks. A server that has ended by
// then is an error, whatever else it broke by that.
func (s *session) halt(ctx context.Context, r *report.Round) (err error) {
	r.Violations, err = s.fleet.Halt(ctx, s.b.opt.timeout)
	if err == nil && s.proc != nil && r.Violations.Total() > 0 {
		err = s.proc.ended(200 * time.Millisecond)
	}
	return err
}

// fault adds to an error what the server's end explains.
func (s *session) fault(err error) error {
	if s.proc == nil || err == nil {
		return err
	}
	if dead := s.proc.ended(0); dead != nil && !strings.Contains(err.Error(), dead.Error()) {
		return fmt.Errorf("%w (%v)", dead, err)
	}
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
