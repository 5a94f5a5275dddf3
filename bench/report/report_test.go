package report

import (
	"bytes"
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
func sample(costs map[string][]float64) *Report {
	s := Scenario{Name: "pair", Kind: "steady", Primary: CPUPerDelivery, Shape: load.Shape{Rooms: 2, Peers: 2, Size: 128}}
	r := &Report{Schema: Schema}
	for _, name := range []string{"relaygate", "gws"} {
		r.Servers = append(r.Servers, Server{Name: name})
		res := Result{Server: name}
		for _, c := range costs[name] {
			res.Rounds = append(res.Rounds, Round{Metrics: map[string]float64{CPUPerDelivery: c}})
		}
		s.Results = append(s.Results, res)
	}
	r.Scenarios = []Scenario{s}
	r.Conclude()
	return r
}

func TestVerdict(t *testing.T) {
	f := func(gws []float64, want, no string) {
		t.Helper()
		r := sample(map[string][]float64{"relaygate": {2, 2, 2}, "gws": gws})
		if v := r.Scenarios[0].Verdict; !strings.Contains(v, want) || no != "" && strings.Contains(v, no) {
			t.Errorf("gws %v: %q, want %q in it and not %q", gws, v, want, no)
		}
	}
	f([]float64{3.9, 4, 4.2}, "gws 2.00 times that", "No difference")
	f([]float64{0.9, 1, 1.1}, "gws 0.50 times that", "No difference")
	f([]float64{1.5, 2.1, 4}, "No difference beyond noise: gws", "times that")
	f([]float64{4}, "relaygate has 2.00", "")
}

func TestVerdictNamesFailures(t *testing.T) {
	r := sample(map[string][]float64{"relaygate": {2, 2, 2}, "gws": {4, 4, 4}})
	if r.Failed() {
		t.Error("a report without a failure is failed")
	}
	r.Scenarios[0].Results[1].Rounds[1].Violations.Lost = 3
	r.Conclude()
	if v := r.Scenarios[0].Verdict; !r.Failed() || !strings.Contains(v, "FAILURE of gws") {
		t.Errorf("failed %v, verdict %q; want a FAILURE of gws", r.Failed(), v)
	}
	if n := len(r.Scenarios[0].Results[1].Rounds) - 1; n < 1 || r.Scenarios[0].Results[1].Summary[CPUPerDelivery].Ratio == nil {
		t.Error("the rounds that did not fail are gone with the one that did")
	}
	r.Scenarios[0].Results[1].Rounds[1].Metrics[CPUPerDelivery] = 1000
	r.Conclude()
	if max := r.Scenarios[0].Results[1].Summary[CPUPerDelivery].Max; max != 4 {
		t.Errorf("a failed round's figure of 1000 is in the summary: largest %v, want 4", max)
	}
	r = sample(map[string][]float64{"relaygate": {2, 2, 2}, "gws": {4, 4, 4}})
	for i := range r.Scenarios[0].Results[0].Rounds {
		r.Scenarios[0].Results[0].Rounds[i].LoadBound = true
	}
	r.Conclude()
	if v := r.Scenarios[0].Verdict; !strings.Contains(v, "load, not the server, was the limit") {
		t.Errorf("verdict %q does not say that the load was the limit", v)
	}
}

func TestCompare(t *testing.T) {
	f := func(old, new []float64, want int) {
		t.Helper()
		gws := []float64{4, 4, 4}
		a, b := sample(map[string][]float64{"relaygate": old, "gws": gws}), sample(map[string][]float64{"relaygate": new, "gws": gws})
		c := Compare(a, b)
		if len(c.Changes) != 1 || c.Changes[0].Verdict != want || c.Changes[0].Against != "gws" {
			t.Fatalf("%v to %v: %+v, want verdict %d against gws", old, new, c.Changes, want)
		}
		if text, status := c.String(), c.Status(); (status == 1) != (want < 0) || text == "" {
			t.Errorf("%v to %v: status %d, %q", old, new, status, text)
		}
	}
	f([]float64{2, 2.1, 2.2}, []float64{3, 3.1, 3.2}, -1)
	f([]float64{3, 3.1, 3.2}, []float64{2, 2.1, 2.2}, 1)
	f([]float64{2, 2.5, 3}, []float64{2.4, 2.8, 3.2}, 0)
	f([]float64{2, 2, 2}, []float64{2, 2, 2}, 0)
	f([]float64{2}, []float64{2.2}, 0) // too few rounds to tell
	f([]float64{2}, []float64{2.5}, -1)
	f([]float64{2, 2, 2}, []float64{2.08, 2.08, 2.08}, 0)
}

// TestCompareIncomplete: what the new report does not say, or says of a failed run, passes no gate.
func TestCompareIncomplete(t *testing.T) {
	fresh := func() *Report {
		return sample(map[string][]float64{"relaygate": {2, 2, 2}, "gws": {4, 4, 4}})
	}
	f := func(status int, want string, spoil func(r *Report)) {
		t.Helper()
		r := fresh()
		spoil(r)
		r.Conclude()
		c := Compare(fresh(), r)
		if c.Status() != status || !strings.Contains(c.String(), want) {
			t.Errorf("status %d, want %d, and %q in:\n%s", c.Status(), status, want, c)
		}
	}
	f(0, "", func(*Report) {})
	f(2, "nothing in common", func(r *Report) { r.Scenarios = nil })
	f(2, "interrupted", func(r *Report) { r.Interrupted = true })
	f(1, "FAILED: pair: FAILURE of gws", func(r *Report) { r.Scenarios[0].Results[1].Rounds[0].Violations.Lost = 1 })
	f(1, "FAILED: gws: no compiler", func(r *Report) { r.Servers[1].Error = "no compiler" })
	f(0, "Not the same: kernel", func(r *Report) { r.Machine.Kernel = "Linux 7" })

	old := fresh()
	more := fresh().Scenarios[0]
	more.Name = "star"
	old.Scenarios = append(old.Scenarios, more)
	if c := Compare(old, fresh()); c.Status() != 1 || !strings.Contains(c.String(), "MISSING: star") {
		t.Errorf("status %d:\n%s", c.Status(), c)
	}
}

// The machine's mood moves both servers: that is no change.
func TestCompareIsRelative(t *testing.T) {
	a := sample(map[string][]float64{"relaygate": {2, 2, 2}, "gws": {4, 4, 4}})
	b := sample(map[string][]float64{"relaygate": {3, 3, 3}, "gws": {6, 6, 6}})
	if c := Compare(a, b).Changes; len(c) != 1 || c[0].Verdict != 0 {
		t.Errorf("both servers cost half more: %+v, want no change", c)
	}
}

func TestWriteAndRead(t *testing.T) {
	r := sample(map[string][]float64{"relaygate": {2, 2.1, 1.9}, "gws": {4, 4.2, 3.9}})
	dir := t.TempDir()
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	back, err := Read(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := back.Scenarios[0].Results[1].Summary[CPUPerDelivery].Median, 4.0; got != want {
		t.Errorf("median %v after reading, want %v", got, want)
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	if outside := regexp.MustCompile(`(src|href)="[^#"][^"]*"`).Find(page); outside != nil {
		t.Errorf("the page is not a single file: %s", outside)
	}
	svgs, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil || len(svgs) == 0 {
		t.Fatalf("charts %v, %v; want at least one", svgs, err)
	}
	for _, file := range svgs {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(bytes.NewReader(b)); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", filepath.Base(file), err)
			}
		}
	}
}

func TestReadRefuses(t *testing.T) {
	f := func(content string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "report.json")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(file); err == nil {
			t.Errorf("%q is taken for a report", content)
		}
	}
	f("")
	f("[]")
	f(`{"schema": 999}`)
	if _, err := Read(filepath.Join(t.TempDir(), "missing.json")); err == nil {
		t.Error("a missing file is taken for a report")
	}
}
