package server

import (
	"fmt"
	"net"
	"runtime"
	"testing"
)

// silentPeers opens n peers in one relay and returns the bytes of heap for each, those of the clients
// included.
func silentPeers(t *testing.T, n int, environ ...string) int64 {
	t.Helper()
	s := start(t, environ...)
	all := make([]*net.TCPConn, n)
	before := heapBytes()
	for i := range all {
		c, err := openNamed(s, i, len(environ) > 0)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = c
	}
	used := heapBytes() - before
	for _, c := range all {
		_ = c.SetLinger(0)
		c.Close()
	}
	eventually(t, "all are gone", func() bool { return s.Stats().Connections == 0 })
	runtime.KeepAlive(all)
	return used / int64(n)
}

// openNamed opens peer i, behind a PROXY header if proxied.
func openNamed(s *Server, i int, proxied bool) (*net.TCPConn, error) {
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		return nil, err
	}
	if proxied {
		if _, err := c.Write(named(fmt.Sprintf("203.0.%d.%d:4711", i/250, i%250))); err != nil {
			return nil, err
		}
	}
	if _, err := c.Write([]byte(upgradeRequest("r", fmt.Sprint(i)))); err != nil {
		return nil, err
	}
	_, err = c.Read(make([]byte, 4096)) // its 101
	return c.(*net.TCPConn), err
}

// TestAddressCostsLittle: a silent peer behind a balancer takes at most 24 bytes more.
func TestAddressCostsLittle(t *testing.T) {
	const peers, most = 3000, 24
	silentPeers(t, peers) // warms up pools
	off := silentPeers(t, peers)
	on := silentPeers(t, peers, "PROXY_PROTOCOL=required", trusting)
	t.Logf("%d bytes for a silent peer and its client, %d behind a balancer: %d more", off, on, on-off)
	if on-off > most {
		t.Errorf("an address costs %d bytes, want at most %d", on-off, most)
	}
}
