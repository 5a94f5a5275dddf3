package report

import (
	"embed"
	"html/template"
	"reflect"
	"slices"
)

//go:embed page.html chart.svg
var files embed.FS

// pages are report.html, one file without outside resources, and the charts in it.
var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"thousands": func(n any) string {
		return number(reflect.ValueOf(n).Convert(reflect.TypeFor[float64]()).Float(), 0)
	},
}).ParseFS(files, "*"))

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

// overview is every scenario's primary metrics.
func (r *Report) overview() (t table) {
	for _, s := range r.Servers {
		t.Head = append(t.Head, s.Name)
	}
	for _, s := range r.Scenarios {
		if s.Base != "" {
			continue // its columns are others
		}
		for _, name := range s.Primary {
			m := metric(name)
			if !s.has(m) {
				continue
			}
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

// has tells whether some server has a figure of a metric.
func (s *Scenario) has(m Metric) bool {
	return slices.ContainsFunc(s.Results, func(r *Result) bool { _, ok := r.Summary[m.Name]; return ok })
}

// Table is all figures of a scenario.
func (s *Scenario) Table() (t table) {
	for _, r := range s.Results {
		t.Head = append(t.Head, r.Server)
	}
	for _, m := range Metrics {
		if !s.has(m) {
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

// Confidence, Margin and Fewest are what the page explains of the verdicts: percent, percent, and rounds.
func (r *Report) Confidence() float64 { return 100 * confidence }
func (r *Report) Margin() float64     { return 100 * margin }
func (r *Report) Fewest() int         { return fewest }
