//go:build haproxy

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/coder/websocket"
)

// HAProxy with deploy/haproxy.cfg in front of two relays.

// startBalancer starts two relays and an HAProxy that chooses between them as balance says, until the test ends.
// If balance is empty, it chooses as the file says. HAProxy gets args as well.
func startBalancer(t *testing.T, balance string, args ...string) *balancer {
	t.Helper()
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatalf("apt-get install haproxy: %v", err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listening, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Close()
	dir, err := os.MkdirTemp("", "relaygate") // shorter than t.TempDir: a socket's path has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{addr: l.Addr().String(), socket: filepath.Join(dir, "haproxy")}
	b.startRelays(t, "127.0.1.1", "DRAIN_DELAY=4s")
	c := exec.Command(haproxy, append(args, "-f", "deploy/haproxy.cfg")...)
	c.Env = []string{
		"LISTEN=fd@3", "FROM=127.0.1.1", "MAXCONN=100", "STATS_SOCKET=" + b.socket,
		"RELAY_A=" + b.relays[0].addr, "RELAY_B=" + b.relays[1].addr,
	}
	if balance != "" {
		c.Env = append(c.Env, "BALANCE="+balance)
	}
	c.ExtraFiles = []*os.File{listening} // descriptor 3
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM) // with -W its workers end as well
		_ = c.Wait()
		_ = os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("HAProxy said: %s", said.String())
		}
	})
	b.pid = c.Process.Pid
	b.awaitUp(t, true, true)
	return b
}

// awaitUp waits until HAProxy's checks find the relays as up says.
func (b *balancer) awaitUp(t *testing.T, up ...bool) {
	t.Helper()
	eventually(t, fmt.Sprint("HAProxy finds the relays up as in ", up), func() bool {
		stat := b.tell("show stat")
		for i, name := range []string{"a", "b"} {
			// pxname, svname, …, status in column 17, …, check_status in column 36
			found := false
			for line := range strings.SplitSeq(stat, "\n") {
				if f := strings.Split(line, ","); strings.HasPrefix(line, "relaygate,"+name+",") && len(f) > 36 {
					// "UP 1/2" still gets connections: one more failed check is needed.
					found = up[i] && f[17] == "UP" && f[36] == "L7OK" || !up[i] && f[17] == "DOWN"
				}
			}
			if !found {
				return false
			}
		}
		return true
	})
}

// tell gives HAProxy's runtime API a command and returns the answer, "" if there is none yet.
func (b *balancer) tell(command string) string {
	c, err := net.Dial("unix", b.socket)
	if err != nil {
		return ""
	}
	defer c.Close()
	fmt.Fprintln(c, command)
	answer, _ := io.ReadAll(c)
	return string(answer)
}

// TestBalancerBySource: peers with one address meet on one relay; both relays serve some.
func TestBalancerBySource(t *testing.T) {
	t.Parallel()
	b := startBalancer(t, "source", "-db")
	var served [2]int
	for i := range 12 {
		from, relayID := fmt.Sprintf("127.0.3.%d", i+1), fmt.Sprint("room", i)
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

// TestBalancerLeastConn: connections are spread evenly; those peers of a relay that meet on one process hear each other.
func TestBalancerLeastConn(t *testing.T) {
	t.Parallel()
	b := startBalancer(t, "leastconn", "-db")
	var served [2][]*guest
	for i := range 8 {
		g := b.join(t, "127.0.3.1", "room", fmt.Sprint("peer", i))
		served[g.served] = append(served[g.served], g)
	}
	for i, guests := range served {
		if len(guests) != 4 {
			t.Fatalf("relay %d serves %d of 8 peers, want half", i, len(guests))
		}
		say(t, guests[0].Conn, fmt.Sprint("hello, relay ", i))
		for _, g := range guests[1:] {
			hear(t, g.Conn, fmt.Sprint("hello, relay ", i))
		}
	}
}

// TestBalancerByRelay: with the balancing that deploy/haproxy.cfg has by itself, the peers of a relay meet wherever they
// come from, and however they write its id.
func TestBalancerByRelay(t *testing.T) {
	t.Parallel()
	b := startBalancer(t, "", "-db")
	var served [2]int
	for i := range 12 {
		relayID := fmt.Sprint("room ", i)
		x, err := b.enter("127.0.3.1", strings.ReplaceAll(relayID, " ", "%20"), "x")
		if err != nil {
			t.Fatal(err)
		}
		defer x.CloseNow()
		y, err := b.enter("127.0.4.1", strings.ReplaceAll(relayID, " ", "+"), "y")
		if err != nil {
			t.Fatal(err)
		}
		defer y.CloseNow()
		wantTalk(t, x, y, "hello")
		for k, r := range b.relays {
			if strings.Contains(r.logs.text(), `"relay_id":"`+relayID+`"`) {
				served[k]++
			}
		}
	}
	if served[0] == 0 || served[1] == 0 || served[0]+served[1] != 12 {
		t.Errorf("of 12 relays the processes serve %v, want some each and each once", served)
	}
}

// TestBalancerTakesOneOut: a process that gets SIGTERM is taken out while peers come. No attempt to connect fails, and
// its peers, told with 1001, go on with the other.
func TestBalancerTakesOneOut(t *testing.T) {
	t.Parallel()
	b := startBalancer(t, "", "-db")
	leaving := b.join(t, "127.0.3.1", "room", "x")
	old, other := b.relays[leaving.served], b.relays[1-leaving.served]
	stop, failures := make(chan struct{}), make(chan error, 1)
	go b.keepEntering(stop, failures)
	if err := old.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	up := []bool{true, true}
	up[leaving.served] = false
	b.awaitUp(t, up...)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var ce websocket.CloseError
	if _, _, err := leaving.Read(ctx); !errors.As(err, &ce) || ce.Code != websocket.StatusGoingAway {
		t.Errorf("the peer saw %v, want close 1001", err)
	}
	back, friend := b.join(t, "127.0.3.1", "room", "x-again"), b.join(t, "127.0.4.1", "room", "y")
	if back.served == leaving.served || friend.served == leaving.served {
		t.Error("a peer was sent to the relay that is going away")
	}
	wantTalk(t, back, friend, "hello")
	<-old.logs.eof
	_ = old.cmd.Wait()
	if status := old.cmd.ProcessState.ExitCode(); status != 0 {
		t.Errorf("exit status %d, want 0:\n%s", status, old.logs.text())
	}
	close(stop)
	if err := <-failures; err != nil {
		t.Errorf("an attempt to connect failed: %v", err)
	}
	for _, r := range []*relay{old, other} {
		if s := r.logs.text(); strings.Contains(s, `"level":"error"`) || strings.Contains(s, `"level":"warn","msg":"not all`) {
			t.Errorf("the log has an error:\n%s", s)
		}
	}
}

// TestBalancerReload: HAProxy in its usual mode, with a master process, reads its configuration again while peers talk
// and come. No connection ends and no attempt to connect fails.
func TestBalancerReload(t *testing.T) {
	b := startBalancer(t, "", "-W")
	worker := func() string {
		for line := range strings.SplitSeq(b.tell("show info"), "\n") {
			if pid, found := strings.CutPrefix(line, "Pid: "); found {
				return pid
			}
		}
		return ""
	}
	first := worker()
	x, y := b.join(t, "127.0.3.1", "room", "x"), b.join(t, "127.0.4.1", "room", "y")
	wantTalk(t, x, y, "before")
	stop, failures := make(chan struct{}), make(chan error, 1)
	go b.keepEntering(stop, failures)
	if err := syscall.Kill(b.pid, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another worker serves", func() bool { pid := worker(); return pid != "" && pid != first })
	wantTalk(t, x, y, "after")
	z := b.join(t, "127.0.5.1", "room", "z")
	say(t, z.Conn, "hello")
	hear(t, x.Conn, "hello")
	close(stop)
	if err := <-failures; err != nil {
		t.Errorf("an attempt to connect failed: %v", err)
	}
}
