package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"relaygate/server"
)

// patience bounds every wait; only a failure reaches it.
const patience = 30 * time.Second

// eventually polls until ok, for what no message announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// binary is the built relay, made once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "relaygate")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "relaygate")
	build := exec.Command("go", "build", "-ldflags", "-X main.commit=abcdef12", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

// relay is a running process of the built binary.
type relay struct {
	cmd  *exec.Cmd
	addr string // host:port
	logs *lines
}

// lines collects a process's log.
type lines struct {
	mu  sync.Mutex
	all []string
	eof chan struct{}
}

func (l *lines) collect(in *bufio.Scanner, first chan<- map[string]any) {
	defer close(l.eof)
	for in.Scan() {
		l.mu.Lock()
		l.all = append(l.all, in.Text())
		l.mu.Unlock()
		var line map[string]any
		if json.Unmarshal(in.Bytes(), &line) == nil && line["msg"] == "started" {
			first <- line
		}
	}
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}

// command prepares the binary with a fixed environment and, in front, a program to run it through.
func command(t *testing.T, environ []string, words ...string) *exec.Cmd {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for i := range words {
		words[i] = strings.ReplaceAll(words[i], "RELAYGATE", path)
	}
	c := exec.Command(words[0], words[1:]...)
	c.Env = append([]string{"HOST=127.0.0.1", "PORT=0", "CONNECTION_CHECK_INTERVAL=24h", "DRAIN_PERIOD=0s", "HEALTH_ADDR=off"}, environ...)
	return c
}

// startRelay serves until the test ends.
func startRelay(t *testing.T, environ ...string) *relay {
	t.Helper()
	return startCommand(t, command(t, environ, "RELAYGATE"))
}

func startCommand(t *testing.T, c *exec.Cmd) *relay {
	t.Helper()
	out, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	r := &relay{cmd: c, logs: &lines{eof: make(chan struct{})}}
	started := make(chan map[string]any, 1)
	go r.logs.collect(bufio.NewScanner(out), started)
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-r.logs.eof
		_ = c.Wait()
	})
	select {
	case line := <-started:
		r.addr = line["address"].(string)
	case <-r.logs.eof:
		t.Fatalf("it ended before it served: %s", r.logs.text())
	case <-time.After(patience):
		t.Fatalf("it did not start: %s", r.logs.text())
	}
	return r
}

// stop sends a signal and returns the exit status.
func (r *relay) stop(t *testing.T, sig os.Signal) int {
	t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.logs.eof:
	case <-time.After(patience):
		t.Fatalf("it did not end after %v", sig)
	}
	_ = r.cmd.Wait()
	return r.cmd.ProcessState.ExitCode()
}

func (r *relay) join(t *testing.T, relayID, peerID string, protocols ...string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+r.addr+"/v1?relayId="+relayID+"&peerId="+peerID,
		&websocket.DialOptions{Subprotocols: protocols})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseNow() })
	say(t, c, "ping")
	hear(t, c, "pong")
	return c
}

func say(t *testing.T, c *websocket.Conn, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c *websocket.Conn, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, b, err := c.Read(ctx); err != nil || string(b) != want {
		t.Fatalf("heard %q, %v; want %q", b, err, want)
	}
}

func TestServeUntilSignal(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			r := startRelay(t)
			a, b := r.join(t, "room", "a"), r.join(t, "room", "b")
			say(t, a, "hello")
			hear(t, b, "hello")
			closed := make(chan error, 2)
			for _, c := range []*websocket.Conn{a, b} {
				go func() {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					_, _, err := c.Read(ctx)
					closed <- err
				}()
			}
			if status := r.stop(t, sig); status != 0 {
				t.Errorf("exit status %d, want 0", status)
			}
			for range 2 {
				var ce websocket.CloseError
				if err := <-closed; !errors.As(err, &ce) || ce.Code != websocket.StatusGoingAway {
					t.Errorf("a peer saw %v, want close 1001", err)
				}
			}
		})
	}
}

func TestLogLines(t *testing.T) {
	const secret, content = "a-secret-token", "what-peers-say"
	r := startRelay(t, "ADMIN_SECRET="+secret, "LOG_LEVEL=debug", "MAX_MESSAGE_BYTES=4096")
	a, b := r.join(t, "room", "a", secret), r.join(t, "room", "b", secret)
	say(t, a, content)
	hear(t, b, content)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if c, _, err := websocket.Dial(ctx, "ws://"+r.addr+"/v1?relayId=room&peerId=c", nil); err == nil {
		_ = c.CloseNow()
		t.Error("let in without the secret")
	}
	r.stop(t, syscall.SIGTERM)
	text := r.logs.text()
	for _, hidden := range []string{secret, content, "NBIO"} { // nbio's own chatter
		if strings.Contains(text, hidden) {
			t.Errorf("the log holds %q:\n%s", hidden, text)
		}
	}
	seen := map[string]int{}
	for line := range strings.SplitSeq(text, "\n") {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("not a line of JSON: %q", line)
			continue
		}
		msg, _ := fields["msg"].(string)
		seen[msg]++
		if msg == "request refused" && (fields["status"] != 401.0 || fields["reason"] != "secret") {
			t.Errorf("refused with %v, %v; want the number 401, secret", fields["status"], fields["reason"])
		}
		if msg != "started" && msg != "stopped" {
			continue
		}
		settings, _ := fields["settings"].(map[string]any)
		if settings["MAX_MESSAGE_BYTES"] != 4096.0 || settings["ADMIN_SECRET"] != "***" {
			t.Errorf("%s names the settings %v, want MAX_MESSAGE_BYTES 4096 and a hidden ADMIN_SECRET", msg, settings)
		}
		if msg == "stopped" {
			wantCounters(t, fields["counters"])
		}
		if msg == "started" && (fields["open_files"] == nil || fields["loops"] == nil || fields["version"] != version || fields["commit"] != "abcdef12") {
			t.Errorf("started without open_files, loops, version or commit: %s", line)
		}
	}
	for msg, want := range map[string]int{"started": 1, "stopped": 1, "peer connected": 2, "request refused": 1, "connection closed": 3} {
		if seen[msg] != want {
			t.Errorf("%d lines %q, want %d", seen[msg], msg, want)
		}
	}
}

// wantCounters: two peers were let in and drained, one was refused, and nothing else was counted.
func wantCounters(t *testing.T, logged any) {
	t.Helper()
	counters, _ := logged.(map[string]any)
	refused, _ := counters["refused"].(map[string]any)
	closed, _ := counters["closed"].(map[string]any)
	if len(refused) == 0 || len(closed) == 0 {
		t.Fatalf("stopped with the counters %v, want those of refusals and closes too", logged)
	}
	f := func(of map[string]any, counted map[string]float64) {
		t.Helper()
		for label := range counted {
			if of[label] == nil {
				t.Errorf("stopped without the counter %s, in %v", label, logged)
			}
		}
		for label, n := range of {
			if n, isNumber := n.(float64); isNumber && n != counted[label] {
				t.Errorf("stopped with %s %v, want %v, in %v", label, n, counted[label], logged)
			}
		}
	}
	f(counters, map[string]float64{"accepted": 3, "upgraded": 2, "held_back": 0})
	f(refused, map[string]float64{"secret": 1})
	f(closed, map[string]float64{"drain": 2, "http": 1})
}

func TestWarningAtStart(t *testing.T) {
	r := startRelay(t, "CONNECTION_CHECK_INTERVAL=500")
	if s := r.logs.text(); !strings.Contains(s, `"level":"warn"`) || !strings.Contains(s, "500 without a unit is 500ms") {
		t.Errorf("log %q, want a warning that 500 is 500ms", s)
	}
}

func TestConsoleLog(t *testing.T) {
	c := command(t, []string{"LOG_FORMAT=console", "PORT=not-free"}, "RELAYGATE")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	c.Env = append(c.Env, "PORT="+port)
	out, err := c.CombinedOutput()
	if c.ProcessState.ExitCode() != 1 {
		t.Errorf("exit status of a port in use: %v, want 1", err)
	}
	if s := string(out); !strings.Contains(s, "ERROR") || !strings.Contains(s, "address already in use") || strings.Contains(s, `"level"`) {
		t.Errorf("console log %q, want an ERROR line that says why", s)
	}
}

func TestOpenFileLimit(t *testing.T) {
	r := startCommand(t, command(t, nil, "sh", "-c", "ulimit -Sn 256 && exec RELAYGATE"))
	files, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(files), "\n") {
		if f := strings.Fields(line); len(f) > 4 && f[1] == "open" && f[3] != f[4] {
			t.Errorf("soft limit %s, hard limit %s; want both the same", f[3], f[4])
		}
	}
	low := startCommand(t, command(t, nil, "sh", "-c", "ulimit -n 300 && exec RELAYGATE"))
	if s := low.logs.text(); !strings.Contains(s, `"open_files":300`) || !strings.Contains(s, `"level":"warn"`) {
		t.Errorf("log %q, want a warning that names 300", s)
	}
}

// TestMaxConnectionsByDefault: the open-file limit less a reserve, and a warning if more is set than fits.
func TestMaxConnectionsByDefault(t *testing.T) {
	f := func(want string, warns bool, environ ...string) {
		t.Helper()
		r := startCommand(t, command(t, append(environ, "EVENT_LOOPS=2"), "sh", "-c", "ulimit -n 1000 && exec RELAYGATE"))
		s := r.logs.text()
		if !strings.Contains(s, `"MAX_CONNECTIONS":`+want+`,`) || strings.Contains(s, "MAX_CONNECTIONS is more than") != warns {
			t.Errorf("with %q: log %q, want MAX_CONNECTIONS %s, and a warning: %v", environ, s, want, warns)
		}
	}
	f("846", false)
	f("846", false, "MAX_CONNECTIONS=846")
	f("847", true, "MAX_CONNECTIONS=847")
	f("0", false, "MAX_CONNECTIONS=0")
}

// TestDescriptorsSuffice: with the default the relay is full before descriptors run out. All are answered, and
// one that leaves makes room.
func TestDescriptorsSuffice(t *testing.T) {
	r := startCommand(t, command(t, []string{"EVENT_LOOPS=2"}, "sh", "-c", "ulimit -n 128 && exec RELAYGATE"))
	most := server.ConnectionLimit(128, 2)
	var last net.Conn
	for i := range most {
		last, _ = rawPeer(t, r.addr, "r", fmt.Sprint(i))
	}
	refuse := func() int {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET /v1?relayId=r&peerId=p HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	for range 100 {
		if status := refuse(); status != http.StatusServiceUnavailable {
			t.Fatalf("status %d when full, want 503", status)
		}
	}
	last.Close()
	for end := time.Now().Add(patience); refuse() != http.StatusSwitchingProtocols; {
		if time.Now().After(end) {
			t.Fatal("nobody is let in when one has left")
		}
	}
	if s := r.logs.text(); strings.Contains(s, "too many open files") {
		t.Errorf("descriptors ran out: %s", s)
	}
}

// TestTooFewDescriptorsForTheLoops: a start that cannot succeed ends, and says why.
func TestTooFewDescriptorsForTheLoops(t *testing.T) {
	for _, limit := range []int{150, 250, 500} { // each fails at another point
		c := command(t, []string{"EVENT_LOOPS=200"}, "sh", "-c", fmt.Sprintf("ulimit -n %d && exec RELAYGATE", limit))
		out, _ := c.CombinedOutput()
		if c.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "too many open files") {
			t.Errorf("with %d descriptors: exit status %d, want 1, and the reason: %s", limit, c.ProcessState.ExitCode(), out)
		}
	}
}

// TestDescriptorsRunOut: the relay serves those it has, says so at most once a
// second, and accepts again when it can.
func TestDescriptorsRunOut(t *testing.T) {
	r := startCommand(t, command(t, []string{"MAX_CONNECTIONS=0"}, "sh", "-c", "ulimit -n 40 && exec RELAYGATE"))
	a, b := r.join(t, "room", "a"), r.join(t, "room", "b")
	began := time.Now()
	var crowd []net.Conn
	for range 60 {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		crowd = append(crowd, c)
	}
	const complaint = "cannot accept connections"
	for end := time.Now().Add(patience); !strings.Contains(r.logs.text(), complaint); {
		if time.Now().After(end) {
			t.Fatalf("no line says that descriptors ran out: %s", r.logs.text())
		}
		say(t, a, "still here")
		hear(t, b, "still here")
	}
	for time.Since(began) < 1500*time.Millisecond {
		say(t, a, "still here")
		hear(t, b, "still here")
	}
	most := int(time.Since(began)/time.Second) + 1
	if n := strings.Count(r.logs.text(), complaint); n > most {
		t.Errorf("%d lines in %v, want one a second", n, time.Since(began))
	}
	for _, c := range crowd {
		c.Close()
	}
	c := r.join(t, "room", "c") // waits in the backlog until a descriptor is free
	say(t, c, "made it")
	hear(t, a, "made it")
}
