package report

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"relaygate/bench/load"
)

// sample is a report of one scenario, with these costs per delivery, one for each round.
func sample(relaygate, gws []float64) *Report {
	s := &Scenario{Name: "pair", Title: "rooms of 2", Primary: []string{CPUPerDelivery}}
	r := &Report{Schema: Schema, Against: "relaygate", Scenarios: []*Scenario{s}}
	for name, costs := range map[string][]float64{"relaygate": relaygate, "gws": gws} {
		res := &Result{Server: name}
		for _, c := range costs {
			res.Rounds = append(res.Rounds, &Round{Metrics: map[string]float64{CPUPerDelivery: c}})
		}
		s.Results = append(s.Results, res)
	}
	if s.Results[0].Server != "relaygate" {
		s.Results[0], s.Results[1] = s.Results[1], s.Results[0]
	}
	r.Servers = []Server{{Name: "relaygate"}, {Name: "gws"}}
	r.Conclude()
	return r
}

func five(v float64) []float64 { return []float64{v, v, v, v, v} }

func TestVerdict(t *testing.T) {
	f := func(gws []float64, want, no string) {
		t.Helper()
		r := sample(five(2), gws)
		if v := r.Scenarios[0].Verdict; !strings.Contains(v, want) || no != "" && strings.Contains(v, no) {
			t.Errorf("gws %v: %q, want %q in it and not %q", gws, v, want, no)
		}
	}
	f([]float64{3.9, 4, 4, 4.1, 4.2}, "gws × 2.00 (1.95–2.10)", "no difference")
	f([]float64{0.9, 1, 1, 1, 1.1}, "gws × 0.50", "no difference")
	f([]float64{1.5, 2, 2.1, 3, 4}, "gws × 1.05 (0.75–2.00: no difference beyond noise)", "no verdict")
	f([]float64{4, 4, 4}, "gws × 2.00 (fewer than 5 rounds: no verdict)", "no difference")
}

// The median of the rounds' ratios is neither the ratio of the medians nor of the means.
func TestRatioIsOfPairs(t *testing.T) {
	r := sample([]float64{1, 2, 4, 8, 16}, []float64{3, 2, 8, 8, 64})
	q := r.Scenarios[0].Result("gws").Summary[CPUPerDelivery].Ratio
	if q == nil || q.Median != 2 || q.Low != 1 || q.High != 4 {
		t.Errorf("got %+v, want 2 (1–4) of 3, 1, 2, 1, 4", q)
	}
	// A round that one of them failed pairs with nothing.
	r.Scenarios[0].Result("relaygate").Rounds[4].Error = "x"
	r.Conclude()
	if q := r.Scenarios[0].Result("gws").Summary[CPUPerDelivery].Ratio; q.Rounds != 4 || q.Firm {
		t.Errorf("got %+v, want four rounds, too few for an interval", q)
	}
}

func TestVerdictNamesWhatWentWrong(t *testing.T) {
	r := sample(five(2), five(4))
	if f := r.Faults(); f != nil {
		t.Errorf("a report without a failure has %v", f)
	}
	r.Scenarios[0].Results[1].Rounds[1].Violations = load.Violations{Counts: map[string]uint64{load.Lost: 3}, Examples: []string{"x"}}
	r.Scenarios[0].Results[1].Rounds[1].Metrics[CPUPerDelivery] = 1000
	r.Conclude()
	if v := r.Scenarios[0].Verdict; len(r.Faults()) != 1 || !strings.Contains(v, "FAILURE of gws, round 2: 3 lost") {
		t.Errorf("faults %v, verdict %q; want one of gws in round 2", r.Faults(), v)
	}
	if most := r.Scenarios[0].Results[1].Summary[CPUPerDelivery].High; most != 4 {
		t.Errorf("a failed round's figure of 1000 is in the summary: highest %v, want 4", most)
	}
	r = sample(five(2), five(4))
	for _, x := range r.Scenarios[0].Results[0].Rounds {
		x.LoadBound = true
	}
	r.Conclude()
	if v := r.Scenarios[0].Verdict; !strings.Contains(v, "load, not the server, was the limit") {
		t.Errorf("verdict %q does not say that the load was the limit", v)
	}
}

func TestCompare(t *testing.T) {
	f := func(old, new []float64, status int, want string) {
		t.Helper()
		c := Compare(sample(old, five(4)), sample(new, five(4)))
		if c.Status != status || !strings.Contains(c.Text, want+" (ratio to gws)") {
			t.Errorf("%v to %v: status %d, want %d, and %q in:\n%s", old, new, c.Status, status, want, c.Text)
		}
	}
	a := []float64{2, 2.1, 2.2, 2.3, 2.4}
	f(a, []float64{3, 3.1, 3.2, 3.3, 3.4}, 1, "WORSE")
	f([]float64{3, 3.1, 3.2, 3.3, 3.4}, a, 0, "better")
	f(a, []float64{2.3, 2.4, 2.5, 2.6, 2.7}, 0, "no difference beyond noise") // they overlap
	f(five(2), five(2), 0, "no difference beyond noise")
	f(five(2), five(2.08), 0, "no difference beyond noise") // too little
	f([]float64{2, 2, 2}, []float64{4, 4, 4}, 2, "no verdict")

	// The machine's mood moves both servers: that is no change.
	if c := Compare(sample(five(2), five(4)), sample(five(3), five(6))); !strings.Contains(c.Text, "no difference beyond noise") {
		t.Errorf("both servers cost half more: %s, want no change", c.Text)
	}
}

// TestCompareIncomplete: what the new report does not say, or says of a failed run, passes no gate.
func TestCompareIncomplete(t *testing.T) {
	f := func(status int, want string, spoil func(r *Report)) {
		t.Helper()
		r := sample(five(2), five(4))
		spoil(r)
		r.Conclude()
		if c := Compare(sample(five(2), five(4)), r); c.Status != status || !strings.Contains(c.Text, want) {
			t.Errorf("status %d, want %d, and %q in:\n%s", c.Status, status, want, c.Text)
		}
	}
	f(0, "", func(*Report) {})
	f(2, "nothing in common", func(r *Report) { r.Scenarios = nil })
	f(2, "interrupted", func(r *Report) { r.Interrupted = true })
	f(1, "FAILED: pair: gws, round 1: it broke", func(r *Report) { r.Scenarios[0].Results[1].Rounds[0].Error = "it broke" })
	f(1, "FAILED: gws: no compiler", func(r *Report) { r.Servers[1].Error = "no compiler" })
	f(0, "Not the same: kernel", func(r *Report) { r.Machine.Kernel = "Linux 7" })

	old, more := sample(five(2), five(4)), *sample(five(2), five(4)).Scenarios[0]
	more.Name = "chat"
	old.Scenarios = append(old.Scenarios, &more)
	if c := Compare(old, sample(five(2), five(4))); c.Status != 1 || !strings.Contains(c.Text, "MISSING: chat") {
		t.Errorf("status %d:\n%s", c.Status, c.Text)
	}
}

func TestNumber(t *testing.T) {
	f := func(v float64, digits int, want string) {
		t.Helper()
		if got := number(v, digits); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	f(0, 0, "0")
	f(999.4, 0, "999")
	f(12345, 0, "12,345")
	f(-1234567.891, 2, "-1,234,567.89")
}

func TestWriteAndRead(t *testing.T) {
	r := sample(five(2), []float64{4, 4.2, 3.9, 4, 4})
	s := r.Scenarios[0]
	for i, res := range s.Results {
		for _, x := range res.Rounds {
			x.Metrics[ResidentPerPeer] = 500 * float64(i+1)
		}
	}
	s.Primary = append(s.Primary, ResidentPerPeer)
	s.Title = "<rooms & halls>"
	r.Conclude()
	dir := t.TempDir()
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	back, err := Read(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got := back.Scenarios[0].Results[1].Summary[CPUPerDelivery].Median; got != 4 {
		t.Errorf("median %v after reading, want 4", got)
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	if outside := regexp.MustCompile(`(src|href)="[^#"][^"]*"`).Find(page); outside != nil {
		t.Errorf("the page is not a single file: %s", outside)
	}
	if strings.Contains(string(page), "<rooms") || !strings.Contains(string(page), "× 2.00") || !strings.Contains(string(page), "not the quotient of the two medians") {
		t.Error("the page has an unescaped title, or no ratio, or does not say which")
	}
	for _, name := range []string{"cpu.svg", "memory.svg"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(strings.NewReader(string(b))); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if strings.Contains(string(b), "NaN") || strings.Contains(string(b), "Inf") || !strings.Contains(string(page), string(b)) {
			t.Errorf("%s has a place that is no number, or is not the page's picture", name)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for _, content := range []string{"", "[]", `{"schema": 999}`} {
		file := filepath.Join(t.TempDir(), "report.json")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(file); err == nil {
			t.Errorf("%q is taken for a report", content)
		}
	}
}
