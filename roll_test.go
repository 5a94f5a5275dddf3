package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A process takes the port over from another, under load.

const rollPeriod = 3 * time.Second

// TestRoll replaces a process three times. Meanwhile clients connect all the time: none is refused or reset.
// Peers that are closed come back. Pairs lose nothing of what one says to the other.
func TestRoll(t *testing.T) {
	for loops := 1; loops <= 2; loops++ {
		t.Run(fmt.Sprint("EVENT_LOOPS=", loops), func(t *testing.T) {
			t.Parallel()
			start := func(port string) *relay {
				return startRelay(t, "REUSE_PORT=true", "DRAIN_PERIOD=3s", "PORT="+port, fmt.Sprint("EVENT_LOOPS=", loops))
			}
			old := start("0")
			_, port, _ := net.SplitHostPort(old.addr)
			ctx, end := context.WithCancel(context.Background())
			var load sync.WaitGroup
			defer load.Wait()
			defer end()
			connected := new(atomic.Int64)
			for range 4 {
				load.Go(func() { connectAllTheTime(ctx, t, old.addr, connected) })
			}
			const returners = 60
			back := make(chan time.Time, returners)
			for i := range returners {
				load.Go(func() { comeBack(ctx, t, old.addr, i, back) })
			}
			for range returners {
				<-back
			}
			pairs := startPairs(t, old)
			rolls := 3
			if testing.Short() {
				rolls = 1
			}
			for range rolls {
				before := connected.Load()
				next := start(port)
				nextPairs := startPairs(t, next) // each hears its other half: both reach the new process
				began := time.Now()
				if status := old.stop(t, syscall.SIGTERM); status != 0 {
					t.Errorf("exit status %d, want 0", status)
				}
				stopped := time.Since(began)
				if text := old.logs.text(); !strings.Contains(text, `"left":0`) {
					t.Errorf("some were left: %s", text)
				}
				first, last := time.Time{}, time.Time{}
				for i := range returners {
					select {
					case last = <-back:
					case <-time.After(patience):
						t.Fatalf("%d of %d peers came back", i, returners)
					}
					if i == 0 {
						first = last
					}
				}
				if d := last.Sub(began); d > rollPeriod+2*time.Second {
					t.Errorf("the last peer came back after %v, want within %v", d, rollPeriod)
				}
				if d := last.Sub(first); d < rollPeriod/2 {
					t.Errorf("all came back within %v, want most of %v", d, rollPeriod)
				}
				for _, p := range pairs {
					p.verify(t)
				}
				t.Logf("stopped after %v; %d connects; peers back from %v to %v after the signal", stopped, connected.Load()-before, first.Sub(began), last.Sub(began))
				if connected.Load()-before < 100 {
					t.Errorf("only %d connects in this roll", connected.Load()-before)
				}
				old, pairs = next, nextPairs
			}
			end()
			load.Wait()
			old.stop(t, syscall.SIGTERM)
			for _, p := range pairs {
				p.verify(t)
			}
		})
	}
}

// connectAllTheTime connects, wants a 101, and leaves.
func connectAllTheTime(ctx context.Context, t *testing.T, addr string, connected *atomic.Int64) {
	once := func() error {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.(*net.TCPConn).SetLinger(0) // so that the test's ports are free at once
		res, _, err := upgrade(c, fmt.Sprint("visitors", connected.Load()), "p")
		if err == nil && res.StatusCode != http.StatusSwitchingProtocols {
			err = errors.New(res.Status)
		}
		return err
	}
	for ctx.Err() == nil {
		if err := once(); err != nil {
			t.Errorf("a client met %v", err)
			return
		}
		connected.Add(1)
		time.Sleep(time.Millisecond) // the pace of the visitors
	}
}

// comeBack connects whenever it has been closed with 1001, and tells back.
func comeBack(ctx context.Context, t *testing.T, addr string, i int, back chan<- time.Time) {
	for {
		c, _, err := websocket.Dial(ctx, fmt.Sprintf("ws://%s/v1?relayId=returner%d&peerId=p", addr, i), nil)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			t.Errorf("a peer could not come back: %v", err)
			return
		}
		back <- time.Now()
		_, _, err = c.Read(ctx)
		_ = c.CloseNow()
		if ctx.Err() != nil {
			return
		}
		if websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("a peer met %v, want close 1001", err)
			return
		}
	}
}

// rolledPair is two peers of one relay in one process, until that drains: a numbers what it says, b listens.
type rolledPair struct {
	done  sync.WaitGroup
	acked []time.Time // when the relay had answered the ping behind each message, so the message was published
	heard []string
	close time.Time // when b's close frame came
	ended [2]error
}

func startPairs(t *testing.T, r *relay) (all []*rolledPair) {
	for i := range 20 {
		room := fmt.Sprintf("pair%d-%d", r.cmd.Process.Pid, i)
		a, b := r.join(t, room, "a"), r.join(t, room, "b")
		say(t, a, "hello")
		hear(t, b, "hello")
		p := new(rolledPair)
		all = append(all, p)
		ctx := t.Context()
		p.done.Go(func() {
			for {
				_, m, err := b.Read(ctx)
				if err != nil {
					p.close, p.ended[1] = time.Now(), err
					return
				}
				p.heard = append(p.heard, string(m))
			}
		})
		p.done.Go(func() {
			for n := 0; ; n++ {
				err := a.Write(ctx, websocket.MessageText, fmt.Append(nil, n))
				if err == nil {
					err = a.Write(ctx, websocket.MessageText, []byte("ping"))
				}
				if err == nil {
					_, _, err = a.Read(ctx)
				} else if _, _, readErr := a.Read(ctx); readErr != nil {
					err = readErr // the close frame, not that nothing can be written after it
				}
				if err != nil {
					p.ended[0] = err
					return
				}
				p.acked = append(p.acked, time.Now())
				time.Sleep(5 * time.Millisecond) // the pace of the pair
			}
		})
	}
	return all
}

// verify wants both to have been closed with 1001, and b to have heard all that was published before it was.
func (p *rolledPair) verify(t *testing.T) {
	t.Helper()
	p.done.Wait()
	for _, err := range p.ended {
		if websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("one of a pair met %v, want close 1001", err)
		}
	}
	for i, m := range p.heard {
		if m != fmt.Sprint(i) {
			t.Fatalf("message %d of a pair is %q", i, m)
		}
	}
	// The close frame may have been sent some time before it was seen here.
	sure := 0
	for _, at := range p.acked {
		if p.close.Sub(at) > 500*time.Millisecond {
			sure++
		}
	}
	if len(p.heard) < sure {
		t.Errorf("of %d messages that were published before the close, %d were heard", sure, len(p.heard))
	}
}
