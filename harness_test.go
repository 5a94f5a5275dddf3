package main

import (
	"bufio"
	"context"
	bin "encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// What the tests of the built program share: a running relay, and clients of two kinds. coder/websocket is what an
// ordinary client has, a raw peer sends whatever bytes it is told to.

// patience bounds every wait; only a failure reaches it.
const patience = 90 * time.Second

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

// TestMain is also the process that TestStorm starts.
//
// Tests that mostly wait call t.Parallel: they run together when all others are done, each with a relay of its own.
// Those that need the processors to themselves do not.
func TestMain(m *testing.M) {
	if told := os.Getenv(stormVariable); told != "" {
		os.Exit(beStorm(told))
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil { // more than processors, since they wait
		panic(err)
	}
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

// upgradeRequest is a minimal request for a WebSocket.
func upgradeRequest(relayID, peerID string) string {
	return fmt.Sprintf("GET /v1?relayId=%s&peerId=%s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n", relayID, peerID)
}

// upgrade asks for a WebSocket on c and reads the answer's header. What follows it comes from in.
func upgrade(c net.Conn, relayID, peerID string) (res *http.Response, in *bufio.Reader, err error) {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprint(c, upgradeRequest(relayID, peerID)); err != nil {
		return nil, nil, err
	}
	in = bufio.NewReaderSize(c, 512)
	if res, err = http.ReadResponse(in, nil); err != nil {
		return nil, nil, err
	}
	return res, in, c.SetDeadline(time.Time{})
}

// rawPeer opens a WebSocket and returns its socket: what a hostile client has.
func rawPeer(t *testing.T, addr, relayID, peerID string) (net.Conn, *bufio.Reader) {
	t.Helper()
	return rawPeerWith(t, &net.Dialer{}, addr, relayID, peerID)
}

// rawPeerWith is rawPeer with a dialer of the caller's.
func rawPeerWith(t *testing.T, d *net.Dialer, addr, relayID, peerID string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	res, in, err := upgrade(c, relayID, peerID)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", res, err)
	}
	return c, in
}

// clientFrame encodes a frame with a masking key of zeros.
func clientFrame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = bin.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = bin.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}
