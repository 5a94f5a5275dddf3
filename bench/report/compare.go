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

// Comparison is what two reports have to say to each other.
type Comparison struct {
	Text string

	// Status is the exit status of a gate: 1 if something got worse, failed or is missing; 2 if nothing can be said, since
	// the new run was interrupted or the two have nothing in common or too few rounds.
	Status int

	worse, told bool // something is worse, failed or missing; there was a verdict
}

// Compare finds what got better or worse between two reports, for the first server of the new one. Where both reports
// have another server in common, its figures of the same rounds stand for the machine's mood: the ratios to it are
// compared, by the Mann-Whitney U test.
func Compare(old, new *Report) *Comparison {
	c := &Comparison{Text: differences(old, new)}
	for _, f := range new.Faults() {
		c.fail("FAILED: " + oneLine(f))
	}
	if new.Interrupted {
		c.fail("The new run was interrupted: nothing can be concluded.")
	}
	subject := ""
	if len(new.Servers) > 0 {
		subject = new.Servers[0].Name
	}
	var changes strings.Builder
	for _, o := range old.Scenarios {
		before := o.Result(subject)
		if before == nil || len(before.Summary) == 0 {
			continue // it has nothing to compare with
		}
		found := false
		if k := slices.IndexFunc(new.Scenarios, func(s *Scenario) bool { return s.Name == o.Name }); k >= 0 {
			found = c.compare(&changes, o, new.Scenarios[k], subject)
		}
		if !found {
			c.fail("MISSING: " + o.Name + " is in the old report only")
		}
	}
	switch {
	case changes.Len() == 0:
		c.Text += "The two reports have nothing in common.\n"
		c.Status = 2
	case new.Interrupted || !c.worse && !c.told:
		c.Status = 2
	case c.worse:
		c.Status = 1
	}
	if changes.Len() > 0 {
		c.Text += fmt.Sprintf(line, "scenario", "metric", "old", "new", "factor", "") + changes.String()
	}
	return c
}

const line = "%-12s %-30s %16s %16s %7s  %s\n"

func (c *Comparison) fail(text string) {
	c.worse = true
	c.Text += text + "\n"
}

// compare is Compare for one scenario; it returns whether there was something to compare.
func (c *Comparison) compare(out *strings.Builder, o, n *Scenario, subject string) (found bool) {
	before, after := o.Result(subject), n.Result(subject)
	if after == nil {
		return false
	}
	marked := func(x *Round) bool { return x.LoadBound || x.Disturbed }
	least := margin
	if before.most(marked) || after.most(marked) {
		least = marginOfMarked
	}
	for _, m := range Metrics {
		was, is, against := before.values(m.Name), after.values(m.Name), ""
		if m.Better == 0 || was == nil || is == nil || !slices.Contains(n.Primary, m.Name) && !gated[m.Name] {
			continue
		}
		a, b := spread(was).Median, spread(is).Median
		for _, r := range n.Results {
			x, y := before.ratios(o.Result(r.Server), m.Name), after.ratios(r, m.Name)
			if r.Server != subject && x != nil && y != nil {
				was, is, against = x, y, " (ratio to "+r.Server+")"
				break
			}
		}
		found = true
		factor, verdict := c.judge(m, was, is, least)
		fmt.Fprintf(out, line, n.Name, m.Title, m.Format(a), m.Format(b), number(factor, 2), verdict+against)
	}
	return found
}

// judge compares one metric's figures, by round. A difference has to be at least that share, and beyond chance.
func (c *Comparison) judge(m Metric, was, is []float64, least float64) (factor float64, verdict string) {
	from, to := spread(was).Median, spread(is).Median
	if from <= 0 {
		return 0, "nothing to divide by: no verdict"
	}
	factor = to / from
	if min(len(was), len(is)) < fewest {
		return factor, fmt.Sprintf("fewer than %d rounds: no verdict", fewest)
	}
	c.told = true
	test := benchmath.AssumeNothing.Compare(benchmath.NewSample(slices.Clone(was), &alpha), benchmath.NewSample(slices.Clone(is), &alpha))
	switch {
	case test.P >= alpha.CompareAlpha || factor <= 1+least && factor >= 1-least:
		return factor, "no difference beyond noise"
	case factor > 1 == (m.Better > 0):
		return factor, "better"
	}
	c.worse = true
	return factor, "WORSE"
}

// differences are the circumstances that make two reports hard to compare.
func differences(old, new *Report) (out string) {
	f := func(what string, a, b any) {
		if a != b {
			out += fmt.Sprintf("Not the same: %s: %v, then %v\n", what, a, b)
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
