package report

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"regexp"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Chart is one picture.
type Chart struct {
	File  string
	Title string
	Wide  bool
	SVG   []byte
}

// Widths of charts: two beside each other on the page, or one across it.
const (
	narrow = 16 * vg.Centimeter
	wide   = 30 * vg.Centimeter
)

// colours of the servers, in their order: told apart also by those who see red and green alike (Okabe and Ito).
var colours = []color.RGBA{
	{R: 0xd5, G: 0x5e, B: 0x00, A: 255},
	{R: 0x00, G: 0x72, B: 0xb2, A: 255},
	{R: 0x00, G: 0x9e, B: 0x73, A: 255},
	{R: 0xcc, G: 0x79, B: 0xa7, A: 255},
	{R: 0x8a, G: 0x7a, B: 0x10, A: 255},
	{R: 0x56, G: 0xb4, B: 0xe9, A: 255},
	{R: 0x66, G: 0x66, B: 0x66, A: 255},
}

// Charts draws what the figures allow; a picture without data is left out.
func (r *Report) Charts() ([]Chart, error) {
	var out []Chart
	for _, draw := range []func() (*Chart, error){r.cpuChart, r.latencyChart, r.offeredChart, r.throughputChart, r.memoryChart} {
		c, err := draw()
		if err != nil {
			return nil, fmt.Errorf("draw a chart: %w", err)
		}
		if c != nil {
			out = append(out, *c)
		}
	}
	return out, nil
}

func (r *Report) colour(server string) color.RGBA {
	i := slices.IndexFunc(r.Servers, func(s Server) bool { return s.Name == server })
	return colours[max(i, 0)%len(colours)]
}

func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	for _, f := range []*font.Font{
		&p.Title.TextStyle.Font, &p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font,
		&p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font,
	} {
		f.Variant, f.Size = "Sans", 11
	}
	p.Title.TextStyle.Font.Size = 13
	p.Title.Text = title
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.Title.Padding = vg.Points(8)
	p.X.Padding, p.Y.Padding = vg.Points(4), vg.Points(4)
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.Padding = vg.Points(4)
	p.Legend.ThumbnailWidth = vg.Points(22)
	p.Legend.XOffs, p.Legend.YOffs = vg.Points(8), vg.Points(-4)
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xdd}, color.Gray{0xdd}
	p.Add(grid)
	return p
}

// fontFamily is what the drawing library writes; the families put in its place have letters of the same width.
var fontFamily = regexp.MustCompile(`font-family:[^;"]*`)

func render(p *plot.Plot, file string, width vg.Length) (*Chart, error) {
	c := vgsvg.New(width, 10*vg.Centimeter)
	// Room at the edges for labels that stick out of the plot: browsers measure letters a little differently.
	p.Draw(draw.Crop(draw.New(c), 6, -20, 4, -6))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return nil, err
	}
	svg := fontFamily.ReplaceAll(b.Bytes(), []byte("font-family:'Liberation Sans',Arimo,Arial,Helvetica,sans-serif"))
	return &Chart{File: file, Title: p.Title.Text, Wide: width == wide, SVG: svg}, nil
}

// line adds one server's curve.
func (r *Report) line(p *plot.Plot, server string, points []Point) error {
	xy := make(plotter.XYs, len(points))
	for i, q := range points {
		xy[i] = plotter.XY{X: q.X, Y: q.Y}
	}
	l, s, err := plotter.NewLinePoints(xy)
	if err != nil {
		return err
	}
	l.Color, s.Color = r.colour(server), r.colour(server)
	l.Width = vg.Points(1.8)
	s.Shape, s.Radius = draw.CircleGlyph{}, vg.Points(2)
	p.Add(l, s)
	p.Legend.Add(server, l)
	return nil
}

// curves adds a line per server from the rounds' series, and returns how many there were.
func (r *Report) curves(p *plot.Plot, s *Scenario, points func(*Result) []Point) (n int, err error) {
	for i := range s.Results {
		if q := points(&s.Results[i]); len(q) > 1 {
			if err := r.line(p, s.Results[i].Server, q); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// medianSeries is the point-by-point median of a series over the rounds.
func (r *Result) medianSeries(name string) []Point {
	byX := map[float64][]float64{}
	for i := range r.Rounds {
		if r.Rounds[i].Failed() {
			continue
		}
		for _, p := range r.Rounds[i].Series[name] {
			byX[p.X] = append(byX[p.X], p.Y)
		}
	}
	var out []Point
	for x, y := range byX {
		out = append(out, Point{X: x, Y: Median(y)})
	}
	slices.SortFunc(out, func(a, b Point) int { return int(math.Copysign(1, a.X-b.X)) })
	return out
}

func (r *Report) scenario(kind string) *Scenario {
	for i := range r.Scenarios {
		if r.Scenarios[i].Kind == kind {
			return &r.Scenarios[i]
		}
	}
	return nil
}

func (r *Report) memoryChart() (*Chart, error) {
	s := r.scenario("idle")
	if s == nil {
		return nil, nil
	}
	p := newPlot("Resident memory per silent peer (log scale, lower is better)", "peers connected", "bytes")
	n, err := r.curves(p, s, func(res *Result) []Point {
		q := res.medianSeries(MemoryCurve)
		for i := range q {
			q[i].Y = math.Max(q[i].Y/q[i].X, 1)
		}
		return q
	})
	if n == 0 || err != nil {
		return nil, err
	}
	p.X.Min = 0
	p.X.Max *= 1.35 // the legend's room
	p.Legend.XOffs = vg.Points(270)
	p.X.Tick.Marker = thousands{}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades{}
	p.Y.Min, p.Y.Max = decade(p.Y.Min, math.Floor), decade(p.Y.Max, math.Ceil)
	return render(p, "memory.svg", narrow)
}

func (r *Report) throughputChart() (*Chart, error) {
	s := r.scenario("latency")
	if s == nil {
		return nil, nil
	}
	p := newPlot("Throughput over offered rate", "deliveries per second offered", "deliveries per second")
	n, err := r.curves(p, s, func(res *Result) []Point { return res.medianSeries(ThroughputCurve) })
	if n == 0 || err != nil {
		return nil, err
	}
	ideal := plotter.NewFunction(func(x float64) float64 { return x })
	ideal.Color, ideal.Dashes = color.Gray{0x99}, []vg.Length{vg.Points(4), vg.Points(3)}
	p.Add(ideal)
	p.Legend.Add("all that was offered", ideal)
	p.X.Min, p.Y.Min = 0, 0
	p.Y.Max = math.Max(p.Y.Max, 0.95*p.X.Max)
	p.X.Tick.Marker, p.Y.Tick.Marker = thousands{}, thousands{}
	return render(p, "throughput.svg", narrow)
}

// offeredChart shows where each server's queue begins to grow.
func (r *Report) offeredChart() (*Chart, error) {
	s := r.scenario("latency")
	if s == nil {
		return nil, nil
	}
	p := newPlot("99th percentile over offered rate", "deliveries per second offered", "milliseconds")
	n, err := r.curves(p, s, func(res *Result) []Point { return positive(res.medianSeries(P99Curve)) })
	if n == 0 || err != nil {
		return nil, err
	}
	p.X.Min, p.X.Tick.Marker = 0, thousands{}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades{}
	p.Y.Min, p.Y.Max = decade(p.Y.Min, math.Floor), decade(p.Y.Max, math.Ceil)
	return render(p, "offered.svg", narrow)
}

// positive lifts values that a logarithmic axis cannot show.
func positive(points []Point) []Point {
	for i := range points {
		points[i].Y = math.Max(points[i].Y, 1e-3)
	}
	return points
}

func (r *Report) latencyChart() (*Chart, error) {
	s := r.scenario("latency")
	if s == nil {
		return nil, nil
	}
	p := newPlot("Latency at half of the reference's saturation", "percentile", "milliseconds")
	n, err := r.curves(p, s, func(res *Result) []Point {
		var all []byte
		for i := range res.Rounds {
			if !res.Rounds[i].Failed() {
				all = Merge(all, res.Rounds[i].Histogram)
			}
		}
		q := PercentileCurve(all)
		for i := range q {
			q[i].X = nines(q[i].X)
		}
		return positive(q)
	})
	if n == 0 || err != nil {
		return nil, err
	}
	p.X.Tick.Marker = percentileTicks{}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades{}
	p.Y.Min, p.Y.Max = decade(p.Y.Min, math.Floor), decade(p.Y.Max, math.Ceil)
	return render(p, "latency.svg", narrow)
}

// nines puts percentiles on an axis on which 90, 99, 99.9 are equally far apart.
func nines(percentile float64) float64 { return -math.Log10(1 - percentile/100) }

func decade(v float64, to func(float64) float64) float64 { return math.Pow(10, to(math.Log10(v))) }
