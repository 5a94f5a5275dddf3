package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relaygate/bench/mini"
	"relaygate/bench/report"
)

// patience bounds every wait; only a failure reaches it.
const patience = 60 * time.Second

// binary is the built bench, made once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "relaygate-bench")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "bench")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// TestMain is also the servers that these tests measure: "-mini FAULT" is a relay, "-deaf" one that never listens.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "-mini":
			fmt.Fprintln(os.Stderr, serveMini(strings.Join(os.Args[2:], "")))
			os.Exit(1)
		case "-deaf":
			ended := make(chan os.Signal, 1)
			signal.Notify(ended, syscall.SIGTERM)
			<-ended
			os.Exit(1)
		case "-broken":
			fmt.Fprintln(os.Stderr, "no such configuration")
			os.Exit(3)
		}
	}
	status := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

func serveMini(fault string) error {
	return http.ListenAndServe(net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")), mini.New(fault))
}

// invocation is a run of the built binary.
type invocation struct {
	cmd    *exec.Cmd
	out    *lockedBuffer // both streams
	status int
}

func start(t *testing.T, args ...string) *invocation {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	v := &invocation{cmd: exec.CommandContext(ctx, path, args...), out: &lockedBuffer{}}
	v.cmd.Stdout, v.cmd.Stderr = v.out, v.out
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *invocation) wait() *invocation {
	_ = v.cmd.Wait()
	v.status = v.cmd.ProcessState.ExitCode()
	return v
}

// measure runs bench on the given servers, words of name=command, and returns its report.
func measure(t *testing.T, status int, servers []string, args ...string) (*report.Report, *invocation) {
	t.Helper()
	out := t.TempDir()
	v := start(t, append([]string{"-servers", strings.Join(servers, ","), "-out", out}, args...)...).wait()
	if v.status != status {
		t.Errorf("exit status %d, want %d", v.status, status)
	}
	r := onlyReport(t, out)
	if t.Failed() {
		t.Logf("%v:\n%s", v.cmd.Args, v.out)
	}
	return r, v
}

// onlyReport reads what the one run below out has left.
func onlyReport(t *testing.T, out string) *report.Report {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(out, "*", "report.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("reports: %v, %v; want one", files, err)
	}
	r, err := report.Read(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"report.md", "report.html"} {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(files[0]), name))
		if err != nil || !bytes.Contains(b, []byte(r.Scenarios[0].Name)) {
			t.Errorf("%s: %d bytes without the scenario, %v", name, len(b), err)
		}
	}
	return r
}

// itself is this test's binary as a server.
func itself(t *testing.T, name, mode string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return name + "=" + self + " " + mode
}

// TestRunEveryKind measures two servers in a scenario of every kind, on real sockets.
func TestRunEveryKind(t *testing.T) {
	servers := []string{itself(t, "a", "-mini"), itself(t, "b", "-mini")}
	r, v := measure(t, 0, servers, "-run", "^(pair|churn|latency|slow|connect|idle)$",
		"-duration", "100ms", "-warmup", "10ms", "-rounds", "1", "-conns", "90", "-heartbeat", "100ms")
	if len(r.Scenarios) != 6 || r.Interrupted {
		t.Fatalf("%d scenarios, interrupted: %v; want 6, false", len(r.Scenarios), r.Interrupted)
	}
	for _, s := range r.Scenarios {
		for _, res := range s.Results {
			if len(res.Rounds) != 1 || res.Rounds[0].Failed() {
				t.Errorf("%s of %s: %+v", s.Name, res.Server, res.Rounds)
				continue
			}
			if _, ok := res.Summary[report.HeartbeatCPU]; ok {
				t.Errorf("a cost of heartbeats of %s, which sends none", res.Server)
			}
			// A quick server may leave no sample of CPU in so short a time, but its messages count.
			if v, ok := res.Summary[s.Primary]; s.Name != "idle" && (!ok || v.Median <= 0) {
				t.Errorf("%s of %s: no %s in %v", s.Name, res.Server, s.Primary, res.Summary)
			}
		}
		if s.Verdict == "" || !strings.Contains(s.Command, s.Name) {
			t.Errorf("%s: verdict %q, command %q", s.Name, s.Verdict, s.Command)
		}
	}
	// No terminal: plain lines, none of them rewritten.
	if text := v.out.String(); strings.Contains(text, "\r") || !strings.Contains(text, "[2/12] pair, round 1 of 1: a ") {
		t.Errorf("progress:\n%s", text)
	}
}

// TestRunFailsOnFaults: whatever a relay does to a single message, or to a peer, makes the run a failure.
func TestRunFailsOnFaults(t *testing.T) {
	f := func(scenario, fault, want string) {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			r, v := measure(t, 1, []string{itself(t, "faulty", "-mini "+fault)}, "-run", "^"+scenario+"$",
				"-duration", "80ms", "-warmup", "10ms", "-rounds", "1", "-timeout", "2s")
			if verdict := r.Scenarios[0].Verdict; !strings.Contains(verdict, "FAILURE of faulty") || !strings.Contains(verdict, want) {
				t.Errorf("verdict %q, want a FAILURE with %q", verdict, want)
			}
			if !strings.Contains(v.out.String(), "FAILURES") {
				t.Errorf("the terminal hears of no failure:\n%s", v.out)
			}
		})
	}
	f("chat", mini.Lose, "lost")
	f("chat", mini.Double, "doubled")
	f("chat", mini.Reorder, "out of order")
	f("chat", mini.Corrupt, "corrupted")
	f("chat", mini.Close, "disconnected")
	f("direct", mini.Stranger, "to a stranger")
	f("direct", mini.WrongRoom, "to a stranger")
	f("chat", mini.Crash, "faulty ended (exit status 7); its last lines: a crash to order")
	f("latency", mini.Leak, "lost")
	f("pair", mini.Binary, "corrupted")
	f("churn", mini.Refuse, "not let in again")
}

// TestRunWithServersThatDoNotRun: one that cannot be measured is a failure that says why; the others are measured.
func TestRunWithServersThatDoNotRun(t *testing.T) {
	servers := []string{itself(t, "good", "-mini"), itself(t, "broken", "-broken"), itself(t, "deaf", "-deaf"), "missing=/no/such/program"}
	r, _ := measure(t, 1, servers, "-run", "^pair$", "-duration", "40ms", "-warmup", "10ms", "-rounds", "2", "-timeout", "1s")
	s := r.Scenarios[0]
	for _, want := range []string{"broken ended (exit status 3)", "no such configuration", "deaf does not accept connections after 1s"} {
		found := false
		for _, res := range s.Results {
			for i := range res.Rounds {
				found = found || strings.Contains(res.Rounds[i].Error, want)
			}
		}
		if !found {
			t.Errorf("no round's error has %q: %+v", want, s.Results)
		}
	}
	if good := s.Results[0]; good.Server != "good" || len(good.Rounds) != 2 || good.Rounds[1].Failed() {
		t.Errorf("%+v", good)
	}
	if missing := r.Servers[3]; !strings.Contains(missing.Error, "/no/such/program") {
		t.Errorf("%+v", missing)
	}
}

// TestInterrupt: Ctrl-C ends a run early, what was measured is written, and no process of it stays.
func TestInterrupt(t *testing.T) {
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		out := t.TempDir()
		v := start(t, "-servers", itself(t, "a", "-mini"), "-out", out,
			"-run", "^(pair|chat)$", "-duration", "200ms", "-warmup", "10ms", "-rounds", "100")
		waitFor(t, "two rounds in:\n"+v.out.String(), func() bool { return strings.Contains(v.out.String(), "round 2 of 100:") })
		children := childrenOf(t, v.cmd.Process.Pid)
		if err := v.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if v.wait().status != 130 {
			t.Errorf("%v: exit status %d, want 130:\n%s", signal, v.status, v.out)
		}
		r := onlyReport(t, out)
		if n := len(r.Scenarios[0].Results[0].Rounds); !r.Interrupted || n < 2 || n == 100 {
			t.Errorf("interrupted: %v, with %d rounds", r.Interrupted, n)
		}
		if len(r.Scenarios[0].Results[0].Summary) == 0 {
			t.Error("no summary of what was measured")
		}
		for _, pid := range children {
			waitFor(t, "the end of process "+pid, func() bool {
				_, err := os.Stat("/proc/" + pid)
				return err != nil
			})
		}
	}
}

// TestKilled: not even a bench that is killed leaves servers behind.
func TestKilled(t *testing.T) {
	v := start(t, "-servers", itself(t, "a", "-mini"), "-out", t.TempDir(), "-run", "^pair$", "-duration", "10s", "-rounds", "1")
	var children []string
	waitFor(t, "server and load", func() bool {
		children = childrenOf(t, v.cmd.Process.Pid)
		return len(children) > 1
	})
	_ = v.cmd.Process.Kill()
	v.wait()
	for _, pid := range children {
		waitFor(t, "the end of process "+pid, func() bool {
			_, err := os.Stat("/proc/" + pid)
			return err != nil
		})
	}
}

func childrenOf(t *testing.T, pid int) []string {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, file := range files {
		b, _ := os.ReadFile(file) // a thread may have ended
		out = append(out, strings.Fields(string(b))...)
	}
	return out
}

// waitFor polls until something holds.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for until := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("no %s within %s", what, patience)
		}
	}
}

// TestCompareAsGate: the exit status says whether something got worse.
func TestCompareAsGate(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, cpu ...float64) string {
		r := &report.Report{Schema: report.Schema, Servers: []report.Server{{Name: "relaygate"}}}
		res := report.Result{Server: "relaygate"}
		for _, x := range cpu {
			res.Rounds = append(res.Rounds, report.Round{Metrics: map[string]float64{report.CPUPerDelivery: x}})
		}
		r.Scenarios = []report.Scenario{{Name: "pair", Kind: steady, Primary: report.CPUPerDelivery, Results: []report.Result{res}}}
		r.Conclude()
		sub := filepath.Join(dir, name)
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := r.Write(sub); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(sub, "report.json")
	}
	old := write("old", 2.0, 2.1, 2.2)
	f := func(status int, want string, args ...string) {
		t.Helper()
		v := start(t, append([]string{"-compare"}, args...)...).wait()
		if v.status != status || !strings.Contains(v.out.String(), want) {
			t.Errorf("%v: exit status %d, want %d, and %q in:\n%s", args, v.status, status, want, v.out)
		}
	}
	f(0, "pair", old, old)
	f(0, "better", old, write("better", 1.0, 1.1, 1.2))
	f(0, "pair", old, write("noise", 2.1, 2.3, 1.9))
	f(1, "WORSE", old, write("worse", 3.0, 3.1, 3.2))
	f(2, "missing.json", old, filepath.Join(dir, "missing.json"))
	f(2, "two files", old)
}

// TestDoctor: every limit is named, and the exit status says whether all is well.
func TestDoctor(t *testing.T) {
	v := start(t, "-doctor", "-conns", "30").wait()
	if v.status != 0 || !strings.Contains(v.out.String(), "They fit.") {
		t.Errorf("exit status %d:\n%s", v.status, v.out)
	}
	v = start(t, "-doctor", "-conns", "5000000").wait()
	for _, want := range []string{"open files", "ports", "memory", "raise it: ", "ulimit -n 5000100", "fit as it is"} {
		if v.status != 1 || !strings.Contains(v.out.String(), want) {
			t.Errorf("exit status %d, no %q in:\n%s", v.status, want, v.out)
		}
	}
}

// TestWrongUse: one line that names the fault, and nothing is started.
func TestWrongUse(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		v := start(t, args...).wait()
		if v.status != 2 || !strings.Contains(v.out.String(), want) || strings.Count(v.out.String(), "\n") != 1 {
			t.Errorf("%v: exit status %d, want 2 and one line with %q:\n%s", args, v.status, want, v.out)
		}
	}
	f("-nonsense", "-nonsense")
	f("no scenario", "-run", "nothing-like-it")
	f("unknown server", "-servers", "nobody")
	f("-rounds", "-rounds", "0")
}
