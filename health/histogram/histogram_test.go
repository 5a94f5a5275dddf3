package histogram

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Every value is in the bucket whose bounds enclose it.
func TestBuckets(t *testing.T) {
	f := func(v uint64, want int) {
		t.Helper()
		var h Histogram
		h.Add(v)
		if h.Counts[want] != 1 || h.Sum != v || h.Total() != 1 {
			t.Errorf("%d is not in bucket %d: %+v", v, want, h)
		}
	}
	f(0, 0)
	f(1, 0)
	f(2, 1)
	f(3, 2)
	f(4, 2)
	f(5, 3)
	f(1<<30, 30)
	f(1<<30+1, 31)
	f(1<<63, 31)
}

func TestTimes(t *testing.T) {
	f := func(d time.Duration, want uint64) {
		t.Helper()
		var h Histogram
		h.AddTime(d)
		if h.Sum != want {
			t.Errorf("%v is %d µs, want %d", d, h.Sum, want)
		}
	}
	f(-time.Second, 0)
	f(0, 0)
	f(1, 1)
	f(time.Microsecond, 1)
	f(time.Microsecond+1, 2)
	f(time.Second, 1_000_000)
}

// A quantile is off by no more than a factor of two from that of the sorted values.
func TestQuantile(t *testing.T) {
	var h Histogram
	if q := h.Quantile(0.5); q != 0 {
		t.Errorf("the median of nothing is %v, want 0", q)
	}
	var values []uint64
	random := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		v := uint64(1 + random.IntN(1<<(1+random.IntN(20))))
		values = append(values, v)
		h.Add(v)
	}
	slices.Sort(values)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
		got, want := h.Quantile(q), float64(values[min(int(q*10_000), 9_999)])
		if got < want/2 || got > want*2 {
			t.Errorf("the %v-quantile is %v, want about %v", q, got, want)
		}
	}
}

func TestCumulativeAndMerge(t *testing.T) {
	var h, other Histogram
	for _, v := range []uint64{1, 2, 3, 100} {
		h.Add(v)
	}
	other.Add(2)
	h.Merge(&other)
	want := map[float64]uint64{2: 3, 4: 4, 8: 4}
	if got := h.Cumulative(1, 3, 1); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if h.Sum != 108 || h.Total() != 5 {
		t.Errorf("sum %d of %d, want 108 of 5", h.Sum, h.Total())
	}
}
