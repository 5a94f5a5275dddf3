package report

import (
	"embed"
	"fmt"
	"html/template"
	"slices"
)

//go:embed page.html chart.svg
var files embed.FS

// pages are report.html, one file without outside resources, and the charts in it.
var pages = template.Must(template.ParseFS(files, "*"))

// table is figures ready to be shown: a row for each metric or scenario, a column for each server.
type table struct {
	Head []string
	Rows []row
}

type row struct {
	Title string
	Small string // the scenario's name, or a metric's unit
	Link  string // the section it leads to
	Cells []cell
}

// cell is one figure: its value, and below it what it is worth.
type cell struct {
	Text, Small string
	Mark        string // better, worse or nothing, seen from the server's own side
}

// cell shows a ratio where there is one, as the verdicts do, with the figure itself below it.
func (r *Result) cell(m Metric) cell {
	sum, ok := r.Summary[m.Name]
	if !ok {
		return cell{Text: "–"}
	}
	own := m.number(sum.Median)
	q := sum.Ratio
	if q == nil {
		c := cell{Text: own}
		if sum.Rounds > 1 && m.Better != 0 {
			c.Small = m.number(sum.Low) + "–" + m.number(sum.High)
		}
		return c
	}
	c := cell{Text: "× " + number(q.Median, 2), Small: number(q.Low, 2) + "–" + number(q.High, 2) + "; " + own}
	switch {
	case !q.Firm:
		c.Small = "too few rounds; " + own
	case q.Judge(m) == 0:
		c.Text += " ≈"
	default:
		c.Mark = map[int]string{1: "better", -1: "worse"}[q.Judge(m)]
	}
	return c
}

// overview is every scenario's primary metrics, for those scenarios that compare the run's servers.
func (r *Report) overview() (t table) {
	for _, s := range r.Servers {
		t.Head = append(t.Head, s.Name)
	}
	for _, s := range r.Scenarios {
		if s.Base != r.Against {
			continue
		}
		for _, name := range s.Primary {
			m := metric(name)
			x := row{Title: s.Title, Small: m.Title, Link: s.Name}
			if m.Unit != "" {
				x.Small += ", " + m.Unit
			}
			for _, server := range r.Servers {
				c := cell{Text: "–"}
				if res := s.Result(server.Name); res != nil {
					c = res.cell(m)
					c.Small = ""
				}
				x.Cells = append(x.Cells, c)
			}
			t.Rows = append(t.Rows, x)
		}
	}
	return t
}

// Table is all figures of a scenario.
func (s *Scenario) Table() (t table) {
	for _, r := range s.Results {
		t.Head = append(t.Head, r.Server)
	}
	for _, m := range Metrics {
		if !slices.ContainsFunc(s.Results, func(r *Result) bool { _, ok := r.Summary[m.Name]; return ok }) {
			continue
		}
		x := row{Title: m.Title, Small: m.Unit}
		for _, r := range s.Results {
			x.Cells = append(x.Cells, r.cell(m))
		}
		t.Rows = append(t.Rows, x)
	}
	return t
}

// Faults are the scenario's failed rounds.
func (s *Scenario) Faults() (out []string) {
	for _, r := range s.Results {
		out = append(out, r.faults()...)
	}
	return out
}

// facts are the run's circumstances, as pairs of name and text.
func (r *Report) facts() [][2]string {
	m, h := &r.Machine, &r.Method
	pinned := fmt.Sprintf("servers to CPU %s, load to CPU %s", h.ServerCPUs, h.LoadCPUs)
	if h.ServerCPUs == "" {
		pinned = "load to CPU " + h.LoadCPUs
	}
	kind := ""
	if m.Virtual {
		kind = " (virtual)"
	}
	return [][2]string{
		{"Machine", fmt.Sprintf("%s, %d CPUs%s, %s MiB", m.CPU, m.CPUs, kind, number(float64(m.MemoryMiB), 0))},
		{"System", fmt.Sprintf("%s; %s open files per process", m.Kernel, number(float64(m.OpenFiles), 0))},
		{"Pinned", pinned + "; everything over loopback"},
		{"Measured", fmt.Sprintf("%s, %s s in all; %d rounds of %g s after %g s of warm-up, servers interleaved",
			r.Started.Format("2 January 2006, 15:04 MST"), number(r.Seconds, 0), h.Rounds, h.Duration, h.Warmup)},
		{"Load", m.Go},
		{"Command", r.Command},
	}
}

// reading explains the figures.
func (r *Report) reading() []string {
	return []string{
		"A delivery is one message arriving, whole and unchanged, at one recipient. Every message is checked: none lost, none twice, in its sender's order, nobody else's. A run that breaks this is a FAILURE.",
		"Small messages are JSON texts of 128 bytes. Nobody negotiates compression.",
		"CPU is the server process's own, user and kernel, from its CPU clock in nanoseconds.",
		fmt.Sprintf("× is a ratio to %s: each round's figure divided by %s's in the same round, then the median over the rounds. That is not the quotient of the two medians, which would mix minutes in which the machine was faster with others. Below it stand the interval in which that median lies with a confidence of %.0f %%, and the server's own median. ≈ means that the interval comes within %.0f %% of 1: no difference beyond noise. Fewer than %d rounds give no interval and no verdict. Where one event loop is compared with two, one loop takes that server's place.",
			r.Against, r.Against, 100*confidence, 100*margin, fewest),
		"In closed loops senders wait for their messages' last copies, so each server has as much to do as its own speed allows (how busy it was is in the tables); all servers are up and take turns of some 40 ms within each round. In open loops (calm, busy) messages are sent at fixed times, and a message's time counts from when it should have been sent, however late it was.",
		"System calls are all calls, waiting and the scheduler's included, counted by the kernel during a turn of their own, whose CPU time counts nowhere.",
		"Resident memory per peer is what the process has above its size before the first one, divided by all of them; what it has before, and what each further peer adds between half and all of them, stand beside it. Kernel memory is unreclaimable slab and TCP buffers of the machine, so both ends of each loopback connection are in it.",
		fmt.Sprintf("Heartbeats were measured with an interval of %g s and scaled to 30 s; the load answers and counts them, and without about one per peer there is no figure.", r.Method.Heartbeat),
	}
}
