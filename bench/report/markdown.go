package report

import (
	"fmt"
	"slices"
	"strings"
)

// table is a scenario's figures, ready to be written in either format.
type table struct {
	head []string
	rows [][]cell
}

// cell is one figure: its value, and below it what it is worth.
type cell struct {
	text  string
	small string // spread and ratio
	mark  string // better, worse, failed or nothing, seen from the server's own side
}

// table has a row per server and a column per metric that any server has.
func (s *Scenario) table() table {
	t := table{head: []string{"server"}}
	var cols []Metric
	for _, m := range Metrics {
		if slices.ContainsFunc(s.Results, func(r Result) bool { _, ok := r.Summary[m.Name]; return ok }) {
			cols = append(cols, m)
			head := m.Title
			if m.Unit != "" {
				head += ", " + m.Unit
			}
			t.head = append(t.head, head)
		}
	}
	for i := range s.Results {
		r := &s.Results[i]
		first := cell{text: r.Server}
		if slices.ContainsFunc(r.Rounds, func(x Round) bool { return x.Failed() }) {
			first.small, first.mark = "FAILURE", "failed"
		}
		row := []cell{first}
		for _, m := range cols {
			sum, ok := r.Summary[m.Name]
			if !ok {
				row = append(row, cell{text: "–"})
				continue
			}
			row = append(row, summaryCell(m, sum, len(r.Rounds)))
		}
		t.rows = append(t.rows, row)
	}
	return t
}

func summaryCell(m Metric, sum Summary, rounds int) cell {
	c := cell{text: m.number(sum.Median)}
	if m.Better == 0 {
		return c
	}
	if q := sum.Ratio; q != nil {
		c.small = "× " + number(q.Median, 2) + inParentheses(q)
		switch Judge(m, q) {
		case 1:
			c.mark = "better"
		case -1:
			c.mark = "worse"
		default:
			c.small += " ≈"
		}
	} else if rounds > 1 {
		c.small = m.number(sum.Min) + "–" + m.number(sum.Max)
	}
	return c
}

// Markdown is report.md. charts are file names with their titles, in order.
func (r *Report) Markdown(charts []Chart) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# What a peer and a message cost\n\n")
	if r.Interrupted {
		b.WriteString("**The run was interrupted; this is what there was.**\n\n")
	}
	for _, p := range r.facts() {
		fmt.Fprintf(&b, "- %s: %s\n", p[0], p[1])
	}
	b.WriteString("\n## Verdicts\n\n| scenario | verdict |\n|---|---|\n")
	for i := range r.Scenarios {
		fmt.Fprintf(&b, "| [%s](#%s) | %s |\n", r.Scenarios[i].Name, r.Scenarios[i].Name, pipes(r.Scenarios[i].Verdict))
	}
	for _, n := range r.remarks() {
		fmt.Fprintf(&b, "\n%s\n", n)
	}
	b.WriteString("\n## Servers\n\n| server | what it is | version |\n|---|---|---|\n")
	for _, s := range r.Servers {
		version := s.Version
		if s.Error != "" {
			version = "**not measured:** " + oneLine(s.Error)
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", s.Name, pipes(s.About), pipes(version))
	}
	b.WriteString("\n## How to read the figures\n\n")
	for _, p := range r.reading() {
		fmt.Fprintf(&b, "- %s\n", p)
	}
	if len(charts) > 0 {
		b.WriteString("\n## Charts\n\n")
		for _, c := range charts {
			fmt.Fprintf(&b, "![%s](%s)\n\n", c.Title, c.File)
		}
	}
	b.WriteString("\n## Figures\n")
	for i := range r.Scenarios {
		r.Scenarios[i].markdown(&b)
	}
	return b.String()
}

func (s *Scenario) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "\n### %s\n\n%s.\n\n%s\n\n", s.Name, upperFirst(s.About), s.Verdict)
	t := s.table()
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(t.head, " | "), strings.Repeat("---|", len(t.head)))
	for _, row := range t.rows {
		b.WriteString("|")
		for _, c := range row {
			text := c.text
			if c.mark == "failed" {
				c.small = "**" + c.small + "**"
			}
			if c.small != "" {
				text += " <br> " + c.small
			}
			fmt.Fprintf(b, " %s |", text)
		}
		b.WriteString("\n")
	}
	for _, n := range s.Notes {
		fmt.Fprintf(b, "\n%s\n", n)
	}
	for i := range s.Results {
		for k := range s.Results[i].Rounds {
			if x := &s.Results[i].Rounds[k]; x.Failed() {
				fmt.Fprintf(b, "\n**FAILURE** of %s in round %d:\n\n```\n%s\n```\n", s.Results[i].Server, k+1, x.Fault())
			}
		}
	}
	fmt.Fprintf(b, "\nAgain: `%s`\n", s.Command)
}

// facts are the run's circumstances, as pairs of name and text.
func (r *Report) facts() [][2]string {
	m, h := &r.Machine, &r.Method
	pinned := fmt.Sprintf("servers to CPU %s, load to CPU %s", list(h.ServerCPUs), list(h.LoadCPUs))
	if h.Target {
		pinned = "load to CPU " + list(h.LoadCPUs)
	}
	kind := ""
	if m.Virtual {
		kind = " (virtual)"
	}
	openFiles := "unknown"
	if m.OpenFiles > 0 {
		openFiles = number(float64(m.OpenFiles), 0)
	}
	return [][2]string{
		{"Machine", fmt.Sprintf("%s, %d CPUs%s, %s MiB", m.CPU, m.CPUs, kind, number(float64(m.MemoryMiB), 0))},
		{"System", fmt.Sprintf("%s, %s", m.Kernel, m.System)},
		{"Limits", fmt.Sprintf("%s open files per process, ports %s", openFiles, m.PortRange)},
		{"Pinned", pinned},
		{"Measured", fmt.Sprintf("%s, %.0f s in all; %g s per measurement after %g s of warm-up, up to %d rounds, servers interleaved",
			r.Started.Format("2 January 2006, 15:04 MST"), r.Seconds, h.Duration, h.Warmup, h.Rounds)},
		{"Load", m.Go + ", over loopback connections; " + fmt.Sprintf("%.1f %% of the CPU time was taken by the hypervisor for other machines", 100*m.StealShare)},
		{"Command", "`" + r.Command + "`"},
	}
}

// reading explains the figures.
func (r *Report) reading() []string {
	first := "the first server"
	if len(r.Servers) > 0 {
		first = r.Servers[0].Name
	}
	return []string{
		"A delivery is one message arriving, whole and unchanged, at one recipient. Every message is checked: none lost, none twice, in its sender's order, nobody else's. A run that breaks this is a FAILURE.",
		"Small messages are JSON texts of 128 bytes. Nobody negotiates compression.",
		"CPU is the server process's own, user and kernel, from its CPU clock in nanoseconds.",
		fmt.Sprintf("Figures are medians over rounds. × is the ratio to %s in the same round: median (smallest–largest). ≈ means that the spread comes within 5 %% of 1: no difference beyond noise.", first),
		"In the closed loops (fanout, chat, direct, pair, star, big, churn) senders wait for their messages' last copies, so each server has as much to do as its own speed allows (how busy it was is in the tables); all servers are up and take turns of some 40 ms within each round. Messages per read tell how far a relay gathered several messages into one write, which the number in flight bounds. Latency is an open loop: a message's time counts from when it should have been sent, however late it was.",
		"Garbage collection is the CPU time of all its phases as GODEBUG=gctrace=1 tells it, which costs a line per collection and is on for all Go servers.",
		"Resident memory is the process's above what it had before the first connection; kernel memory is unreclaimable slab and TCP buffers of the machine, so both ends of each loopback connection are in it.",
		fmt.Sprintf("Heartbeats were measured with an interval of %g s and scaled to 30 s; the load answers and counts them, and without about one per peer there is no figure.", r.Method.Heartbeat),
	}
}

// remarks are the run's caveats.
func (r *Report) remarks() []string {
	out := append([]string(nil), r.Notes...)
	if n, of := r.disturbed(); n > 0 {
		out = append(out, noise(n, of))
	}
	return out
}

func list(cpus []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(cpus), " ", ","), "[]")
}

func pipes(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
