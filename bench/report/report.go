// Package report is what a run of the benchmark leaves behind: figures in a stable schema (report.json), what they say in
// words, and a page with pictures (report.html). It measures nothing and starts nothing.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"relaygate/bench/load"
)

// Schema is the version of report.json. Fields are only ever added under one version.
const Schema = 3

// Report is the whole of report.json.
type Report struct {
	Schema      int         `json:"schema"`
	Started     time.Time   `json:"started"`
	Seconds     float64     `json:"seconds"`
	Interrupted bool        `json:"interrupted"`
	Command     string      `json:"command"`
	Against     string      `json:"against"` // the server that ratios are taken to
	Machine     Machine     `json:"machine"`
	Method      Method      `json:"method"`
	Servers     []Server    `json:"servers"`
	Scenarios   []*Scenario `json:"scenarios"`
	Notes       []string    `json:"notes,omitempty"`
}

// Machine is where the run took place.
type Machine struct {
	CPU       string `json:"cpu"`
	CPUs      int    `json:"cpus"`
	Kernel    string `json:"kernel"`
	MemoryMiB uint64 `json:"memoryMiB"`
	OpenFiles int    `json:"openFiles"`
	Virtual   bool   `json:"virtual"`
	Go        string `json:"go"`
}

// Method is how it was measured.
type Method struct {
	ServerCPUs string  `json:"serverCPUs"` // empty: a running relay, not started and not pinned by bench
	LoadCPUs   string  `json:"loadCPUs"`
	Duration   float64 `json:"duration"` // seconds per measurement
	Warmup     float64 `json:"warmup"`
	Rounds     int     `json:"rounds"`
	Heartbeat  float64 `json:"heartbeat"` // seconds, in idle
	Conns      int     `json:"conns"`     // silent peers asked for, in idle
}

// Server is one of the relays.
type Server struct {
	Name    string `json:"name"`
	About   string `json:"about"`
	Version string `json:"version,omitempty"`
	Error   string `json:"error,omitempty"` // why it could not be built or started
}

// Scenario is one load and what each server made of it.
type Scenario struct {
	Name    string     `json:"name"`  // as -run takes it
	Title   string     `json:"title"` // as tables and charts have it
	About   string     `json:"about"`
	Shape   load.Shape `json:"shape"`
	Primary []string   `json:"primary"`        // the metrics that its verdict is about
	Base    string     `json:"base,omitempty"` // the server that its ratios are taken to, if it is not the report's
	Command string     `json:"command"`        // measures it again
	Results []*Result  `json:"results"`
	Verdict string     `json:"verdict"`
	Notes   []string   `json:"notes,omitempty"`
}

// Result is one server in one scenario.
type Result struct {
	Server  string             `json:"server"`
	Rounds  []*Round           `json:"rounds"`
	Summary map[string]Summary `json:"summary"` // by metric
}

// Round is one measurement.
type Round struct {
	Metrics    map[string]float64 `json:"metrics"`
	LoadBound  bool               `json:"loadBound"` // the load generator, not the server, was at its limit
	Disturbed  bool               `json:"disturbed"` // others took a tenth of a CPU or more
	Violations load.Violations    `json:"violations"`
	Error      string             `json:"error,omitempty"`
}

// Failed tells whether a round broke a promise or did not complete.
func (r *Round) Failed() bool { return r.Error != "" || r.Violations.Total() > 0 }

// Fault says in what way a round failed.
func (r *Round) Fault() string {
	if r.Error != "" {
		return r.Error
	}
	return r.Violations.String()
}

// Line is a round in a few words, for the terminal.
func (r *Round) Line(primary string) string {
	if r.Failed() {
		return "FAILURE: " + r.Fault()
	}
	text := "measured"
	if v, ok := r.Metrics[primary]; ok {
		text = metric(primary).Format(v)
	}
	if r.LoadBound {
		text += " (load-bound)"
	}
	if r.Disturbed {
		text += " (others were busy)"
	}
	return text
}

// Gone tells whether the last round failed: another one would only cost time.
func (r *Result) Gone() bool { return len(r.Rounds) > 0 && r.Rounds[len(r.Rounds)-1].Failed() }

// Result is a server's.
func (s *Scenario) Result(server string) *Result {
	i := slices.IndexFunc(s.Results, func(r *Result) bool { return r.Server == server })
	if i < 0 {
		return nil
	}
	return s.Results[i]
}

// Faults are the scenario's failed rounds, each in words.
func (s *Scenario) Faults() (out []string) {
	for _, r := range s.Results {
		for i, x := range r.Rounds {
			if x.Failed() {
				out = append(out, fmt.Sprintf("%s, round %d: %s", r.Server, i+1, x.Fault()))
			}
		}
	}
	return out
}

// Faults are all that failed: servers that did not run, and rounds.
func (r *Report) Faults() (out []string) {
	for _, s := range r.Servers {
		if s.Error != "" {
			out = append(out, s.Name+": "+s.Error)
		}
	}
	for _, s := range r.Scenarios {
		for _, fault := range s.Faults() {
			out = append(out, s.Name+": "+fault)
		}
	}
	return out
}

// Write puts report.json, report.html and the charts into a directory.
func (r *Report) Write(dir string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("report.json: %w", err)
	}
	files := map[string][]byte{"report.json": append(b, '\n')}
	for _, c := range r.Charts() {
		if files[c.File], err = render("chart.svg", c); err != nil {
			return err
		}
	}
	if files["report.html"], err = render("page.html", r); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func render(template string, data any) ([]byte, error) {
	var b bytes.Buffer
	err := pages.ExecuteTemplate(&b, template, data)
	return b.Bytes(), err
}

// Read reads a report.json.
func Read(file string) (*Report, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("%s: schema %d, want %d", file, r.Schema, Schema)
	}
	return &r, nil
}

// oneLine makes a fault that quotes a server's output fit for a sentence.
func oneLine(s string) string {
	const most = 300
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
