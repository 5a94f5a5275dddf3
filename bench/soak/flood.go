package main

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// flood is a room in which one member says so much that slow readers of it are closed. The other is a witness: it must
// not miss a message for their sake.
type flood struct {
	relayID string
	sender  *member
}

// What a flood sends is more than all buffers on the way to a slow reader hold: the kernel's twice 4 MiB at most on the
// relay's side, 6 MiB on the balancer's, and MAX_QUEUE_BYTES.
const (
	floodSize     = 64 << 10
	floodMessages = 320
	floodInterval = 10 * time.Millisecond
)

func (w *crowd) addFlood(from netip.Addr) *flood {
	relayID, members := w.addRoom(2, 0, floodSize, from)
	return &flood{relayID, members[0]}
}

// slow has slow readers join the floods, and wakes them when they must have been closed.
func (s *soak) slow() (string, error) {
	var ts trials
	w, each, left := s.crowd, max(4, min(20, s.peers/1000)), 0
	w.do(func() {
		for _, fl := range s.floods {
			kind := slowReader(fl.relayID)
			for i := range each {
				ts.left++
				w.tryOne(kind, fl.sender.c.from, w.doors[i%len(w.doors)], &ts)
			}
		}
	})
	joined := func() bool {
		there := 0
		for _, t := range ts.begun { // those that were refused first are in it, too
			if t.c.deaf {
				there++
			}
		}
		return there == ts.left
	}
	if err := s.await("the slow readers are there", joined); err != nil {
		return "", err
	}
	w.do(func() {
		for _, fl := range s.floods {
			left += floodMessages
			n := 0
			w.every(floodInterval, func() bool {
				fl.sender.send(w.now)
				n++
				left--
				return n < floodMessages
			})
		}
	})
	if err := s.await("the floods are sent", func() bool { return left == 0 }); err != nil {
		return "", err
	}
	time.Sleep(time.Second) // the relay closes them meanwhile: one that it does not never ends
	w.do(ts.wake)
	err := s.await("each slow reader has been closed", func() bool { return ts.left == 0 })
	return fmt.Sprintf("%d readers that do not read, in %d rooms of %d MiB each", each*len(s.floods), len(s.floods), floodSize*floodMessages>>20), err
}

// askServers finds out which server the balancers choose for each of n sources, by a connection from each. It returns
// how many connections that took.
func (s *soak) askServers(n int) (servers map[netip.Addr]int, probes int, err error) {
	for _, b := range s.balancers {
		served, err := s.probe(b, n)
		if err != nil {
			return nil, 0, err
		}
		probes += n
		if len(served) != n || servers != nil && !maps.Equal(served, servers) {
			return nil, 0, fmt.Errorf("the balancers do not agree which server serves whom: %v, %v", served, servers)
		}
		servers = served
	}
	return servers, probes, nil
}

func (s *soak) probe(b *balancer, n int) (map[netip.Addr]int, error) {
	for i := range n {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: sourceAddr(clientNetwork, i).AsSlice()}, Timeout: patience}
		c, err := d.Dial("tcp", b.door.addr.String())
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if _, err := c.Write(request("/v1", "probe", "p")); err != nil {
			return nil, err
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("a probe through the balancer: %v, %w", res, err)
		}
	}
	return b.serves()
}
