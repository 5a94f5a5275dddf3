//go:build haproxy || nginx

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// balancer is a running HAProxy or nginx in front of two relays.
type balancer struct {
	addr   string
	socket string // of HAProxy's runtime API
	pid    int
	relays [2]*relay
}

// startRelays starts the relays, which believe the balancer's address.
func (b *balancer) startRelays(t *testing.T, trusted string, environ ...string) {
	t.Helper()
	for i := range b.relays {
		b.relays[i] = startRelay(t, append([]string{
			"LOG_LEVEL=debug", "PROXY_PROTOCOL=required", "TRUSTED_PROXIES=" + trusted, "DRAIN_PERIOD=1s", "EVENT_LOOPS=2",
		}, environ...)...)
	}
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

// keepEntering connects peers one after another, each in a room of its own, until stop is closed or one fails.
func (b *balancer) keepEntering(stop <-chan struct{}, failures chan<- error) {
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
}
