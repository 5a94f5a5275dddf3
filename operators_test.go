package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// fetch returns the status and body of a page for operators.
func fetch(t *testing.T, addr, path string) (status int, body string) {
	t.Helper()
	r, err := http.Get("http://" + addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestOperatorsPages(t *testing.T) {
	r := startRelay(t, "HEALTH_ADDR=127.0.0.1:0", "MAX_CONNECTIONS=1")
	addr := r.logLine(t, "started")["health_address"].(string)
	f := func(path string, wantStatus int, want ...string) {
		t.Helper()
		status, body := fetch(t, addr, path)
		if status != wantStatus {
			t.Errorf("%s: status %d, want %d", path, status, wantStatus)
		}
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s: %q is not in %s", path, w, body)
			}
		}
	}
	f("/livez", 200, "alive\n")
	f("/readyz", 200, "ready\n")
	f("/metrics", 200, "\nrelaygate_ready 1\n", "\nrelaygate_max_connections 1\n", `relaygate_build_info{commit="abcdef12",`, "\nprocess_max_fds ")
	f("/debug/pprof/", 404)
	c := r.join(t, "relay", "peer")
	f("/readyz", 503, "connections\n")
	f("/metrics", 200, "\nrelaygate_ready 0\n", "\nrelaygate_peers 1\n", `relaygate_unready{reason="connections"} 1`)
	f("/debug/rooms", 200, `"peers": 1`)
	_ = c.CloseNow()
	eventually(t, "it is ready again", func() bool { status, _ := fetch(t, addr, "/readyz"); return status == 200 })
}

// A second relay on the host starts without a setting, but not if the address was chosen.
func TestHealthAddressInUse(t *testing.T) {
	const usual = "127.0.0.1:8081"
	if ln, err := net.Listen("tcp", usual); err == nil { // otherwise another process listens there
		defer ln.Close()
	}
	c := command(t, nil, "RELAYGATE")
	c.Env = slices.DeleteFunc(c.Env, func(v string) bool { return strings.HasPrefix(v, "HEALTH_ADDR=") })
	r := startCommand(t, c)
	if line := r.logLine(t, "nothing is served for operators: set HEALTH_ADDR to a free address"); line["level"] != "warn" {
		t.Errorf("logged %v, want a warning", line)
	}
	if addr := r.logLine(t, "started")["health_address"]; addr != "off" {
		t.Errorf("it says that operators are served at %v", addr)
	}
	out, err := command(t, []string{"HEALTH_ADDR=" + usual}, "RELAYGATE").CombinedOutput()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), usual) {
		t.Errorf("with the address chosen: %v, %s; want status 1 and the address", err, out)
	}
}
