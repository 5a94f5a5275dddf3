package report

import (
	"cmp"
	"math"
	"slices"
)

// chart has a row for each scenario and a dot for each server, on a logarithmic scale, as there are factors of 1.1 and
// of 40. chart.svg draws it, readable at the width of a phone and on a dark page.
type chart struct {
	File, Title, Unit string
	Legend, Ticks     []dot
	Rows              []chartRow
}

type chartRow struct {
	Title string
	Y     int
	Dots  []dot
}

// dot is something at a place on the scale.
type dot struct {
	X      int
	Name   string
	Colour string
	value  float64
}

// The measures of every chart, in its own units: letters keep their size on a phone, and grow on a page.
const (
	width     = 400
	top       = 62
	rowHeight = 32
)

func (c *chart) Bottom() int { return top + rowHeight*len(c.Rows) }
func (c *chart) Height() int { return c.Bottom() + 24 }

// colours of the servers, in their order: told apart also by those who see red and green alike (Okabe and Ito).
var colours = []string{"#d55e00", "#0072b2", "#009e73", "#cc79a7", "#b59a00", "#56b4e9", "#808080"}

// Charts draws what the figures allow; a picture without data is left out.
func (r *Report) Charts() (out []*chart) {
	unit := "times " + r.Against + "'s in the same round (log scale; left is better)"
	for metric, c := range map[string]*chart{
		CPUPerDelivery:  {File: "cpu.svg", Title: "CPU time per delivered message", Unit: unit},
		ResidentPerPeer: {File: "memory.svg", Title: "Resident memory per silent peer", Unit: unit},
	} {
		for _, s := range r.Scenarios {
			x := chartRow{Title: s.Title, Y: top + rowHeight*len(c.Rows) + 12}
			for i, server := range r.Servers {
				if res := s.Result(server.Name); res != nil && res.Summary[metric].Ratio != nil {
					x.Dots = append(x.Dots, dot{Name: server.Name, Colour: colours[i%len(colours)], value: res.Summary[metric].Ratio.Median})
				}
			}
			if x.Dots != nil {
				c.Rows = append(c.Rows, x)
			}
		}
		if c.Rows != nil {
			c.place()
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *chart) int { return cmp.Compare(a.File, b.File) })
	return out
}

// place finds the scale, and puts everything on it.
func (c *chart) place() {
	low, high := math.Inf(1), 0.0
	x := 12
	for _, r := range c.Rows {
		for _, d := range r.Dots {
			low, high = min(low, d.value/1.15), max(high, d.value*1.15)
			if !slices.ContainsFunc(c.Legend, func(l dot) bool { return l.Name == d.Name }) {
				c.Legend = append(c.Legend, dot{X: x, Name: d.Name, Colour: d.Colour})
				x += 22 + 7*len(d.Name)
			}
		}
	}
	at := func(v float64) int { return 12 + int(math.Log(v/low)/math.Log(high/low)*(width-24)) }
	for _, r := range c.Rows {
		for i := range r.Dots {
			r.Dots[i].X = at(r.Dots[i].value)
		}
	}
	// Ticks are 1, 2 and 5 of every power of ten, as far as they have room.
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		for _, k := range []float64{1, 2, 5} {
			v := k * math.Pow(10, e)
			n := len(c.Ticks)
			if v >= low && v <= high && (n == 0 || at(v)-c.Ticks[n-1].X > 30) {
				c.Ticks = append(c.Ticks, dot{X: at(v), Name: number(v, max(0, int(-e)))})
			}
		}
	}
}
