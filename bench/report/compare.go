package report

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/perf/benchmath"
)

// alpha is the probability that one comparison finds a change by chance. A run makes some twenty comparisons.
var alpha = benchmath.Thresholds{CompareAlpha: 0.01}

// gated are the metrics compared in every scenario that has them, beside its primary ones.
var gated = map[string]bool{CPUPerDelivery: true, HeartbeatCPU: true}

// marginOfMarked is the smallest change that counts where the load was the limit or others were busy: how far a server
// batches is then the load's doing, and so is the cost of a delivery.
const marginOfMarked = 0.3

// Change is one metric of the first server in two reports.
type Change struct {
	Scenario string
	Metric   Metric
	Old, New float64 // medians
	Factor   float64 // new over old; relative to the yardstick's own change, if there is one
	Against  string  // that yardstick: a server that both reports measured
	Verdict  int     // -1 worse, 0 no difference beyond noise, 1 better
	Few      bool    // too few rounds to tell
}

// Comparison is what two reports have to say to each other.
type Comparison struct {
	Changes []Change
	Remarks []string // circumstances that differ, and what failed or is missing in the new report

	// Status is the exit status of a gate: 1 if something got worse, failed or is missing; 2 if nothing can be said, since
	// the new run was interrupted or the two have nothing in common or too few rounds.
	Status int
}

// Compare finds what got better or worse between two reports, for the first server of the new one. Where both reports
// have another server in common, its figures of the same rounds stand for the machine's mood: the ratios to it are
// compared, by the Mann-Whitney U test.
func Compare(old, new *Report) *Comparison {
	c := &Comparison{Remarks: differences(old, new)}
	failed := false
	fail := func(text string) {
		failed = true
		c.Remarks = append(c.Remarks, text)
	}
	for _, f := range new.Faults() {
		fail("FAILED: " + oneLine(f))
	}
	if new.Interrupted {
		fail("The new run was interrupted: nothing can be concluded.")
	}
	for _, o := range old.Scenarios {
		if len(new.Servers) == 0 {
			break
		}
		subject := new.Servers[0].Name
		before := o.Result(subject)
		if before == nil || len(before.Summary) == 0 {
			continue // it has nothing to compare with
		}
		var changes []Change
		if k := slices.IndexFunc(new.Scenarios, func(s *Scenario) bool { return s.Name == o.Name }); k >= 0 {
			changes = compare(o, new.Scenarios[k], subject)
		}
		if len(changes) == 0 {
			fail("MISSING: " + o.Name + " is in the old report only")
		}
		c.Changes = append(c.Changes, changes...)
	}
	worse := slices.ContainsFunc(c.Changes, func(x Change) bool { return x.Verdict < 0 })
	told := slices.ContainsFunc(c.Changes, func(x Change) bool { return !x.Few })
	switch {
	case new.Interrupted || len(c.Changes) == 0:
		c.Status = 2
	case failed || worse:
		c.Status = 1
	case !told:
		c.Status = 2
	}
	return c
}

// compare is Compare for one scenario.
func compare(o, n *Scenario, subject string) (out []Change) {
	before, after := o.Result(subject), n.Result(subject)
	if after == nil {
		return nil
	}
	for _, m := range Metrics {
		a, inOld := before.Summary[m.Name]
		b, inNew := after.Summary[m.Name]
		if m.Better == 0 || !inOld || !inNew || !slices.Contains(n.Primary, m.Name) && !gated[m.Name] {
			continue
		}
		c := Change{Scenario: n.Name, Metric: m, Old: a.Median, New: b.Median}
		was, is := before.values(m.Name), after.values(m.Name)
		for _, r := range n.Results {
			x, y := before.ratios(o.Result(r.Server), m.Name), after.ratios(r, m.Name)
			if r.Server != subject && len(x) > 0 && len(y) > 0 {
				was, is, c.Against = x, y, r.Server
				break
			}
		}
		marked := func(x *Round) bool { return x.LoadBound || x.Disturbed }
		c.judge(was, is, before.most(marked) || after.most(marked))
		out = append(out, c)
	}
	return out
}

func (c *Change) judge(was, is []float64, marked bool) {
	old, new := spread(was), spread(is)
	if old.Median <= 0 {
		return
	}
	c.Factor = new.Median / old.Median
	test := benchmath.AssumeNothing.Compare(benchmath.NewSample(slices.Clone(was), &alpha), benchmath.NewSample(slices.Clone(is), &alpha))
	c.Few = min(len(was), len(is)) < fewest
	least := margin
	if marked {
		least = marginOfMarked
	}
	switch {
	case c.Few || test.P >= alpha.CompareAlpha:
	case c.Factor > 1+least:
		c.Verdict = c.Metric.Better
	case c.Factor < 1-least:
		c.Verdict = -c.Metric.Better
	}
}

// differences are the circumstances that make two reports hard to compare.
func differences(old, new *Report) (out []string) {
	f := func(what string, a, b any) {
		if a != b {
			out = append(out, fmt.Sprintf("Not the same: %s: %v, then %v", what, a, b))
		}
	}
	f("CPU", old.Machine.CPU, new.Machine.CPU)
	f("number of CPUs", old.Machine.CPUs, new.Machine.CPUs)
	f("kernel", old.Machine.Kernel, new.Machine.Kernel)
	f("method", old.Method, new.Method)
	for i, s := range new.Servers {
		for _, o := range old.Servers {
			if o.Name == s.Name && i > 0 {
				f("version of "+s.Name, o.Version, s.Version)
			}
		}
	}
	return out
}

// String is the comparison as text.
func (c *Comparison) String() string {
	var b strings.Builder
	for _, r := range c.Remarks {
		fmt.Fprintln(&b, r)
	}
	if len(c.Changes) == 0 {
		b.WriteString("The two reports have nothing in common.\n")
		return b.String()
	}
	fmt.Fprintf(&b, "%-12s %-30s %16s %16s %7s\n", "scenario", "metric", "old", "new", "factor")
	for _, x := range c.Changes {
		words := map[int]string{-1: "WORSE", 0: "no difference beyond noise", 1: "better"}[x.Verdict]
		if x.Few {
			words = fmt.Sprintf("fewer than %d rounds: no verdict", fewest)
		}
		if x.Against != "" {
			words += " (ratio to " + x.Against + ")"
		}
		fmt.Fprintf(&b, "%-12s %-30s %16s %16s %7s  %s\n", x.Scenario, x.Metric.Title, x.Metric.Format(x.Old), x.Metric.Format(x.New), number(x.Factor, 2), words)
	}
	return b.String()
}
