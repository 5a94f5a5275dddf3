package server

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestConnectRate: more connections than the rate allows are answered later, in the order in which they came,
// and none is refused.
func TestConnectRate(t *testing.T) {
	t.Parallel()
	const rate, burst, clients = 100, 10, 60
	s := start(t, fmt.Sprint("CONNECT_RATE=", rate), fmt.Sprint("CONNECT_BURST=", burst))
	began := time.Now()
	var all []*raw
	for range clients {
		c := dial(t, s)
		c.send([]byte(upgradeRequest("r", "p")))
		all = append(all, c)
	}
	eventually(t, "all are accepted", func() bool { return s.Stats().Accepted == clients })
	if n := s.Stats().Connections; n != clients {
		t.Errorf("%d connections while some wait, want %d", n, clients)
	}
	for i, c := range all {
		if res, body := c.response(); res.StatusCode != 101 {
			t.Fatalf("client %d: %d %s", i, res.StatusCode, body)
		}
		// Its turn comes (i+1-burst)/rate seconds after the first has come, and not earlier.
		if after, least := time.Since(began), time.Duration(i+1-burst)*time.Second/rate; after < least {
			t.Errorf("client %d is let in after %v, want at least %v", i, after, least)
		}
	}
	if st := s.Stats(); st.Upgraded != clients || st.Refused["connect_rate"] != 0 {
		t.Errorf("%d upgraded, %d refused; want %d, 0", st.Upgraded, st.Refused["connect_rate"], clients)
	}
}

// TestConnectRateRefuses whom it would let wait for longer than HANDSHAKE_TIMEOUT. Those get their answer at
// once, plain requests too.
func TestConnectRateRefuses(t *testing.T) {
	t.Parallel()
	const clients, waiting = 8, 2
	s := start(t, "CONNECT_RATE=1", "CONNECT_BURST=1000", "HANDSHAKE_TIMEOUT=3s")
	s.waiting.limiter.ReserveN(time.Now(), 1000)
	for range waiting {
		dial(t, s).send([]byte(upgradeRequest("r", "p")))
	}
	eventually(t, "some wait", func() bool { return s.Stats().Accepted == waiting })
	s.waiting.limiter.ReserveN(time.Now(), 1000) // a quarter of an hour of other connections
	for i := range clients {
		c := dial(t, s)
		if i == 0 {
			c.send([]byte(plainRequest("GET", "/")))
			if res, _ := c.response(); res.StatusCode != 200 {
				t.Errorf("GET / of one to be refused: %d, want 200", res.StatusCode)
			}
		}
		wantAsk(t, c, "r", 503)
	}
	wantRefused(t, s, "connect_rate", clients)
	eventually(t, "those that waited are let in", func() bool { return s.Stats().Upgraded == waiting })
}

// TestRefusedTakesNoTurn: a connection that is refused by CONNECT_RATE does not put off those that come later.
func TestRefusedTakesNoTurn(t *testing.T) {
	t.Parallel()
	s := start(t, "CONNECT_RATE=1", "CONNECT_BURST=1000", "HANDSHAKE_TIMEOUT=1s")
	s.waiting.limiter.ReserveN(time.Now(), 1000)
	s.waiting.limiter.ReserveN(time.Now(), 10)
	before := s.waiting.limiter.TokensAt(time.Now())
	for range 5 {
		wantAsk(t, dial(t, s), "r", 503)
	}
	if after := s.waiting.limiter.TokensAt(time.Now()); after < before {
		t.Errorf("%v turns are free after 5 refusals, before them %v", after, before)
	}
}

// TestHandshakeTimeoutBeginsAtTheTurn: the time that a connection waits by CONNECT_RATE is not its own.
func TestHandshakeTimeoutBeginsAtTheTurn(t *testing.T) {
	t.Parallel()
	s := start(t, "CONNECT_RATE=2", "CONNECT_BURST=1", "HANDSHAKE_TIMEOUT=600ms")
	began := time.Now()
	dial(t, s)
	eventually(t, "the first is accepted", func() bool { return s.Stats().Accepted == 1 })
	c := dial(t, s)
	c.ended()
	// From its turn on, 500 ms after the first, it has 600 ms. A wheel that lags behind may take a few steps off.
	if after := time.Since(began); after < 900*time.Millisecond {
		t.Errorf("closed after %v, want HANDSHAKE_TIMEOUT after its turn", after)
	}
	eventually(t, "both are closed", func() bool { return s.Stats().Closed["handshake_timeout"] == 2 })
}

// TestGivenUpWhileWaiting: a client that has gone is found at its turn.
func TestGivenUpWhileWaiting(t *testing.T) {
	s := start(t, "CONNECT_RATE=20", "CONNECT_BURST=1", "MAX_CONNECTIONS_PER_IP=20")
	wantAsk(t, dial(t, s), "r", 101)
	for range 5 {
		c := dial(t, s)
		c.send([]byte(upgradeRequest("r", "p")))
		_ = c.SetLinger(0)
		c.Close()
	}
	eventually(t, "they are found", func() bool { return s.Stats().Accepted == 6 && s.Stats().Connections == 1 })
	if n := s.places.Load(); n != 1 {
		t.Errorf("%d places are taken, want 1", n)
	}
}

// TestDrainLetsThoseWaitingIn: whoever waits for its turn when accepting ends is let in while the port is handed
// over, and otherwise let in or told why not. Nobody is reset.
func TestDrainLetsThoseWaitingIn(t *testing.T) {
	t.Parallel()
	const waiting = 5
	for _, handover := range []time.Duration{0, time.Second} {
		s, drain := drainable(t, "CONNECT_RATE=1", "CONNECT_BURST=1", "MAX_CONNECTIONS_PER_IP=100")
		s.handover = handover
		var all []*raw
		for range 1 + waiting {
			c := dial(t, s)
			c.send([]byte(upgradeRequest("r", "p")))
			all = append(all, c)
		}
		eventually(t, "all are accepted", func() bool { return s.Stats().Accepted == 1+waiting })
		drained := drain(patience)
		for i, c := range all {
			res, _ := c.response()
			if res.StatusCode == 101 {
				c.wantClose(1001)
			} else {
				c.ended()
				c.Close()
			}
			if status := res.StatusCode; status != 101 && (status != 503 || handover > 0) {
				t.Errorf("number %d, handover %v: %d", i, handover, status)
			}
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
		wantNothingHeld(t, s)
		wantNoCounts(t, s)
	}
}

// TestDrainRefusesTheBacklog: whoever waits to be accepted while too many are open is refused when accepting ends,
// and not reset.
func TestDrainRefusesTheBacklog(t *testing.T) {
	s, drain := drainable(t, "MAX_CONNECTIONS=2")
	most := 2 + refusalFiles(2)
	for range most {
		dial(t, s)
	}
	eventually(t, "so many are accepted", func() bool { return s.Stats().Accepted == int64(most) })
	c := dial(t, s)
	c.send([]byte(upgradeRequest("r", "p")))
	drained := drain(patience)
	if res, _ := c.response(); res.StatusCode != 503 {
		t.Errorf("status %d, want 503", res.StatusCode)
	}
	c.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
	wantNoCounts(t, s)
}

// TestNoTurnForTheRefused: connections that will be refused by another limit leave the turns to others.
func TestNoTurnForTheRefused(t *testing.T) {
	s := start(t, "CONNECT_RATE=1", "CONNECT_BURST=2", "MAX_CONNECTIONS_PER_IP=1", "HANDSHAKE_TIMEOUT=100ms")
	wantAsk(t, dialFrom(t, s, "127.0.0.2", false), "r", 101)
	for range 20 {
		wantAsk(t, dialFrom(t, s, "127.0.0.2", false), "r", 429)
	}
	wantAsk(t, dialFrom(t, s, "127.0.0.3", false), "r", 101)
}

// stormPeers is the number of peers in TestStorm. A larger storm, against the built binary, is TestStorm of
// package main.
const stormPeers = 1500

// TestStorm: all peers are cut off at once and return at once, as after a fault of the network. They are let in
// at CONNECT_RATE, none is refused twice, and a pair that stayed is served meanwhile.
func TestStorm(t *testing.T) {
	const rate = stormPeers / 3
	s := start(t, fmt.Sprint("CONNECT_RATE=", rate), fmt.Sprint("CONNECT_BURST=", stormPeers), "HANDSHAKE_TIMEOUT=20s")
	a, b := join(t, s, "pair", "a"), join(t, s, "pair", "b")
	storm := make([]*net.TCPConn, stormPeers)
	connect := func(i int) error {
		c, _, err := quickOpen(s, fmt.Sprint("relay", i/10), fmt.Sprint(i), nil)
		if err != nil {
			return err
		}
		storm[i] = c
		return nil
	}
	for i := range storm {
		if err := connect(i); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range storm {
		_ = c.SetLinger(0)
		c.Close()
	}
	// Only a part of the burst is left, so the last comes about that much later than the first.
	burst := min(stormPeers, int(s.waiting.limiter.TokensAt(time.Now())))
	began := time.Now()
	var group sync.WaitGroup
	for i := range storm {
		group.Go(func() {
			if err := connect(i); err != nil {
				t.Errorf("peer %d: %v", i, err)
			}
		})
	}
	back := make(chan struct{})
	go func() { group.Wait(); close(back) }()
	var took []time.Duration
	for done := false; !done; {
		select {
		case <-back:
			done = true
		default:
			sent := time.Now()
			say(t, a, "x")
			hear(t, b, "x")
			took = append(took, time.Since(sent))
		}
	}
	spread := time.Since(began)
	slices.Sort(took)
	t.Logf("%d peers are back after %v at %d/s, with %d of the burst left; of %d messages of the pair 99%% took less than %v, the slowest %v",
		stormPeers, spread, rate, burst, len(took), took[len(took)*99/100], took[len(took)-1])
	if least := time.Duration(stormPeers-burst-rate/10) * time.Second / rate; spread < least {
		t.Errorf("all were back after %v, want at least %v", spread, least)
	}
	if median := took[len(took)/2]; median > 100*time.Millisecond {
		t.Errorf("a message of the pair took %v (median)", median)
	}
	if st := s.Stats(); st.Peers != stormPeers+2 || st.Refused["connect_rate"] != 0 {
		t.Errorf("%d peers, %d refused; want %d, 0", st.Peers, st.Refused["connect_rate"], stormPeers+2)
	}
	for _, c := range storm {
		_ = c.SetLinger(0)
		c.Close()
	}
}
