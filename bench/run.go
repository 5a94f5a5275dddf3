package main

import (
	"cmp"
	"context"
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
	servers   []*server // later those that could be built
	scenarios []*scenario
	cpus      []int // that this process may use

	serverCPUs, loadCPUs []int

	limits    limits
	logs      string           // directory of the servers' output
	now       *report.Scenario // under way
	report    report.Report
	began     time.Time
	countless bool // system calls cannot be counted
}

func newBench(o *options) (b *bench, err error) {
	b = &bench{opt: o, limits: readLimits(o.pid), cpus: cpusOf(0)}
	if b.servers, err = chooseServers(o); err != nil {
		return nil, err
	}
	b.report.Against = cmp.Or(o.against, b.servers[0].name)
	if !slices.ContainsFunc(b.servers, func(s *server) bool { return s.name == b.report.Against }) {
		return nil, fmt.Errorf("-against %s: it is not among the servers", o.against)
	}
	b.serverCPUs, b.loadCPUs = b.split(o.serverCPUs)
	for _, s := range b.servers {
		s.cpus, s.loadCPUs = b.serverCPUs, b.loadCPUs
	}
	b.scenarios, err = pick(o.run, o.quick)
	return b, err
}

// split gives the first n CPUs to the servers and the others to the load, which shares them all if there are no others.
func (b *bench) split(n int) (servers, load []int) {
	if n == len(b.cpus) {
		return b.cpus, b.cpus
	}
	return b.cpus[:n], b.cpus[n:]
}

// run measures and writes the report, also when it is interrupted, and returns the exit status.
func (b *bench) run(ctx context.Context) (status int, err error) {
	b.began = time.Now()
	dir := filepath.Join(b.opt.out, b.began.Format("2006-01-02T15-04-05.000"))
	b.logs = filepath.Join(dir, "logs")
	if err := os.MkdirAll(b.logs, 0o755); err != nil {
		return 1, err
	}
	b.describeRun()
	b.buildAll(ctx)
	stepAside(b.loadCPUs)
	for i, sc := range b.scenarios {
		b.say("scenario %d of %d, after %s: %s", i+1, len(b.scenarios), time.Since(b.began).Round(time.Second), sc.title)
		b.measure(ctx, sc)
	}
	r := &b.report
	r.Seconds, r.Interrupted = time.Since(b.began).Seconds(), ctx.Err() != nil
	r.Conclude()
	outcome := "every message was checked, none was lost, doubled or out of order"
	if len(r.Faults()) > 0 {
		outcome, status = "with FAILURES", 1
	} else {
		_ = os.RemoveAll(b.logs)
	}
	if r.Interrupted {
		outcome, status = "interrupted, "+outcome, 130
	}
	if err := r.Write(dir); err != nil {
		return 1, err
	}
	fmt.Printf("\n%s\n%s after %.0f s: %s\n", r.Brief(), filepath.Join(dir, "report.html"), r.Seconds, outcome)
	return status, nil
}

// describeRun fills in where and how.
func (b *bench) describeRun() {
	r, o := &b.report, b.opt
	r.Schema, r.Started, r.Command, r.Machine = report.Schema, b.began, o.commandLine(), b.describeMachine()
	r.Method = report.Method{
		ServerCPUs: formatCPUs(b.serverCPUs), LoadCPUs: formatCPUs(b.loadCPUs), Duration: o.duration.Seconds(),
		Warmup: o.warmup.Seconds(), Rounds: o.rounds, Heartbeat: o.heartbeat.Seconds(), Conns: o.conns,
	}
	if len(b.serverCPUs) == len(b.cpus) {
		r.Notes = append(r.Notes, "Servers and load share their CPUs: CPU per delivery holds, throughput and latency include the load's own work.")
	}
	if o.target != "" {
		r.Method.ServerCPUs = ""
		if o.pid == 0 {
			r.Notes = append(r.Notes, "The target's process is not known (-pid), so there are no figures of CPU time, memory and system calls.")
		}
	}
	if o.furtherInSome && o.target == "" {
		r.Notes = append(r.Notes, "To save time, servers other than "+quick+" are measured in some scenarios only, unless -servers names them.")
	}
	if o.quick {
		r.Notes = append(r.Notes, "A quick run measures for a shorter time, fewer servers and fewer scenarios.")
	}
}

// buildAll makes the servers' binaries; one that cannot be built is left out, and the report says why.
func (b *bench) buildAll(ctx context.Context) {
	var usable []*server
	for _, s := range b.servers {
		entry := report.Server{Name: s.name, About: s.about}
		var err error
		if b.opt.build && s.source != "" && ctx.Err() == nil {
			b.say("building %s", s.name)
			err = s.make(ctx)
		}
		if err == nil {
			entry.Version, err = s.version()
		}
		if err != nil && ctx.Err() == nil {
			entry.Error = err.Error()
			b.say("%s: %v", s.name, err)
		} else {
			usable = append(usable, s)
		}
		b.report.Servers = append(b.report.Servers, entry)
	}
	b.servers = usable
}

// measure goes through the rounds of a scenario.
func (b *bench) measure(ctx context.Context, sc *scenario) {
	if ctx.Err() != nil {
		return
	}
	servers := b.serversOf(sc)
	if sc.loops && servers == nil {
		b.report.Notes = append(b.report.Notes, fmt.Sprintf("Not measured: %s. That takes relaygate, and two CPUs.", sc.title))
		return
	}
	primary := sc.primary
	if b.opt.target != "" && b.opt.pid == 0 {
		primary = []string{report.Deliveries, report.P99, report.Handshakes} // as far as they are measured
	}
	b.now = &report.Scenario{
		Name: sc.name, Title: sc.title, About: sc.about, Shape: sc.shape, Primary: primary,
		Command: b.opt.commandLine("-run", "^"+sc.name+"$"),
	}
	b.report.Scenarios = append(b.report.Scenarios, b.now)
	if sc.loops {
		b.now.Base = servers[0].name
	}
	for _, s := range servers {
		b.now.Results = append(b.now.Results, &report.Result{Server: s.name})
	}
	n := sc.shape.Conns()
	if n == 0 {
		n = b.opt.conns
	}
	findings, fits := b.fitting(n)
	for _, f := range findings {
		if f.fits < n {
			b.note("%d connections do not fit: %s allows %d. To raise it: %s", n, f.limit, f.fits, f.fix)
		}
	}
	if fits < n && sc.shape.Rooms > 0 {
		return
	}
	for round := range b.opt.rounds {
		if ctx.Err() == nil {
			b.round(ctx, sc, servers, round)
		}
	}
}

// serversOf are those that a scenario is measured on.
func (b *bench) serversOf(sc *scenario) (out []*server) {
	if !sc.loops {
		return slices.DeleteFunc(slices.Clone(b.servers), func(s *server) bool {
			return s.further && !sc.all && s.name != b.report.Against
		})
	}
	i := slices.IndexFunc(b.servers, func(s *server) bool { return s.name == subject })
	if i < 0 || len(b.cpus) < 2 {
		return nil
	}
	for loops, name := range []string{"1 loop", "2 loops"} {
		s := *b.servers[i]
		s.name, s.cpus, s.loadCPUs = name, b.cpus[:loops+1], b.cpus[2:]
		if len(s.loadCPUs) == 0 {
			s.loadCPUs = []int{b.cpus[1], b.cpus[0]} // a single thread leaves the first to the server
		}
		s.env = []string{fmt.Sprintf("EVENT_LOOPS=%d", loops+1)}
		out = append(out, &s)
	}
	return out
}

// round is one round of a scenario, in an order that rotates so that no server is always first, on all that have not
// failed in it before: they would most likely only cost time.
func (b *bench) round(ctx context.Context, sc *scenario, servers []*server, round int) {
	servers = slices.DeleteFunc(slices.Clone(servers), func(s *server) bool { return b.now.Result(s.name).Gone() })
	if len(servers) == 0 {
		return
	}
	rounds := make([]*report.Round, len(servers))
	if sc.measure == nil {
		rounds = b.closedRound(ctx, sc, servers, round)
	} else {
		for i := range servers {
			k := (i + round) % len(servers)
			s := b.begin(ctx, sc, servers[k])
			s.try(func() error { return sc.measure(s, ctx) })
			s.end()
			rounds[k] = s.round
		}
	}
	if ctx.Err() != nil {
		return // an interrupted round says nothing
	}
	var figures []string
	for i, r := range rounds {
		res := b.now.Result(servers[i].name)
		res.Rounds = append(res.Rounds, r)
		figures = append(figures, servers[i].name+" "+r.Line(b.now.Primary[0]))
	}
	b.say("%s, round %d of %d: %s", sc.name, round+1, b.opt.rounds, strings.Join(figures, ", "))
}

// note adds a remark to the scenario under way, once.
func (b *bench) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(b.now.Notes, text) {
		b.now.Notes = append(b.now.Notes, text)
		b.say("%s", text)
	}
}

func (b *bench) say(format string, args ...any) { fmt.Printf(format+"\n", args...) }
