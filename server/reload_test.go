package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// reload makes s run with environ alone, and returns the names of what has changed and of what needs a restart.
func reload(t testing.TB, s *Server, environ ...string) (changed, pending []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	now, later := s.Reload(ctx, config(t, environ...))
	for _, c := range now {
		changed = append(changed, c.Variable)
	}
	for _, c := range later {
		pending = append(pending, c.Variable)
	}
	if ctx.Err() != nil {
		t.Fatal("a loop has not got the settings")
	}
	return changed, pending
}

func TestReloadNames(t *testing.T) {
	f := func(before, after, wantChanged, wantPending string) {
		t.Helper()
		s := start(t, strings.Fields(before)...)
		changed, pending := reload(t, s, strings.Fields(after)...)
		if !slices.Equal(changed, strings.Fields(wantChanged)) || !slices.Equal(pending, strings.Fields(wantPending)) {
			t.Errorf("from %q to %q: changed %q, for a restart %q; want %q, %q", before, after, changed, pending, wantChanged, wantPending)
		}
		if again, _ := reload(t, s, strings.Fields(after)...); len(again) > 0 {
			t.Errorf("from %q to %q: the second time %q changes", before, after, again)
		}
	}
	f("", "", "", "")
	f("ADMIN_SECRET=a", "ADMIN_SECRET=b", "ADMIN_SECRET", "")
	f("", "ALLOWED_ORIGINS=https://a LOG_LEVEL=debug DRAIN_DELAY=1s", "ALLOWED_ORIGINS LOG_LEVEL DRAIN_DELAY", "")
	f("", "MAX_MESSAGE_BYTES=2000000", "MAX_MESSAGE_BYTES MAX_QUEUE_BYTES", "")
	f("MESSAGE_RATE=5", "MESSAGE_RATE=6", "MESSAGE_RATE MESSAGE_BURST", "")
	f("", "HOST=::1 PORT=1 LOG_FORMAT=console REUSE_PORT=true", "", "HOST PORT LOG_FORMAT REUSE_PORT")
	f("", "CONNECTION_CHECK_INTERVAL=1s HANDSHAKE_TIMEOUT=1s EVENT_LOOPS=9 MAX_ROOM_PEERS=9", "MAX_ROOM_PEERS",
		"CONNECTION_CHECK_INTERVAL HANDSHAKE_TIMEOUT EVENT_LOOPS")
	f("", "MAX_CONNECTIONS_PER_IP=9 MAX_ROOMS_PER_IP=9", "", "MAX_CONNECTIONS_PER_IP MAX_ROOMS_PER_IP")
	f("MAX_CONNECTIONS_PER_IP=9", "MAX_ROOMS_PER_IP=9", "MAX_CONNECTIONS_PER_IP", "MAX_ROOMS_PER_IP")
	f("PROXY_PROTOCOL=optional TRUSTED_PROXIES=::1", "PROXY_PROTOCOL=optional TRUSTED_PROXIES=::2", "TRUSTED_PROXIES", "")
	f("PROXY_PROTOCOL=optional TRUSTED_PROXIES=::1", "", "", "PROXY_PROTOCOL TRUSTED_PROXIES") // the list is still needed
}

// A limit holds for who comes next, and whoever is connected stays.
func TestReloadLimits(t *testing.T) {
	f := func(first, tighter, looser string, status int, relay2 string) {
		t.Helper()
		s := start(t, first)
		a, b := join(t, s, "r", "a"), join(t, s, relay2, "b")
		reload(t, s, tighter)
		wantAsk(t, dial(t, s), "r3", status)
		for _, c := range []*websocket.Conn{a, b} {
			say(t, c, "ping")
			hear(t, c, "pong")
		}
		for _, setting := range []string{looser, tighter[:strings.Index(tighter, "=")] + "=0"} {
			reload(t, s, setting)
			join(t, s, "r3", "c")
		}
		reload(t, s, tighter)
		wantAsk(t, dial(t, s), "r4", status)
	}
	f("MAX_CONNECTIONS=0", "MAX_CONNECTIONS=1", "MAX_CONNECTIONS=9", 503, "r")
	f("MAX_CONNECTIONS_PER_IP=9", "MAX_CONNECTIONS_PER_IP=1", "MAX_CONNECTIONS_PER_IP=9", 429, "r")
	f("MAX_ROOMS_PER_IP=9", "MAX_ROOMS_PER_IP=2", "MAX_ROOMS_PER_IP=9", 429, "r2")

	s := start(t)
	join(t, s, "r", "a")
	b := join(t, s, "r", "b")
	reload(t, s, "MAX_ROOM_PEERS=1")
	wantAsk(t, dial(t, s), "r", 503)
	reload(t, s, "MAX_ROOM_PEERS=3")
	c := join(t, s, "r", "c")
	say(t, c, "hello")
	hear(t, b, "hello")
}

// What is open counts, also if nothing was limited when it came.
func TestReloadCountsGoOn(t *testing.T) {
	f := func(setting string) {
		t.Helper()
		s := start(t, setting+"=9")
		before := join(t, s, "r1", "a")
		reload(t, s, setting+"=0")
		join(t, s, "r2", "b")
		_ = before.CloseNow()
		eventually(t, "it has left", func() bool { return s.Stats().Connections == 1 })
		reload(t, s, setting+"=1")
		wantAsk(t, dial(t, s), "r3", 429)
	}
	f("MAX_CONNECTIONS_PER_IP")
	f("MAX_ROOMS_PER_IP")
}

// TestReloadFarBelow: with far more connections than MAX_CONNECTIONS allows from now on, others are still told that
// the relay is full. When it is raised while accepting has stopped, accepting goes on.
func TestReloadFarBelow(t *testing.T) {
	s := start(t, "MAX_CONNECTIONS=100")
	for i := range 60 {
		open(t, s, "r", fmt.Sprint(i))
	}
	reload(t, s, "MAX_CONNECTIONS=2")
	wantAsk(t, dial(t, s), "r", 503)
	if got := s.Unready(); !slices.Equal(got, []string{"connections"}) {
		t.Errorf("unready since %q, want connections", got)
	}
	var silent []*raw // they hold no place
	for range refusalFiles(2) + 4 {
		silent = append(silent, dial(t, s))
	}
	eventually(t, "accepting stops", s.acceptPaused.Load)
	reload(t, s, "MAX_CONNECTIONS=100")
	for _, c := range silent {
		wantAsk(t, c, "r", 101)
	}
}

// A secret and an origin hold for who comes next.
func TestReloadGate(t *testing.T) {
	s := start(t, "ADMIN_SECRET=old")
	a := joinWith(t, wsURL(s, "r", "a"), asPage("", "old"))
	kept := dial(t, s) // its request comes after the reload
	reload(t, s, "ADMIN_SECRET=new,old", "ALLOWED_ORIGINS=https://a")
	b := joinWith(t, wsURL(s, "r", "b"), asPage("https://a", "new"))
	wantDialStatus(t, s, asPage("https://a", "old"), http.StatusSwitchingProtocols)
	wantDialStatus(t, s, asPage("https://b", "old"), http.StatusForbidden)
	reload(t, s, "ADMIN_SECRET=new")
	wantDialStatus(t, s, asPage("", "old"), http.StatusUnauthorized)
	kept.send([]byte(upgradeRequest("r", "c", "Sec-WebSocket-Protocol: old")))
	if res, _ := kept.response(); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("a connection from before is answered with %d, want 401", res.StatusCode)
	}
	say(t, a, "hello")
	hear(t, b, "hello")
	reload(t, s)
	join(t, s, "r", "d")
}

// What has begun under the old limit is relayed; what begins then is not.
func TestReloadMaxMessage(t *testing.T) {
	s := start(t)
	listener := join(t, s, "r", "listener")
	for _, first := range []byte{0x81, 0x82} {
		sender := open(t, s, "r", "sender")
		frame := maskedFrame(first, repeat("x", 70_000))
		sender.send(frame[:100])
		eventually(t, "the beginning has come", func() (come bool) {
			peerOf(t, s, "sender").inLoop(func(*loop) {
				p := peerOf(t, s, "sender")
				come = p.in != nil && p.in.need == len(frame)
			})
			return come
		})
		reload(t, s, "MAX_MESSAGE_BYTES=1000")
		sender.send(frame[100:])
		hearBytes(t, listener, websocket.MessageType(first&0xf), repeat("x", 70_000))
		sender.send(maskedFrame(first, repeat("x", 1001)))
		sender.wantClose(1009)
		eventually(t, "it has left", func() bool { return s.Stats().Peers == 1 })
		reload(t, s)
	}
}

// heldNow returns how many peers are held back.
func heldNow(s *Server) int {
	var n atomic.Int64
	s.onLoops(func(l *loop) { n.Add(int64(len(l.pacer.held) + len(l.pacer.late))) })
	return int(n.Load())
}

// A rate that is set holds for connected peers, whatever they did before, and one that ends lets go of those that
// are held back.
func TestReloadRate(t *testing.T) {
	f := func(slow ...string) {
		t.Helper()
		s := start(t)
		sender, listener := open(t, s, "r", "sender"), join(t, s, "r", "listener")
		for range 20 { // without a pause: with a rate that were a debt of minutes
			const some = 100 // which the listener's socket has room for
			for range some {
				sender.send(maskedFrame(0x82, make([]byte, 996)))
			}
			for range some {
				hearBytes(t, listener, websocket.MessageBinary, make([]byte, 996))
			}
		}
		reload(t, s, slow...)
		began := time.Now()
		for i := range 11 {
			sender.send(maskedFrame(0x82, append(numbered(i), make([]byte, 996-8)...)))
		}
		for i := range 11 {
			hearBytes(t, listener, websocket.MessageBinary, append(numbered(i), make([]byte, 996-8)...))
		}
		if took := time.Since(began); took < 450*time.Millisecond || took > 5*time.Second {
			t.Errorf("%q: 11 messages took %v, want half a second", slow, took)
		}
		for range 500 {
			sender.send(maskedFrame(0x82, make([]byte, 996)))
		}
		eventually(t, "it is held back", func() bool { return heldNow(s) == 1 })
		reload(t, s, slow...) // nothing changes, so it is held back further
		if _, pending := reload(t, s, append(slow, "PORT=1")...); len(pending) != 1 {
			t.Errorf("%q for a restart, want PORT", pending)
		}
		began = time.Now()
		reload(t, s)
		for range 500 {
			hearBytes(t, listener, websocket.MessageBinary, make([]byte, 996))
		}
		if took := time.Since(began); took > 5*time.Second || s.Stats().Closed["rate"] > 0 {
			t.Errorf("%q: without it 500 messages took %v, %d closed", slow, took, s.Stats().Closed["rate"])
		}
	}
	f("MESSAGE_RATE=20", "MESSAGE_BURST=1")
	f("BYTE_RATE=20000", "BYTE_BURST=1000")
	f("ROOM_BYTE_RATE=20000", "ROOM_BYTE_BURST=1000")
}

// Another setting's change gives nobody a new burst.
func TestReloadKeepsRates(t *testing.T) {
	rate := []string{"MESSAGE_RATE=10", "MESSAGE_BURST=5"}
	s := start(t, rate...)
	sender, listener := open(t, s, "r", "sender"), join(t, s, "r", "listener")
	began := time.Now()
	for i := range 10 {
		sender.send(maskedFrame(0x82, numbered(i)))
	}
	for i := range 10 {
		reload(t, s, append(rate, fmt.Sprint("MAX_ROOM_PEERS=", 10+i))...)
		hearBytes(t, listener, websocket.MessageBinary, numbered(i))
	}
	if took := time.Since(began); took < 450*time.Millisecond {
		t.Errorf("10 messages took %v, want half a second", took)
	}
}

func TestReloadConnectRate(t *testing.T) {
	s := start(t)
	f := func(settings []string, least, most time.Duration) {
		t.Helper()
		reload(t, s, settings...)
		began := time.Now()
		var all []*raw
		for range 6 {
			all = append(all, dial(t, s))
		}
		for _, c := range all {
			c.send([]byte(upgradeRequest("r", "p")))
		}
		for _, c := range all {
			if res, _ := c.response(); res.StatusCode != http.StatusSwitchingProtocols {
				t.Errorf("status %d", res.StatusCode)
			}
		}
		if took := time.Since(began); took < least || took > most {
			t.Errorf("with %q: 6 connections took %v, want %v to %v", settings, took, least, most)
		}
	}
	f([]string{"CONNECT_RATE=10", "CONNECT_BURST=1"}, 450*time.Millisecond, patience)
	f([]string{"CONNECT_RATE=5", "CONNECT_BURST=1"}, 950*time.Millisecond, patience)
	f(nil, 0, 900*time.Millisecond)
}

// TestReloadMemoryBudget: upgrades are refused when silent peers alone take too much of it.
func TestReloadMemoryBudget(t *testing.T) {
	s := start(t, "MEMORY_BUDGET=0")
	a := join(t, s, "r", "a")
	reload(t, s, "MEMORY_BUDGET=64MiB")
	eventually(t, "there is a limit", func() bool { return s.budget.limit.Load() > 0 })
	say(t, a, "ping")
	hear(t, a, "pong")
	reload(t, s, "MEMORY_BUDGET=0")
	eventually(t, "there is no limit", func() bool { return s.budget.limit.Load() == 0 })
}

// TestReloadBesideLoad is for the race detector: every setting changes again and again, while peers talk and
// others come. Nobody is closed, and no message is lost.
func TestReloadBesideLoad(t *testing.T) {
	s := start(t, "MAX_CONNECTIONS_PER_IP=1000", "MAX_ROOMS_PER_IP=1000")
	var talking, coming sync.WaitGroup
	stop := make(chan struct{})
	for i := range 4 {
		room := fmt.Sprint("r", i)
		sender, listener := join(t, s, room, "sender"), join(t, s, room, "listener")
		talking.Go(func() {
			for n := range 400 {
				sayBytes(t, sender, websocket.MessageBinary, numbered(n))
				hearBytes(t, listener, websocket.MessageBinary, numbered(n))
			}
		})
	}
	coming.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				c := dial(t, s)
				c.send([]byte(upgradeRequest("r", "p")))
				c.response()
				c.Close()
			}
		}
	})
	for done := false; !done; {
		var settings []string
		for variable, values := range map[string][]string{
			"ADMIN_SECRET": {"", "a", "a,b"}, "ALLOWED_ORIGINS": {"", "https://a"}, "MAX_MESSAGE_BYTES": {"1000", "2000000"},
			"MAX_QUEUE_BYTES": {"4000000", "5000000"}, "MAX_CONNECTIONS": {"0", "1", "500"}, "MAX_CONNECTIONS_PER_IP": {"0", "1", "500"},
			"MAX_ROOM_PEERS": {"0", "2"}, "MAX_ROOMS_PER_IP": {"0", "1", "500"}, "CONNECT_RATE": {"0", "2000", "5000"},
			"MESSAGE_RATE": {"0", "5000"}, "BYTE_RATE": {"0", "500000"}, "ROOM_BYTE_RATE": {"0", "500000"},
			"MEMORY_BUDGET": {"0", "1GiB", "2GiB"}, "DRAIN_PERIOD": {"0s", "1s"}, "LOG_LEVEL": {"info", "debug"},
		} {
			settings = append(settings, variable+"="+values[rand.IntN(len(values))])
		}
		reload(t, s, settings...)
		finished := make(chan struct{})
		go func() { talking.Wait(); close(finished) }()
		select {
		case <-finished:
			done = true
		case <-time.After(time.Millisecond):
		}
	}
	close(stop)
	coming.Wait()
	reload(t, s, "DRAIN_PERIOD=0s")
	if st := s.Stats(); st.Peers < 8 || st.Closed["rate"]+st.Closed["slow"]+st.Closed["memory"]+st.Closed["message_too_big"] > 0 {
		t.Errorf("%d peers are left, closed %v; want 8, and none for a setting", st.Peers, st.Closed)
	}
}
