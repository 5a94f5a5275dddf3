package server

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"relaygate/server/upgrade"
)

// scrape returns what s tells Prometheus: the value of each counter and gauge, and the count of each
// histogram, by its name without "relaygate_" and its labels' values.
func scrape(t testing.TB, s *Server) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "relaygate_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			switch {
			case m.GetCounter() != nil:
				values[name] = m.GetCounter().GetValue()
			case m.GetGauge() != nil:
				values[name] = m.GetGauge().GetValue()
			default:
				values[name] = float64(m.GetHistogram().GetSampleCount())
				values[name+" sum"] = m.GetHistogram().GetSampleSum()
			}
		}
	}
	return values
}

// wantMetrics compares some of the metrics of s.
func wantMetrics(t testing.TB, s *Server, want map[string]float64) {
	t.Helper()
	got := scrape(t, s)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if v, ok := got[name]; !ok || v != want[name] {
			t.Errorf("%s is %v (%v), want %v", name, v, ok, want[name])
		}
	}
}

// What peers send and get is counted once each.
func TestMetricsCountTraffic(t *testing.T) {
	s := start(t, "MAX_CONNECTIONS=100")
	a, b, c := join(t, s, "r", "a"), join(t, s, "r", "b"), join(t, s, "r", "c")
	alone := join(t, s, "other", "alone")
	for _, text := range []string{"one", "three"} { // 8 bytes, each to two
		say(t, a, text)
		hear(t, b, text)
		hear(t, c, text)
	}
	sayBytes(t, b, 2, []byte{1, 2, 3})
	hearBytes(t, a, 2, []byte{1, 2, 3})
	hearBytes(t, c, 2, []byte{1, 2, 3})
	toC := direct("c", "x")
	say(t, a, toC)
	hear(t, c, toC)
	say(t, a, direct("nobody", "x"))
	say(t, a, `{"targetPeerId":5}`)
	say(t, a, "pong")
	say(t, a, "ping")
	hear(t, a, "pong")
	say(t, alone, "hello")
	say(t, alone, "ping")
	hear(t, alone, "pong")
	flush(s)
	const header = 2
	wantMetrics(t, s, map[string]float64{
		"connections": 4, "peers": 4, "rooms": 2, "room_peers": 2, "room_peers sum": 4, "loops": float64(s.Loops()), "max_connections": 100,
		"ready": 1, "unready draining": 0, "unready memory": 0, "unready connections": 0,
		"connections_accepted_total": 4, "upgrades_total": 4, "handshake_duration_seconds": 4,
		"messages_received_total text": 3, "received_bytes_total text": 13,
		"messages_received_total binary": 1, "received_bytes_total binary": 3,
		"messages_received_total direct": 3, "received_bytes_total direct": float64(len(toC) + len(direct("nobody", "x")) + len(`{"targetPeerId":5}`)),
		"messages_received_total ping": 2 + 4, "messages_received_total pong": 1, "received_bytes_total ping": 4 * (2 + 4), // four by join
		"deliveries_total broadcast": 6, "deliveries_total direct": 1,
		"delivered_bytes_total":        float64(2*(3+header+5+header+3+header) + len(toC) + header),
		"messages_dropped_total alone": 1, "messages_dropped_total no_such_peer": 2,
		"batch_messages sum": 4, "heartbeats_sent_total": 0, "panics_total": 0,
	})
	got := scrape(t, s)
	if n := got["writes_total"]; n < 1 || n > 7 {
		t.Errorf("%v writes, want 1 to 7", n)
	}
	for range 64 { // of eight batches, one is measured
		say(t, a, "more")
		hear(t, b, "more")
		hear(t, c, "more")
	}
	flush(s)
	more := scrape(t, s)
	if n := more["publish_to_write_seconds"]; n < 1 || n > 68 || more["publish_to_write_seconds sum"] > patience.Seconds() {
		t.Errorf("%v delays of %v s in all", n, more["publish_to_write_seconds sum"])
	}
	if n := got["round_duration_seconds"]; n < 4 {
		t.Errorf("%v rounds, want more", n)
	}
}

// Every reason has a counter from the start, and is counted under it.
func TestMetricsCountReasons(t *testing.T) {
	s := start(t)
	got := scrape(t, s)
	for _, r := range upgrade.Refusals {
		if v, ok := got["requests_refused_total "+string(r)]; !ok || v != 0 {
			t.Errorf("refused for %s: %v, %v", r, v, ok)
		}
	}
	for why := range closeCauses {
		for _, name := range []string{"connections_closed_total ", "queue_dropped_bytes_total "} {
			if v, ok := got[name+why.String()]; !ok || v != 0 {
				t.Errorf("%s%s: %v, %v", name, why, v, ok)
			}
		}
	}
	c := dial(t, s)
	c.send([]byte("GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
	c.response()
	c.ended()
	_ = c.Close()
	p := open(t, s, "r", "p")
	p.send(maskedFrame(0x83, nil)) // a reserved opcode
	p.wantClose(1002)
	_ = p.Close()
	eventually(t, "both are closed", func() bool { return s.Stats().Connections == 0 })
	wantMetrics(t, s, map[string]float64{
		"requests_refused_total path": 1, "connections_closed_total http": 1, "connections_closed_total protocol": 1,
		"connections": 0, "connections_accepted_total": 2, "upgrades_total": 1,
	})
}

// What waited for a peer that does not read is counted when it is thrown away.
func TestMetricsCountDroppedQueues(t *testing.T) {
	s := start(t, "MAX_MESSAGE_BYTES=100000")
	from := open(t, s, "r", "from")
	open(t, s, "r", "deaf")
	message := maskedFrame(0x82, make([]byte, 100_000))
	sent := 0
	for ; s.Stats().Closed["slow"] == 0 && sent < 1000; sent++ {
		from.send(message)
	}
	dropped := scrape(t, s)["queue_dropped_bytes_total slow"]
	if total := float64(sent * 100_010); dropped < 1<<20 || dropped > total {
		t.Errorf("%v bytes are counted, want from 1 MiB to %v", dropped, total)
	}
}

// The time from a ping to its pong is measured, and only that of a pong which comes first.
func TestMetricsMeasureRoundTrips(t *testing.T) {
	s := start(t, "CONNECTION_CHECK_INTERVAL=1s")
	const delay = 200 * time.Millisecond
	answers, chats := open(t, s, "r", "answers"), open(t, s, "s", "chats")
	answers.wantFrame(opText, "ping")
	time.Sleep(delay) // the round trip
	answers.send(text("pong"))
	chats.wantFrame(opText, "ping")
	chats.send(text("hello"), text("pong"))
	eventually(t, "the pong is counted", func() bool { return scrape(t, s)["heartbeat_round_trip_seconds"] == 1 })
	if sum := scrape(t, s)["heartbeat_round_trip_seconds sum"]; sum < delay.Seconds() || sum > patience.Seconds() {
		t.Errorf("it took %v s, want %v or somewhat more", sum, delay)
	}
	if n := scrape(t, s)["heartbeats_sent_total"]; n < 2 {
		t.Errorf("%v pings, want 2 or more", n)
	}
}

// A loop that hangs does not keep others from being told, and its lag is measured.
func TestMetricsOfAHangingLoop(t *testing.T) {
	s := start(t)
	join(t, s, "r", "a")
	before := scrape(t, s)
	release := stall(s)
	began := time.Now()
	during := scrape(t, s)
	if d := time.Since(began); d < 900*time.Millisecond {
		t.Errorf("the scrape did not wait for the loops, but took %v", d)
	}
	if during["upgrades_total"] != 1 || during["handshake_duration_seconds"] != before["handshake_duration_seconds"] {
		t.Errorf("a scrape has %v upgrades and %v handshakes", during["upgrades_total"], during["handshake_duration_seconds"])
	}
	if s.Alive(time.Millisecond) {
		t.Error("a server whose loops hang is alive")
	}
	time.Sleep(lagInterval) // a task is posted meanwhile
	release()
	eventually(t, "the lag is measured", func() bool { return scrape(t, s)["loop_lag_seconds sum"] > 0.1 })
}

// Counters go on after the loops have ended: the last log line has them.
func TestMetricsAfterDrain(t *testing.T) {
	s, err := Listen(config(t), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	a, b := join(t, s, "r", "a"), join(t, s, "r", "b")
	say(t, a, "hello")
	hear(t, b, "hello")
	_, _ = a.CloseNow(), b.CloseNow()
	drain(t, s)
	wantMetrics(t, s, map[string]float64{
		"messages_received_total text": 1, "deliveries_total broadcast": 1, "connections": 0,
		"ready": 0, "unready draining": 1,
	})
}

// Only a room's and a peer's size and age are shown, unless ids may be.
func TestDebugRooms(t *testing.T) {
	s := start(t)
	for i := range 5 {
		join(t, s, "large room", fmt.Sprint("member ", i))
	}
	busy, heard := join(t, s, "busy room", "speaker"), join(t, s, "busy room", "listener")
	say(t, busy, strings.Repeat("x", 100))
	hearAny(t, heard)
	part := open(t, s, "third room", "half a message")
	part.send(frameHeader(0x82, 0x80, 1000), make([]byte, 504))
	eventually(t, "a peer holds something", func() bool { return s.Rooms(2, true).(DebugRooms).HoldingPeers == 1 })
	d := s.Rooms(2, true).(DebugRooms)
	if len(d.LargestRooms) != 2 || d.LargestRooms[0].Relay != "large room" || d.LargestRooms[0].Peers != 5 {
		t.Errorf("the largest rooms are %+v", d.LargestRooms)
	}
	if len(d.BusiestRooms) != 2 || d.BusiestRooms[0].Relay != "busy room" || d.BusiestRooms[0].Delivered != 102 {
		t.Errorf("the busiest rooms are %+v", d.BusiestRooms)
	}
	if d.Peers != 8 || d.Rooms != 3 {
		t.Errorf("%d peers in %d rooms, want 8 in 3", d.Peers, d.Rooms)
	}
	if p := d.HeaviestPeers; len(p) != 1 || p[0].Peer != "half a message" || p[0].Held < 504 || !strings.HasPrefix(p[0].Remote, "127.0.0.1:") {
		t.Errorf("the heaviest peers are %+v", p)
	}
	hidden, err := json.Marshal(s.Rooms(2, false))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"room", "message", "127.0.0.1"} {
		if strings.Contains(strings.ReplaceAll(string(hidden), "_rooms", ""), id) && id != "room" {
			t.Errorf("%q is in %s", id, hidden)
		}
	}
	if !strings.Contains(string(hidden), hashed("large room")) || hashed("a") == hashed("b") || len(hashed("a")) != 16 {
		t.Errorf("no hash of the id in %s", hidden)
	}
}

// One line for each connection at its end, with ids only if they may be shown.
func TestAccessLog(t *testing.T) {
	f := func(showIDs bool) {
		t.Helper()
		core, logged := observer.New(zap.InfoLevel)
		s := startWith(t, zap.New(core), "ACCESS_LOG=true", fmt.Sprint("LOG_IDS=", showIDs))
		lines := func() []observer.LoggedEntry { return logged.FilterMessage("connection").All() }
		a, b := open(t, s, "relay", "alice"), open(t, s, "relay", "bob")
		a.send(text("hello"), text("ping"), text("again"))
		b.wantFrame(opText, "hello")
		a.wantFrame(opText, "pong")
		a.send(closeFrame(4000, ""))
		a.wantClose(4000)
		_ = a.Close()
		eventually(t, "a line is logged", func() bool { return len(lines()) == 1 })
		line := lines()[0]
		if line.LoggerName != AccessLogger {
			t.Errorf("the logger is %q", line.LoggerName)
		}
		got := line.ContextMap()
		relay, peer, remote := hashed("relay"), hashed("alice"), hashed("127.0.0.1")
		if showIDs {
			relay, peer, remote = "relay", "alice", a.LocalAddr().String()
		}
		for name, want := range map[string]any{
			"relay": relay, "peer": peer, "remote": remote, "messages": uint32(2), "reason": "peer", "code": uint16(4000),
		} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v", name, got[name], want)
			}
		}
		request := len(upgradeRequest("relay", "alice"))
		if n := got["received_bytes"].(uint64); n < uint64(request) || n > uint64(request+100) {
			t.Errorf("%d bytes were received, want some more than the request's %d", n, request)
		}
		if n := got["sent_bytes"].(uint64); n < 100 || n > 1000 {
			t.Errorf("%d bytes were sent, want some hundred", n)
		}
		plain := dial(t, s)
		plain.send([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
		plain.response()
		plain.ended()
		_, _ = plain.Close(), b.Close()
		eventually(t, "two more lines are logged", func() bool { return len(lines()) == 3 })
		entries := lines()
		if entries[1].ContextMap()["reason"] != "http" { // the two ended at the same time
			entries[1] = entries[2]
		}
		if got := entries[1].ContextMap(); got["reason"] != "http" || got["messages"] != uint32(0) || got["relay"] != "" {
			t.Errorf("the line of a plain request is %v", got)
		}
	}
	f(false)
	f(true)
}

// BenchmarkAccessLine measures what ACCESS_LOG costs for each connection.
func BenchmarkAccessLine(b *testing.B) {
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(io.Discard), zap.InfoLevel)
	s := startWith(b, zap.New(core), "ACCESS_LOG=true")
	join(b, s, "relay", "alice")
	p := peerOf(b, s, "alice")
	p.inLoop(func(l *loop) {
		b.ReportAllocs()
		for b.Loop() {
			l.logAccess(p)
		}
	})
}

// A scrape of many rooms does not stop the relay for long.
func BenchmarkScrape(b *testing.B) {
	s := start(b)
	join(b, s, "relay", "alice")
	for b.Loop() {
		if v := scrape(b, s); math.IsNaN(v["connections"]) {
			b.Fatal("no connections")
		}
	}
}
