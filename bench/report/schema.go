// Package report is what a run of the benchmark leaves behind: its figures in a stable schema, statistics over rounds,
// verdicts in words, and the pages and charts made of them. It measures nothing and starts nothing.
package report

import (
	"time"

	"relaygate/bench/load"
)

// Schema is the version of report.json. Fields are only ever added under one version.
const Schema = 1

// Report is the whole of report.json.
type Report struct {
	Schema      int        `json:"schema"`
	Started     time.Time  `json:"started"`
	Seconds     float64    `json:"seconds"`
	Interrupted bool       `json:"interrupted"`
	Command     string     `json:"command"`
	Machine     Machine    `json:"machine"`
	Method      Method     `json:"method"`
	Servers     []Server   `json:"servers"` // the first is the one the others are compared with
	Scenarios   []Scenario `json:"scenarios"`
	Notes       []string   `json:"notes,omitempty"`
}

// Machine is where the run took place.
type Machine struct {
	CPU        string  `json:"cpu"`
	CPUs       int     `json:"cpus"`
	Kernel     string  `json:"kernel"`
	System     string  `json:"system"`
	MemoryMiB  int64   `json:"memoryMiB"`
	OpenFiles  uint64  `json:"openFiles"`
	PortRange  string  `json:"portRange"`
	Virtual    bool    `json:"virtual"`
	Go         string  `json:"go"`
	StealShare float64 `json:"stealShare"` // of the run's CPU time, taken by the hypervisor
}

// Method is how it was measured.
type Method struct {
	ServerCPUs []int   `json:"serverCPUs"`
	LoadCPUs   []int   `json:"loadCPUs"`
	Duration   float64 `json:"duration"` // seconds per measurement
	Warmup     float64 `json:"warmup"`
	Rounds     int     `json:"rounds"`
	Heartbeat  float64 `json:"heartbeat"` // seconds, in idle
	Conns      int     `json:"conns"`     // silent peers asked for, in idle
	Target     bool    `json:"target"`    // a running relay, not started and not pinned by bench
}

// Server is one of the relays.
type Server struct {
	Name    string `json:"name"`
	About   string `json:"about"`
	Version string `json:"version,omitempty"`
	Command string `json:"command,omitempty"`
	Error   string `json:"error,omitempty"` // why it could not be built or started
}

// Scenario is one load and what each server made of it.
type Scenario struct {
	Name    string     `json:"name"`
	About   string     `json:"about"`
	Kind    string     `json:"kind"`
	Shape   load.Shape `json:"shape"`
	Primary string     `json:"primary"` // metric of the verdict
	Command string     `json:"command"` // measures it again
	Results []Result   `json:"results"` // in the order of Report.Servers, those that were measured
	Verdict string     `json:"verdict"`
	Notes   []string   `json:"notes,omitempty"`
}

// Result is one server in one scenario.
type Result struct {
	Server  string             `json:"server"`
	Rounds  []Round            `json:"rounds"`
	Summary map[string]Summary `json:"summary"` // by metric
}

// Round is one measurement.
type Round struct {
	Metrics    map[string]float64 `json:"metrics"`
	Series     map[string][]Point `json:"series,omitempty"`
	Histogram  []byte             `json:"histogram,omitempty"` // HdrHistogram V2 of nanoseconds at half saturation (latency)
	LoadBound  bool               `json:"loadBound"`           // the load generator, not the server, was at its limit
	Disturbed  bool               `json:"disturbed"`           // others took a tenth of a CPU or more
	Violations load.Violations    `json:"violations"`
	Error      string             `json:"error,omitempty"`
}

// Point is one point of a curve.
type Point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// Summary is a metric over the rounds.
type Summary struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Ratio  *Ratio  `json:"ratio,omitempty"` // to the first server, round by round
}

// Ratio is a spread of quotients.
type Ratio struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Failed tells whether a round broke a promise or did not complete.
func (r *Round) Failed() bool { return r.Error != "" || r.Violations.Total() > 0 }

// Gone tells whether the last round failed: another one would only cost time.
func (r *Result) Gone() bool { return len(r.Rounds) > 0 && r.Rounds[len(r.Rounds)-1].Failed() }

// Failed tells whether any round of the report failed, or a server did not run.
func (r *Report) Failed() bool {
	for _, s := range r.Servers {
		if s.Error != "" {
			return true
		}
	}
	for _, s := range r.Scenarios {
		for _, res := range s.Results {
			for i := range res.Rounds {
				if res.Rounds[i].Failed() {
					return true
				}
			}
		}
	}
	return false
}
