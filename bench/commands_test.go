package main

import (
	"path/filepath"
	"strings"
	"testing"

	"relaygate/bench/report"
)

// TestCompareAsGate: the exit status says whether something got worse.
func TestCompareAsGate(t *testing.T) {
	write := func(cpu ...float64) string {
		r := &report.Report{Schema: report.Schema, Against: "relaygate", Servers: []report.Server{{Name: "relaygate"}}}
		res := &report.Result{Server: "relaygate"}
		for _, x := range cpu {
			res.Rounds = append(res.Rounds, &report.Round{Metrics: map[string]float64{report.CPUPerDelivery: x}})
		}
		r.Scenarios = []*report.Scenario{{Name: "pair", Primary: []string{report.CPUPerDelivery}, Results: []*report.Result{res}}}
		r.Conclude()
		dir := t.TempDir()
		if err := r.Write(dir); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, "report.json")
	}
	old := write(2.0, 2.1, 2.2, 2.3, 2.4)
	f := func(status int, want string, args ...string) {
		t.Helper()
		v := start(t, append([]string{"-compare"}, args...)...).wait()
		if v.status != status || !strings.Contains(v.out.String(), want) {
			t.Errorf("%v: exit status %d, want %d, and %q in:\n%s", args, v.status, status, want, &v.out)
		}
	}
	f(0, "no difference", old, old)
	f(0, "better", old, write(1.0, 1.1, 1.2, 1.3, 1.4))
	f(0, "no difference", old, write(2.1, 2.3, 1.9, 2.5, 2.2))
	f(1, "WORSE", old, write(3.0, 3.1, 3.2, 3.3, 3.4))
	f(2, "fewer than 5 rounds", old, write(3.0, 3.1, 3.2))
	f(2, "missing.json", old, "missing.json")
	f(2, "two files", old)
}

// TestDoctor: every limit is named with the command that raises it, and the exit status says whether all is well.
func TestDoctor(t *testing.T) {
	v := start(t, "-doctor", "-conns", "30").wait()
	if v.status != 0 || !strings.Contains(v.out.String(), "30 connections fit.") {
		t.Errorf("exit status %d:\n%s", v.status, &v.out)
	}
	v = start(t, "-doctor", "-conns", "5000000", "-addresses", "127.0.0.1").wait()
	for _, want := range []string{"open files", "ports", "memory", "raise it: ", "ulimit -n 5000100", "fit as it is"} {
		if v.status != 1 || !strings.Contains(v.out.String(), want) {
			t.Errorf("exit status %d, no %q in:\n%s", v.status, want, &v.out)
		}
	}
	tight := &bench{opt: &options{}, servers: []*server{{}}, limits: limits{openFiles: 1024, ports: 28232, memory: 64 << 30}}
	if _, fits := tight.fitting(100_000); fits != 1024-spareFiles {
		t.Errorf("%d connections fit into 1,024 open files", fits)
	}
}

// TestWrongUse: one line that names the fault, and nothing is started.
func TestWrongUse(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		v := start(t, args...).wait()
		if v.status != 2 || !strings.Contains(v.out.String(), want) || strings.Count(v.out.String(), "\n") != 1 {
			t.Errorf("%v: exit status %d, want 2 and one line with %q:\n%s", args, v.status, want, &v.out)
		}
	}
	f("-nonsense", "-nonsense")
	f("unexpected", "chat")
	f("no scenario", "-run", "nothing-like-it")
	f("-run", "-run", "(")
	f("-quick leaves it out", "-quick", "-run", "idle")
	f("unknown server", "-servers", "nobody")
	f("listed twice", "-servers", "gws,gws")
	f("NAME=command", "-server", "mine")
	f("-against", "-against", "nobody")
	f("-rounds", "-rounds", "0")
	f("-duration", "-duration", "1ms")
	f("-conns", "-conns", "1")
	f("-pid", "-pid", "1")
	f("-target", "-target", "wss://host/v1")
	f("-server-cpus", "-server-cpus", "x")
	f("-server-cpus 4096", "-server-cpus", "4096")
	f("-addresses", "-addresses", "127.0.0.1,::1")
}
