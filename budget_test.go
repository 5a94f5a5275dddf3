package main

import (
	"bufio"
	bin "encoding/binary"
	"fmt"
	"io"
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

// smallWindow opens a WebSocket whose socket takes few bytes, so that the rest waits in the relay.
func smallWindow(t *testing.T, addr, relay, peer string) net.Conn {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if status, _ := upgrade(t, c, relay, peer); status != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: status %d", status)
	}
	return c
}

// upgrade asks for an upgrade and reads the answer's header, but no byte more.
func upgrade(t *testing.T, c net.Conn, relay, peer string) (status int, header http.Header) {
	t.Helper()
	fmt.Fprintf(c, "GET /v1?relayId=%s&peerId=%s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n", relay, peer)
	res, err := http.ReadResponse(bufio.NewReaderSize(oneByOne{c}, 16), nil)
	if err != nil {
		t.Fatalf("upgrade: %v", err)
	}
	return res.StatusCode, res.Header
}

// oneByOne reads single bytes.
type oneByOne struct{ io.Reader }

func (o oneByOne) Read(b []byte) (int, error) { return o.Reader.Read(b[:1]) }

// quietPair is two peers of a relay of their own, one of which answers the other.
type quietPair struct {
	ask, answer net.Conn
	took        []time.Duration // round trips
	err         error
}

func newQuietPair(t *testing.T, addr string) *quietPair {
	t.Helper()
	p := &quietPair{}
	p.ask, _ = rawPeer(t, addr, "pair", "a")
	p.answer, _ = rawPeer(t, addr, "pair", "b")
	return p
}

// talk sends numbered messages to and fro until stop is closed. Each must come, unchanged and next.
func (p *quietPair) talk(stop <-chan struct{}) {
	got := make([]byte, 10)
	for n := uint64(0); ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
		}
		payload := bin.BigEndian.AppendUint64(nil, n)
		began := time.Now()
		for _, leg := range [...]struct{ from, to net.Conn }{{p.ask, p.answer}, {p.answer, p.ask}} {
			_ = leg.to.SetReadDeadline(began.Add(patience))
			if _, p.err = leg.from.Write(clientFrame(0x82, payload)); p.err != nil {
				return
			}
			if _, p.err = io.ReadFull(leg.to, got); p.err != nil {
				return
			}
			if !slices.Equal(got[2:], payload) {
				p.err = fmt.Errorf("message %d came as %x", n, got)
				return
			}
		}
		p.took = append(p.took, time.Since(began))
	}
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
	pair := newQuietPair(t, r.addr)
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

	slices.Sort(pair.took)
	n := len(pair.took)
	if pair.err != nil || n == 0 {
		t.Fatalf("the pair, after %d messages: %v", 2*n, pair.err)
	}
	p99 := pair.took[n*99/100]
	t.Logf("budget %d MiB, %d MiB at the beginning, at most %d MiB; pair: %d round trips, median %v, p99 %v, longest %v",
		budget>>20, before>>20, highest.Load()>>20, n, pair.took[n/2], p99, pair.took[n-1])
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
		status := 0
		status, header = upgrade(t, c, "x", "y")
		return status == http.StatusServiceUnavailable
	})
	if after, err := strconv.Atoi(header.Get("Retry-After")); err != nil || after < 1 {
		t.Errorf("Retry-After is %q, want some seconds", header.Get("Retry-After"))
	}
}
