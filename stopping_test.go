package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// logLine returns the log's line with this message.
func (r *relay) logLine(t *testing.T, msg string) map[string]any {
	t.Helper()
	for line := range strings.SplitSeq(r.logs.text(), "\n") {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == msg {
			return fields
		}
	}
	t.Fatalf("no line %q: %s", msg, r.logs.text())
	return nil
}

// TestLeftAreCounted: connections that do not end are cut off at the end of the drain. The status is 0 all the same.
func TestLeftAreCounted(t *testing.T) {
	t.Parallel()
	r := startRelay(t, "DRAIN_PERIOD=100ms")
	for i := range 3 {
		rawPeer(t, r.addr, "room", fmt.Sprint(i)) // answers no close frame
	}
	began := time.Now()
	if status := r.stop(t, syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	if took := time.Since(began); took < 3*time.Second || took > 8*time.Second {
		t.Errorf("stopped after %v, want 3.1s", took)
	}
	if line := r.logLine(t, "draining"); line["peers"] != 3.0 || line["delay"] != "0s" || line["period"] != "100ms" {
		t.Errorf("the drain begins with %v", line)
	}
	if line := r.logLine(t, "stopped"); line["left"] != 3.0 {
		t.Errorf("%v are left, want 3", line["left"])
	}
}

// TestSecondSignal ends the process at once.
func TestSecondSignal(t *testing.T) {
	r := startRelay(t, "DRAIN_DELAY=10m", "DRAIN_PERIOD=10m")
	rawPeer(t, r.addr, "room", "a")
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it drains", func() bool { return strings.Contains(r.logs.text(), `"draining"`) })
	res, err := http.Get("http://" + r.addr + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable || string(body) != "draining\n" {
		t.Errorf("/readyz: %d %q, want 503, draining", res.StatusCode, body)
	}
	r.stop(t, syscall.SIGTERM)
	if status := r.cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v, want by the signal", r.cmd.ProcessState)
	}
}

// TestSystemdIsTold: the start, that the loops are alive, a reload, and the stop.
func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	next := func() string {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		b := make([]byte, 1024)
		n, err := c.Read(b)
		if err != nil {
			t.Fatalf("systemd is told nothing: %v", err)
		}
		return string(b[:n])
	}
	r := startRelay(t, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=100000")
	seen := map[string]int{}
	for seen["WATCHDOG=1"] < 5 {
		seen[next()]++
	}
	if seen["READY=1"] != 1 || len(seen) != 2 {
		t.Errorf("systemd is told %v, want READY=1 once and WATCHDOG=1", seen)
	}
	if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	told := func() string {
		text := next()
		for end := time.Now().Add(patience); text == "WATCHDOG=1" && time.Now().Before(end); {
			text = next()
		}
		return text
	}
	if reloading, ready := told(), told(); !strings.HasPrefix(reloading, "RELOADING=1\nMONOTONIC_USEC=") || ready != "READY=1" {
		t.Errorf("systemd is told %q and %q of a reload, want RELOADING=1 with the time, READY=1", reloading, ready)
	}
	r.stop(t, syscall.SIGTERM)
	for text := next(); text != "STOPPING=1\nEXTEND_TIMEOUT_USEC=8000000"; text = next() {
		if text != "WATCHDOG=1" {
			t.Errorf("systemd is told %q, want STOPPING=1", text)
		}
	}
}

// TestSocketActivation: the relay serves the socket that systemd passes. What connects between two processes is
// served by the second.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	kept, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	// sh keeps its process number when it becomes the relay.
	start := func() *relay {
		c := command(t, []string{"LISTEN_FDS=1", "PORT=1"}, "sh", "-c", "LISTEN_PID=$$ exec RELAYGATE")
		c.ExtraFiles = []*os.File{kept}
		return startCommand(t, c)
	}
	for range 2 {
		r := start()
		if r.addr != l.Addr().String() {
			t.Errorf("serves %s, want %s", r.addr, l.Addr())
		}
		if s := r.logs.text(); !strings.Contains(s, "HOST, PORT and REUSE_PORT have no effect") {
			t.Errorf("the log does not say that PORT has no effect: %s", s)
		}
		a, b := r.join(t, "room", "a"), r.join(t, "room", "b")
		say(t, a, "hello")
		hear(t, b, "hello")
		_, _ = a.CloseNow(), b.CloseNow()
		if status := r.stop(t, syscall.SIGTERM); status != 0 {
			t.Errorf("exit status %d, want 0", status)
		}
	}
	between, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer between.Close()
	fmt.Fprint(between, "GET /readyz HTTP/1.0\r\n\r\n")
	r := start()
	_ = between.SetDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(between); err != nil || !strings.HasSuffix(string(got), "ready\n") {
		t.Errorf("who connected between two processes got %q, %v", got, err)
	}
	r.stop(t, syscall.SIGTERM)

	c := command(t, []string{"LISTEN_FDS=2"}, "sh", "-c", "LISTEN_PID=$$ exec RELAYGATE")
	c.ExtraFiles = []*os.File{kept, kept}
	out, _ := c.CombinedOutput()
	if c.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "2 sockets instead of 1") {
		t.Errorf("with two sockets: exit status %d, %s", c.ProcessState.ExitCode(), out)
	}
}
