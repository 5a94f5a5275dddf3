package health

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func (r *fakeRelay) Read() Reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reading
}

// fakeReading is what the tests' relay has counted.
type fakeReading struct {
	mu      sync.Mutex
	reading Reading
}

func (f *fakeReading) set(r Reading) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reading = r
}

// A sample has what there is, and what was counted since the one before.
func TestHistorySample(t *testing.T) {
	h, now := newHistory(), time.Now()
	first := Reading{Connections: 7, Counters: Counters{Accepted: 10, Received: 100, Closed: map[string]int64{"peer": 3, "gone": 1}, Refused: map[string]int64{"id": 0}}}
	first.Delays.Add(1000)
	h.begin(first, now)
	second := Reading{Connections: 9, Counters: Counters{Accepted: 15, Received: 100, Closed: map[string]int64{"peer": 5, "gone": 1}, Refused: map[string]int64{"id": 2}}}
	second.Delays = first.Delays
	h.add(second, true, 4096, now.Add(5*time.Second))
	third := second
	for range 99 {
		third.Delays.Add(1)
	}
	third.Delays.Add(1 << 20)
	h.add(third, false, 8192, now.Add(17*time.Second))

	p := h.after(0)
	if len(p.Samples) != 2 || p.Totals.Accepted != 15 || p.Totals.Closed["peer"] != 5 {
		t.Fatalf("%d samples, totals %+v", len(p.Samples), p.Totals)
	}
	a, b := p.Samples[0], p.Samples[1]
	if a.Number != 1 || a.Connections != 9 || a.Seconds != 5 || !a.Ready || a.Resident != 4096 || a.Accepted != 5 || a.Received != 0 ||
		fmt.Sprint(a.Closed, a.Refused) != "map[peer:2] map[id:2]" || a.P50 != nil || a.P99 != nil {
		t.Errorf("the first sample is %+v", a)
	}
	if b.Number != 2 || b.Seconds != 12 || b.Ready || b.Accepted != 0 || len(b.Closed) != 0 || b.At-a.At != 12_000 {
		t.Errorf("the second sample is %+v", b)
	}
	if b.P50 == nil || b.P99 == nil || *b.P50 > 2e-6 || *b.P99 > 2e-6 || *b.P99 < *b.P50 {
		t.Errorf("the delays of the second sample are %v, %v; want some, up to 2 µs", b.P50, b.P99)
	}
}

// Only the last samples are kept, in their order.
func TestHistoryIsBounded(t *testing.T) {
	h, now := newHistory(), time.Now()
	h.begin(Reading{}, now)
	for i := range int64(historySize + 50) {
		h.add(Reading{Connections: i}, true, 0, now.Add(time.Duration(i)*historyStep))
	}
	f := func(number int64, wantFirst, wantCount int64) {
		t.Helper()
		samples := h.after(number).Samples
		if int64(len(samples)) != wantCount || wantCount > 0 && (samples[0].Number != wantFirst || samples[0].Connections != wantFirst-1) {
			t.Fatalf("after %d: %d samples, want %d from %d", number, len(samples), wantCount, wantFirst)
		}
		if !slices.IsSortedFunc(samples, func(a, b sample) int { return int(a.Number - b.Number) }) {
			t.Errorf("after %d: not in order", number)
		}
	}
	f(0, 51, historySize)
	f(51, 52, historySize-1)
	f(historySize+49, historySize+50, 1)
	f(historySize+50, 0, 0)
	f(1<<62, 0, 0)
	if c := cap(h.samples); c > 2*historySize {
		t.Errorf("there is room for %d samples", c)
	}
}

// The process takes a sample at every step until it is told to stop, whether anyone asks or not.
func TestHistoryRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, r, stop := &HTTP{history: newHistory()}, newFakeRelay("memory"), make(chan struct{})
		r.set(Reading{Counters: Counters{Accepted: 100}})
		go h.record(r, stop)
		synctest.Wait()
		for i := range int64(3) {
			r.set(Reading{Counters: Counters{Accepted: 100 + i}})
			time.Sleep(historyStep)
			synctest.Wait()
		}
		close(stop)
		time.Sleep(time.Minute)
		samples := h.history.after(0).Samples
		if len(samples) != 3 || samples[0].Accepted != 0 || samples[2].Accepted != 1 || samples[2].Seconds != historyStep.Seconds() || samples[0].Ready {
			t.Errorf("the samples are %+v", samples)
		}
	})
	if residentBytes() < 1<<20 {
		t.Errorf("this process has %d bytes resident", residentBytes())
	}
}

func TestHistoryPage(t *testing.T) {
	h := listenHTTP(t, HTTPOptions{Page: http.NotFoundHandler()})
	h.history.begin(Reading{}, time.Now())
	for range 3 {
		h.history.add(Reading{}, true, 0, time.Now())
	}
	f := func(query string, wantSamples int) {
		t.Helper()
		var got past
		status, body := get(t, h, "/history.json"+query)
		if err := json.Unmarshal([]byte(body), &got); status != 200 || err != nil {
			t.Fatalf("%s: %d %.200q %v", query, status, body, err)
		}
		if len(got.Samples) != wantSamples || got.Process != h.history.process || got.Version != "1.2.3" || got.Step != 5 || got.Kept != historySize ||
			fmt.Sprint(got.Unready) != "[starting]" {
			t.Errorf("%s: %+v; want %d samples", query, got, wantSamples)
		}
	}
	f("", 3)
	f("?since=", 3)
	f("?since=2", 3) // of which process?
	f("?since=2&process=another", 3)
	f("?since=0&process="+h.history.process, 3)
	f("?since=2&process="+h.history.process, 1)
	f("?since=3&process="+h.history.process, 0)
	f("?since=9223372036854775807&process="+h.history.process, 0)
	for _, query := range []string{"?since=x", "?since=-1", "?since=1.5", "?since=9223372036854775808"} {
		if status, body := get(t, h, "/history.json"+query); status != 400 || body != "since is not the number of a sample\n" {
			t.Errorf("%s: %d %q, want 400", query, status, body)
		}
	}
	without := listenHTTP(t, HTTPOptions{})
	for _, path := range []string{"/", "/history.json"} {
		if status, _ := get(t, without, path); status != 404 {
			t.Errorf("without a page, %s is answered with %d", path, status)
		}
	}
}
