package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"

	"relaygate/health"
	"relaygate/server"
)

// probeTimeout bounds a probe.
const probeTimeout = 5 * time.Second

// probe asks the relay that runs with this configuration whether it is ready. It returns the exit status: 0, or 1
// with the reasons on stderr. A configuration with faults does not end it: the relay may run with the one before.
func probe(ctx context.Context, environ []string, stdout, stderr io.Writer) int {
	cfg, err := server.ParseConfig(environ)
	if err != nil {
		fmt.Fprintf(stderr, "relaygate: warning: invalid configuration\n%v\n", err)
	}
	address, hello, err := probeTarget(&cfg)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		err = health.Probe(ctx, address, hello)
	}
	if err != nil {
		fmt.Fprintf(stderr, "relaygate: %v\n", err)
		return 1
	}
	fmt.Fprintln(stdout, "ready")
	return 0
}

// probeTarget returns the address to ask and what to send first. The default of HEALTH_ADDR is not asked unless
// it has to be: another relay on this host may have it.
func probeTarget(cfg *server.Config) (address string, hello []byte, err error) {
	chosen := cfg.HealthAddressChosen() || cfg.ProxyProtocol == server.ProxyRequired
	if address := string(cfg.HealthAddress); chosen && address != "" {
		host, port, err := net.SplitHostPort(address)
		return net.JoinHostPort(reachable(host), port), nil, err
	}
	if cfg.Port <= 0 {
		return "", nil, errors.New("PORT does not say where to ask")
	}
	host := reachable(cfg.Host)
	if cfg.ProxyProtocol == server.ProxyRequired {
		if hello, err = checkHeader(cfg, host); err != nil {
			return "", nil, err
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(cfg.Port)), hello, nil
}

// localHeader is a PROXY header, version 2, with the command LOCAL.
const localHeader = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"

// checkHeader returns the PROXY header of a balancer's own check. Without one, PROXY_PROTOCOL=required lets nobody
// in.
func checkHeader(cfg *server.Config, host string) ([]byte, error) {
	addr, err := netip.ParseAddr(host)
	if err == nil && !cfg.TrustedProxies.Contain(addr.Unmap()) {
		return nil, fmt.Errorf("PROXY_PROTOCOL=required keeps a probe out: %s is not in TRUSTED_PROXIES", host)
	}
	return []byte(localHeader), nil
}

// reachable returns a host that a process on the same machine can connect to if the relay listens on host.
func reachable(host string) string {
	addr, err := netip.ParseAddr(host)
	switch {
	case host == "", err == nil && addr == netip.IPv4Unspecified():
		return "127.0.0.1"
	case err == nil && addr == netip.IPv6Unspecified():
		return "::1"
	}
	return host
}
