package report

import (
	"embed"
	"html/template"
)

//go:embed page.html chart.svg
var files embed.FS

// pages are report.html, one file without outside resources, and the charts in it.
var pages = template.Must(template.New("").Funcs(template.FuncMap{"printf": english.Sprintf}).ParseFS(files, "*"))

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
func (s Summary) cell(m Metric) cell {
	own, q := m.number(s.Median), s.Ratio
	if q == nil {
		c := cell{Text: own}
		if s.Rounds > 1 && m.Better != 0 {
			c.Small = m.number(s.Low) + "–" + m.number(s.High)
		}
		return c
	}
	c := cell{Text: "× " + number(q.Median, 2), Small: q.interval() + "; " + own}
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

// row is a metric on some servers. Without a figure of any it is of no use.
func (s *Scenario) row(m Metric, servers []string) (x row, useful bool) {
	x = row{Title: m.Title, Small: m.Unit}
	for _, server := range servers {
		c := cell{Text: "–"}
		if r := s.Result(server); r != nil {
			if sum, ok := r.Summary[m.Name]; ok {
				c, useful = sum.cell(m), true
			}
		}
		x.Cells = append(x.Cells, c)
	}
	return x, useful
}

// Table is all figures of a scenario.
func (s *Scenario) Table() (t table) {
	for _, r := range s.Results {
		t.Head = append(t.Head, r.Server)
	}
	for _, m := range Metrics {
		if x, useful := s.row(m, t.Head); useful {
			t.Rows = append(t.Rows, x)
		}
	}
	return t
}

// Overview is every scenario's primary metrics.
func (r *Report) Overview() (t table) {
	for _, s := range r.Servers {
		t.Head = append(t.Head, s.Name)
	}
	for _, s := range r.Scenarios {
		for _, name := range s.Primary {
			m := metric(name)
			x, useful := s.row(m, t.Head) // a scenario that compares event loops has none of these columns
			if !useful {
				continue
			}
			x.Title, x.Small, x.Link = s.Title, m.Title, s.Name
			if m.Unit != "" {
				x.Small += ", " + m.Unit
			}
			for i := range x.Cells {
				x.Cells[i].Small = ""
			}
			t.Rows = append(t.Rows, x)
		}
	}
	return t
}

// Confidence, Margin and Fewest are what the page explains of the verdicts: percent, percent, and rounds.
func (r *Report) Confidence() float64 { return 100 * confidence }
func (r *Report) Margin() float64     { return 100 * margin }
func (r *Report) Fewest() int         { return fewest }
