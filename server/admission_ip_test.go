package server

import (
	"fmt"
	"testing"
)

// The limits of one address.

// TestNetworks: which addresses count together.
func TestNetworks(t *testing.T) {
	f := func(a, b string, together bool) {
		t.Helper()
		s := start(t, "MAX_CONNECTIONS_PER_IP=1", "PROXY_PROTOCOL=required", trusting)
		wantAsk(t, dialFrom(t, s, a, true), "r", 101)
		want := 101
		if together {
			want = 429
		}
		c := dialFrom(t, s, b, true)
		if got := c.ask("r", "p"); got != want {
			t.Errorf("%s beside %s: %d, want %d", b, a, got, want)
		}
	}
	f("203.0.113.1", "203.0.113.1", true)
	f("203.0.113.1", "203.0.113.2", false)
	f("2001:db8::1", "2001:db8::1", true)
	f("2001:db8::1", "2001:db8:0:0:ffff:ffff:ffff:ffff", true)
	f("2001:db8::1", "2001:db8:0:1::1", false)
	f("203.0.113.1", "::ffff:203.0.113.1", true)
	f("203.0.113.1", "::ffff:203.0.113.2", false)
	f("::1", "::2", true)
	f("::203.0.113.1", "203.0.113.1", false)
}

// TestSocketsOfOneAddress: without a balancer it is the socket's address that counts.
func TestSocketsOfOneAddress(t *testing.T) {
	s := start(t, "MAX_CONNECTIONS_PER_IP=2")
	for _, from := range []string{"127.0.0.2", "127.0.0.3"} {
		wantAsk(t, dialFrom(t, s, from, false), "r", 101)
		wantAsk(t, dialFrom(t, s, from, false), "r", 101)
	}
	wantAsk(t, dialFrom(t, s, "127.0.0.2", false), "r", 429)
	wantAsk(t, dialFrom(t, s, "127.0.0.3", false), "r", 429)
	wantRefused(t, s, "ip_connections", 2)
}

// TestFarOverTheAddressLimit: some connections above the limit may wait for their refusal. More are closed at
// once. One of those that wait is let in when there is a place.
func TestFarOverTheAddressLimit(t *testing.T) {
	for _, proxied := range []bool{false, true} {
		settings := []string{"MAX_CONNECTIONS_PER_IP=2"}
		if proxied {
			settings = append(settings, "PROXY_PROTOCOL=optional", trusting)
		}
		s := start(t, settings...)
		var all []*raw
		for range 2 + maxOver {
			c := dialFrom(t, s, "127.0.0.2", proxied)
			c.send([]byte(plainRequest("GET", "/")))
			if res, _ := c.response(); res.StatusCode != 200 {
				t.Fatalf("GET / above the limit: %d, want 200", res.StatusCode)
			}
			all = append(all, c)
		}
		for n := range int64(3) {
			closedFor(t, s, dialFrom(t, s, "127.0.0.2", proxied), "over_limit", n+1)
		}
		wantAsk(t, dialFrom(t, s, "127.0.0.3", proxied), "r", 101)
		wantAsk(t, all[2], "r", 429)
		all[0].Close()
		eventually(t, "two have gone", func() bool { return s.Stats().Connections == 2+maxOver-2+1 })
		wantAsk(t, all[3], "r", 101)
		wantAsk(t, all[4], "r", 429)
		wantRefused(t, s, "ip_connections", 2)
	}
}

// TestBalancerIsNotCounted for its clients, nor before their headers have come.
func TestBalancerIsNotCounted(t *testing.T) {
	s := start(t, "MAX_CONNECTIONS_PER_IP=1", "PROXY_PROTOCOL=required", trusting)
	for range 20 {
		dial(t, s) // silent
	}
	for i := range 20 {
		wantAsk(t, dialFrom(t, s, fmt.Sprint("203.0.113.", i), true), "r", 101)
	}
}

// TestRelaysOfOneAddress: MAX_ROOMS_PER_IP counts relays, not peers.
func TestRelaysOfOneAddress(t *testing.T) {
	s := start(t, "MAX_ROOMS_PER_IP=2", "PROXY_PROTOCOL=required", trusting)
	from := func(addr string) *raw { return dialFrom(t, s, addr, true) }
	a, a2 := from("203.0.113.1"), from("203.0.113.1")
	wantAsk(t, a, "r1", 101)
	wantAsk(t, a2, "r1", 101)
	wantAsk(t, from("203.0.113.1"), "r2", 101)
	wantAsk(t, from("203.0.113.1"), "r3", 429)
	wantAsk(t, from("203.0.113.1"), "r2", 101)
	wantAsk(t, from("203.0.113.2"), "r3", 101)
	a.Close()
	eventually(t, "a is gone", func() bool { return s.Stats().Peers == 4 })
	wantAsk(t, from("203.0.113.1"), "r3", 429) // a2 is still in r1
	a2.send(closeFrame(1000, ""))
	a2.wantFrame(0x8, "\x03\xe8")
	wantAsk(t, from("203.0.113.1"), "r3", 101)
	wantRefused(t, s, "ip_rooms", 2)
}
