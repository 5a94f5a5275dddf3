package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// margin is the smallest difference that counts: a spread of ratios that comes nearer to 1 than this says nothing.
const margin = 0.05

// Judge says what a spread of ratios means for a metric: -1 worse than the base, 1 better, 0 no difference beyond noise.
func Judge(m Metric, q *Ratio) int {
	switch {
	case q == nil || m.Better == 0:
		return 0
	case q.Min > 1+margin:
		return m.Better
	case q.Max < 1-margin:
		return -m.Better
	}
	return 0
}

// base is the result of the first server that has one.
func (s *Scenario) base() *Result {
	if len(s.Results) == 0 {
		return nil
	}
	return &s.Results[0]
}

// Conclude summarises all scenarios and writes their verdicts.
func (r *Report) Conclude() {
	for i := range r.Scenarios {
		s := &r.Scenarios[i]
		if b := s.base(); b != nil {
			s.Summarise(b.Server)
		}
		s.Verdict = s.verdict()
	}
}

// verdict is the scenario's primary metric in words.
func (s *Scenario) verdict() string {
	base := s.base()
	if base == nil || !slices.ContainsFunc(s.Results, func(r Result) bool { return len(r.Rounds) > 0 }) {
		return "Not measured."
	}
	var parts []string
	if bad := s.failures(); bad != "" {
		parts = append(parts, bad)
	}
	m := s.judged()
	sum, ok := base.Summary[m.Name]
	if !ok {
		return strings.Join(append(parts, fmt.Sprintf("No %s of %s.", m.Title, base.Server)), " ")
	}
	sentence := fmt.Sprintf("%s: %s has %s", upperFirst(m.Title), base.Server, m.Format(sum.Median))
	var other, same []string
	for i := range s.Results[1:] {
		r := &s.Results[1+i]
		q := r.Summary[m.Name].Ratio
		switch {
		case q == nil:
			continue
		case Judge(m, q) == 0:
			same = append(same, r.Server+inParentheses(q))
		default:
			other = append(other, fmt.Sprintf("%s %s times that%s", r.Server, number(q.Median, 2), inParentheses(q)))
		}
	}
	parts = append(parts, strings.Join(append([]string{sentence}, other...), ", ")+".")
	if len(same) > 0 {
		parts = append(parts, "No difference beyond noise: "+strings.Join(same, ", ")+".")
	}
	if single := s.single(m.Name); len(s.Results) > 1 && single != "" {
		parts = append(parts, "One round of "+single+", so the spread is unknown.")
	}
	if names := s.loadBound(); names != "" {
		text := "The load, not the server, was the limit with " + names
		switch {
		case s.Kind == "latency":
			text = "The load's own lateness is a good part of the figure of " + names + "."
		case m.Name == Deliveries:
			text += ": it can do more."
		default:
			text += ": the CPU per delivery holds, the deliveries per second are a lower bound."
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

// insteadOf is what is compared where a server's process is not known, and so its CPU time.
var insteadOf = map[string]string{CPUPerDelivery: Deliveries, HandshakesPerCPU: Handshakes, ResidentPerPeer: ResidentSlope}

// judged is the metric of the verdict.
func (s *Scenario) judged() Metric {
	if _, ok := s.base().Summary[s.Primary]; !ok {
		if _, ok := s.base().Summary[insteadOf[s.Primary]]; ok {
			return metric(insteadOf[s.Primary])
		}
	}
	return metric(s.Primary)
}

// single lists the servers whose metric was measured once.
func (s *Scenario) single(name string) string {
	var out []string
	for i := range s.Results {
		if v, _ := s.Results[i].values(name); len(v) == 1 {
			out = append(out, s.Results[i].Server)
		}
	}
	return strings.Join(out, ", ")
}

// failures names the servers that broke a promise.
func (s *Scenario) failures() string {
	var out []string
	for i := range s.Results {
		r := &s.Results[i]
		for k := range r.Rounds {
			if x := &r.Rounds[k]; x.Failed() {
				out = append(out, r.Server+": "+oneLine(x.Fault()))
				break
			}
		}
	}
	if len(out) == 0 {
		return ""
	}
	return "FAILURE of " + strings.Join(out, "; ") + "."
}

// Fault says in what way a round failed.
func (r *Round) Fault() string {
	if r.Error != "" {
		return r.Error
	}
	v := &r.Violations
	var out []string
	for _, x := range []struct {
		n    uint64
		word string
	}{
		{v.Lost, "lost"},
		{v.Duplicated, "doubled"},
		{v.Reordered, "out of order"},
		{v.Stranger, "to a stranger"},
		{v.Corrupted, "corrupted"},
		{v.Disconnected, "peers disconnected"},
		{v.Refused, "peers not let in again"},
	} {
		if x.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", x.n, x.word))
		}
	}
	if len(v.Examples) > 0 {
		out = append(out, "e.g. "+v.Examples[0])
	}
	return strings.Join(out, ", ")
}

// loadBound lists the servers with at least half of their rounds limited by the load.
func (s *Scenario) loadBound() string {
	var out []string
	for i := range s.Results {
		if s.Results[i].most(func(r *Round) bool { return r.LoadBound }) {
			out = append(out, s.Results[i].Server)
		}
	}
	return strings.Join(out, ", ")
}

// mostlyMarked tells whether at least half of the rounds say more about the load or the machine than about the server.
func (r *Result) mostlyMarked() bool {
	return r.most(func(r *Round) bool { return r.LoadBound || r.Disturbed })
}

func (r *Result) most(mark func(*Round) bool) bool {
	n := 0
	for k := range r.Rounds {
		if mark(&r.Rounds[k]) {
			n++
		}
	}
	return n > 0 && 2*n >= len(r.Rounds)
}

// disturbed counts the rounds during which other processes were busy.
func (r *Report) disturbed() (n, of int) {
	for i := range r.Scenarios {
		for _, res := range r.Scenarios[i].Results {
			for k := range res.Rounds {
				of++
				if res.Rounds[k].Disturbed {
					n++
				}
			}
		}
	}
	return n, of
}

func noise(n, of int) string {
	return fmt.Sprintf("In %d of %d rounds other processes or the hypervisor took a tenth of a CPU or more: expect wide spreads.", n, of)
}

// Clean removes what JSON cannot hold.
func (r *Round) Clean() {
	for name, v := range r.Metrics {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			delete(r.Metrics, name)
		}
	}
}

// Line is a round in a few words, for the progress.
func (r *Round) Line(primary string) string {
	if r.Failed() {
		return "FAILURE: " + r.Fault()
	}
	m := metric(primary)
	v, ok := r.Metrics[primary]
	if !ok {
		m = metric(insteadOf[primary])
		if v, ok = r.Metrics[m.Name]; !ok {
			return "measured"
		}
	}
	text := m.Format(v)
	if r.LoadBound {
		text += " (load-bound)"
	}
	if r.Disturbed {
		text += " (others were busy)"
	}
	return text
}

// Brief is the verdicts as text for a terminal.
func (r *Report) Brief() string {
	var b strings.Builder
	for i := range r.Scenarios {
		s := &r.Scenarios[i]
		fmt.Fprintf(&b, "%-12s %s\n", s.Name, s.Verdict)
	}
	if n, of := r.disturbed(); n > 0 {
		fmt.Fprintf(&b, "\n%s\n", noise(n, of))
	}
	return b.String()
}

// Format writes a value with its unit.
func (m Metric) Format(v float64) string {
	text := m.number(v)
	if m.Unit == "" {
		return text
	}
	if strings.HasPrefix(m.Unit, "/") {
		return text + m.Unit
	}
	return text + " " + m.Unit
}

func (m Metric) number(v float64) string {
	if m.Scale != 0 {
		v *= m.Scale
	}
	return number(v, m.Digits)
}

// number writes digits after the point, and thousands apart.
func number(v float64, digits int) string {
	s := strconv.FormatFloat(v, 'f', digits, 64)
	whole, rest, point := strings.Cut(s, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if point {
		whole += "." + rest
	}
	return sign + whole
}

// String is the spread.
func (q *Ratio) String() string { return number(q.Min, 2) + "–" + number(q.Max, 2) }

// inParentheses is the spread, if there is one.
func inParentheses(q *Ratio) string {
	if q.Min == q.Max {
		return ""
	}
	return " (" + q.String() + ")"
}

func upperFirst(s string) string {
	// A percentile keeps its spelling.
	if len(s) < 2 || s[1] >= '0' && s[1] <= '9' {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// oneLine makes a fault that quotes a server's output fit for a sentence.
func oneLine(s string) string {
	const most = 400
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
