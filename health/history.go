package health

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"relaygate/health/histogram"
)

// The history of the last minutes, which the process keeps itself: whoever opens its page later sees it too.
// It does not replace a time series database: see /metrics.

const (
	// historySize is the number of samples that are kept.
	historySize = 180

	// historyStep is the time between two samples.
	historyStep = 5 * time.Second
)

// Reading is what a relay has and has counted at one moment.
type Reading struct {
	Connections    int64 `json:"connections"`
	MaxConnections int64 `json:"maxConnections"` // 0: any number
	Peers          int64 `json:"peers"`
	Rooms          int64 `json:"rooms"`
	HeldBytes      int64 `json:"heldBytes"`   // what peers make the process hold
	HeldLimit      int64 `json:"heldLimit"`   // of HeldBytes; 0: no limit
	BudgetBytes    int64 `json:"budgetBytes"` // of the whole process; 0: no budget

	Counters

	Delays histogram.Histogram `json:"-"` // from publish to write, in microseconds
}

// Counters only grow.
type Counters struct {
	Accepted       int64            `json:"accepted"`
	Upgraded       int64            `json:"upgraded"`
	Received       int64            `json:"received"` // messages, pings included
	ReceivedBytes  int64            `json:"receivedBytes"`
	Delivered      int64            `json:"delivered"`
	DeliveredBytes int64            `json:"deliveredBytes"`
	Closed         map[string]int64 `json:"closed"`  // by reason
	Refused        map[string]int64 `json:"refused"` // by reason
}

// since returns what c has counted since before. Reasons under which nothing was counted are left out.
func (c *Counters) since(before *Counters) Counters {
	return Counters{
		Accepted:       c.Accepted - before.Accepted,
		Upgraded:       c.Upgraded - before.Upgraded,
		Received:       c.Received - before.Received,
		ReceivedBytes:  c.ReceivedBytes - before.ReceivedBytes,
		Delivered:      c.Delivered - before.Delivered,
		DeliveredBytes: c.DeliveredBytes - before.DeliveredBytes,
		Closed:         grown(c.Closed, before.Closed),
		Refused:        grown(c.Refused, before.Refused),
	}
}

func grown(now, before map[string]int64) map[string]int64 {
	more := make(map[string]int64)
	for reason, n := range now {
		if d := n - before[reason]; d != 0 {
			more[reason] = d
		}
	}
	return more
}

// sample is one step of the history. Its counters are those of this step.
type sample struct {
	Number   int64   `json:"number"`  // 1, 2, …
	At       int64   `json:"at"`      // its end, in Unix milliseconds
	Seconds  float64 `json:"seconds"` // its length; more than historyStep if the process was held up
	Ready    bool    `json:"ready"`
	Resident int64   `json:"residentBytes"` // memory of the process
	Reading
	P50 *float64 `json:"p50"` // of Delays in this step, in seconds; null if there are none
	P99 *float64 `json:"p99"`
}

// history is safe for concurrent use.
type history struct {
	process string // random: tells this process from the one before on the same address
	began   time.Time

	mu      sync.Mutex
	samples []sample // the last historySize
	last    Reading
	at      time.Time // of last
}

func newHistory() *history { return &history{process: rand.Text(), began: time.Now()} }

// begin takes the reading with which the first sample is compared.
func (h *history) begin(r Reading, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.at = r, now
}

// add takes a sample.
func (h *history) add(r Reading, ready bool, resident int64, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := sample{Number: 1, At: now.UnixMilli(), Seconds: now.Sub(h.at).Seconds(), Ready: ready, Resident: resident, Reading: r}
	if n := len(h.samples); n > 0 {
		s.Number = h.samples[n-1].Number + 1
	}
	s.Counters = r.since(&h.last.Counters)
	delays := r.Delays
	for i := range delays.Counts {
		delays.Counts[i] -= h.last.Delays.Counts[i]
	}
	if delays.Total() > 0 {
		p50, p99 := delays.Quantile(0.5)/1e6, delays.Quantile(0.99)/1e6
		s.P50, s.P99 = &p50, &p99
	}
	if len(h.samples) == historySize {
		h.samples = append(h.samples[:0], h.samples[1:]...)
	}
	h.samples = append(h.samples, s)
	h.last, h.at = r, now
}

// past is what GET /history.json answers.
type past struct {
	Process string   `json:"process"`
	Version string   `json:"version"`
	Began   int64    `json:"began"` // when the process started, in Unix milliseconds
	Now     int64    `json:"now"`
	Step    float64  `json:"step"` // seconds between two samples
	Kept    int      `json:"kept"` // samples
	Unready []string `json:"unready"`
	Totals  Counters `json:"totals"` // since the start, at the last sample
	Samples []sample `json:"samples"`
}

// after returns the samples with numbers above number, and the totals.
func (h *history) after(number int64) past {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := past{
		Process: h.process, Began: h.began.UnixMilli(), Now: time.Now().UnixMilli(), Step: historyStep.Seconds(), Kept: historySize,
		Totals: h.last.Counters, Samples: []sample{},
	}
	for _, s := range h.samples {
		if s.Number > number {
			p.Samples = append(p.Samples, s)
		}
	}
	return p
}

// record takes a sample at every step until stop is closed.
func (h *HTTP) record(r Relay, stop <-chan struct{}) {
	h.history.begin(r.Read(), time.Now())
	ticker := time.NewTicker(historyStep)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			h.history.add(r.Read(), len(r.Unready()) == 0, residentBytes(), time.Now())
		case <-stop:
			return
		}
	}
}

// serveHistory answers with the samples after the one that the query's since names. A client names the process
// as well that it has samples of: those of another process it gets from the first.
func (h *HTTP) serveHistory(w http.ResponseWriter, req *http.Request) {
	number := int64(0)
	query := req.URL.Query()
	if since := query.Get("since"); since != "" {
		n, err := strconv.ParseInt(since, 10, 64)
		if err != nil || n < 0 {
			text(w, http.StatusBadRequest, "since is not the number of a sample")
			return
		}
		if query.Get("process") == h.history.process {
			number = n
		}
	}
	p := h.history.after(number)
	p.Version, p.Unready = h.options.Version, append([]string{}, h.unready()...) // [] rather than null
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_ = json.NewEncoder(w).Encode(p)
}

// residentBytes returns the memory of the process, or 0 if the kernel does not tell.
func residentBytes() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Fscan(strings.NewReader(string(b)), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
