package health

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// fakeRelay is ready and alive as the test says.
type fakeRelay struct {
	prometheus.Collector
	fakeReading
	reasons []string
	hangs   atomic.Bool
}

func (r *fakeRelay) Unready() []string { return r.reasons }

func (r *fakeRelay) Alive(within time.Duration) bool { return within == aliveWithin && !r.hangs.Load() }

func (r *fakeRelay) Rooms(most int, showIDs bool) any {
	return map[string]any{"most": most, "shows_ids": showIDs}
}

func newFakeRelay(reasons ...string) *fakeRelay {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "relaygate_things_total", Help: "Things."})
	c.Add(5)
	return &fakeRelay{Collector: c, reasons: reasons}
}

// listenHTTP serves until the test ends.
func listenHTTP(t *testing.T, o HTTPOptions) *HTTP {
	t.Helper()
	o.Address, o.Version, o.Commit = "127.0.0.1:0", "1.2.3", "abcdef12"
	h, err := ListenHTTP(o, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// get returns the status and the body of an answer.
func get(t *testing.T, h *HTTP, path string) (status int, body string) {
	t.Helper()
	r, err := http.Get("http://" + h.String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestProbes(t *testing.T) {
	f := func(h *HTTP, path string, wantStatus int, wantBody string) {
		t.Helper()
		if status, body := get(t, h, path); status != wantStatus || body != wantBody {
			t.Errorf("%s: %d %q, want %d %q", path, status, body, wantStatus, wantBody)
		}
	}
	h := listenHTTP(t, HTTPOptions{})
	f(h, "/livez", 200, "alive\n")
	f(h, "/readyz", 503, "starting\n")
	f(h, "/debug/rooms", 503, "starting\n")
	r := newFakeRelay()
	h.Started(r)
	f(h, "/livez", 200, "alive\n")
	f(h, "/readyz", 200, "ready\n")
	r.hangs.Store(true)
	f(h, "/livez", 503, "an event loop does not answer\n")
	f(h, "/readyz", 200, "ready\n")
	f(h, "/nothing", 404, "404 page not found\n")

	h = listenHTTP(t, HTTPOptions{})
	h.Started(newFakeRelay("draining", "memory"))
	f(h, "/readyz", 503, "draining\nmemory\n")
}

func TestMetricsPage(t *testing.T) {
	h := listenHTTP(t, HTTPOptions{})
	wants := func(more ...string) {
		t.Helper()
		_, body := get(t, h, "/metrics")
		for _, want := range append(more, "go_goroutines ", "process_open_fds ", `relaygate_build_info{commit="abcdef12",goversion="go`, `version="1.2.3"} 1`) {
			if !strings.Contains(body, want) {
				t.Errorf("%q is not in the metrics", want)
			}
		}
	}
	wants()
	h.Started(newFakeRelay())
	wants("relaygate_things_total 5\n", "# HELP relaygate_things_total Things.\n", "# TYPE relaygate_things_total counter\n")
	request, err := http.NewRequest(http.MethodGet, "http://"+h.String()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	r, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, _ := io.ReadAll(r.Body); !strings.HasSuffix(string(b), "# EOF\n") {
		t.Error("OpenMetrics were asked for, but have no end")
	}
}

// What may show too much is served only if it was asked for.
func TestDebugPages(t *testing.T) {
	f := func(o HTTPOptions, path string, wantStatus int, want string) {
		t.Helper()
		h := listenHTTP(t, o)
		h.Started(newFakeRelay())
		if status, body := get(t, h, path); status != wantStatus || !strings.Contains(body, want) {
			t.Errorf("%s with %+v: %d %q, want %d with %q in it", path, o, status, body, wantStatus, want)
		}
	}
	f(HTTPOptions{}, "/debug/pprof/", 404, "")
	f(HTTPOptions{}, "/debug/pprof/profile", 404, "")
	f(HTTPOptions{Debug: true}, "/debug/pprof/", 200, "goroutine")
	f(HTTPOptions{Debug: true}, "/debug/pprof/goroutine?debug=1", 200, "goroutine profile")
	f(HTTPOptions{Debug: true}, "/debug/pprof/cmdline", 200, "")
	f(HTTPOptions{}, "/debug/rooms", 200, fmt.Sprintf("{\n  \"most\": %d,\n  \"shows_ids\": false\n}\n", maxListed))
	f(HTTPOptions{DebugIDs: true}, "/debug/rooms", 200, `"shows_ids": true`)
}

// The rooms are listed for one at a time, since that takes the loops' time.
func TestRoomsOneAtATime(t *testing.T) {
	h := listenHTTP(t, HTTPOptions{})
	h.Started(newFakeRelay())
	h.listing.Lock()
	if status, _ := get(t, h, "/debug/rooms"); status != 503 {
		t.Errorf("status %d while another is served, want 503", status)
	}
	h.listing.Unlock()
	if status, _ := get(t, h, "/debug/rooms"); status != 200 {
		t.Errorf("status %d, want 200", status)
	}
}

// Those that connect and ask nothing take no more than their share of descriptors.
func TestManyOperators(t *testing.T) {
	h := listenHTTP(t, HTTPOptions{})
	for range maxOperators {
		c, err := net.Dial("tcp", h.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 15)); err != nil {
			t.Fatal(err)
		}
	}
	one, err := net.Dial("tcp", h.String())
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	_, _ = io.WriteString(one, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = one.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, _ := one.Read(make([]byte, 1)); n > 0 {
		t.Errorf("more than %d are served at once", maxOperators)
	}
}

// A nil server serves nothing, and two share a port only if they are told so.
func TestListening(t *testing.T) {
	var none *HTTP
	none.Started(nil)
	none.Close()
	if none.String() != "off" {
		t.Errorf("the address of none is %s", none)
	}
	first := listenHTTP(t, HTTPOptions{})
	if h, err := ListenHTTP(HTTPOptions{Address: first.String()}, zap.NewNop()); err == nil {
		h.Close()
		t.Error("two servers listen on one port")
	}
	second := listenHTTP(t, HTTPOptions{ReusePort: true})
	third, err := ListenHTTP(HTTPOptions{Address: second.String(), ReusePort: true}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	third.Close()
	third.Close()
	if status, _ := get(t, second, "/livez"); status != 200 {
		t.Errorf("status %d after another has ended, want 200", status)
	}
}

// A request that never ends is given up.
func TestSlowRequest(t *testing.T) {
	usual := headerTimeout
	headerTimeout = 50 * time.Millisecond
	t.Cleanup(func() { headerTimeout = usual })
	h := listenHTTP(t, HTTPOptions{})
	c, err := net.Dial("tcp", h.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: "); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, bufio.NewReader(c)); err != nil {
		t.Errorf("the connection is not closed: %v", err)
	}
}
