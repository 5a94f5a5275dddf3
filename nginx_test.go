//go:build nginx

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/coder/websocket"
)

// nginx with deploy/nginx.conf in front of two relays.

// nginxConfig writes deploy/nginx.conf into dir with addresses, ports and files of its own, and wants each to stand
// there. It returns the path.
func nginxConfig(t *testing.T, dir string, b *balancer) string {
	t.Helper()
	text, err := os.ReadFile("deploy/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]string{
		{"127.0.0.1:9001", b.relays[0].addr},
		{"127.0.0.1:9002", b.relays[1].addr},
		{"listen 80 ", "listen " + b.addr + " "},
		{"/var/log/nginx/relaygate.log", filepath.Join(dir, "relaygate.log")},
		{"worker_processes auto;", "worker_processes 2;"},
		{"worker_rlimit_nofile 262144;", "worker_rlimit_nofile 1024;"},
		{"worker_connections 131072;", "worker_connections 256;"},
	} {
		if !bytes.Contains(text, []byte(r[0])) {
			t.Fatalf("deploy/nginx.conf has no %q", r[0])
		}
		text = bytes.ReplaceAll(text, []byte(r[0]), []byte(r[1]))
	}
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// startNginx starts two relays and nginx in front of them, until the test ends. reload has nginx read the
// configuration again.
func startNginx(t *testing.T) (b *balancer, config string, reload func()) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b = &balancer{addr: l.Addr().String()}
	_ = l.Close() // nginx takes the port
	b.startRelays(t, "127.0.0.1")
	dir := t.TempDir()
	config = nginxConfig(t, dir, b)
	// Debian's nginx runs as root but its workers do not; in a test both are who runs it.
	globals := "daemon off; pid " + filepath.Join(dir, "pid") + "; error_log stderr notice;"
	if os.Getuid() == 0 {
		globals += " user root;"
	}
	words := []string{"-c", config, "-e", "stderr", "-g", globals}
	if out, err := exec.Command("nginx", append(words, "-t")...).CombinedOutput(); err != nil {
		t.Fatalf("nginx -t: %v\n%s", err, out)
	}
	c := exec.Command("nginx", words...)
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait()
		if t.Failed() {
			t.Logf("nginx said: %s", said.String())
		}
	})
	eventually(t, "nginx listens", func() bool {
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
	return b, config, func() {
		t.Helper()
		if err := c.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNginxBySource: peers with one address meet on one relay, whose log has their addresses; both relays serve some.
func TestNginxBySource(t *testing.T) {
	b, _, _ := startNginx(t)
	var served [2]int
	for i := range 12 {
		from, relayID := fmt.Sprintf("127.0.%d.1", i+3), fmt.Sprint("room", i)
		x, y := b.join(t, from, relayID, "x"), b.join(t, from, relayID, "y")
		if x.served != y.served {
			t.Errorf("two peers from %s are served by relays %d and %d", from, x.served, y.served)
		}
		wantTalk(t, x, y, "hello")
		served[x.served]++
	}
	if served[0] == 0 || served[1] == 0 {
		t.Errorf("the relays serve %v addresses, want some each", served)
	}
}

// TestNginxTakesOneOut: a relay is marked "down" while peers come, then stopped. No attempt to connect fails, who is
// connected stays until the relay closes it with 1001, and then goes on with the other.
func TestNginxTakesOneOut(t *testing.T) {
	b, config, reload := startNginx(t)
	leaving := b.join(t, "127.0.3.1", "room", "x")
	friend := b.join(t, "127.0.3.1", "room", "y")
	old := b.relays[leaving.served]
	stop, failures := make(chan struct{}), make(chan error, 1)
	go b.keepEntering(stop, failures)

	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	marked := strings.Replace(string(text), "server "+old.addr+" ", "server "+old.addr+" down ", 1)
	if err := os.WriteFile(config, []byte(marked), 0o644); err != nil {
		t.Fatal(err)
	}
	reload()
	attempts := 0
	eventually(t, "peers are sent to the other relay", func() bool {
		attempts++
		return b.join(t, "127.0.3.1", "other-room", fmt.Sprint("z", attempts)).served != leaving.served
	})
	wantTalk(t, leaving, friend, "still here")
	close(stop)
	if err := <-failures; err != nil {
		t.Errorf("an attempt to connect failed: %v", err)
	}

	if err := old.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var ce websocket.CloseError
	if _, _, err := leaving.Read(ctx); !errors.As(err, &ce) || ce.Code != websocket.StatusGoingAway {
		t.Errorf("the peer saw %v, want close 1001", err)
	}
	if back := b.join(t, "127.0.3.1", "room", "x-again"); back.served == leaving.served {
		t.Error("the peer came back to the relay that is going away")
	}
}

// TestNginxFindsOneDead: a relay that has ended without a word gets no peers any more: they reach the other one.
func TestNginxFindsOneDead(t *testing.T) {
	b, _, _ := startNginx(t)
	first := b.join(t, "127.0.3.1", "room", "x")
	if err := b.relays[first.served].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-b.relays[first.served].logs.eof
	x, y := b.join(t, "127.0.3.1", "room", "x-again"), b.join(t, "127.0.3.1", "room", "y")
	if x.served == first.served || y.served == first.served {
		t.Error("a peer is served by the relay that has ended")
	}
	wantTalk(t, x, y, "hello")
}
