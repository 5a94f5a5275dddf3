package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"slices"
	"strings"
)

// Chart is one picture, readable at the width of a phone and on a dark page.
type Chart struct {
	File  string
	Title string
	SVG   template.HTML
}

// width is that of every chart in its own units: letters keep their size on a phone, and grow on a page.
const width = 400

// colours of the servers, in their order: told apart also by those who see red and green alike (Okabe and Ito).
var colours = []string{"#d55e00", "#0072b2", "#009e73", "#cc79a7", "#b59a00", "#56b4e9", "#808080"}

const style = `<style>text{font:11px system-ui,"DejaVu Sans",sans-serif;fill:#1c2024}.t{font-size:13px;font-weight:600}.s{fill:#60656c}` +
	`.g{stroke:#dfe1e4}.b{stroke:#60656c}@media(prefers-color-scheme:dark){text{fill:#e8e9ea}.s{fill:#a3a8af}.g{stroke:#3a3f44}.b{stroke:#a3a8af}}</style>`

// canvas collects a drawing from top to bottom.
type canvas struct {
	title string
	body  strings.Builder
	y     float64 // where the next row begins
}

func (r *Report) newCanvas(title, unit string, servers []string) *canvas {
	c := &canvas{title: title}
	c.text(8, 18, "start", "t", title)
	c.text(8, 33, "start", "s", unit)
	x := 8.0
	c.y = 50
	for _, s := range servers {
		if w := 22 + 6.3*float64(len(s)); x+w > width {
			x, c.y = 8, c.y+16
		}
		c.dot(x+4, c.y-4, r.colour(s))
		c.text(x+12, c.y, "start", "", s)
		x += 22 + 6.3*float64(len(s))
	}
	c.y += 12
	return c
}

func (r *Report) colour(server string) string {
	i := slices.IndexFunc(r.Servers, func(s Server) bool { return s.Name == server })
	return colours[max(i, 0)%len(colours)]
}

func (c *canvas) text(x, y float64, anchor, class, text string) {
	fmt.Fprintf(&c.body, `<text x="%.1f" y="%.1f" text-anchor="%s" class="%s">%s</text>`, x, y, anchor, class, html.EscapeString(text))
}

func (c *canvas) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(&c.body, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`, x1, y1, x2, y2, class)
}

func (c *canvas) dot(x, y float64, colour string) {
	fmt.Fprintf(&c.body, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`, x, y, colour)
}

func (c *canvas) chart(file string) Chart {
	svg := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" role="img" aria-label="%s">%s%s</svg>`,
		width, c.y+8, html.EscapeString(c.title), style, c.body.String())
	return Chart{File: file, Title: c.title, SVG: template.HTML(svg)} // what came from outside was escaped on its way in
}

// charts draws what the figures allow; a picture without data is left out.
func (r *Report) charts() (out []Chart) {
	if c := r.ratioChart(); c != nil {
		out = append(out, c.chart("cpu.svg"))
	}
	if s := r.scenario(ResidentPerPeer); s != nil {
		out = append(out, r.barChart(s, ResidentPerPeer).chart("memory.svg"))
	}
	return out
}

// scenario is the first in which some server has a figure of a metric.
func (r *Report) scenario(name string) *Scenario {
	for _, s := range r.Scenarios {
		if slices.ContainsFunc(s.Results, func(res *Result) bool { _, ok := res.Summary[name]; return ok }) {
			return s
		}
	}
	return nil
}

// logTicks are 1, 2 and 5 of every power of ten, as far as they lie within.
func logTicks(low, high float64) (out []float64) {
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		for _, k := range []float64{1, 2, 5} {
			if v := k * math.Pow(10, e); v >= low*0.999 && v <= high*1.001 {
				out = append(out, v)
			}
		}
	}
	return out
}

func short(v float64) string { return number(v, max(0, int(math.Ceil(-math.Log10(v)-1e-9)))) }

// ratioChart has a row for each scenario and a dot for each server: the ratio of the summary table, on a logarithmic
// scale, as there are factors of 1.1 and of 40.
func (r *Report) ratioChart() *canvas {
	type row struct {
		title  string
		ratios map[string]float64
	}
	var rows []row
	var names []string
	low, high := 0.8, 1.25
	for _, s := range r.Scenarios {
		x := row{s.Title, map[string]float64{}}
		for _, res := range s.Results {
			if q := res.Summary[CPUPerDelivery].Ratio; q != nil && slices.Contains(s.Primary, CPUPerDelivery) && s.Base == r.Against {
				x.ratios[res.Server] = q.Median
				low, high = min(low, q.Median/1.1), max(high, q.Median*1.1)
				if !slices.Contains(names, res.Server) {
					names = append(names, res.Server)
				}
			}
		}
		if len(x.ratios) > 0 {
			rows = append(rows, x)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	c := r.newCanvas("CPU time per delivered message", "times "+r.Against+"'s in the same round (log scale; left is better)", names)
	at := func(v float64) float64 { return 12 + math.Log(v/low)/math.Log(high/low)*(width-24) }
	top, bottom := c.y, c.y+float64(len(rows))*32
	last := math.Inf(-1)
	for _, v := range logTicks(low, high) {
		x := at(v)
		c.line(x, top, x, bottom, map[bool]string{true: "b", false: "g"}[v == 1])
		if x-last > 24 {
			c.text(x, bottom+13, "middle", "s", short(v))
			last = x
		}
	}
	for _, row := range rows {
		c.text(12, c.y+12, "start", "", row.title)
		for _, name := range names {
			if v, ok := row.ratios[name]; ok {
				c.dot(at(v), c.y+22, r.colour(name))
			}
		}
		c.y += 32
	}
	c.y += 16
	return c
}

// barChart has a bar for each server, from zero.
func (r *Report) barChart(s *Scenario, name string) *canvas {
	m := metric(name)
	c := r.newCanvas(strings.ToUpper(m.Title[:1])+m.Title[1:], m.Unit+" (less is better)", nil)
	most := 0.0
	for _, res := range s.Results {
		most = max(most, res.Summary[name].Median)
	}
	c.y -= 8
	for _, res := range s.Results {
		sum, ok := res.Summary[name]
		if !ok {
			continue
		}
		w := max(sum.Median/most*(width-170), 1)
		c.text(88, c.y+12, "end", "", res.Server)
		fmt.Fprintf(&c.body, `<rect x="94" y="%.1f" width="%.1f" height="14" fill="%s"/>`, c.y+1, w, r.colour(res.Server))
		c.text(100+w, c.y+12, "start", "", m.number(sum.Median))
		c.y += 22
	}
	return c
}
