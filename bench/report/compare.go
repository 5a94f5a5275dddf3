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

// Compare finds what got better or worse between two reports, for the first server of the new one. Where both reports
// have another server in common, its figures of the same rounds stand for the machine's mood: the quotients to it are
// compared, not the figures. Only spreads that do not touch count as a change, and only beyond the margin.
func Compare(old, new *Report) []Change {
	var out []Change
	for i := range new.Scenarios {
		n := &new.Scenarios[i]
		k := slices.IndexFunc(old.Scenarios, func(s Scenario) bool { return s.Name == n.Name })
		if k < 0 || n.base() == nil {
			continue
		}
		o := &old.Scenarios[k]
		oldBase, newBase := o.result(n.base().Server), n.base()
		if oldBase == nil {
			continue
		}
		for _, m := range Metrics {
			a, b := oldBase.Summary[m.Name], newBase.Summary[m.Name]
			_, inOld := oldBase.Summary[m.Name]
			_, inNew := newBase.Summary[m.Name]
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
			c.judge(oldSpread, newSpread)
			out = append(out, c)
		}
	}
	return out
}

// gated are the metrics compared in every scenario that has them, beside its primary one.
var gated = map[string]bool{CPUPerDelivery: true, P99Half: true, HandshakesPerCPU: true, ResidentPerPeer: true, HeartbeatCPU: true, Sustained: true}

func spread(s Summary) Ratio { return Ratio{Median: s.Median, Min: s.Min, Max: s.Max} }

func (c *Change) judge(old, new Ratio) {
	if old.Median > 0 {
		c.Factor = new.Median / old.Median
	}
	switch {
	case new.Min > old.Max && new.Median > old.Median*(1+margin):
		c.Verdict = c.Metric.Better
	case new.Max < old.Min && new.Median < old.Median*(1-margin):
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

// Changes is a comparison as text, and whether anything got worse.
func Changes(changes []Change) (text string, worse bool) {
	if len(changes) == 0 {
		return "The two reports have nothing in common.\n", false
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s %-30s %14s %14s %8s  %s\n", "scenario", "metric", "old", "new", "factor", "")
	for _, c := range changes {
		words := "no difference beyond noise"
		switch c.Verdict {
		case 1:
			words = "better"
		case -1:
			words, worse = "WORSE", true
		}
		if c.Against != "" {
			words += " (measured against " + c.Against + ")"
		}
		fmt.Fprintf(&b, "%-12s %-30s %14s %14s %8s  %s\n", c.Scenario, c.Metric.Title, c.Metric.Format(c.Old), c.Metric.Format(c.New), number(c.Factor, 2), words)
	}
	return b.String(), worse
}
