package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"relaygate/bench/report"
)

// bench is one run: what is measured, with what, and the report that grows.
type bench struct {
	opt       *options
	servers   []*server
	usable    []*server // those that could be built
	scenarios []*scenario
	limits    limits
	spawn     spawner
	aside     []int  // the CPUs that this process has moved to
	logs      string // directory of the servers' output
	now       *report.Scenario
	report    report.Report

	saturation   float64 // messages per second, of some server (latency)
	uncalibrated error   // why there is no saturation
	countless    error   // why system calls are not counted
	began        time.Time
}

func newBench(o *options) (*bench, error) {
	b := &bench{opt: o, spawn: newSpawner(), limits: readLimits(o)}
	var err error
	if b.servers, err = chooseServers(o); err != nil {
		return nil, err
	}
	b.report.Against = b.servers[0].name
	if o.against != "" {
		b.report.Against = o.against
	}
	if !slices.ContainsFunc(b.servers, func(s *server) bool { return s.name == b.report.Against }) {
		return nil, fmt.Errorf("-against %s: it is not among the servers", o.against)
	}
	b.scenarios, err = pick(o.run, o.quick)
	return b, err
}

// run measures and writes the report, also when it is interrupted, and returns the exit status.
func (b *bench) run(ctx context.Context) int {
	b.began = time.Now()
	dir, err := newDir(b.opt.out, b.began)
	if err == nil {
		b.logs = filepath.Join(dir, "logs")
		err = os.Mkdir(b.logs, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	b.describeRun()
	b.buildAll(ctx)
	b.measureAll(ctx)
	r := &b.report
	r.Seconds, r.Interrupted = time.Since(b.began).Seconds(), ctx.Err() != nil
	if b.countless != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("System calls could not be counted: %v.", b.countless))
	}
	r.Conclude()
	outcome, status := "every message was checked, none was lost, doubled or out of order", 0
	if len(r.Faults()) > 0 {
		outcome, status = "with FAILURES", 1
	} else {
		os.RemoveAll(b.logs)
	}
	if r.Interrupted {
		outcome, status = "interrupted, "+outcome, 130
	}
	if err := r.Write(dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	fmt.Printf("\n%s\n%s after %.0f s: %s\n", r.Brief(), filepath.Join(dir, "report.html"), r.Seconds, outcome)
	return status
}

// newDir makes a directory of its own for a run.
func newDir(out string, began time.Time) (string, error) {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	base := filepath.Join(out, began.Format("2006-01-02T15-04-05"))
	dir := base
	for n := 2; ; n++ {
		err := os.Mkdir(dir, 0o755)
		if !errors.Is(err, os.ErrExist) || n > 1000 {
			return dir, err
		}
		dir = fmt.Sprintf("%s-%d", base, n)
	}
}

// describeRun fills in where and how.
func (b *bench) describeRun() {
	r, o := &b.report, b.opt
	r.Schema, r.Started, r.Command, r.Machine = report.Schema, b.began, o.commandLine(o.args), describeMachine(b.limits)
	r.Method = report.Method{
		ServerCPUs: formatCPUs(o.serverCPUs), LoadCPUs: formatCPUs(o.loadCPUs), Duration: o.duration.Seconds(),
		Warmup: o.warmup.Seconds(), Rounds: o.rounds, Heartbeat: o.heartbeat.Seconds(), Conns: o.conns,
	}
	if o.target != "" {
		r.Method.ServerCPUs = ""
	}
	if len(without(o.serverCPUs, o.loadCPUs)) < len(o.serverCPUs) {
		r.Notes = append(r.Notes, "Servers and load share a CPU: CPU per delivery holds, throughput and latency include the load's own work.")
	}
	if o.target != "" && o.pid == 0 {
		r.Notes = append(r.Notes, "The target's process is not known (-pid), so there are no figures of CPU time, memory and system calls.")
	}
	b.countless = countable(os.Getpid())
}

// buildAll makes the servers' binaries; one that cannot be built is left out, and the report says why.
func (b *bench) buildAll(ctx context.Context) {
	for _, s := range b.servers {
		entry := report.Server{Name: s.name, About: s.about}
		var err error
		if b.opt.build && s.build != nil && ctx.Err() == nil {
			b.say("building %s", s.name)
			entry.Version, err = s.make(ctx)
		} else {
			entry.Version, err = s.version()
		}
		if err != nil && ctx.Err() == nil {
			entry.Error = err.Error()
			b.say("%s: %v", s.name, err)
		} else {
			b.usable = append(b.usable, s)
		}
		b.report.Servers = append(b.report.Servers, entry)
	}
}

// loopPair is relaygate with one loop and with two, or nothing where it is not among the servers or the CPUs are too few.
func (b *bench) loopPair() []*server {
	i := slices.IndexFunc(b.usable, func(s *server) bool { return s.name == subject })
	all := allowedCPUs()
	if i < 0 || len(all) < 2 {
		return nil
	}
	var out []*server
	for loops, name := range []string{"1 loop", "2 loops"} {
		s := *b.usable[i]
		s.name, s.cpus, s.loadCPUs = name, all[:loops+1], all[2:]
		if len(s.loadCPUs) == 0 {
			s.loadCPUs = []int{all[1], all[0]} // the second one first: a single load thread leaves the first to the server
		}
		s.env = []string{fmt.Sprintf("EVENT_LOOPS=%d", loops+1)}
		out = append(out, &s)
	}
	return out
}

// measureAll goes through scenarios, rounds and servers, in an order that rotates so that none is always first.
func (b *bench) measureAll(ctx context.Context) {
	for i, sc := range b.scenarios {
		b.say("scenario %d of %d, after %s: %s", i+1, len(b.scenarios), time.Since(b.began).Round(time.Second), sc.title)
		servers, base := b.usable, b.report.Against
		if sc.loops {
			if servers, base = b.loopPair(), "1 loop"; servers == nil {
				continue
			}
		}
		b.now = &report.Scenario{
			Name: sc.name, Title: sc.title, About: sc.about, Shape: sc.shape, Primary: sc.primary, Base: base, Command: b.opt.again(sc),
		}
		b.report.Scenarios = append(b.report.Scenarios, b.now)
		for _, s := range servers {
			b.now.Results = append(b.now.Results, &report.Result{Server: s.name})
		}
		n := sc.shape.Conns()
		if n == 0 {
			n = b.opt.conns
		}
		if findings, fits := b.fitting(n); fits < n {
			for _, f := range findings {
				if f.fits < n {
					b.note("%d connections do not fit: %s (%s) allows %d. To raise it: %s", n, f.limit, f.have, f.fits, f.fix)
				}
			}
			if sc.shape.Rooms > 0 {
				continue
			}
		}
		for round := range b.opt.rounds {
			if ctx.Err() != nil {
				return
			}
			b.round(ctx, sc, servers, round)
		}
	}
}

// round is one round of a scenario on all servers that have not failed in it before: they would most likely only cost time.
func (b *bench) round(ctx context.Context, sc *scenario, servers []*server, round int) {
	var left []*server
	for _, s := range servers {
		if !b.now.Result(s.name).Gone() {
			left = append(left, s)
		}
	}
	if len(left) == 0 {
		return
	}
	var rounds []*report.Round
	if sc.measure == nil {
		rounds = b.closedRound(ctx, sc, left, round)
	} else {
		rounds = make([]*report.Round, len(left))
		for i := range left {
			k := (i + round) % len(left)
			rounds[k] = b.measureOne(ctx, sc, left[k])
		}
	}
	if ctx.Err() != nil {
		return // an interrupted round says nothing
	}
	var figures []string
	for i, r := range rounds {
		r.Clean()
		res := b.now.Result(left[i].name)
		res.Rounds = append(res.Rounds, r)
		figures = append(figures, left[i].name+" "+r.Line(sc.primary[0]))
	}
	b.say("%s, round %d of %d: %s", sc.name, round+1, b.opt.rounds, strings.Join(figures, ", "))
}

// measureOne is one round of one server where they take no turns.
func (b *bench) measureOne(ctx context.Context, sc *scenario, srv *server) *report.Round {
	r := report.NewRound()
	if sc.name == "latency" {
		if err := b.calibrate(ctx, sc); err != nil {
			r.Error = err.Error()
			return r
		}
	}
	s, err := b.begin(ctx, srv, sc)
	if err == nil {
		err = s.fault(sc.measure(s, ctx, sc, r))
		s.end()
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// note adds a remark to the scenario under way, once.
func (b *bench) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(b.now.Notes, text) {
		b.now.Notes = append(b.now.Notes, text)
		b.say("%s", text)
	}
}

func (b *bench) say(format string, args ...any) { fmt.Printf(format+"\n", args...) }
