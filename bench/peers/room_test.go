package main

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a connection that answers pings, unless it is silent.
type fake struct {
	mu     sync.Mutex
	m      *member
	silent bool
	pings  []time.Time
	closed time.Time
}

func (f *fake) send(*message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pings = append(f.pings, time.Now())
	if !f.silent {
		f.m.answered(pong)
	}
}

func (f *fake) Close() error {
	f.closed = time.Now()
	return nil
}

// Every member is pinged once per interval and has a whole one for its answer, however the others come and go. The clock
// is the bubble's, so that a Sleep takes exactly its time.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval = time.Second
		r := &relay{interval: interval, rooms: map[string]*room{}}
		var stays []*fake
		for i := range 500 {
			f := &fake{silent: i%7 == 0}
			f.mu.Lock()
			f.m = r.join(fmt.Sprint("room", i%50), fmt.Sprint("peer", i), f)
			f.mu.Unlock()
			if i%5 == 0 {
				r.leave(f.m)
				r.leave(f.m) // does nothing
			} else {
				stays = append(stays, f)
			}
			time.Sleep(3 * time.Millisecond)
		}
		time.Sleep(3 * interval)
		synctest.Wait()
		for i, f := range stays {
			for k := 1; k < len(f.pings); k++ {
				if gap := f.pings[k].Sub(f.pings[k-1]); gap != interval {
					t.Fatalf("member %d: %s between two pings, want %s", i, gap, interval)
				}
			}
			if f.silent && f.closed.Sub(f.pings[0]) < interval || !f.silent && (!f.closed.IsZero() || len(f.pings) < 3) {
				t.Fatalf("member %d, silent %v: %d pings, closed at %s", i, f.silent, len(f.pings), f.closed)
			}
			r.leave(f.m)
		}
		if len(r.rooms) != 0 {
			t.Errorf("%d rooms are left", len(r.rooms))
		}
	})
}

func TestRecipients(t *testing.T) {
	r := &relay{interval: time.Hour, rooms: map[string]*room{}}
	f := func(size, opcode int, payload string, want ...int) {
		t.Helper()
		all := make([]*member, size)
		for i := range all {
			all[i] = r.join("r", fmt.Sprint("p", i/2), &fake{})
		}
		to, except := all[0].recipients(&message{opcode, []byte(payload)})
		var got []int
		for i, m := range all {
			for _, x := range to {
				if x == m && x != except {
					got = append(got, i)
				}
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%d members, %s: to %v, want %v", size, payload, got, want)
		}
		for _, m := range all {
			r.leave(m)
		}
	}
	f(4, opText, "hello", 1, 2, 3)
	f(4, opText, `{"targetPeerId":"p1"}`, 2, 3)
	f(4, opText, `{"targetPeerId":"p0"}`, 0, 1)
	f(4, opText, `{"targetPeerId":"nobody"}`)
	f(4, opText, `{"a":{"targetPeerId":"p1"}}`, 1, 2, 3)
	f(4, opText, `{"targetPeerId":"p1"`, 1, 2, 3)
	f(4, 2, `{"targetPeerId":"p1"}`, 1, 2, 3)
	f(40, opText, `{"a":1,"targetPeerId":"p7"}`, 14, 15)
}
