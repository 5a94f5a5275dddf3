package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// options are the command line's.
type options struct {
	relay, haproxy, config string
	peers                  int
	length                 time.Duration
	rate                   float64
}

// soak is one run.
type soak struct {
	options
	began     time.Time
	dir       string    // of the balancers' sockets
	relays    [2]*relay // behind the balancers' servers a and b
	all       []*relay
	balancers []*balancer
	crowd     *crowd
	stopChurn bool     // read on the fleet's thread
	floods    []*flood // rooms with slow readers

	phases   []phase
	promises []string
	broken   []string
}

// roomPeers is the size of a usual room, of which one peer comes and goes.
const roomPeers = 10

// share is a part of the run's length, within bounds.
func (s *soak) share(part float64, least, most time.Duration) time.Duration {
	return min(max(time.Duration(part*float64(s.length)), least), most)
}

// connectRate is how many connections per second each relay lets in, CONNECT_RATE: few enough that the healthy do not
// notice a storm on 2 cores, which are the load's and the balancers' as well.
func (s *soak) connectRate() int { return max(200, s.peers/40) }

// environ configures a relay. delay is its DRAIN_DELAY.
func (s *soak) environ(port uint16, delay string) []string {
	return []string{
		fmt.Sprint("PORT=", port), "REUSE_PORT=true", "EVENT_LOOPS=1", "DRAIN_DELAY=" + delay,
		fmt.Sprintf("TRUSTED_PROXIES=127.0.%d.0/24", balancerNetwork), "PROXY_PROTOCOL=required",
		fmt.Sprint("CONNECT_RATE=", s.connectRate()),
		"CONNECTION_CHECK_INTERVAL=" + s.share(0.05, 3*time.Second, 30*time.Second).String(),
		"HANDSHAKE_TIMEOUT=" + s.share(0.02, 3*time.Second, 10*time.Second).String(),
		"DRAIN_PERIOD=" + s.share(0.05, 2*time.Second, 30*time.Second).String(),
	}
}

// takeOutDelay is longer than a balancer takes to notice that a relay is not ready.
const takeOutDelay = 3500 * time.Millisecond

// run is the whole plan.
func (s *soak) run() error {
	s.began = time.Now()
	if err := s.start(); err != nil {
		return err
	}
	for _, p := range s.plan() {
		if err := s.phase(p.name, time.Duration(p.part*float64(s.length)), p.act); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return s.stop()
}

// step is a phase that lasts a part of the run's length, or as long as act takes.
type step struct {
	name string
	part float64
	act  func() (string, error)
}

// short is the length up to which slow readers and garbage come only together with the storm.
const short = time.Minute

func (s *soak) plan() []step {
	steps := []step{
		{"calm", 0.2, func() (string, error) { return "the healthy alone", nil }},
		{"churn", 0.1, s.churn},
	}
	if s.length > short {
		steps = append(steps, step{"slow readers", 0.1, s.slow}, step{"garbage", 0.1, s.garbage}, step{"storm", 0.1, s.storm})
	}
	return append(steps, step{"all at once", 0.12, s.allAtOnce}, step{"roll", 0.12, s.roll}, step{"one taken out", 0.12, s.takeOut})
}

// start starts the relays and the balancers, and lets the crowd connect.
func (s *soak) start() error {
	for i := range s.relays {
		if err := s.startRelay(i, 0, "0s"); err != nil {
			return err
		}
	}
	var err error
	if s.dir, err = os.MkdirTemp("", "soak"); err != nil {
		return err
	}
	config, err := filepath.Abs(s.config)
	if err != nil {
		return err
	}
	// A process has 20,000 descriptors on many hosts, and a connection takes two of a balancer's.
	var doors []*target
	for n := range max(2, (s.peers+6999)/7500) {
		b, err := startBalancer(s.haproxy, config, s.dir, n, [2]netip.AddrPort{s.relays[0].addr, s.relays[1].addr})
		if err != nil {
			return err
		}
		s.balancers = append(s.balancers, b)
		doors = append(doors, b.door)
	}
	f, err := newFleet()
	if err != nil {
		return err
	}
	servers, probes, err := s.askServers(max(8, s.peers/250))
	if err != nil {
		return err
	}
	s.crowd = newCrowd(f, doors, servers)
	f.counts["upgraded"] += int64(probes)
	f.counts["closed.gone"] += int64(probes)
	return s.connect()
}

// connect adds the rooms and lets all peers connect, at a pace below the relays' CONNECT_RATE.
func (s *soak) connect() error {
	w := s.crowd
	pace := time.Second / time.Duration(s.connectRate()*3/2)
	w.do(func() {
		for r := range s.peers / roomPeers {
			w.addRoom(roomPeers, 1, usualSize, sourceAddr(clientNetwork, r%len(w.servers)))
		}
		for i := range max(1, s.peers/5000) {
			s.floods = append(s.floods, w.addFlood(sourceAddr(clientNetwork, i%len(w.servers))))
		}
		for i, m := range w.members {
			w.after(time.Duration(i)*pace, m.dial)
		}
	})
	err := s.await("all peers are connected", func() bool { return w.openMembers == len(w.members) })
	w.do(func() { w.talk(s.rate) })
	return err
}

// await polls until ok, on the fleet's thread.
func (s *soak) await(what string, ok func() bool) error {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if ask(s.crowd.fleet, ok) {
			return nil
		}
		if time.Now().After(end) {
			open := ask(s.crowd.fleet, func() int { return s.crowd.openMembers })
			return fmt.Errorf("not within %v: %s; %d of %d peers are connected", patience, what, open, len(s.crowd.members))
		}
	}
}

// churn has peers come and go from now on, up to the end.
func (s *soak) churn() (string, error) {
	perSecond := float64(s.peers) / 150
	s.crowd.do(func() { s.crowd.churn(perSecond, &s.stopChurn) })
	return fmt.Sprintf("%.0f peers per second leave and come back, from here to the end", perSecond), nil
}

// garbage has all that is malformed, and mute peers, come at once.
func (s *soak) garbage() (string, error) {
	var ts trials
	w, each := s.crowd, max(5, s.peers/300)
	over := s.share(0.04, 2*time.Second, 20*time.Second)
	kinds := append(garbage(), mute())
	for _, r := range s.relays {
		relay := &target{name: "relay", addr: r.addr}
		kinds = append(append(kinds, pastBalancer(relay)...), halfOpen(relay)...)
	}
	w.do(func() {
		for _, kind := range kinds {
			w.try(kind, each, over, &ts)
		}
	})
	err := s.await("each fault has ended as promised", func() bool { return ts.left == 0 })
	return fmt.Sprintf("%d kinds of garbage, half-open handshakes and mute peers, each %d times", len(kinds), each), err
}

// storm cuts off a third of the peers at once.
func (s *soak) storm() (string, error) {
	began, w := time.Now(), s.crowd
	cut, done := 0, false
	w.do(func() { w.cut(3, &cut, &done) })
	if err := s.await("a third is cut off", func() bool { return done }); err != nil {
		return "", err
	}
	err := s.await("all are back", w.allOpen)
	return fmt.Sprintf("%d peers cut off at once, all back after %.1f s", cut, time.Since(began).Seconds()), err
}

// allAtOnce is slow readers, garbage and a storm at the same time, while others come and go.
func (s *soak) allAtOnce() (string, error) {
	acts := []func() (string, error){s.slow, s.garbage, s.storm}
	errs := make(chan error, len(acts))
	for _, act := range acts {
		go func() {
			_, err := act()
			errs <- err
		}()
	}
	var err error
	for range acts {
		err = errors.Join(err, <-errs)
	}
	return "slow readers, garbage and a storm together", err
}

// roll replaces both relays on their ports.
func (s *soak) roll() (string, error) {
	before := ask(s.crowd.fleet, func() int64 { return s.crowd.unanswered + s.crowd.counts["refused.draining"] })
	for i := range s.relays {
		if err := s.rollOne(i); err != nil {
			return "", err
		}
	}
	after := ask(s.crowd.fleet, func() int64 { return s.crowd.unanswered + s.crowd.counts["refused.draining"] })
	return fmt.Sprintf("both relays replaced on their ports (REUSE_PORT), %d attempts had to be repeated", after-before), nil
}

func (s *soak) rollOne(i int) error {
	w, old := s.crowd, s.relays[i]
	w.do(func() { w.changing[i] = true })
	if err := s.startRelay(i, old.addr.Port(), takeOutDelay.String()); err != nil {
		return err
	}
	old.terminate()
	for end := time.Now().Add(patience); listeners(old.addr.Port()) > 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("the old relay still listens %v after SIGTERM", patience)
		}
	}
	w.do(func() { w.changing[i] = false; w.epochs[i]++ })
	if err := old.await(); err != nil {
		return err
	}
	return s.await("all peers are on the new relay", w.allOpen)
}

func (s *soak) startRelay(i int, port uint16, delay string) error {
	r, err := startRelay(s.relay, s.environ(port, delay)...)
	if r != nil {
		s.relays[i] = r
		s.all = append(s.all, r)
	}
	return err
}

// takeOut drains relay a. The balancers notice, and bring its peers to b.
func (s *soak) takeOut() (string, error) {
	w := s.crowd
	failed := func() int64 { return w.unanswered + w.counts["refused.draining"] }
	before := ask(w.fleet, failed)
	w.do(func() { w.changing[0] = true })
	s.relays[0].terminate()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		down := 0
		for _, b := range s.balancers {
			if b.states() == [2]string{"DOWN", "UP"} {
				down++
			}
		}
		if down == len(s.balancers) {
			break
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("the balancers have not noticed within %v", patience)
		}
	}
	w.do(func() {
		w.changing[0] = false
		for from := range w.servers {
			w.servers[from] = 1
		}
	})
	if err := s.relays[0].await(); err != nil {
		return "", err
	}
	err := s.await("all peers are on the other relay", w.allOpen)
	failedNow := ask(w.fleet, failed) - before
	s.promise(failedNow == 0, "taking a relay out costs no failed attempt to connect: %d failed", failedNow)
	return "SIGTERM to a; the balancers notice, its peers go on with b", err
}

// stop ends the last relay, and compares the counters.
func (s *soak) stop() error {
	w := s.crowd
	w.do(func() { s.stopChurn = true })
	if err := s.await("all peers are there at the end", func() bool { return w.openMembers == len(w.members) }); err != nil {
		return err
	}
	s.settle("the end")
	w.do(func() { w.over = true })
	s.relays[1].terminate()
	if err := s.relays[1].await(); err != nil {
		return err
	}
	if err := s.await("each peer has seen the end", func() bool { return w.openMembers == 0 }); err != nil {
		return err
	}
	s.compare()
	return nil
}

func (s *soak) kill() {
	for _, r := range s.all {
		r.kill()
	}
	for _, b := range s.balancers {
		b.kill()
	}
	_ = os.RemoveAll(s.dir)
}
