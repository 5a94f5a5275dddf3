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

	"relaygate/bench/report"
)

// patience bounds every wait; only a failure reaches it.
const patience = 90 * time.Second

// builtBinary is the built bench, made once for all tests.
var builtBinary = sync.OnceValues(func() (string, error) {
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

// TestMain is also the servers that these tests measure.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		switch os.Args[1] {
		case "relay":
			r := &faulty{fault: strings.Join(os.Args[3:], ""), known: map[string]bool{}}
			fmt.Fprintln(os.Stderr, http.ListenAndServe(net.JoinHostPort("127.0.0.1", os.Args[2]), r))
		case "deaf": // never listens
			ended := make(chan os.Signal, 1)
			signal.Notify(ended, syscall.SIGTERM)
			<-ended
		case "broken":
			fmt.Fprintln(os.Stderr, "no such configuration")
			os.Exit(3)
		}
		os.Exit(1)
	}
	status := m.Run()
	if path, err := builtBinary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

// invocation is a run of the built binary.
type invocation struct {
	cmd    *exec.Cmd
	out    lockedBuffer // both streams
	status int
}

// lockedBuffer collects what a process writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T, args ...string) *invocation {
	t.Helper()
	path, err := builtBinary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	v := &invocation{cmd: exec.CommandContext(ctx, path, args...)}
	v.cmd.Stdout, v.cmd.Stderr = &v.out, &v.out
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

// itself is this test's binary as a server.
func itself(t *testing.T, name, mode string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("-server=%s='%s' %s", name, self, mode)
}

// measure runs bench and returns its report.
func measure(t *testing.T, status int, args ...string) (*report.Report, *invocation) {
	t.Helper()
	out := t.TempDir()
	v := start(t, append(args, "-out", out)...).wait()
	if v.status != status {
		t.Errorf("%v: exit status %d, want %d:\n%s", v.cmd.Args, v.status, status, &v.out)
	}
	return onlyReport(t, out), v
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
	page, err := os.ReadFile(filepath.Join(filepath.Dir(files[0]), "report.html"))
	if err != nil || !bytes.Contains(page, []byte(r.Scenarios[0].Title)) {
		t.Errorf("report.html: %d bytes without the scenario, %v", len(page), err)
	}
	return r
}

// TestRunEveryKind measures two servers in a scenario of every kind, on real sockets.
func TestRunEveryKind(t *testing.T) {
	r, v := measure(t, 0, "-servers=", itself(t, "a", "relay {port}"), itself(t, "b", "relay {port}"), "-against=b",
		"-run", "^(pair|churn|calm|latency|slow|connect|idle)$", "-duration", "100ms", "-warmup", "10ms", "-rounds", "1",
		"-conns", "90", "-heartbeat", "100ms")
	if len(r.Scenarios) != 7 || r.Interrupted || r.Against != "b" {
		t.Fatalf("%d scenarios, interrupted: %v, against %s; want 7, false, b", len(r.Scenarios), r.Interrupted, r.Against)
	}
	countless := countable(os.Getpid())
	for _, s := range r.Scenarios {
		for _, res := range s.Results {
			if len(res.Rounds) != 1 || res.Rounds[0].Failed() {
				t.Errorf("%s of %s: %+v", s.Name, res.Server, res.Rounds)
				continue
			}
			got := res.Rounds[0].Metrics
			if _, ok := got[report.HeartbeatCPU]; ok {
				t.Errorf("a cost of heartbeats of %s, which sends none", res.Server)
			}
			// Memory of so few peers may be none at all; of CPU a quick server may leave no sample.
			if v := got[s.Primary[0]]; s.Name != "idle" && v <= 0 {
				t.Errorf("%s of %s: no %s in %v", s.Name, res.Server, s.Primary[0], got)
			}
			// The library writes each message at once, and the test's relay makes no other writes but wake-ups.
			if w := got[report.WritesPerDelivery]; countless == nil && s.Name == "pair" && (w < 1 || w > 3) {
				t.Errorf("%v writes per delivery, want one and few more", w)
			}
			if calls := got[report.CallsPerPeer]; countless == nil && s.Name == "connect" && calls < 4 {
				t.Errorf("%v calls per peer, want accept, read, write and more", calls)
			}
			if q := res.Summary[s.Primary[0]].Ratio; q != nil && (res.Server == "b" || q.Firm) {
				t.Errorf("%s of %s: ratio %+v of one round, to b", s.Name, res.Server, q)
			}
		}
		if s.Verdict == "" || !strings.Contains(s.Command, s.Name) {
			t.Errorf("%s: verdict %q, command %q", s.Name, s.Verdict, s.Command)
		}
	}
	if text := v.out.String(); !strings.Contains(text, "pair, round 1 of 1: a ") {
		t.Errorf("progress:\n%s", text)
	}
}

// TestRunFailsOnFaults: whatever a relay does to a single message, or to a peer, makes the run a failure.
func TestRunFailsOnFaults(t *testing.T) {
	f := func(scenario, fault, want string) {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			r, v := measure(t, 1, "-servers=", itself(t, "faulty", "relay {port} "+fault), "-run", "^"+scenario+"$",
				"-duration", "80ms", "-warmup", "10ms", "-rounds", "1", "-timeout", "4s")
			if verdict := r.Scenarios[0].Verdict; !strings.Contains(verdict, "FAILURE of faulty") || !strings.Contains(verdict, want) {
				t.Errorf("verdict %q, want a FAILURE with %q", verdict, want)
			}
			if !strings.Contains(v.out.String(), "FAILURES") {
				t.Errorf("the terminal hears of no failure:\n%s", &v.out)
			}
		})
	}
	f("chat", "lose", "lost")
	f("chat", "double", "doubled")
	f("chat", "reorder", "out of order")
	f("chat", "corrupt", "corrupted")
	f("chat", "close", "disconnected")
	f("chat", "hang", "lost")
	f("direct", "stranger", "to a stranger")
	f("direct", "wrongroom", "to a stranger")
	f("chat", "crash", "faulty ended (exit status 7); its last lines: a crash to order")
	f("latency", "leak", "lost")
	f("pair", "binary", "corrupted")
	f("churn", "refuse", "not let in again")
}

// TestRunWithServersThatDoNotRun: one that cannot be measured is a failure that says why; the others are measured.
func TestRunWithServersThatDoNotRun(t *testing.T) {
	r, _ := measure(t, 1, "-servers=gws", "-build=false", "-bin=/nowhere", itself(t, "good", "relay {port}"), itself(t, "broken", "broken"),
		itself(t, "deaf", "deaf"), "-server=missing=/no/such/program {port}",
		"-run", "^pair$", "-duration", "40ms", "-warmup", "10ms", "-rounds", "2", "-timeout", "3s")
	faults := strings.Join(r.Faults(), "\n")
	for _, want := range []string{
		"gws: could not read Go build info", "broken ended (exit status 3)", "no such configuration", "deaf does not accept connections after 3s", "/no/such/program",
	} {
		if !strings.Contains(faults, want) {
			t.Errorf("no %q in the faults:\n%s", want, faults)
		}
	}
	if good := r.Scenarios[0].Result("good"); good == nil || len(good.Rounds) != 2 || good.Rounds[1].Failed() {
		t.Errorf("%+v", good)
	}
}

// TestInterrupt: Ctrl-C ends a run early, what was measured is written, and no process of it stays.
func TestInterrupt(t *testing.T) {
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		out := t.TempDir()
		v := start(t, "-servers=", itself(t, "a", "relay {port}"), "-out", out,
			"-run", "^(pair|chat)$", "-duration", "200ms", "-warmup", "10ms", "-rounds", "100")
		waitFor(t, "two rounds", func() bool { return strings.Contains(v.out.String(), "round 2 of 100:") })
		children := awaitChildren(t, v)
		if err := v.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if v.wait().status != 130 {
			t.Errorf("%v: exit status %d, want 130:\n%s", signal, v.status, &v.out)
		}
		r := onlyReport(t, out)
		if n := len(r.Scenarios[0].Results[0].Rounds); !r.Interrupted || n < 2 || n == 100 {
			t.Errorf("interrupted: %v, with %d rounds", r.Interrupted, n)
		}
		if len(r.Scenarios[0].Results[0].Summary) == 0 {
			t.Error("no summary of what was measured")
		}
		awaitEnd(t, children)
	}
}

// TestKilled: not even a bench that is killed leaves servers behind.
func TestKilled(t *testing.T) {
	v := start(t, "-servers=", itself(t, "a", "relay {port}"), "-out", t.TempDir(), "-run", "^pair$", "-duration", "10s", "-rounds", "1")
	children := awaitChildren(t, v)
	_ = v.cmd.Process.Kill()
	v.wait()
	awaitEnd(t, children)
}

// awaitChildren waits until a run has some, and returns them.
func awaitChildren(t *testing.T, v *invocation) (pids []int) {
	t.Helper()
	waitFor(t, "a server", func() bool {
		all, err := proc.AllProcs()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if s, err := p.Stat(); err == nil && s.PPID == v.cmd.Process.Pid {
				pids = append(pids, p.PID)
			}
		}
		return len(pids) > 0
	})
	return pids
}

func awaitEnd(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		waitFor(t, fmt.Sprintf("end of process %d", pid), func() bool {
			_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
			return err != nil
		})
	}
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

// TestBuiltInServers checks the relays that bench makes, this one included, by its own means: every message, of every
// pattern, large ones and beside peers that come and go; and heartbeats.
func TestBuiltInServers(t *testing.T) {
	r, _ := measure(t, 0, "-servers=relaygate,gws,gws-sync,gorilla,coder,nbhttp", "-repo=..", "-bin", t.TempDir(),
		"-run", "^(chat|direct|star|big-256k|churn|idle)$", "-rounds=1", "-duration=200ms", "-conns=300", "-heartbeat=300ms")
	for _, s := range r.Scenarios {
		for _, res := range s.Results {
			m := res.Rounds[0].Metrics
			if pings, ok := m[report.Pinged]; s.Name == "idle" && (!ok || pings < 0.5 || pings > 1.5) {
				t.Errorf("%s sent %v pings per peer and interval, want 1", res.Server, pings)
			}
		}
	}
	for _, s := range r.Servers {
		if !strings.Contains(s.Version, "go1.") {
			t.Errorf("version of %s: %q", s.Name, s.Version)
		}
	}
}

// TestTarget measures a relay that is already running, over a range of addresses.
func TestTarget(t *testing.T) {
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	relay := exec.Command(os.Args[0], "relay", fmt.Sprint(port))
	if err := relay.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relay.Process.Kill(); relay.Wait() })
	at := fmt.Sprintf("127.0.0.1:%d", port)
	waitFor(t, "relay", func() bool { c, err := net.Dial("tcp", at); return err == nil && c.Close() == nil })
	r, _ := measure(t, 0, "-target", "ws://"+at+"/v1", "-pid", fmt.Sprint(relay.Process.Pid), "-addresses", "127.0.0.1",
		"-run", "^pair$", "-rounds", "1", "-duration", "100ms", "-secret", "hush")
	got := r.Scenarios[0].Result("target").Rounds[0]
	if got.Metrics[report.Deliveries] <= 0 || got.Metrics[report.CPUPerDelivery] <= 0 {
		t.Errorf("%+v", got)
	}
	if strings.Contains(r.Command+r.Scenarios[0].Command, "hush") {
		t.Errorf("the secret is in the report: %s", r.Command)
	}
}

// TestCompareAsGate: the exit status says whether something got worse.
func TestCompareAsGate(t *testing.T) {
	write := func(cpu ...float64) string {
		r := &report.Report{Schema: report.Schema, Servers: []report.Server{{Name: "relaygate"}}}
		res := &report.Result{Server: "relaygate"}
		for _, x := range cpu {
			res.Rounds = append(res.Rounds, &report.Round{Metrics: map[string]float64{report.CPUPerDelivery: x}})
		}
		r.Scenarios = []*report.Scenario{{Name: "pair", Primary: []string{report.CPUPerDelivery}, Base: "relaygate", Results: []*report.Result{res}}}
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
	if v.status != 0 || !strings.Contains(v.out.String(), "They fit.") {
		t.Errorf("exit status %d:\n%s", v.status, &v.out)
	}
	v = start(t, "-doctor", "-conns", "5000000", "-addresses", "127.0.0.1").wait()
	for _, want := range []string{"open files", "ports", "memory", "raise it: ", "ulimit -n 5000100", "fit as it is"} {
		if v.status != 1 || !strings.Contains(v.out.String(), want) {
			t.Errorf("exit status %d, no %q in:\n%s", v.status, want, &v.out)
		}
	}
	tight := limits{openFiles: 1024, nrOpen: 1 << 20, fileMax: 2_000_000, ports: [2]int{32768, 60999}, conntrack: 3000, memory: 64 << 30}
	if _, fits := tight.check(100_000, 0, 0); fits != 1024-spareFiles {
		t.Errorf("%d connections fit into 1,024 open files", fits)
	}
	tight.openFiles = 1 << 20
	if _, fits := tight.check(100_000, 0, 0); fits != 2000 {
		t.Errorf("%d connections fit into 3,000 tracked ones, of which 1,000 are left to others", fits)
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
	f("CPU 4095", "-load-cpus", "4095")
	f("-addresses", "-addresses", "127.0.0.9-127.0.0.1")
}
