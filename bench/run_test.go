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
			r := &faulty{fault: strings.Join(os.Args[3:], "")}
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
		"-run", "^(pair|churn|calm|connect|idle)$", "-duration", "100ms", "-warmup", "10ms", "-rounds", "1",
		"-conns", "90", "-heartbeat", "100ms")
	if len(r.Scenarios) != 5 || r.Interrupted || r.Against != "b" {
		t.Fatalf("%d scenarios, interrupted: %v, against %s; want 5, false, b", len(r.Scenarios), r.Interrupted, r.Against)
	}
	counts := !strings.Contains(strings.Join(r.Notes, ""), "System calls could not be counted")
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
			if calls := got[report.CallsPerPeer]; counts && s.Name == "connect" && calls < 4 {
				t.Errorf("%v calls per peer of %s, want accept, read, write and more", calls, res.Server)
			}
			calls, writes := got[report.CallsPerDelivery], got[report.WritesPerDelivery]
			if counts && (s.Name == "pair" || s.Name == "calm") && (writes <= 0 || writes > 2 || calls <= writes) {
				t.Errorf("%s of %s: %v writes and %v calls per delivery", s.Name, res.Server, writes, calls)
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
	f("calm", "leak", "lost")
	f("pair", "binary", "corrupted")
	f("churn", "refuse", "not back")
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
// pattern, large ones; and heartbeats.
func TestBuiltInServers(t *testing.T) {
	r, _ := measure(t, 0, "-servers=relaygate,gws,gorilla,nbhttp", "-repo=..", "-bin", t.TempDir(),
		"-run", "^(chat|direct|star|big-256k|churn|connect|idle|loops-giant)$", "-rounds=1", "-duration=200ms", "-conns=300", "-heartbeat=300ms")
	for _, s := range r.Scenarios {
		for _, res := range s.Results {
			m := res.Rounds[0].Metrics
			if pings, ok := m[report.Pinged]; s.Name == "idle" && (!ok || pings < 0.5 || pings > 1.5) {
				t.Errorf("%s sent %v pings per peer and interval, want 1", res.Server, pings)
			}
		}
	}
	if len(cpusOf(0)) > 1 {
		s := r.Scenarios[len(r.Scenarios)-1]
		if s.Base != "1 loop" || s.Result("2 loops").Summary[report.CPUPerDelivery].Ratio == nil {
			t.Errorf("%s: ratios to %q, %+v", s.Name, s.Base, s.Result("2 loops"))
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
	t.Setenv("ADMIN_SECRET", "hush")
	r, _ := measure(t, 0, "-target", "ws://"+at+"/v1", "-pid", fmt.Sprint(relay.Process.Pid), "-addresses", "127.0.0.1",
		"-run", "^pair$", "-rounds", "1", "-duration", "100ms")
	got := r.Scenarios[0].Result("target").Rounds[0]
	if got.Metrics[report.Deliveries] <= 0 || got.Metrics[report.CPUPerDelivery] <= 0 {
		t.Errorf("%+v", got)
	}
	if strings.Contains(r.Command+r.Scenarios[0].Command, "hush") {
		t.Errorf("the secret is in the report: %s", r.Command)
	}
}
