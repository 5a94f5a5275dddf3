package report

import (
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// cpuChart has a group of bars per scenario, a bar per server, on a logarithmic scale: the differences are from a few
// per cent to a factor of twenty. Whiskers show the spread over the rounds.
func (r *Report) cpuChart() (*Chart, error) {
	var groups []*Scenario
	for i := range r.Scenarios {
		s := &r.Scenarios[i]
		has := func(res Result) bool { _, ok := res.Summary[CPUPerDelivery]; return ok }
		if s.Primary == CPUPerDelivery && slices.ContainsFunc(s.Results, has) {
			groups = append(groups, s)
		}
	}
	if len(groups) == 0 {
		return nil, nil
	}
	p := newPlot("CPU time per delivered message (log scale, lower is better)", "", "microseconds")
	low, high := math.Inf(1), 0.0
	for _, s := range groups {
		for _, res := range s.Results {
			if sum, ok := res.Summary[CPUPerDelivery]; ok {
				low, high = math.Min(low, sum.Min), math.Max(high, sum.Max)
			}
		}
	}
	p.Y.Min, p.Y.Max = low/1.5, high*2.5 // the legend's room
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades{}
	names := make([]string, len(groups))
	for i, s := range groups {
		names[i] = s.Name
	}
	width := vg.Points(750 / float64(len(groups)*(len(r.Servers)+1)))
	for k, server := range r.Servers {
		if err := r.bars(p, groups, server.Name, width, float64(k)-float64(len(r.Servers)-1)/2); err != nil {
			return nil, err
		}
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.5, float64(len(groups))-0.5
	p.Legend.ThumbnailWidth = vg.Points(14)
	return render(p, "cpu.svg", wide)
}

// bars adds one server's bars, shifted by a number of bar widths from the groups' middles.
func (r *Report) bars(p *plot.Plot, groups []*Scenario, server string, width vg.Length, shift float64) error {
	slot := 1 / float64(len(r.Servers)+1) // of the distance between groups
	var polygons []*plotter.Polygon
	var spread spreads
	for g, s := range groups {
		i := slices.IndexFunc(s.Results, func(res Result) bool { return res.Server == server })
		if i < 0 {
			continue
		}
		sum, ok := s.Results[i].Summary[CPUPerDelivery]
		if !ok {
			continue
		}
		mid := float64(g) + shift*slot
		left, right := mid-0.45*slot, mid+0.45*slot
		poly, err := plotter.NewPolygon(plotter.XYs{{X: left, Y: p.Y.Min}, {X: left, Y: sum.Median}, {X: right, Y: sum.Median}, {X: right, Y: p.Y.Min}})
		if err != nil {
			return err
		}
		poly.Color = r.colour(server)
		poly.LineStyle.Width = 0
		polygons = append(polygons, poly)
		p.Add(poly)
		spread = append(spread, spreadAt{x: mid, y: sum.Median, low: sum.Median - sum.Min, high: sum.Max - sum.Median})
	}
	if len(polygons) == 0 {
		return nil
	}
	bars, err := plotter.NewYErrorBars(spread)
	if err != nil {
		return err
	}
	bars.CapWidth = width / 2
	p.Add(bars)
	p.Legend.Add(server, polygons[0])
	return nil
}

// spreadAt is a median with its distance to the smallest and the largest round.
type spreadAt struct{ x, y, low, high float64 }

// spreads is what plotter wants of error bars.
type spreads []spreadAt

func (s spreads) Len() int                        { return len(s) }
func (s spreads) XY(i int) (float64, float64)     { return s[i].x, s[i].y }
func (s spreads) YError(i int) (float64, float64) { return s[i].low, s[i].high }

// thousands writes tick labels with thousands apart.
type thousands struct{}

func (thousands) Ticks(low, high float64) []plot.Tick {
	t := plot.DefaultTicks{}.Ticks(low, high)
	for i := range t {
		if t[i].Label != "" {
			digits := 0
			if high < 10 {
				digits = 1
			}
			t[i].Label = number(t[i].Value, digits)
		}
	}
	return t
}

// decades puts labelled ticks at 1, 2 and 5 of every power of ten, for a logarithmic axis.
type decades struct{}

func (decades) Ticks(low, high float64) (out []plot.Tick) {
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		for _, k := range []float64{1, 2, 5} {
			v := k * math.Pow(10, e)
			if v < low*0.999 || v > high*1.001 {
				continue
			}
			out = append(out, plot.Tick{Value: v, Label: number(v, max(0, int(-e)))})
		}
	}
	return out
}

// percentileTicks labels the axis of nines.
type percentileTicks struct{}

func (percentileTicks) Ticks(low, high float64) (out []plot.Tick) {
	for _, t := range []struct {
		percentile float64
		label      string
	}{{0, "0"}, {50, "50"}, {90, "90"}, {99, "99"}, {99.9, "99.9"}, {99.99, "99.99"}, {99.999, "99.999"}} {
		if v := nines(t.percentile); v >= low-1e-9 && v <= high+1e-9 {
			out = append(out, plot.Tick{Value: v, Label: t.label})
		}
	}
	return out
}
