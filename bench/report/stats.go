package report

import (
	"math"
	"slices"
)

// Median is the middle value, or the mean of the two in the middle; NaN of nothing.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// Slope is the least-squares slope of Y over X.
func Slope(points []Point) float64 {
	var mx, my float64
	for _, p := range points {
		mx += p.X / float64(len(points))
		my += p.Y / float64(len(points))
	}
	var xy, xx float64
	for _, p := range points {
		xy += (p.X - mx) * (p.Y - my)
		xx += (p.X - mx) * (p.X - mx)
	}
	if xx == 0 {
		return math.NaN()
	}
	return xy / xx
}

// values returns a metric's values over the rounds that have it, and the rounds' numbers.
func (r *Result) values(name string) (v []float64, round []int) {
	for i := range r.Rounds {
		// A failed round's figures are kept in the file, but nothing is concluded from them.
		if x, ok := r.Rounds[i].Metrics[name]; ok && !r.Rounds[i].Failed() {
			v = append(v, x)
			round = append(round, i)
		}
	}
	return v, round
}

// ratioOf divides round by round. Machines drift; neighbours in time share the drift.
func ratioOf(r, base *Result, name string) *Ratio {
	v, rounds := r.values(name)
	bv, brounds := base.values(name)
	var q []float64
	for i, n := range rounds {
		if k := slices.Index(brounds, n); k >= 0 && bv[k] > 0 {
			q = append(q, v[i]/bv[k])
		}
	}
	if len(q) == 0 {
		return nil
	}
	return &Ratio{Median: Median(q), Min: slices.Min(q), Max: slices.Max(q)}
}

// Summarise fills in every Summary from the rounds. base is the first server's result, nil if it has none.
func (s *Scenario) Summarise(first string) {
	var base *Result
	for i := range s.Results {
		if s.Results[i].Server == first {
			base = &s.Results[i]
		}
	}
	for i := range s.Results {
		r := &s.Results[i]
		r.Summary = map[string]Summary{}
		for _, m := range Metrics {
			v, _ := r.values(m.Name)
			if len(v) == 0 {
				continue
			}
			sum := Summary{Median: Median(v), Min: slices.Min(v), Max: slices.Max(v)}
			if base != nil && r != base && m.Better != 0 {
				sum.Ratio = ratioOf(r, base, m.Name)
			}
			r.Summary[m.Name] = sum
		}
	}
}
