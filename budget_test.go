package main

import (
	bin "encoding/binary"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// smallWindow is rawPeer with a socket that takes few bytes, so that the rest waits in the relay.
func smallWindow(t *testing.T, addr, relayID, peerID string) net.Conn {
	t.Helper()
	c, _ := rawPeerWith(t, &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}, addr, relayID, peerID)
	return c
}

// TestMemoryBudget: whatever peers do, the process stays below its budget, and a pair that has nothing to do
// with it loses nothing and does not wait.
func TestMemoryBudget(t *testing.T) {
	const (
		budget = 256 << 20
		most   = 20 << 20    // more than before, after it is over
		bound  = time.Second // generous, for a machine that is busy with something else; the figures are in the log
	)
	each := 2000
	if testing.Short() {
		each = 1000
	}
	r := startRelay(t, "MEMORY_BUDGET=256MiB")
	pair := newPair(t, r.addr)
	sender, _ := rawPeer(t, r.addr, "busy", "sender")
	hostile := make(map[string][]net.Conn)
	for _, what := range []string{"busy", "half", "fragments"} {
		for i := range each {
			hostile[what] = append(hostile[what], smallWindow(t, r.addr, what, fmt.Sprint(i)))
		}
	}
	before := r.resident(t)

	var highest atomic.Int64
	stop := make(chan struct{})
	var watching, flooding sync.WaitGroup
	watching.Go(func() { pair.talk(stop) })
	watching.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				highest.Store(max(highest.Load(), int64(r.resident(t))))
			}
		}
	})
	flood := func(conns []net.Conn, b []byte) {
		flooding.Go(func() {
			for _, c := range conns {
				_, _ = c.Write(b) // the relay may close it at any time
			}
		})
	}
	half := slices.Concat([]byte{0x82, 0xff}, bin.BigEndian.AppendUint64(nil, 1<<20), make([]byte, 4+200<<10))
	flood(hostile["half"], half)
	flood(hostile["fragments"], slices.Concat(clientFrame(0x02, make([]byte, 64<<10)), clientFrame(0x80, make([]byte, 64<<10)),
		clientFrame(0x02, make([]byte, 100<<10)), clientFrame(0x00, nil)[:1]))
	flooding.Wait()
	wantShortOfMemory(t, r.addr)
	flooding.Go(func() { // one fast sender
		message := clientFrame(0x82, make([]byte, 16<<10))
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
			if _, err := sender.Write(message); err != nil {
				t.Errorf("the fast sender: %v", err)
				return
			}
		}
	})
	flooding.Wait()
	close(stop)
	watching.Wait()

	t.Logf("budget %d MiB, %d MiB at the beginning, at most %d MiB", budget>>20, before>>20, highest.Load()>>20)
	_, p99 := pair.times(t)
	if highest.Load() >= budget {
		t.Errorf("%d MiB were resident, the budget is %d MiB", highest.Load()>>20, budget>>20)
	}
	if p99 > bound {
		t.Errorf("p99 of the pair's round trips is %v, want at most %v", p99, bound)
	}
	for _, conns := range hostile {
		for _, c := range conns {
			c.Close()
		}
	}
	eventually(t, "memory is given back", func() bool { return r.resident(t) <= before+most })
}

// wantShortOfMemory waits until an upgrade is refused for lack of memory.
func wantShortOfMemory(t *testing.T, addr string) {
	t.Helper()
	var header http.Header
	eventually(t, "an upgrade is answered with 503", func() bool {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		res, _, err := upgrade(c, "x", "y")
		if err != nil {
			t.Fatalf("upgrade: %v", err)
		}
		header = res.Header
		return res.StatusCode == http.StatusServiceUnavailable
	})
	if after, err := strconv.Atoi(header.Get("Retry-After")); err != nil || after < 1 {
		t.Errorf("Retry-After is %q, want some seconds", header.Get("Retry-After"))
	}
}
