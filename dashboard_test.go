//go:build browser

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"relaygate/server/page"
)

// operatorsURL is where a relay serves operators.
func operatorsURL(t *testing.T, r *relay) string {
	t.Helper()
	found := regexp.MustCompile(`"health_address":"([^"]+)"`).FindStringSubmatch(r.logs.text())
	if found == nil {
		t.Fatalf("no address in %s", r.logs.text())
	}
	return "http://" + found[1] + "/"
}

// crowd connects peers to rooms of the given size. heard counts what they hear.
func crowd(t *testing.T, r *relay, peers, room int) (all []*websocket.Conn, heard *atomic.Int64) {
	t.Helper()
	heard = new(atomic.Int64)
	for i := range peers {
		c, _, err := websocket.Dial(t.Context(), fmt.Sprintf("ws://%s/v1?relayId=room%d&peerId=%d", r.addr, i/room, i), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.CloseNow() })
		all = append(all, c)
		go func() {
			for {
				if _, _, err := c.Read(context.Background()); err != nil {
					return
				}
				heard.Add(1)
			}
		}()
	}
	return all, heard
}

// legend is the value that a chart shows for a series.
func legend(chart, series string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('.chart')].find(c => c.querySelector('h2').textContent === %s).querySelector(
  'dl').querySelectorAll('div > dt').values().find(dt => dt.textContent === %s).nextElementSibling.textContent`, quote(chart), quote(series))
}

// lines are the rows of a table or list, their cells joined by blanks.
func (b *tab) lines(selector string) string {
	b.t.Helper()
	return b.eval("[...document.querySelectorAll(%s)].map(row => [...row.children].map(c => c.textContent).join(' ')).join('\\n')", quote(selector)).(string)
}

// TestDashboard: the page shows what a load of known size has made the relay count.
func TestDashboard(t *testing.T) {
	const peers, room, messages = 40, 4, 500
	b := newTab(t)
	began := time.Now()
	r := startRelay(t, "HEALTH_ADDR=127.0.0.1:0", "MAX_ROOM_PEERS=4")
	b.look(1280, 1000, false)
	b.open(operatorsURL(t, r))
	b.await("document.querySelector('#state').textContent === 'Ready'")
	if waiting := b.eval("document.querySelector('.waiting').hidden"); waiting != false && time.Since(began) < 4*time.Second { // the first sample comes after five
		t.Error("it shows no sample, and does not say that there is none")
	}
	all, heard := crowd(t, r, peers, room)
	for i := range messages {
		if err := all[i%peers].Write(t.Context(), websocket.MessageText, []byte("twelve bytes")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all is delivered", func() bool { return heard.Load() == messages*(room-1) })
	for _, c := range all[:3] {
		if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := websocket.Dial(t.Context(), "ws://"+r.addr+"/v1?relayId=room5&peerId=more", nil); err == nil {
		t.Error("there was room for one more")
	}
	for range 2 {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+r.addr+"/nowhere", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Close = true
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	b.await("document.querySelector('#totals').textContent.includes('messages delivered1,500')")
	b.await("%s === '37'", legend("Connections", "peers"))
	const bytesIn, bytesOut = 500 * 12, 1500 * 14 // a frame has two bytes more
	want := fmt.Sprintf("connections accepted 43\nbecame peers 40\nmessages received 500\nmessages delivered 1,500\nbytes received %.2f KiB\nbytes delivered %.1f KiB",
		bytesIn/1024., bytesOut/1024.)
	if got := b.lines("#totals > div"); got != want {
		t.Errorf("since the start\n%s\nwant\n%s", got, want)
	}
	if got, want := b.lines("#refused tbody tr"), "path 2 2\nroom_peers 1 1"; got != want {
		t.Errorf("refused\n%s\nwant\n%s", got, want)
	}
	if got, want := b.lines("#closed tbody tr"), "http 3 3\npeer 3 3"; got != want {
		t.Errorf("closed\n%s\nwant\n%s", got, want)
	}
	for chart, value := range map[string]string{"Rooms": "10"} {
		if got := b.eval("%s", legend(chart, "with a peer")); got != value {
			t.Errorf("%s: %v, want %s", chart, got, value)
		}
	}
	// The steps of the history add up to the totals.
	sums := b.eval(`fetch('history.json').then(r => r.json()).then(({samples, totals}) => ['received', 'delivered', 'deliveredBytes', 'accepted'].map(
  of => samples.reduce((n, s) => n + s[of], 0) + ' of ' + totals[of]).join(', '))`)
	if want := fmt.Sprintf("500 of 500, 1500 of 1500, %d of %d, 43 of 43", bytesOut, bytesOut); sums != want {
		t.Errorf("the steps' sums are %s, want %s", sums, want)
	}
	b.wantQuiet()
}

// TestDashboardCursor: with the pointer or the keyboard, the values of a moment are read, in all charts.
func TestDashboardCursor(t *testing.T) {
	f := newFeed(t)
	f.step = 24 * time.Hour
	b := newTab(t)
	b.look(1280, 1000, false)
	b.open(f.URL)
	b.await("document.querySelector('#state').textContent === 'Ready'")
	last := b.eval("%s", legend("Rooms", "with a peer"))
	b.eval("document.querySelectorAll('.chart')[2].focus()")
	b.press("Home")
	if got := b.eval("%s", legend("Rooms", "with a peer")); got == last || b.eval("document.querySelectorAll('.aside')[5].textContent.startsWith('at ')") != true {
		t.Errorf("at the first sample it shows %v as at the last", got)
	}
	b.press("End")
	if got := b.eval("%s", legend("Rooms", "with a peer")); got != last {
		t.Errorf("at the last sample it shows %v, want %v", got, last)
	}
	b.press("Escape")
	if got := b.eval("document.querySelector('.aside').textContent"); got != "at most 250,000" {
		t.Errorf("after Escape it shows the moment %q", got)
	}
	b.call("Input.dispatchMouseEvent", map[string]any{"type": "mouseMoved", "x": 200, "y": 260})
	b.await("document.querySelector('.aside').textContent.startsWith('at ')")
	b.picture("dashboard-cursor")
	b.wantQuiet()
}

// feed serves the page with a history of its own, a step of which takes 20 ms.
type feed struct {
	*httptest.Server
	step    time.Duration // static once the page is open
	late    time.Duration // age of the last sample; static, too
	polls   atomic.Int64
	number  atomic.Int64
	process atomic.Value
	down    atomic.Bool
	age     atomic.Int64 // of the process, in milliseconds
}

func newFeed(t *testing.T) *feed {
	f := &feed{step: 20 * time.Millisecond}
	f.process.Store("one")
	f.number.Store(180)
	f.age.Store(51 * 3_600_000)
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", page.Dashboard())
	mux.HandleFunc("GET /history.json", f.history)
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

func (f *feed) history(w http.ResponseWriter, req *http.Request) {
	if f.down.Load() {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	f.polls.Add(1)
	now, last := time.Now().UnixMilli(), f.number.Add(1)
	first := last - 179
	if req.URL.Query().Get("process") == f.process.Load() {
		_, _ = fmt.Sscan(req.URL.Query().Get("since"), &first)
		first++
	}
	samples := []map[string]any{}
	for n := max(first, 1); n <= last; n++ {
		x := float64(n%97) / 97
		sample := map[string]any{
			"number": n, "at": now - f.late.Milliseconds() - (last-n)*5000, "seconds": 5, "ready": true, "residentBytes": 40<<20 + n%97*100_000, "connections": 100_000 + n*11,
			"maxConnections": 250_000, "peers": 99_000 + n*11, "rooms": 9_900 + n, "heldBytes": 1<<20 + n%50*50_000, "heldLimit": 1 << 30, "budgetBytes": 2 << 30,
			"accepted": 500 + n%7*20, "upgraded": 500, "received": 5_000 + int64(4000*x), "receivedBytes": 5_000_000 + int64(4e6*x), "delivered": 50_000 + int64(60_000*x),
			"deliveredBytes": 50_000_000 + int64(6e7*x), "closed": map[string]int{"peer": 300, "gone": 100 + int(n%5)*10, "heartbeat_timeout": int(n % 3)},
			"refused": map[string]int{"secret": int(n % 4)}, "p50": 0.0004 + x/5000, "p99": 0.002 + x/100,
		}
		if n%60 < 3 {
			sample["p50"], sample["p99"] = nil, nil
		}
		samples = append(samples, sample)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"process": f.process.Load(), "version": "1.2.3", "began": now - f.age.Load(), "now": now, "step": f.step.Seconds(), "kept": 180, "unready": []string{},
		"samples": samples,
		"totals": map[string]any{
			"accepted": 1_234_567, "upgraded": 1_200_000, "received": 98_765_432, "receivedBytes": 9_876_543_210, "delivered": 1_987_654_321,
			"deliveredBytes": 198_765_432_100, "closed": map[string]int{"peer": 900_000, "gone": 200_000, "heartbeat_timeout": 1_234, "slow": 17, "drain": 0},
			"refused": map[string]int{"secret": 4_321, "id": 3, "memory": 0},
		},
	})
}

// TestDashboardLooks: nothing sticks out, wide and narrow, light and dark.
func TestDashboardLooks(t *testing.T) {
	f := newFeed(t)
	f.step = 5 * time.Second
	b := newTab(t)
	for name, look := range map[string][2]any{"wide": {1280, false}, "dark": {1280, true}, "phone": {390, false}, "phone-dark": {390, true}, "small": {320, false}} {
		b.look(look[0].(int), 1000, look[1].(bool))
		b.open(f.URL)
		b.await("document.querySelector('#state').textContent === 'Ready'")
		b.wantFits()
		b.picture("dashboard-" + name)
	}
	b.wantQuiet()
}

// TestDashboardRestart: the page shows that the process does not answer, that another one does, and what was
// before.
func TestDashboardRestart(t *testing.T) {
	f := newFeed(t)
	f.step, f.late = 5*time.Second, 5*time.Second // so that the page hopes for a sample soon
	b := newTab(t)
	b.look(1280, 1000, false)
	b.open(f.URL)
	b.await("document.querySelector('#state').textContent === 'Ready'")
	f.down.Store(true)
	b.await("document.querySelector('#state').textContent.startsWith('No answer since ')")
	f.process.Store("two")
	f.number.Store(0)
	f.age.Store(6000)
	f.down.Store(false)
	b.await("document.querySelector('#state').textContent === 'Ready'")
	b.await("document.querySelectorAll('.restart').length === document.querySelectorAll('.chart').length")
	// The first sample of the new process is not joined to the last of the old one.
	if got := b.eval("document.querySelector('.chart .stroke0:is(.plot *)').getAttribute('d').match(/M/g).length"); got != 2. {
		t.Errorf("the line has %v parts, want 2", got)
	}
	b.picture("dashboard-restart")
	b.wantQuiet("503")
}

// TestDashboardLeftOpen: a page that has polled often has no more elements, and takes no more memory.
func TestDashboardLeftOpen(t *testing.T) {
	f := newFeed(t)
	f.step = 5 * time.Millisecond
	b := newTab(t)
	b.look(1280, 1000, false)
	b.open(f.URL)
	b.call("HeapProfiler.enable", nil)
	size := func() (elements, heap float64) {
		b.call("HeapProfiler.collectGarbage", nil)
		var usage struct{ UsedSize float64 }
		if err := json.Unmarshal(b.call("Runtime.getHeapUsage", nil), &usage); err != nil {
			t.Fatal(err)
		}
		return b.eval("document.querySelectorAll('*').length").(float64), usage.UsedSize
	}
	eventually(t, "the page has polled", func() bool { return f.polls.Load() > 190 }) // all samples are new by then
	elements, heap := size()
	from := f.polls.Load()
	eventually(t, "it has polled many times more", func() bool { return f.polls.Load() > from+200 })
	later, grown := size()
	if later > elements+20 || grown > heap+1<<20 {
		t.Errorf("after 200 polls more it has %v elements instead of %v, and %.0f bytes instead of %.0f", later, elements, grown, heap)
	}
	if points := b.eval("document.querySelector('.plot .stroke0').getAttribute('d').match(/[ML]/g).length"); points != 180. {
		t.Errorf("a line has %v points, want 180: those that the process keeps", points)
	}
	b.wantQuiet()
}
