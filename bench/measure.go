package main

import (
	"context"
	"time"

	"relaygate/bench/host"
	"relaygate/bench/load"
	"relaygate/bench/report"
)

// window is what is read at both ends of a measurement.
type window struct {
	marks  load.Marks
	user   time.Duration
	system time.Duration
	log    int64
	all    time.Duration // CPU time of every process on the machine
	stolen time.Duration // and of other machines on the same hardware
}

// session is a started server and the load connected to it.
type session struct {
	b     *bench
	t     *target
	fleet *fleet
}

// begin starts a server and load processes for a number of connections.
func (b *bench) begin(ctx context.Context, s server, conns, rooms int, env ...string) (*session, error) {
	t, err := b.open(ctx, s, env...)
	if err != nil {
		return nil, err
	}
	f, err := b.newFleet(b.loaders(conns, rooms))
	if err != nil {
		t.close()
		return nil, err
	}
	return &session{b: b, t: t, fleet: f}, nil
}

// end stops both. The load goes first and resets its sockets, so that no port waits in TIME_WAIT.
func (s *session) end() {
	s.fleet.close()
	s.t.close()
}

// connect opens a shape's rooms and waits until everyone can be reached.
func (s *session) connect(ctx context.Context, shape load.Shape) error {
	if _, err := s.fleet.connect(ctx, s.t, shape); err != nil {
		return err
	}
	return s.fleet.greet(ctx)
}

// loaders is how many load processes: as many as the open-file limit asks for, and no fewer than there are CPUs for.
func (b *bench) loaders(conns, rooms int) int {
	per := min(int(b.openFiles)*3/4, 60000)
	return max((conns+per-1)/per, min(len(b.opt.loadCPUs), rooms), 1)
}

// edge says which end of a measurement a look is at: histograms hold the messages that were due in between.
type edge bool

const (
	begins edge = true
	ends   edge = false
)

// look reads all counters.
func (s *session) look(ctx context.Context, at edge) (window, error) {
	var w window
	if s.t.proc != nil {
		w.log = s.t.proc.logSize()
	}
	if s.t.pid != 0 {
		w.user, w.system, _ = host.UserSystem(s.t.pid)
	}
	w.all, w.stolen, _ = host.Machine()
	r, err := s.fleet.all(ctx, s.b.opt.timeout, load.Command{Do: load.DoMark, Reset: at == begins, Until: at == ends, PID: s.t.pid})
	w.marks = r.Marks
	return w, err
}

// totals is what was counted between windows; a measurement may consist of several turns.
type totals struct {
	seconds   float64
	delivered float64
	reads     float64
	joins     float64
	cpu       float64 // seconds, of the server
	load      float64 // seconds, of the load
	all       float64 // seconds, of every process
	stolen    float64
	first     window // where the first turn began: shares in ticks and in log lines need the longer time
	last      window
}

func (t *totals) add(from, to window) {
	if t.seconds == 0 {
		t.first = from
	}
	t.last = to
	t.seconds += float64(to.marks.Wall-from.marks.Wall) / 1e9
	t.delivered += float64(to.marks.Delivered - from.marks.Delivered)
	t.reads += float64(to.marks.Reads - from.marks.Reads)
	t.joins += float64(to.marks.Joins - from.marks.Joins)
	t.cpu += float64(to.marks.ServerCPU-from.marks.ServerCPU) / 1e9
	t.load += float64(to.marks.CPU-from.marks.CPU) / 1e9
	t.all += (to.all - from.all).Seconds()
	t.stolen += (to.stolen - from.stolen).Seconds()
}

// loadFull is the share of its CPUs at which the load may be what limits a closed loop, unless the server is as busy.
const loadFull = 0.9

// measured turns totals into the metrics every scenario has.
func (s *session) measured(r *report.Round, t totals) {
	r.Metrics[report.Deliveries] = t.delivered / t.seconds
	if t.reads > 0 {
		r.Metrics[report.PerRead] = t.delivered / t.reads
	}
	// A load process has one thread: it is full at one CPU, even when there are more.
	full := float64(min(len(s.b.opt.loadCPUs), len(s.fleet.loaders)))
	r.Metrics[report.LoadCPU] = t.load / t.seconds / full
	r.LoadBound = r.Metrics[report.LoadCPU] > loadFull
	if s.t.pid == 0 || t.cpu <= 0 {
		return
	}
	if t.delivered > 0 {
		r.Metrics[report.CPUPerDelivery] = t.cpu * 1e6 / t.delivered
	}
	busy := t.cpu / t.seconds / float64(s.t.cpus)
	r.Metrics[report.ServerCPU] = busy
	from, to := t.first, t.last
	if ticks := to.user + to.system - from.user - from.system; ticks > 0 {
		r.Metrics[report.SystemShare] = float64(to.system-from.system) / float64(ticks)
	}
	if s.t.proc != nil {
		gc, _ := s.t.proc.gcTime(from.log, to.log)
		r.Metrics[report.GCShare] = gc.Seconds() / (float64(to.marks.ServerCPU-from.marks.ServerCPU) / 1e9)
	}
	others := max(t.all-t.cpu-t.load, 0) / t.seconds
	r.Metrics[report.OtherCPU], r.Metrics[report.Stolen] = others, t.stolen/t.seconds
	r.Disturbed = others+t.stolen/t.seconds > 0.1
	r.LoadBound = r.LoadBound && busy < loadFull
}

// between is the totals of a single span.
func between(from, to window) (t totals) {
	t.add(from, to)
	return t
}

// halt stops the traffic, waits for what is under way and takes the verdict of the checks. A server that has ended by
// then is an error, whatever else it broke by that.
func (s *session) halt(ctx context.Context, r *report.Round) (load.Marks, error) {
	t, err := s.fleet.all(ctx, s.b.opt.timeout, load.Command{Do: load.DoHalt})
	r.Violations = t.Violations
	if err == nil && s.t.proc != nil && r.Violations.Total() > 0 {
		err = s.t.proc.ended()
	}
	return t.Marks, err
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
