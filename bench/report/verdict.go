package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/perf/benchmath"
)

// confidence is that of the intervals around medians: with nothing assumed about the distribution, five rounds are the
// fewest that give one. Fewer rounds give figures and no verdict.
const (
	confidence = 0.9
	fewest     = 5
)

// margin is the smallest difference that counts: an interval that comes nearer to 1 than this says nothing.
const margin = 0.05

// Summary is a metric over the rounds.
type Summary struct {
	Spread
	Ratio *Spread `json:"ratio,omitempty"` // to the base server's, round by round
}

// Spread is a median and the interval around it.
type Spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Rounds int     `json:"rounds"`
	Firm   bool    `json:"firm"` // low and high are a confidence interval, not just the extremes of too few rounds
}

func spread(v []float64) Spread {
	s := benchmath.AssumeNothing.Summary(benchmath.NewSample(slices.Clone(v), &benchmath.DefaultThresholds), confidence)
	out := Spread{Median: s.Center, Low: s.Lo, High: s.Hi, Rounds: len(v), Firm: true}
	if math.IsInf(s.Lo, 0) || math.IsInf(s.Hi, 0) {
		out.Low, out.High, out.Firm = slices.Min(v), slices.Max(v), false
	}
	return out
}

// Judge says what a ratio to the base means for a metric: -1 worse, 1 better, 0 no difference beyond noise, or unknown.
func (q *Spread) Judge(m Metric) int {
	switch {
	case q == nil || !q.Firm:
		return 0
	case q.Low > 1+margin:
		return m.Better
	case q.High < 1-margin:
		return -m.Better
	}
	return 0
}

// interval is the range around the median.
func (q *Spread) interval() string { return number(q.Low, 2) + "–" + number(q.High, 2) }

// figure is a metric's; those of a failed round are kept in the file, but nothing is concluded from them.
func (r *Round) figure(name string) (v float64, ok bool) {
	v, ok = r.Metrics[name]
	return v, ok && !r.Failed()
}

// values are a metric's by round.
func (r *Result) values(name string) (out []float64) {
	for _, x := range r.Rounds {
		if v, ok := x.figure(name); ok {
			out = append(out, v)
		}
	}
	return out
}

// ratios divides round by round. Machines drift; neighbours in time share the drift.
func (r *Result) ratios(base *Result, name string) (out []float64) {
	if base == nil {
		return nil
	}
	for i := range min(len(r.Rounds), len(base.Rounds)) {
		v, ok := r.Rounds[i].figure(name)
		if b, _ := base.Rounds[i].figure(name); ok && b > 0 && !base.Rounds[i].Failed() {
			out = append(out, v/b)
		}
	}
	return out
}

// Conclude summarises all scenarios and writes their verdicts.
func (r *Report) Conclude() {
	for _, s := range r.Scenarios {
		base := s.Result(cmp.Or(s.Base, r.Against))
		for _, res := range s.Results {
			res.Summary = map[string]Summary{}
			for _, m := range Metrics {
				v := res.values(m.Name)
				if len(v) == 0 {
					continue
				}
				sum := Summary{Spread: spread(v)}
				if q := res.ratios(base, m.Name); res != base && m.Better != 0 && len(q) > 0 {
					x := spread(q)
					sum.Ratio = &x
				}
				res.Summary[m.Name] = sum
			}
		}
		s.Verdict = s.verdict()
	}
}

// verdict is the scenario's primary metrics in words.
func (s *Scenario) verdict() string {
	var parts []string
	for _, fault := range s.Faults() {
		parts = append(parts, "FAILURE of "+oneLine(fault)+".")
	}
	measured := false
	for _, name := range s.Primary {
		if text := s.sentence(metric(name)); text != "" {
			parts, measured = append(parts, text), true
		}
	}
	if !measured {
		return strings.Join(append(parts, "Not measured."), " ")
	}
	var bound []string
	for _, r := range s.Results {
		if r.most(func(x *Round) bool { return x.LoadBound }) {
			bound = append(bound, r.Server)
		}
	}
	if names := strings.Join(bound, ", "); names != "" {
		text := "The load, not the server, was the limit with " + names + ": CPU time per delivery holds, deliveries per second are a lower bound."
		if slices.Contains(s.Primary, P99) {
			text = "The load's own lateness is a good part of the latency of " + names + "."
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

// sentence says what one metric's figures mean, in the words and the figures of the table.
func (s *Scenario) sentence(m Metric) string {
	var figures []string
	for _, r := range s.Results {
		sum, ok := r.Summary[m.Name]
		switch q := sum.Ratio; {
		case !ok:
		case q == nil:
			figures = append(figures, r.Server+" "+m.Format(sum.Median))
		case !q.Firm:
			figures = append(figures, fmt.Sprintf("%s × %.2f (fewer than %d rounds: no verdict)", r.Server, q.Median, fewest))
		case q.Judge(m) == 0:
			figures = append(figures, fmt.Sprintf("%s × %.2f (%s: no difference beyond noise)", r.Server, q.Median, q.interval()))
		default:
			figures = append(figures, fmt.Sprintf("%s × %.2f (%s)", r.Server, q.Median, q.interval()))
		}
	}
	if figures == nil {
		return ""
	}
	return strings.ToUpper(m.Title[:1]) + m.Title[1:] + ": " + strings.Join(figures, ", ") + "."
}

// most tells whether at least half of the rounds are marked in some way.
func (r *Result) most(mark func(*Round) bool) bool {
	n := 0
	for _, x := range r.Rounds {
		if mark(x) {
			n++
		}
	}
	return n > 0 && 2*n >= len(r.Rounds)
}

// Remarks are the run's caveats.
func (r *Report) Remarks() []string {
	out := slices.Clone(r.Notes)
	n, of := 0, 0
	for _, s := range r.Scenarios {
		for _, res := range s.Results {
			for _, x := range res.Rounds {
				of++
				if x.Disturbed {
					n++
				}
			}
		}
	}
	if n > 0 {
		out = append(out, english.Sprintf("In %d of %d rounds other processes or the hypervisor took a tenth of a CPU or more: expect wide intervals.",
			n, of))
	}
	return out
}

// Brief is the verdicts as text for a terminal.
func (r *Report) Brief() string {
	var b strings.Builder
	for _, s := range r.Scenarios {
		fmt.Fprintf(&b, "%s: %s\n", s.Title, s.Verdict)
	}
	fmt.Fprintf(&b, "× is the median, over the rounds, of the ratio to %s in the same round (%.0f %% interval).\n", r.Against, 100*confidence)
	for _, remark := range r.Remarks() {
		fmt.Fprintln(&b, remark)
	}
	return b.String()
}
