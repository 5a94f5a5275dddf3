package main

import (
	"bytes"
	"net"
	"strings"
	"syscall"
	"testing"
)

// probes runs -probe with the port of addr.
func probes(t *testing.T, addr string, environ ...string) (status int, stdout, stderr string) {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	c := command(t, append([]string{"PORT=" + port}, environ...), "RELAYGATE", "-probe")
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	_ = c.Run()
	return c.ProcessState.ExitCode(), out.String(), errs.String()
}

func wantProbe(t *testing.T, addr string, want int, reason string, environ ...string) {
	t.Helper()
	status, stdout, stderr := probes(t, addr, environ...)
	if status != want || !strings.Contains(stderr, reason) || (stdout == "ready\n") != (want == 0) {
		t.Errorf("-probe of %s with %q: status %d, %q, %q; want %d, %q", addr, environ, status, stdout, stderr, want, reason)
	}
}

func TestProbe(t *testing.T) {
	r := startRelay(t, "MAX_CONNECTIONS=2", "DRAIN_DELAY=10m", "ADMIN_SECRET=s")
	wantProbe(t, r.addr, 0, "")
	wantProbe(t, r.addr, 0, "", "ALLOWED_ORIGINS=https://a", "HTTP_PROXY=http://127.0.0.1:1")
	// A fault that does not concern the address is reported, and does not make a running relay unhealthy.
	wantProbe(t, r.addr, 0, "MAX_ROOM_PEERS: ", "MAX_ROOM_PEERS=x")
	wantProbe(t, "127.0.0.1:0", 1, "PORT does not say")
	wantProbe(t, r.addr, 1, "PORT: ", "PORT=x")

	a := r.join(t, "room", "a", "s") // with the probe itself the relay is full
	wantProbe(t, r.addr, 1, "connections")
	_ = a.CloseNow()
	eventually(t, "it is ready again", func() bool { status, _, _ := probes(t, r.addr); return status == 0 })
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it drains", func() bool { return strings.Contains(r.logs.text(), `"draining"`) })
	wantProbe(t, r.addr, 1, "draining")
	r.stop(t, syscall.SIGTERM)
	wantProbe(t, r.addr, 1, "connection refused")
}

// TestProbeOfHealthAddress: if HEALTH_ADDR is set it is asked, and nothing of the public port matters.
func TestProbeOfHealthAddress(t *testing.T) {
	r := startRelay(t, "HEALTH_ADDR=127.0.0.1:0", "PROXY_PROTOCOL=required", "TRUSTED_PROXIES=10.0.0.0/8", "MAX_CONNECTIONS=1")
	health := r.logLine(t, "started")["health_address"].(string)
	wantProbe(t, "127.0.0.1:1", 0, "", "HEALTH_ADDR="+health)
	wantProbe(t, r.addr, 1, "connection refused", "HEALTH_ADDR=127.0.0.1:1")
}

// TestProbeOfAllAddresses: a relay that listens on all addresses is asked at a loopback address.
func TestProbeOfAllAddresses(t *testing.T) {
	for _, host := range []string{"HOST=", "HOST=0.0.0.0", "HOST=::"} {
		r := startRelay(t, host)
		wantProbe(t, r.addr, 0, "", host)
	}
	f := func(host, want string) {
		t.Helper()
		if got := reachable(host); got != want {
			t.Errorf("a relay on %q is asked at %q, want %q", host, got, want)
		}
	}
	f("", "127.0.0.1")
	f("0.0.0.0", "127.0.0.1")
	f("::", "::1")
	f("10.0.0.1", "10.0.0.1")
	f("relay.example", "relay.example")
}

// TestProbeByProxyProtocol: a probe comes as a balancer's own check, if the relay lets in nothing else.
func TestProbeByProxyProtocol(t *testing.T) {
	f := func(status int, reason string, environ ...string) {
		t.Helper()
		r := startRelay(t, environ...)
		wantProbe(t, r.addr, status, reason, environ...)
	}
	f(0, "", "PROXY_PROTOCOL=required", "TRUSTED_PROXIES=127.0.0.0/8")
	f(0, "", "PROXY_PROTOCOL=optional", "TRUSTED_PROXIES=10.0.0.0/8")
	f(1, "127.0.0.1 is not in TRUSTED_PROXIES", "PROXY_PROTOCOL=required", "TRUSTED_PROXIES=10.0.0.0/8")
}
