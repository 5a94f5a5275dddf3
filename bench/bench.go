package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bench/host"
	"relaygate/bench/report"
)

// bench is one run: what is measured, with what, and the report that grows.
type bench struct {
	opt       *options
	servers   []server
	scenarios []scenario
	limits    host.Limits
	openFiles uint64
	spawn     spawner
	progress  *progress
	logs      string // directory of the servers' output
	fleets    int    // load fleets started so far, which keeps relay ids apart

	saturation   float64 // messages per second, of the reference server (latency)
	uncalibrated error   // why there is no saturation
	report       report.Report
}

func newBench(opt *options) (*bench, error) {
	b := &bench{opt: opt, spawn: newSpawner(), limits: limits(opt), progress: newProgress(os.Stdout)}
	var err error
	if opt.targetURL != "" {
		b.servers = []server{{name: "target", about: opt.targetURL, url: opt.targetURL, pid: opt.pid}}
	} else if b.servers, err = chooseServers(opt.servers, opt.repo, opt.bin); err != nil {
		return nil, err
	}
	if b.scenarios, err = pick(opt.run, opt.quick); err != nil {
		return nil, err
	}
	var l unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
	b.openFiles = l.Cur
	return b, nil
}

// run measures and writes the report, also when it is interrupted, and returns the exit status.
func (b *bench) run(ctx context.Context) int {
	began := time.Now()
	dir, err := newDir(b.opt.out, began)
	if err == nil {
		b.logs = filepath.Join(dir, "logs")
		err = os.Mkdir(b.logs, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	b.describeRun(began)
	b.buildAll(ctx)
	busy, stolen, idle := host.Machine()
	b.measureAll(ctx)
	b.progress.done()
	nowBusy, nowStolen, nowIdle := host.Machine()
	if all := nowBusy + nowStolen + nowIdle - busy - stolen - idle; all > 0 {
		b.report.Machine.StealShare = float64(nowStolen-stolen) / float64(all)
	}
	b.report.Seconds = time.Since(began).Seconds()
	b.report.Interrupted = ctx.Err() != nil
	b.report.Conclude()
	b.tidyLogs()
	if err := b.report.Write(dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	fmt.Print(b.report.Brief())
	fmt.Printf("\n%s after %.0f s: %s\n", filepath.Join(dir, "report.html"), b.report.Seconds, b.outcome())
	switch {
	case b.report.Interrupted:
		return 130
	case b.report.Failed():
		return 1
	}
	return 0
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

func (b *bench) outcome() string {
	switch {
	case b.report.Interrupted && b.report.Failed():
		return "interrupted, and there were FAILURES"
	case b.report.Interrupted:
		return "interrupted"
	case b.report.Failed():
		return "with FAILURES"
	}
	return "every message was checked, none was lost, doubled or out of order"
}

// buildAll makes the servers' binaries; one that cannot be built is left out, and the report says why.
func (b *bench) buildAll(ctx context.Context) {
	for i := range b.servers {
		s := &b.servers[i]
		entry := report.Server{Name: s.name, About: s.about}
		if b.opt.build && s.build != nil && ctx.Err() == nil {
			b.progress.status("building %s", s.name)
			if err := s.make(ctx); err != nil && ctx.Err() == nil {
				entry.Error = err.Error()
				b.progress.line("%v", err)
			}
		}
		if s.url == "" && entry.Error == "" && ctx.Err() == nil {
			entry.Command = strings.Join(append([]string{s.path}, s.args...), " ")
			if path, err := exec.LookPath(s.path); err != nil {
				entry.Error = err.Error()
				b.progress.line("%s: %v", s.name, err)
			} else {
				s.path = path
				entry.Version = s.version()
			}
		}
		b.report.Servers = append(b.report.Servers, entry)
	}
}

// usable tells whether a server's binary is there.
func (b *bench) usable(s server) bool {
	for _, e := range b.report.Servers {
		if e.Name == s.name {
			return e.Error == ""
		}
	}
	return false
}

// measureAll goes through scenarios, rounds and servers, in an order that rotates so that none is always first.
func (b *bench) measureAll(ctx context.Context) {
	var servers []server
	for _, s := range b.servers {
		if b.usable(s) {
			servers = append(servers, s)
		}
	}
	b.progress.plan(b.estimate(len(servers)))
	for _, sc := range b.scenarios {
		if ctx.Err() != nil {
			return
		}
		b.report.Scenarios = append(b.report.Scenarios, report.Scenario{
			Name: sc.name, About: sc.about, Kind: sc.kind, Shape: sc.shape, Primary: sc.primary, Command: b.command(sc),
		})
		for _, s := range servers {
			b.results().Results = append(b.results().Results, report.Result{Server: s.name})
		}
		if n := sc.shape.Conns(); sc.kind != idle && b.fitting(n) < n {
			b.progress.skip(b.rounds(sc)*len(servers), b.seconds(sc))
			continue
		}
		for round := range b.rounds(sc) {
			if sc.kind == steady {
				b.steadyRound(ctx, sc, servers, round)
				continue
			}
			for i := range servers {
				if ctx.Err() != nil {
					return
				}
				k := (i + round) % len(servers)
				b.measureOne(ctx, sc, servers[k], &b.results().Results[k], round)
			}
		}
		if b.opt.syscalls && sc.kind == steady {
			b.countAll(ctx, sc, servers)
		}
	}
}

// results is the scenario under way.
func (b *bench) results() *report.Scenario { return &b.report.Scenarios[len(b.report.Scenarios)-1] }

// rounds is the scenario's own number, unless -rounds says otherwise.
func (b *bench) rounds(sc scenario) int {
	if sc.rounds > 0 && !b.opt.set["rounds"] {
		return sc.rounds
	}
	return b.opt.rounds
}

// note adds a remark to the scenario under way.
func (b *bench) note(text string) {
	b.results().Notes = append(b.results().Notes, text)
}

// steadyRound is one round of a closed loop on all servers that have not failed in it before.
func (b *bench) steadyRound(ctx context.Context, sc scenario, servers []server, round int) {
	var usable []server
	var results []*report.Result
	for i, s := range servers {
		if res := &b.results().Results[i]; res.Gone() {
			b.progress.skip(1, b.seconds(sc))
		} else {
			usable, results = append(usable, s), append(results, res)
		}
	}
	if len(usable) == 0 || ctx.Err() != nil {
		return
	}
	b.progress.begin(b.seconds(sc)*float64(len(usable)), len(usable), "%s, round %d of %d", sc.name, round+1, b.rounds(sc))
	rounds := b.measureSteady(ctx, sc, usable, round)
	if ctx.Err() != nil {
		return
	}
	var figures []string
	for i, r := range rounds {
		r.Clean()
		results[i].Rounds = append(results[i].Rounds, r)
		figures = append(figures, usable[i].name+" "+r.Line(sc.primary))
	}
	b.progress.end(strings.Join(figures, ", "))
}

// measureOne is one round of one server. A round that fails is recorded, and the server's further ones are left out:
// they would most likely only cost time.
func (b *bench) measureOne(ctx context.Context, sc scenario, s server, res *report.Result, round int) {
	seconds := b.seconds(sc)
	if res.Gone() {
		b.progress.skip(1, seconds)
		return
	}
	b.progress.begin(seconds, 1, "%s, round %d of %d, %s", sc.name, round+1, b.rounds(sc), s.name)
	var r report.Round
	var err error
	switch sc.kind {
	case latency:
		r, err = b.measureLatency(ctx, sc, s, round)
	case slow:
		r, err = b.measureSlow(ctx, sc, s)
	case connect:
		r, err = b.measureConnect(ctx, sc, s)
	case idle:
		r, err = b.measureIdle(ctx, sc, s)
	}
	if ctx.Err() != nil {
		return // an interrupted round says nothing
	}
	if err != nil {
		r.Error = err.Error()
	}
	r.Clean()
	res.Rounds = append(res.Rounds, r)
	b.progress.end(r.Line(sc.primary))
}

// seconds is roughly how long one measurement takes, start and stop included.
func (b *bench) seconds(sc scenario) float64 {
	one, long, warm := b.opt.duration.Seconds(), b.opt.length(sc).Seconds(), b.opt.warmup.Seconds()
	switch sc.kind {
	case latency:
		// The first rounds have all rates, the others have one.
		rounds := float64(b.rounds(sc))
		return 0.6 + (min(float64(curveRounds), rounds)*float64(len(shares)-1)*(one+warm)+rounds*(long+warm))/rounds
	case slow:
		return 1.3 + 2*one + long
	case connect:
		return 1
	case idle:
		return 4*(b.opt.heartbeat+settle).Seconds() + float64(b.opt.conns)/10000
	}
	return 0.3 + warm + long + float64(b.opt.turns())*(turnWarmup.Seconds()+0.003)
}

func (b *bench) estimate(servers int) (measurements int, seconds float64) {
	for _, sc := range b.scenarios {
		n := b.rounds(sc) * servers
		measurements += n
		seconds += float64(n) * b.seconds(sc)
	}
	return measurements, seconds
}

// tidyLogs removes the servers' output unless something failed: it is mostly the garbage collector's.
func (b *bench) tidyLogs() {
	if !b.report.Failed() {
		os.RemoveAll(b.logs)
	}
}

// fitting is how many of n connections this machine's limits allow; what is in the way is noted once.
func (b *bench) fitting(n int) int {
	findings, fits := b.limits.Check(n, b.opt.pairs(), perConn(b.servers))
	for _, f := range findings {
		if f.Fix != "" {
			text := fmt.Sprintf("%d connections do not fit: %s (%s) allows %d. To raise it: %s", n, f.Limit, f.Have, f.Fits, f.Fix)
			if !b.noted(text) {
				b.note(text)
				b.progress.line("%s", text)
			}
		}
	}
	return fits
}

func (b *bench) noted(text string) bool {
	for _, n := range b.results().Notes {
		if n == text {
			return true
		}
	}
	return false
}
