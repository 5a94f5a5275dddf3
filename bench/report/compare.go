package report

import (
	"fmt"
	"slices"
	"strings"
)

// Change is one metric of the first server in two reports.
type Change struct {
	Scenario string
	Metric   Metric
	Old, New float64 // medians
	Factor   float64 // new over old; relative to the reference server's own change, if there is one
	Against  string  // that reference, or empty
	Verdict  int     // -1 worse, 0 no difference beyond noise, 1 better
}

// Comparison is what two reports have to say to each other.
type Comparison struct {
	Changes []Change
	Missing []string // scenarios of the old report that the new one has no figures of
	Faults  []string // what went wrong in the new one
	Remarks []string // circumstances that differ
	broken  bool     // the new one was interrupted
}

// Compare finds what got better or worse between two reports, for the first server of the new one. Where both reports
// have another server in common, its figures of the same rounds stand for the machine's mood: the quotients to it are
// compared, not the figures. Only spreads that lie apart count as a change (see judge).
func Compare(old, new *Report) *Comparison {
	c := &Comparison{broken: new.Interrupted, Remarks: differences(old, new)}
	for i := range old.Scenarios {
		o := &old.Scenarios[i]
		if o.base() == nil || len(o.base().Summary) == 0 {
			continue // it has nothing to compare with
		}
		k := slices.IndexFunc(new.Scenarios, func(s Scenario) bool { return s.Name == o.Name })
		if k < 0 {
			c.Missing = append(c.Missing, o.Name)
			continue
		}
		n := &new.Scenarios[k]
		changes := compare(o, n)
		if len(changes) == 0 {
			c.Missing = append(c.Missing, o.Name)
		}
		c.Changes = append(c.Changes, changes...)
	}
	for _, s := range new.Servers {
		if s.Error != "" {
			c.Faults = append(c.Faults, s.Name+": "+oneLine(s.Error))
		}
	}
	for i := range new.Scenarios {
		if bad := new.Scenarios[i].failures(); bad != "" {
			c.Faults = append(c.Faults, new.Scenarios[i].Name+": "+bad)
		}
	}
	return c
}

// compare is Compare for one scenario.
func compare(o, n *Scenario) (out []Change) {
	newBase := n.base()
	if newBase == nil {
		return nil
	}
	oldBase := o.result(newBase.Server)
	if oldBase == nil {
		return nil
	}
	for _, m := range Metrics {
		a, inOld := oldBase.Summary[m.Name]
		b, inNew := newBase.Summary[m.Name]
		if m.Better == 0 || !inOld || !inNew || m.Name != n.Primary && !gated[m.Name] {
			continue
		}
		c := Change{Scenario: n.Name, Metric: m, Old: a.Median, New: b.Median}
		oldSpread, newSpread := spread(a), spread(b)
		for _, name := range []string{"gws", "gorilla", "coder", "nbhttp"} {
			p, q := o.result(name), n.result(name)
			if name == newBase.Server || p == nil || q == nil {
				continue
			}
			x, y := ratioOf(oldBase, p, m.Name), ratioOf(newBase, q, m.Name)
			if x != nil && y != nil {
				oldSpread, newSpread, c.Against = *x, *y, name
				break
			}
		}
		was, _ := oldBase.values(m.Name)
		is, _ := newBase.values(m.Name)
		c.judge(oldSpread, newSpread, min(len(was), len(is)), oldBase.mostlyMarked() || newBase.mostlyMarked())
		out = append(out, c)
	}
	return out
}

// differences are the circumstances that make two reports hard to compare.
func differences(old, new *Report) (out []string) {
	f := func(what string, a, b any) {
		if a, b := fmt.Sprint(a), fmt.Sprint(b); a != b {
			out = append(out, fmt.Sprintf("%s: %s, then %s", what, a, b))
		}
	}
	f("CPU", old.Machine.CPU, new.Machine.CPU)
	f("number of CPUs", old.Machine.CPUs, new.Machine.CPUs)
	f("kernel", old.Machine.Kernel, new.Machine.Kernel)
	f("seconds per measurement", old.Method.Duration, new.Method.Duration)
	f("CPUs of the servers", old.Method.ServerCPUs, new.Method.ServerCPUs)
	f("CPUs of the load", old.Method.LoadCPUs, new.Method.LoadCPUs)
	f("heartbeat interval in idle", old.Method.Heartbeat, new.Method.Heartbeat)
	f("silent peers", old.Method.Conns, new.Method.Conns)
	for _, s := range new.Servers {
		for _, o := range old.Servers {
			if o.Name == s.Name && len(new.Servers) > 0 && s.Name != new.Servers[0].Name {
				f("version of "+s.Name, o.Version, s.Version)
			}
		}
	}
	return out
}

// gated are the metrics compared in every scenario that has them, beside its primary one.
var gated = map[string]bool{CPUPerDelivery: true, P99Half: true, HandshakesPerCPU: true, ResidentPerPeer: true, HeartbeatCPU: true, Sustained: true}

func spread(s Summary) Ratio { return Ratio{Median: s.Median, Min: s.Min, Max: s.Max} }

// By how much two spreads must lie apart: touching ones happen by chance, the more so the fewer rounds they are made of.
// Where the load was the limit, how far the server batches is the load's doing, and so is the cost of a delivery.
const (
	gap         = 0.05
	gapOfFew    = 0.15
	gapOfMarked = 0.3
	fewRounds   = 3
)

func (c *Change) judge(old, new Ratio, rounds int, marked bool) {
	apart := gap
	switch {
	case marked:
		apart = gapOfMarked
	case rounds < fewRounds:
		apart = gapOfFew
	}
	if old.Median > 0 {
		c.Factor = new.Median / old.Median
	}
	switch {
	case new.Min > old.Max*(1+apart) && new.Median > old.Median*(1+margin):
		c.Verdict = c.Metric.Better
	case new.Max < old.Min*(1-apart) && new.Median < old.Median*(1-margin):
		c.Verdict = -c.Metric.Better
	}
}

func (s *Scenario) result(server string) *Result {
	for i := range s.Results {
		if s.Results[i].Server == server {
			return &s.Results[i]
		}
	}
	return nil
}

// Status is the exit status of a gate: 1 if something got worse, failed or is missing; 2 if nothing can be said, since
// the new run was interrupted or the two have nothing in common.
func (c *Comparison) Status() int {
	switch {
	case c.broken || len(c.Changes) == 0:
		return 2
	case len(c.Missing) > 0 || len(c.Faults) > 0:
		return 1
	case slices.ContainsFunc(c.Changes, func(x Change) bool { return x.Verdict < 0 }):
		return 1
	}
	return 0
}

// String is the comparison as text.
func (c *Comparison) String() string {
	var b strings.Builder
	for _, r := range c.Remarks {
		fmt.Fprintf(&b, "Not the same: %s\n", r)
	}
	for _, f := range c.Faults {
		fmt.Fprintf(&b, "FAILED: %s\n", f)
	}
	for _, name := range c.Missing {
		fmt.Fprintf(&b, "MISSING: %s is in the old report only\n", name)
	}
	if c.broken {
		b.WriteString("The new run was interrupted: nothing can be concluded.\n")
	}
	if len(c.Changes) == 0 {
		b.WriteString("The two reports have nothing in common.\n")
		return b.String()
	}
	fmt.Fprintf(&b, "%-12s %-30s %14s %14s %8s  %s\n", "scenario", "metric", "old", "new", "factor", "")
	for _, x := range c.Changes {
		words := "no difference beyond noise"
		switch x.Verdict {
		case 1:
			words = "better"
		case -1:
			words = "WORSE"
		}
		if x.Against != "" {
			words += " (measured against " + x.Against + ")"
		}
		fmt.Fprintf(&b, "%-12s %-30s %14s %14s %8s  %s\n", x.Scenario, x.Metric.Title, x.Metric.Format(x.Old), x.Metric.Format(x.New), number(x.Factor, 2), words)
	}
	return b.String()
}
