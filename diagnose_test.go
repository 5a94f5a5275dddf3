package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// runDoctor runs -doctor.
func runDoctor(t *testing.T, environ []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	c := command(t, environ, append([]string{"RELAYGATE", "-doctor"}, args...)...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	_ = c.Run()
	return c.ProcessState.ExitCode(), out.String(), errs.String()
}

// fakeHost writes a tree of proc and sys with this open-file limit.
func fakeHost(t *testing.T, files string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, content := range map[string]string{
		"proc/self/limits":                      "Max open files " + files + " " + files + " files\n",
		"proc/meminfo":                          "MemAvailable: 4000000 kB\n",
		"proc/sys/fs/nr_open":                   "1048576\n",
		"proc/sys/fs/file-max":                  "9223372036854775807\n",
		"proc/sys/fs/file-nr":                   "1000\t0\t9223372036854775807\n",
		"proc/sys/fs/epoll/max_user_watches":    "500000\n",
		"proc/sys/net/core/somaxconn":           "4096\n",
		"proc/sys/net/ipv4/tcp_max_syn_backlog": "128\n",
		"proc/sys/net/ipv4/tcp_syncookies":      "1\n",
		"proc/sys/net/ipv4/tcp_mem":             "75000 100000 150000\n",
		"proc/sys/net/ipv4/tcp_rmem":            "4096\t131072\t6291456\n",
		"proc/sys/net/ipv4/tcp_wmem":            "4096\t16384\t4194304\n",
		"proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestDoctor(t *testing.T) {
	f := func(want int, wantText string, environ []string, args ...string) {
		t.Helper()
		status, stdout, stderr := runDoctor(t, environ, args...)
		if status != want || !strings.Contains(stdout+stderr, wantText) {
			t.Errorf("-doctor %q with %q: status %d, %s%s; want %d, %q", args, environ, status, stdout, stderr, want, wantText)
		}
	}
	small, large := fakeHost(t, "65536"), fakeHost(t, "200000")
	f(0, "100,000 connections fit; 150,000 would", nil, "-root", large)
	f(1, "100,000 connections do not fit, 64,472 do. Too low: open files", []string{"EVENT_LOOPS=1"}, "-root", small)
	f(1, "raise it: LimitNOFILE=101064", []string{"EVENT_LOOPS=1"}, "-root", small)
	f(0, "1,000 connections fit", nil, "-root", small, "-connections", "1000")
	f(1, "150,001 connections do not fit", nil, "-root", large, "-connections", "150001")
	f(1, "Too low: MAX_CONNECTIONS", []string{"MAX_CONNECTIONS=99999"}, "-root", large)
	f(1, "Too low: MEMORY_BUDGET", []string{"MEMORY_BUDGET=64MiB"}, "-root", large)
	f(1, "is not known: cannot read open files", nil, "-root", t.TempDir())
	f(2, "-connections: 0 is not from 1", nil, "-connections", "0")
	f(2, "-connections", nil, "-connections", "many")
	f(2, "PORT: ", []string{"PORT=x"})

	// The line for a setting suffices.
	f(0, "connections fit", []string{"MAX_CONNECTIONS=100000", "MEMORY_BUDGET=109MiB"}, "-root", large)
	f(1, "MEMORY_BUDGET=109MiB", []string{"MEMORY_BUDGET=64MiB"}, "-root", large)
}

// TestDoctorHere examines this machine: the open-file limit is that of the process.
func TestDoctorHere(t *testing.T) {
	c := command(t, nil, "sh", "-c", "ulimit -n 300 && exec RELAYGATE -doctor -connections 299")
	out, _ := c.CombinedOutput()
	if status := c.ProcessState.ExitCode(); status != 1 || !strings.Contains(string(out), "soft 300, hard 300") {
		t.Errorf("status %d, want 1, since only 300 files may be open:\n%s", status, out)
	}
	status, stdout, _ := runDoctor(t, nil, "-connections", "1")
	if unknown := strings.Contains(stdout, "\n?  "); (status == 0) == unknown {
		t.Errorf("status %d for a single connection:\n%s", status, stdout)
	}
}
