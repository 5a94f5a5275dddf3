package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"relaygate/bench/host"
	"relaygate/bench/load"
)

// target is a relay that accepts connections: one of our processes, or a running one.
type target struct {
	proc       *process // nil for a running one
	pid        int      // 0: unknown, so there are no CPU and memory figures
	cpus       int      // how many CPUs it may use
	hostHeader string
	path       string
	query      string
	sources    []string // empty: the kernel picks
	targets    []string // IP:port
	perPair    int      // connections over one pair of addresses
}

// open starts a server, or describes the running one.
func (b *bench) open(ctx context.Context, s server, env ...string) (*target, error) {
	if s.url != "" {
		return b.running(s)
	}
	p, err := b.startServer(ctx, s, env...)
	if err != nil {
		return nil, err
	}
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port))
	return &target{proc: p, pid: p.pid, cpus: len(b.opt.serverCPUs), path: "/v1", hostHeader: at, sources: b.sources(), targets: []string{at}, perPair: b.limits.PerPair()}, nil
}

// running resolves a -target URL.
func (b *bench) running(s server) (*target, error) {
	u, err := url.Parse(s.url)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	ips, err := net.LookupHost(u.Hostname())
	if err != nil {
		return nil, fmt.Errorf("-target: %w", err)
	}
	// One family is enough, and names such as localhost have both.
	ip := ips[0]
	for _, x := range ips {
		if a, err := netip.ParseAddr(x); err == nil && a.Is4() {
			ip = x
			break
		}
	}
	t := &target{pid: s.pid, cpus: host.CPUsOf(s.pid), hostHeader: u.Host, path: u.Path, query: u.RawQuery, perPair: b.limits.PerPair()}
	if t.path == "" || t.path == "/" {
		t.path = "/v1"
	}
	t.targets = []string{net.JoinHostPort(ip, port)}
	if a, err := netip.ParseAddr(ip); err != nil || !a.IsLoopback() || !a.Is4() {
		t.sources = b.opt.addresses
		return t, nil
	}
	t.sources = b.sources()
	if len(b.opt.addresses) > 0 {
		// A relay on all addresses is reached at each of them: more pairs for the same sources.
		t.targets = nil
		for _, a := range b.opt.addresses {
			t.targets = append(t.targets, net.JoinHostPort(a, port))
		}
	}
	return t, nil
}

// sources are the loopback addresses that connections come from: those of -addresses, or 127.0.0.1 and up.
func (b *bench) sources() []string {
	if len(b.opt.addresses) > 0 {
		return b.opt.addresses
	}
	var out []string
	for i := range max(b.opt.conns/b.limits.PerPair()+2, 4) {
		out = append(out, fmt.Sprintf("127.0.%d.%d", i/250, i%250+1))
	}
	return out
}

// routes assigns addresses to n connections that follow the first ones.
func (t *target) routes(first, n int) []load.Route {
	var out []load.Route
	for n > 0 {
		pair := first / t.perPair
		count := min(n, t.perPair-first%t.perPair)
		r := load.Route{Target: t.targets[pair%len(t.targets)], Count: count}
		if len(t.sources) > 0 {
			r.Source = t.sources[pair/len(t.targets)%len(t.sources)]
		}
		out = append(out, r)
		first += count
		n -= count
	}
	return out
}

// close stops a server of ours.
func (t *target) close() {
	if t.proc != nil {
		t.proc.stop()
	}
}

// fault adds to an error what the server's end explains.
func (t *target) fault(err error) error {
	if t.proc == nil || err == nil {
		return err
	}
	if dead := t.proc.alive(); dead != nil && !strings.Contains(err.Error(), dead.Error()) {
		return fmt.Errorf("%w (%v)", dead, err)
	}
	return err
}
