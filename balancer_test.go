//go:build haproxy

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/coder/websocket"
)

// HAProxy with deploy/haproxy.cfg in front of two relays.

// balancer is a running HAProxy.
type balancer struct {
	addr   string
	socket string // of its runtime API
	relays [2]*relay
}

// startBalancer starts two relays and an HAProxy that chooses between them as balance says, until the test ends.
// If balance is empty, it chooses as the file says.
func startBalancer(t *testing.T, balance string) *balancer {
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
	for i := range b.relays {
		b.relays[i] = startRelay(t, "LOG_LEVEL=debug", "PROXY_PROTOCOL=required", "TRUSTED_PROXIES=127.0.1.1",
			"DRAIN_DELAY=4s", "DRAIN_PERIOD=1s", "EVENT_LOOPS=2")
	}
	c := exec.Command(haproxy, "-db", "-f", "deploy/haproxy.cfg")
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
		_ = c.Process.Kill()
		_ = c.Wait()
		_ = os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("HAProxy said: %s", said.String())
		}
	})
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

// guest is a peer that came through the balancer.
type guest struct {
	*websocket.Conn
	local  string // its own address
	served int    // by which relay
}

// enter connects a peer from an address of 127.0.0.0/8. It has said ping and heard pong.
func (b *balancer) enter(from, relayID, peerID string) (*guest, error) {
	g := &guest{}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, addr)
		if err == nil {
			g.local = c.LocalAddr().String()
		}
		return c, err
	}}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+b.addr+"/v1?relayId="+relayID+"&peerId="+peerID, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		return nil, err
	}
	g.Conn = c
	if err := c.Write(ctx, websocket.MessageText, []byte("ping")); err != nil {
		return nil, err
	}
	if _, pong, err := c.Read(ctx); err != nil || string(pong) != "pong" {
		return nil, fmt.Errorf("%q instead of pong: %w", pong, err)
	}
	return g, nil
}

// join is enter for a peer that must get in. Its relay's log must name the peer's own address.
func (b *balancer) join(t *testing.T, from, relayID, peerID string) *guest {
	t.Helper()
	g, err := b.enter(from, relayID, peerID)
	if err != nil {
		t.Fatalf("%s of %s, from %s: %v", peerID, relayID, from, err)
	}
	t.Cleanup(func() { _ = g.CloseNow() })
	// The log may come after the pong.
	eventually(t, fmt.Sprintf("a relay's log has %s of %s", peerID, relayID), func() bool {
		for i, r := range b.relays {
			for line := range strings.SplitSeq(r.logs.text(), "\n") {
				var f struct{ Msg, Remote, Relay_id, Peer_id string }
				if json.Unmarshal([]byte(line), &f) == nil && f.Msg == "peer connected" && f.Relay_id == relayID && f.Peer_id == peerID {
					if f.Remote != g.local {
						t.Errorf("the log says that %s of %s came from %s, want %s", peerID, relayID, f.Remote, g.local)
					}
					g.served = i
					return true
				}
			}
		}
		return false
	})
	return g
}

// wantTalk lets two peers exchange a message each way.
func wantTalk(t *testing.T, a, b *guest, text string) {
	t.Helper()
	say(t, a.Conn, text)
	hear(t, b.Conn, text)
	say(t, b.Conn, "back: "+text)
	hear(t, a.Conn, "back: "+text)
}

// TestBalancerBySource: peers with one address meet on one relay; both relays serve some.
func TestBalancerBySource(t *testing.T) {
	t.Parallel()
	b := startBalancer(t, "source")
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
	b := startBalancer(t, "leastconn")
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
	b := startBalancer(t, "")
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
	b := startBalancer(t, "")
	leaving := b.join(t, "127.0.3.1", "room", "x")
	old, other := b.relays[leaving.served], b.relays[1-leaving.served]
	stop, failures := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(failures)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			g, err := b.enter("127.0.3.1", fmt.Sprint("room", i), "x")
			if err != nil {
				failures <- err
				return
			}
			_ = g.CloseNow()
		}
	}()
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
