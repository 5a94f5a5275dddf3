package main

import (
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// readSize is the most that one read takes; maxFrame is the largest frame that a client gets.
const (
	readSize = 128 << 10
	maxFrame = 1 << 20
)

// fleet is all clients on one thread: so the ledger is exact, and needs no lock. Everything in it belongs to that
// thread; others come in by do.
type fleet struct {
	ep, wake int
	calls    chan func()
	events   []unix.EpollEvent
	buf      []byte
	base     time.Time
	now      int64 // nanoseconds since base, as of the last event or read
	conns    []*conn
	free     []int32
	dirty    []*conn
	timers   timers
	sockets  int // open ones
	rng      *rand.Rand
	over     bool

	// What the load did, under the names of the relay's counters.
	counts map[string]int64
	// What no client should have met, by kind, and the first few in words.
	surprises map[string]int64
	examples  []string
}

func newFleet() (*fleet, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1})
	}
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	debug.SetGCPercent(400)
	f := &fleet{
		ep: ep, wake: wake, calls: make(chan func(), 16), events: make([]unix.EpollEvent, 256),
		buf: make([]byte, maxFrame+readSize), base: time.Now(), rng: rand.New(rand.NewPCG(1, 2)),
		counts: map[string]int64{}, surprises: map[string]int64{},
	}
	go f.run()
	return f, nil
}

// do runs something on the fleet's thread, and waits for it.
func (f *fleet) do(act func()) {
	done := make(chan struct{})
	f.calls <- func() { act(); close(done) }
	one := [8]byte{1}
	_, _ = unix.Write(f.wake, one[:])
	<-done
}

// ask returns what ask returns on the fleet's thread.
func ask[T any](f *fleet, ask func() T) (answer T) {
	f.do(func() { answer = ask() })
	return answer
}

func (f *fleet) clock() int64 { return int64(time.Since(f.base)) }

// add makes a connection for a client. It is begun by begin.
func (f *fleet) add(c *conn) *conn {
	c.fd = -1
	if n := len(f.free); n > 0 {
		c.id = f.free[n-1]
		f.free = f.free[:n-1]
		f.conns[c.id] = c
		return c
	}
	c.id = int32(len(f.conns))
	f.conns = append(f.conns, c)
	return c
}

// remove forgets a connection that has ended. Events of this round may still name it.
func (f *fleet) remove(c *conn) { f.after(0, func() { f.free = append(f.free, c.id) }) }

// touch has c written at the end of this round of events.
func (f *fleet) touch(c *conn) {
	if !c.dirty {
		c.dirty = true
		f.dirty = append(f.dirty, c)
	}
}

// surprise notes what should not have happened.
func (f *fleet) surprise(kind, format string, args ...any) {
	f.surprises[kind]++
	if len(f.examples) < maxExamples {
		f.examples = append(f.examples, kind+": "+fmt.Sprintf(format, args...))
	}
}

// counted is a copy of what the load has counted.
func (f *fleet) counted() map[string]int64 {
	return ask(f, func() map[string]int64 { return maps.Clone(f.counts) })
}

// timer is something to be done at a time.
type timer struct {
	at int64
	do func()
}

type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at < t[j].at }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timer)) }
func (t *timers) Pop() any {
	old := *t
	x := old[len(old)-1]
	*t = old[:len(old)-1]
	return x
}

// after has something done in d.
func (f *fleet) after(d time.Duration, do func()) {
	heap.Push(&f.timers, timer{f.clock() + int64(d), do})
}

// every has something done at a fixed interval, until it returns false. What is late is not made up for.
func (f *fleet) every(d time.Duration, do func() bool) {
	f.after(d, func() {
		if do() {
			f.every(d, do)
		}
	})
}

// run is the thread.
func (f *fleet) run() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	for !f.over {
		for f.now = f.clock(); len(f.timers) > 0 && f.timers[0].at <= f.now; f.now = f.clock() {
			heap.Pop(&f.timers).(timer).do()
		}
		f.flush()
		wait := int64(time.Second)
		if len(f.timers) > 0 {
			wait = max(f.timers[0].at-f.clock(), 0)
		}
		n, err := unix.EpollWait(f.ep, f.events, int((wait+int64(time.Millisecond)-1)/int64(time.Millisecond)))
		if err != nil && err != unix.EINTR {
			panic(fmt.Sprintf("epoll_wait: %v", err))
		}
		f.now = f.clock()
		for _, ev := range f.events[:max(n, 0)] {
			if ev.Fd >= 0 {
				f.event(ev)
				continue
			}
			var b [8]byte
			_, _ = unix.Read(f.wake, b[:])
			for len(f.calls) > 0 {
				(<-f.calls)()
			}
		}
		f.flush()
	}
}

// flush writes what the round left behind, one write per connection.
func (f *fleet) flush() {
	for k := 0; k < len(f.dirty); k++ {
		c := f.dirty[k]
		c.dirty = false
		f.write(c)
	}
	f.dirty = f.dirty[:0]
}

// request is an upgrade on behalf of a peer.
func request(path, relayID, peerID string) []byte {
	return fmt.Appendf(nil, "GET %s?relayId=%s&peerId=%s HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cmVsYXlnYXRlIGJlbmNoIQ==\r\n\r\n", path, relayID, peerID)
}

// sourceAddr is the n-th address of a loopback network.
func sourceAddr(network, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 0, byte(network), byte(n + 1)})
}
