package server

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
)

// dialFrom is dial from a loopback address such as 127.0.0.2, or from any address in a PROXY header if proxied.
func dialFrom(t testing.TB, s *Server, from string, proxied bool) *raw {
	t.Helper()
	if proxied {
		c := dial(t, s)
		c.send(named(net.JoinHostPort(from, "4711")))
		return c
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return dialWith(t, s, &d)
}

// ask sends an upgrade and returns the status. For a refusal it also checks the headers and the end.
func (c *raw) ask(relayID, peerID string) int {
	c.t.Helper()
	c.send([]byte(upgradeRequest(relayID, peerID)))
	res, body := c.response()
	if res.StatusCode == http.StatusSwitchingProtocols {
		return res.StatusCode
	}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err != nil || s < retryMin || s > retryMax {
		c.t.Errorf("Retry-After %q, want %d to %d", res.Header.Get("Retry-After"), retryMin, retryMax)
	}
	if body == "" || strings.Count(body, "\n") != 1 || !res.Close {
		c.t.Errorf("body %q, close %v; want one line, and close", body, res.Close)
	}
	c.ended()
	c.Close() // the relay waits for this
	return res.StatusCode
}

func wantAsk(t *testing.T, c *raw, relayID string, want int) {
	t.Helper()
	if got := c.ask(relayID, "p"); got != want {
		t.Fatalf("status %d, want %d", got, want)
	}
}

func wantRefused(t *testing.T, s *Server, reason string, n int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d refused as %s, and nothing else", n, reason), func() bool {
		all := int64(0)
		for _, k := range s.Stats().Refused {
			all += k
		}
		return s.Stats().Refused[reason] == n && all == n
	})
}

// ends are the ways in which a connection ends. Each ends c, whose peer is p.
var ends = map[string]func(c *raw, p *peer){
	"FIN":         func(c *raw, _ *peer) { _ = c.CloseWrite() },
	"reset":       func(c *raw, _ *peer) { _ = c.SetLinger(0); c.Close() },
	"close frame": func(c *raw, _ *peer) { c.send(closeFrame(1000, "")); c.Close() },
	"our close":   func(c *raw, _ *peer) { c.send([]byte{0xff, 0xff}); c.Close() },
	"slow":        func(_ *raw, p *peer) { p.inLoop(func(l *loop) { l.closeSlow(p) }) },
	"heartbeat":   func(c *raw, p *peer) { p.inLoop(func(l *loop) { p.heard = false; l.beat(p) }); c.wantClose(1001) },
	"panic":       func(_ *raw, p *peer) { p.loop.post(task{peer: p, do: func(*loop, *peer) { panic("test") }}) },
	"panic in leave": func(_ *raw, p *peer) {
		p.loop.post(task{peer: p, do: func(l *loop, p *peer) { p.leave(); panic("test") }})
	},
}

// limits are the settings that give each of two peers of one address what the second must not have.
var limits = map[string]struct {
	setting, reason string
	status          int
	relay2          string
}{
	"connections":    {"MAX_CONNECTIONS=1", "connections", 503, "r"},
	"ip connections": {"MAX_CONNECTIONS_PER_IP=1", "ip_connections", 429, "r"},
	"ip rooms":       {"MAX_ROOMS_PER_IP=1", "ip_rooms", 429, "r2"},
	"room peers":     {"MAX_ROOM_PEERS=1", "room_peers", 503, "r"},
}

// TestSlotIsFreed: with a limit of 1 the second is refused, and let in as soon as the first has ended, however
// it ended.
func TestSlotIsFreed(t *testing.T) {
	for name, limit := range limits {
		for how, end := range ends {
			t.Run(name+"/"+how, func(t *testing.T) {
				s, stop := unwatched(t, limit.setting, "PROXY_PROTOCOL=optional", trusting)
				defer stop()
				for n := range int64(3) {
					c := dialFrom(t, s, "203.0.113.1", true)
					wantAsk(t, c, "r", 101)
					wantAsk(t, dialFrom(t, s, "203.0.113.1", true), limit.relay2, limit.status)
					wantRefused(t, s, limit.reason, n+1)
					eventually(t, "the peer has its seat", func() bool { return s.wheels[phaseOpen].Len() == 1 })
					end(c, s.wheels[phaseOpen].All()[0])
					eventually(t, "all are closed", func() bool { return s.Stats().Connections == 0 })
				}
				wantNoCounts(t, s)
			})
		}
	}
}

// unwatched is start for tests in which panics are meant.
func unwatched(t *testing.T, environ ...string) (*Server, func()) {
	t.Helper()
	s, err := Listen(config(t, environ...), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return s, func() {
		drain(t, s)
		wantNothingHeld(t, s)
		wantNoCounts(t, s)
	}
}

// wantNoCounts wants every count of admission to be back at zero.
func wantNoCounts(t testing.TB, s *Server) {
	t.Helper()
	if n := s.places.Load(); n != 0 {
		t.Errorf("%d places are taken, want none", n)
	}
	if s.addresses != nil {
		if n, r := s.addresses.size(); n != 0 || r != 0 {
			t.Errorf("%d addresses and %d relays are counted, want none", n, r)
		}
	}
}

// TestSlotIsFreedBeforeTheUpgrade: connections that never become peers give back what they held, too.
func TestSlotIsFreedBeforeTheUpgrade(t *testing.T) {
	t.Parallel()
	for how, end := range map[string]func(c *raw){
		"FIN":     func(c *raw) { _ = c.CloseWrite() },
		"reset":   func(c *raw) { _ = c.SetLinger(0); c.Close() },
		"timeout": func(c *raw) { c.ended() },
		"refusal": func(c *raw) {
			c.send([]byte("GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
			c.response()
			c.Close()
		},
		"garbage": func(c *raw) { c.send([]byte("\x16\x03\x01")); c.response(); c.Close() },
	} {
		for _, proxied := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/proxied=%v", how, proxied), func(t *testing.T) {
				s := start(t, "MAX_CONNECTIONS=1", "MAX_CONNECTIONS_PER_IP=1", "HANDSHAKE_TIMEOUT=100ms", "PROXY_PROTOCOL=optional", trusting)
				for n := range int64(3) {
					end(dialFrom(t, s, "127.0.0.2", proxied))
					eventually(t, "it is closed", func() bool { return s.Stats().Accepted == n+1 && s.Stats().Connections == 0 })
				}
				wantAsk(t, dialFrom(t, s, "127.0.0.2", proxied), "r", 101)
			})
		}
	}
}

// TestOverMaxConnections: above the limit plain requests are answered, and an upgrade is let in if a place has
// become free by then.
func TestOverMaxConnections(t *testing.T) {
	s := start(t, "MAX_CONNECTIONS=2")
	a := open(t, s, "r", "a")
	open(t, s, "r", "b")
	lucky, unlucky := dial(t, s), dial(t, s)
	for _, c := range []*raw{lucky, unlucky} {
		c.send([]byte(plainRequest("GET", "/")))
		if res, _ := c.response(); res.StatusCode != 200 {
			t.Errorf("GET / above the limit: %d, want 200", res.StatusCode)
		}
	}
	a.Close()
	eventually(t, "a is gone", func() bool { return s.Stats().Connections == 3 })
	wantAsk(t, lucky, "r", 101)
	wantAsk(t, unlucky, "r", 503)
	wantRefused(t, s, "connections", 1)
}

// TestAcceptingStops: above the limit only so many connections are accepted as may wait for their refusal. The
// next is accepted when one closes.
func TestAcceptingStops(t *testing.T) {
	s := start(t, "MAX_CONNECTIONS=2")
	most := 2 + refusalFiles(2)
	var all []*raw
	for range most + 5 {
		all = append(all, dial(t, s)) // the kernel's backlog takes those that are not accepted
	}
	eventually(t, "as many as fit are accepted", func() bool { return s.Stats().Connections == most && s.acceptPaused.Load() })
	flush(s)
	if n := s.Stats().Accepted; n != int64(most) {
		t.Errorf("%d are accepted, want %d", n, most)
	}
	for n, c := range all[:most] {
		_ = c.SetLinger(0)
		c.Close()
		want := int64(min(most+n+1, len(all)))
		eventually(t, "the next is accepted", func() bool { return s.Stats().Accepted == want })
	}
	wantAsk(t, all[most], "r", 101) // it was accepted when all[0] had given its place back
}

// TestConnectionsAreNeverOverrun: many at once, on all loops, take exactly the places there are.
func TestConnectionsAreNeverOverrun(t *testing.T) {
	for name, test := range map[string]struct{ setting, reason string }{
		"connections":    {"MAX_CONNECTIONS=50", "connections"},
		"ip connections": {"MAX_CONNECTIONS_PER_IP=50", "ip_connections"},
		"room peers":     {"MAX_ROOM_PEERS=50", "room_peers"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, test.setting, "EVENT_LOOPS=4")
			const clients = 200
			var let, refused atomic.Int64
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					for n := 0; n < clients/8; n++ {
						c := dial(t, s)
						_, _ = c.Write([]byte(upgradeRequest("r", "p")))
						res, err := http.ReadResponse(c.in, nil)
						switch {
						case err != nil && test.reason == "ip_connections":
							n-- // too many wait for a refusal: again
						case err != nil:
							t.Error(err)
						case res.StatusCode == 101:
							let.Add(1)
						default:
							refused.Add(1)
							c.Close()
						}
					}
				})
			}
			group.Wait()
			if let.Load() != 50 || refused.Load() != clients-50 || s.Stats().Peers != 50 {
				t.Errorf("%d let in, %d refused, %d peers; want 50, %d and 50", let.Load(), refused.Load(), s.Stats().Peers, clients-50)
			}
			wantRefused(t, s, test.reason, clients-50)
		})
	}
}

// TestRefusedPeerIsNoMember: a refusal by the relay's limits changes nothing in the relay, and the 101 is not
// sent.
func TestRefusedPeerIsNoMember(t *testing.T) {
	s := start(t, "MAX_ROOM_PEERS=2", "MAX_ROOMS_PER_IP=1")
	a, b := join(t, s, "r", "a"), join(t, s, "r", "b")
	wantAsk(t, dial(t, s), "r", 503)
	wantAsk(t, dial(t, s), "r2", 429)
	if n, relays := s.addresses.size(); n != 1 || relays != 1 {
		t.Errorf("%d addresses and %d relays are counted, want 1 and 1", n, relays)
	}
	if st := s.Stats(); st.Peers != 2 || st.Rooms != 1 || st.Upgraded != 2 {
		t.Errorf("%d peers, %d rooms, %d upgraded; want 2, 1, 2", st.Peers, st.Rooms, st.Upgraded)
	}
	say(t, a, "hello")
	hear(t, b, "hello")
}

// TestAnswersBeforeARefusal: pipelined answers stand before the refusal, as before a 101.
func TestAnswersBeforeARefusal(t *testing.T) {
	s := start(t, "MAX_ROOM_PEERS=1")
	open(t, s, "r", "a")
	c := dial(t, s)
	c.send([]byte(plainRequest("GET", "/")+plainRequest("GET", "/v1")), []byte(upgradeRequest("r", "b")))
	for _, want := range []int{200, 200, 503} {
		if res, _ := c.response(); res.StatusCode != want {
			t.Errorf("status %d, want %d", res.StatusCode, want)
		}
	}
	c.ended()
}

// TestOrderOfRefusals: of several limits the first in the order of the README is named, after the contract's
// own checks.
func TestOrderOfRefusals(t *testing.T) {
	for _, test := range []struct {
		settings []string
		relay    string
		reason   string
	}{
		{[]string{"MAX_CONNECTIONS=1", "MAX_CONNECTIONS_PER_IP=1", "MAX_ROOMS_PER_IP=1", "MAX_ROOM_PEERS=1"}, "", "id"},
		{[]string{"MAX_CONNECTIONS=1", "MAX_CONNECTIONS_PER_IP=1", "MAX_ROOMS_PER_IP=1", "MAX_ROOM_PEERS=1"}, "r2", "connections"},
		{[]string{"MAX_CONNECTIONS_PER_IP=1", "MAX_ROOMS_PER_IP=1", "MAX_ROOM_PEERS=1"}, "r2", "ip_connections"},
		{[]string{"MAX_ROOMS_PER_IP=1", "MAX_ROOM_PEERS=1"}, "r2", "ip_rooms"},
		{[]string{"MAX_ROOMS_PER_IP=1", "MAX_ROOM_PEERS=1"}, "r", "room_peers"},
	} {
		s := start(t, test.settings...)
		open(t, s, "r", "a")
		c := dial(t, s)
		c.send([]byte(upgradeRequest(test.relay, "p")))
		c.response()
		wantRefused(t, s, test.reason, 1)
	}
}

// TestRefusalsBeginAtZero: every reason is in the counters from the start.
func TestRefusalsBeginAtZero(t *testing.T) {
	st := start(t).Stats()
	for _, reason := range []string{"connections", "connect_rate", "ip_connections", "ip_rooms", "room_peers", "memory", "draining"} {
		if n, ok := st.Refused[reason]; !ok || n != 0 {
			t.Errorf("refused %s: %d, %v; want 0", reason, n, ok)
		}
	}
	for _, cause := range []string{"proxy_header", "untrusted_proxy", "over_limit"} {
		if n, ok := st.Closed[cause]; !ok || n != 0 {
			t.Errorf("closed %s: %d, %v; want 0", cause, n, ok)
		}
	}
}

// TestConnectionLimit: what MAX_CONNECTIONS is by default leaves room for refusals and for what else is opened.
func TestConnectionLimit(t *testing.T) {
	for _, files := range []uint64{40, 256, 1024, 4096, 20_000, 100_000, 1 << 20, 1<<64 - 1} {
		for _, loops := range []int{1, 2, 64} {
			got := ConnectionLimit(files, loops)
			most := int(min(files, maxCount))
			if used := got + refusalFiles(got) + ownFiles + filesPerLoop*loops; got < 1 || used > most && got > 1 {
				t.Errorf("ConnectionLimit(%d, %d) = %d: with all else %d descriptors", files, loops, got, used)
			}
			if files >= 4096 && loops < 64 && got < most*8/10 {
				t.Errorf("ConnectionLimit(%d, %d) = %d, want at least 80%%", files, loops, got)
			}
		}
	}
}

// TestDescriptorsPerLoop: the reserve is what loops really take.
func TestDescriptorsPerLoop(t *testing.T) {
	before := descriptors(t)
	s, err := Listen(config(t, "EVENT_LOOPS=10"), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	taken := descriptors(t) - before
	drain(t, s)
	if taken > 10*filesPerLoop+ownFiles/2 {
		t.Errorf("10 loops take %d descriptors, reserved are %d", taken, 10*filesPerLoop+ownFiles)
	}
}
