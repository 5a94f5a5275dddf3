package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"relaygate/bench/host"
)

func TestOptionsRefused(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		if _, err := parseOptions(args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want an error with %q", args, err, want)
		}
	}
	f("-duration", "-duration", "1ms")
	f("-rounds", "-rounds", "0")
	f("-conns", "-conns", "1")
	f("-pid", "-pid", "1")
	f("-target", "-target", "wss://host/v1")
	f("-target", "-target", "nonsense")
	f("-server-cpus", "-server-cpus", "x")
	f("CPU 4095", "-server-cpus", "4095")
	f("-addresses", "-addresses", "127.0.0.9-127.0.0.1")
	f("-compare", "-compare", "one.json")
	f("unexpected", "chat")
	f("nonsense", "-nonsense")
}

func TestOptionsTaken(t *testing.T) {
	o, err := parseOptions([]string{"-quick", "-addresses", "127.0.0.1-127.0.0.8"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.servers != "relaygate,gws" || len(o.addresses) != 8 || len(o.serverCPUs) == 0 || len(o.loadCPUs) == 0 {
		t.Errorf("%+v", o)
	}
	var help bytes.Buffer
	if _, err := parseOptions([]string{"-h"}, &help); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-doctor") {
		t.Errorf("help: %v, %q", err, help.String())
	}
}

func TestScenariosAreSane(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range scenarios {
		if seen[s.name] || s.about == "" || s.primary == "" || s.shape.Peers < 2 || s.shape.Size < 1 {
			t.Errorf("%+v", s)
		}
		seen[s.name] = true
	}
	for _, name := range []string{"idle", "connect", "fanout-10", "fanout-1000", "chat", "direct", "pair", "star", "big-16k", "big-256k", "latency", "slow", "churn"} {
		if !seen[name] {
			t.Errorf("there is no scenario %s", name)
		}
	}
	if _, err := pick("nothing-like-it", false); err == nil {
		t.Error("a pattern that no scenario matches is taken")
	}
	if _, err := pick("(", false); err == nil {
		t.Error("a malformed pattern is taken")
	}
	if _, err := pick("idle", true); err == nil || !strings.Contains(err.Error(), "left out with -quick") {
		t.Errorf("idle with -quick: %v", err)
	}
	if some, err := pick("fanout", true); err != nil || len(some) != 2 {
		t.Errorf("fanout picks %d scenarios, %v; want 2", len(some), err)
	}
}

func TestChooseServers(t *testing.T) {
	all, err := chooseServers("relaygate,mine=/bin/mine -x", ".", "bin")
	if err != nil || len(all) != 2 || all[1].path != "/bin/mine" || len(all[1].args) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	for _, bad := range []string{"nobody", "gws,gws", "=x", "x=", "a/b=x"} {
		if _, err := chooseServers(bad, ".", "bin"); err == nil {
			t.Errorf("-servers %s is taken", bad)
		}
	}
}

// TestLimits: whatever is in the way is named, with the command that raises it.
func TestLimits(t *testing.T) {
	root := t.TempDir()
	for file, content := range map[string]string{
		"proc/sys/fs/nr_open": "1048576", "proc/sys/fs/file-max": "2000000", "proc/meminfo": "MemAvailable: 64000000 kB\n",
		"proc/sys/net/ipv4/ip_local_port_range": "32768\t60999", "proc/sys/net/netfilter/nf_conntrack_max": "1000",
	} {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := host.ReadLimits(root)
	l.OpenFiles = 1024
	findings, fits := l.Check(100_000, 0, 0)
	if fits >= 1024 {
		t.Errorf("%d connections fit into 1,024 open files and 1,000 tracked ones", fits)
	}
	fixes := ""
	for _, f := range findings {
		fixes += f.Limit + ": " + f.Fix + "\n"
	}
	for _, want := range []string{"ulimit", "nf_conntrack_max"} {
		if !strings.Contains(fixes, want) {
			t.Errorf("no command with %q in:\n%s", want, fixes)
		}
	}
	l.OpenFiles, l.ConntrackMax = 1_000_000, 0
	if findings, fits := l.Check(10_000, 0, 0); fits < 10_000 {
		t.Errorf("10,000 connections do not fit: %d, %+v", fits, findings)
	}
}
