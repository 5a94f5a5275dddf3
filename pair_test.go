package main

import (
	"bufio"
	bin "encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// pair is two peers of a relay of their own that answer each other, beside whatever a test does to the relay.
type pair struct {
	conns [2]net.Conn
	ins   [2]*bufio.Reader
	took  []time.Duration // round trips
	err   error           // why talk ended early
}

func newPair(t *testing.T, addr string) *pair {
	t.Helper()
	p := new(pair)
	for i, peerID := range []string{"a", "b"} {
		p.conns[i], p.ins[i] = rawPeer(t, addr, "pair", peerID)
	}
	return p
}

// exchange sends the next numbered message to and fro. It must come unchanged, and nothing else before it.
func (p *pair) exchange() error {
	message := clientFrame(0x82, bin.BigEndian.AppendUint64(nil, uint64(len(p.took))))
	want := slices.Concat([]byte{0x82, 8}, message[len(message)-8:])
	got := make([]byte, len(want))
	began := time.Now()
	for from := range p.conns {
		to := 1 - from
		_ = p.conns[to].SetReadDeadline(began.Add(patience))
		if _, err := p.conns[from].Write(message); err != nil {
			return err
		}
		if _, err := io.ReadFull(p.ins[to], got); err != nil {
			return err
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("got %x, want %x", got, want)
		}
	}
	p.took = append(p.took, time.Since(began))
	return nil
}

// talk exchanges messages until stop is closed.
func (p *pair) talk(stop <-chan struct{}) {
	pace := time.NewTicker(time.Millisecond) // of two that chat, and do not take a core
	defer pace.Stop()
	for p.err == nil {
		select {
		case <-stop:
			return
		case <-pace.C:
			p.err = p.exchange()
		}
	}
}

// times returns how long round trips took, and logs it. No message may have been lost.
func (p *pair) times(t *testing.T) (median, p99 time.Duration) {
	t.Helper()
	n := len(p.took)
	if p.err != nil || n == 0 {
		t.Fatalf("the pair, after %d round trips: %v", n, p.err)
	}
	slices.Sort(p.took)
	median, p99 = p.took[n/2], p.took[n*99/100]
	t.Logf("%d round trips of the pair: median %v, 99th percentile %v, longest %v", n, median, p99, p.took[n-1])
	return median, p99
}
