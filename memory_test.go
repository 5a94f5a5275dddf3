package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// resident is the process's resident memory in bytes.
func (r *relay) resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// TestMemoryIsGivenBack: what waits costs its own bytes, whatever the connection has sent before, and
// 30 s after a flood the process is as small as it was.
func TestMemoryIsGivenBack(t *testing.T) {
	t.Parallel()
	const peers, most, within = 600, 20 << 20, 30 * time.Second
	r := startRelay(t)
	var all []net.Conn
	for i := range peers {
		c, _ := rawPeer(t, r.addr, fmt.Sprint("relay", i), "peer")
		all = append(all, c)
	}
	before := r.resident(t)
	givenBack := func(what string) {
		t.Helper()
		began, highest, now := time.Now(), 0, 0
		eventually(t, what+": memory is given back", func() bool {
			now = r.resident(t)
			highest = max(highest, now)
			return now <= before+most
		})
		took := time.Since(began).Round(time.Second)
		t.Logf("%s: %d MiB, at least %d MiB in between, %d MiB after %v", what, before>>20, highest>>20, now>>20, took)
		if took > within {
			t.Errorf("%s: memory was given back after %v, want %v", what, took, within)
		}
	}

	// A finished message of 1 MiB in fragments, then a byte of the next and a byte of a header.
	var finished []byte
	for i := range 16 {
		first := byte(0)
		switch i {
		case 0:
			first = 0x02
		case 15:
			first = 0x80
		}
		finished = append(finished, clientFrame(first, make([]byte, 64<<10))...)
	}
	finished = append(append(finished, clientFrame(0x02, []byte("x"))...), 0x80)
	for _, c := range all {
		if _, err := c.Write(finished); err != nil {
			t.Fatal(err)
		}
	}
	givenBack("finished and begun again, still connected")

	// Messages of 1 MiB that lack their last byte, on connections that then end.
	begun := clientFrame(0x82, make([]byte, 1<<20))
	begun = begun[:len(begun)-1]
	var flood []net.Conn
	for i := range 200 {
		c, _ := rawPeer(t, r.addr, fmt.Sprint("flood", i), "peer")
		if _, err := c.Write(begun); err != nil {
			t.Fatal(err)
		}
		flood = append(flood, c)
	}
	eventually(t, "200 unfinished messages of 1 MiB are held", func() bool { return r.resident(t) >= before+180<<20 })
	for _, c := range flood {
		c.Close()
	}
	givenBack("200 unfinished messages, closed")
}

// TestOthersAreServedBesideFloods: clients that send as many requests, messages or fragments as they can do not
// keep a pair on the same loop waiting. The bound is generous, for a machine that is busy with something
// else; the figures are in the log.
func TestOthersAreServedBesideFloods(t *testing.T) {
	const floods, messages, bound = 8, 200, 2 * 100 * time.Millisecond // there and back
	repeated := func(b []byte) []byte { return bytes.Repeat(b, 64<<10/len(b)) }
	for name, flood := range map[string][]byte{
		"pipelined requests": repeated([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")),
		"one-byte messages":  repeated(clientFrame(0x82, []byte("x"))),
		"one-byte fragments": slices.Concat(clientFrame(0x02, []byte("x")), repeated(clientFrame(0x00, []byte("x"))), clientFrame(0x80, nil)),
	} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, "EVENT_LOOPS=1")
			for i := range floods {
				var c net.Conn
				if name == "pipelined requests" {
					var err error
					if c, err = net.Dial("tcp", r.addr); err != nil {
						t.Fatal(err)
					}
				} else {
					c, _ = rawPeer(t, r.addr, fmt.Sprint("flood", i), "peer")
				}
				defer c.Close()
				go func() { // answers
					for b := make([]byte, 64<<10); ; {
						if _, err := c.Read(b); err != nil {
							return
						}
					}
				}()
				go func() {
					for {
						if _, err := c.Write(flood); err != nil {
							return // the end of the test
						}
					}
				}()
			}
			p := newPair(t, r.addr)
			for range messages {
				if err := p.exchange(); err != nil {
					t.Fatal(err)
				}
			}
			if median, _ := p.times(t); median > bound {
				t.Errorf("a round trip of the pair takes %v (median), want at most %v", median, bound)
			}
		})
	}
}
