package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"strings"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"upper": upperFirst, "code": code,
}).Parse(pageText))

type htmlScenario struct {
	*Scenario
	Head     []string
	Rows     []htmlRow
	Failures []string
}

type htmlRow []htmlCell

type htmlCell struct{ Text, Small, Mark string }

type htmlChart struct {
	Title string
	Wide  bool
	SVG   template.HTML
}

// HTML is report.html: one file without outside resources.
func (r *Report) HTML(charts []Chart) ([]byte, error) {
	data := struct {
		*Report
		Facts     [][2]string
		Remarks   []string
		Reading   []string
		Charts    []htmlChart
		Scenarios []htmlScenario
	}{Report: r, Facts: r.facts(), Remarks: r.remarks(), Reading: r.reading()}
	for _, c := range charts {
		data.Charts = append(data.Charts, htmlChart{Title: c.Title, Wide: c.Wide, SVG: inline(c.SVG)})
	}
	for i := range r.Scenarios {
		s := &r.Scenarios[i]
		t := s.table()
		h := htmlScenario{Scenario: s, Head: t.head}
		for _, row := range t.rows {
			var out htmlRow
			for _, c := range row {
				out = append(out, htmlCell{c.text, c.small, c.mark})
			}
			h.Rows = append(h.Rows, out)
		}
		for k := range s.Results {
			for n := range s.Results[k].Rounds {
				if x := &s.Results[k].Rounds[n]; x.Failed() {
					h.Failures = append(h.Failures, fmt.Sprintf("%s, round %d: %s", s.Results[k].Server, n+1, x.Fault()))
				}
			}
		}
		data.Scenarios = append(data.Scenarios, h)
	}
	var b bytes.Buffer
	if err := page.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("report.html: %w", err)
	}
	return b.Bytes(), nil
}

// inline takes the svg element out of its file. The drawing is ours, so it needs no escaping.
func inline(svg []byte) template.HTML {
	if i := bytes.Index(svg, []byte("<svg")); i >= 0 {
		svg = svg[i:]
	}
	return template.HTML(svg)
}

// code turns the backquotes of a fact into elements.
func code(s string) template.HTML {
	var b strings.Builder
	for i, part := range strings.Split(s, "`") {
		if i%2 == 1 {
			b.WriteString("<code>" + template.HTMLEscapeString(part) + "</code>")
		} else {
			b.WriteString(template.HTMLEscapeString(part))
		}
	}
	return template.HTML(b.String())
}
