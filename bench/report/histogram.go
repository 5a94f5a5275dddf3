package report

import (
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Merge adds two encoded histograms; either may be empty.
func Merge(a, b []byte) []byte {
	if len(a) == 0 || len(b) == 0 {
		return append(a, b...)
	}
	x, err := hdrhistogram.Decode(a)
	if err != nil {
		return b
	}
	y, err := hdrhistogram.Decode(b)
	if err != nil {
		return a
	}
	x.Merge(y)
	out, err := x.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return a
	}
	return out
}

// Percentile reads one percentile (0 to 100) of an encoded histogram of nanoseconds, in milliseconds; NaN if it is empty.
func Percentile(h []byte, p float64) float64 {
	d, err := hdrhistogram.Decode(h)
	if err != nil || d.TotalCount() == 0 {
		return math.NaN()
	}
	return float64(d.ValueAtPercentile(p)) / 1e6
}

// PercentileCurve samples an encoded histogram over the percentiles; X is the percentile, Y milliseconds. It ends where
// fewer than ten values lie above: beyond that it would show single events.
func PercentileCurve(h []byte) []Point {
	d, err := hdrhistogram.Decode(h)
	if err != nil || d.TotalCount() == 0 {
		return nil
	}
	var out []Point
	for above := 1.0; above >= 1e-5 && above*float64(d.TotalCount()) >= 10; above /= math.Sqrt2 {
		p := 100 * (1 - above)
		out = append(out, Point{X: p, Y: float64(d.ValueAtPercentile(p)) / 1e6})
	}
	return out
}
