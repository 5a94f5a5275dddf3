package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"

	"relaygate/router"
)

// What a drain looks like from outside: readiness, who is closed when, and what is delivered before.

// closing is how a connection was closed, as its client saw it.
type closing struct {
	name   string
	before []string  // messages before the close frame
	at     time.Time // of the close frame
	code   websocket.StatusCode
}

// awaitClose reads c until its close frame, and answers that.
func awaitClose(c *raw, name string, to chan<- closing) {
	got := closing{name: name}
	for {
		op, payload := c.frame()
		if op == 0x8 {
			got.at = time.Now()
			got.code = websocket.StatusCode(int(payload[0])<<8 | int(payload[1]))
			_, _ = c.Write(closeFrame(uint16(got.code), "")) // the relay may have closed already
			to <- got
			return
		}
		got.before = append(got.before, string(payload))
	}
}

// TestDrainOrder: peers are closed one after another over DRAIN_PERIOD, those that have said nothing for longest
// first. A pong does not count as having said something.
func TestDrainOrder(t *testing.T) {
	t.Parallel()
	const peers, period = 40, 2 * time.Second
	s, drain := drainable(t, "DRAIN_PERIOD=2s", "EVENT_LOOPS=1")
	var all []*raw
	for i := range peers {
		all = append(all, open(t, s, fmt.Sprint("r", i), "p"))
	}
	eventually(t, "all are open", func() bool { return s.wheels[phaseOpen].Len() == peers })
	byRoom := map[string]*peer{}
	for _, p := range s.wheels[phaseOpen].All() {
		byRoom[p.Room().ID()] = p
	}
	// The order of speaking is not that of connecting. The clock ticks in between.
	order := make([]string, 0, peers)
	for i := range peers {
		n := i * 7 % peers
		name := fmt.Sprint("r", n)
		order = append(order, name)
		p := byRoom[name]
		tick := s.now()
		eventually(t, "the clock ticks", func() bool { return s.now() != tick })
		message := "hello"
		if i%2 == 1 {
			message = `{"targetPeerId":"nobody"}`
		}
		eventually(t, name+" has spoken after that", func() bool { // a loop's round may have begun before
			all[n].send(text(message), text("ping"))
			all[n].wantFrame(0x1, "pong")
			var spoke uint32
			p.inLoop(func(*loop) { spoke = p.spoke })
			return spoke > tick
		})
	}
	tick := s.now()
	eventually(t, "the clock ticks", func() bool { return s.now() != tick })
	for _, n := range []int{0, 7} { // they said something first of all
		all[n].send(text("pong"), maskedFrame(0x8a, nil), text("ping"))
		all[n].wantFrame(0x1, "pong")
	}
	closed := make(chan closing, peers)
	for i, c := range all {
		go awaitClose(c, fmt.Sprint("r", i), closed)
	}
	began := time.Now()
	drained := drain(patience)
	var got []string
	var last time.Duration
	tenths := make([]int, 10)
	for range peers {
		c := <-closed
		got = append(got, c.name)
		if c.code != websocket.StatusGoingAway {
			t.Errorf("%s closed with %d, want 1001", c.name, c.code)
		}
		last = c.at.Sub(began)
		tenths[min(int(10*last/period), 9)]++
	}
	// Two may be due so soon after each other that their readers are told in the other order.
	for i, name := range order {
		if at := slices.Index(got, name); at < i-2 || at > i+2 {
			t.Errorf("%s was closed as number %d, want %d; the order is %v, want %v", name, at, i, got, order)
		}
	}
	// An even spread has 4 in each tenth. On a busy machine some come late, but none early.
	sum := 0
	for i, n := range tenths {
		if sum += n; sum > peers*(i+1)/10+1 {
			t.Errorf("%d of %d closed after %d tenths of the period: %v", sum, peers, i+1, tenths)
		}
	}
	if last < period*8/10 {
		t.Errorf("the last is closed after %v, want about %v", last, period)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	wantNothingHeld(t, s)
}

// TestDrainJitter: two drains of the same peers do not close them at the same moments.
func TestDrainJitter(t *testing.T) {
	d := leaves{period: time.Second, order: make([]uint64, 10)}
	seen := map[time.Duration]bool{}
	for range 20 {
		for d.next = range d.order {
			d.draw()
			if part := time.Second / 10; d.due < time.Duration(d.next)*part || d.due > time.Duration(d.next+1)*part {
				t.Fatalf("peer %d of 10 is due after %v of 1s", d.next, d.due)
			}
			seen[d.due%(time.Second/10)] = true
		}
	}
	if len(seen) < 150 {
		t.Errorf("%d different moments in 200 draws", len(seen))
	}
}

// TestLeaveKey: whoever has been silent for longer comes first, also after the clock overflowed.
func TestLeaveKey(t *testing.T) {
	f := func(now uint32, longest, shorter uint32) {
		t.Helper()
		a, b := leaveKey(now-longest, 1<<24), leaveKey(now-shorter, 3)
		if a >= b || uint32(a) != 1<<24 || uint32(b) != 3 {
			t.Errorf("at %d, keys of %d and %d are %#x and %#x", now, longest, shorter, a, b)
		}
	}
	f(100, 10, 11)
	f(100, 0, 100)
	f(5, 1<<32-5, 2)
}

// TestLeavesAreCollectedInParts: a loop with many slots looks at all of them, a part in each task.
func TestLeavesAreCollectedInParts(t *testing.T) {
	const n = 2*maxLooked + 5
	l := &loop{srv: &Server{began: time.Now().Add(-time.Hour)}, poll: &pollset{wakeup: -1}}
	for i := range n {
		p := &peer{phase: phaseOpen, spoke: uint32(i)}
		if i%2 == 1 {
			p.phase = phaseHead
		}
		l.peers = append(l.peers, p)
	}
	l.peers[2] = nil
	l.beginLeaving(time.Now(), time.Hour)
	tasks := 1
	eventually(t, "the order is made", func() bool {
		l.mu.Lock()
		posted := l.posted
		l.posted = nil
		l.mu.Unlock()
		for _, task := range posted {
			tasks++
			task.do(l, nil)
		}
		return l.drained.order != nil
	})
	if got := len(l.drained.order); got != n/2 || tasks != 4 {
		t.Errorf("%d peers in the order after %d tasks, want %d after 4", got, tasks, n/2)
	}
	for i, key := range l.drained.order[1:] {
		if uint32(key) <= uint32(l.drained.order[i]) {
			t.Fatalf("slot %d comes before %d, which spoke earlier", uint32(l.drained.order[i]), uint32(key))
		}
	}
}

// TestDrainDeliversToEach: what is published while peers are being closed reaches every member that is not
// closed before, and its close frame comes after it.
func TestDrainDeliversToEach(t *testing.T) {
	t.Parallel()
	const peers = 30
	s, drain := drainable(t, "DRAIN_PERIOD=1s")
	closed := make(chan closing, peers)
	for i := range peers {
		go awaitClose(open(t, s, "r", fmt.Sprint(i)), fmt.Sprint(i), closed)
	}
	eventually(t, "all are members", func() bool { return s.Stats().Peers == peers })
	room := s.table.All()[0]
	// One that publishes and never flushes: only the drain can deliver that.
	var outsider router.Member
	outsider.Init("outsider", nil)
	drained := drain(patience)
	due := map[string]int{} // how many messages each must have heard before its close frame
	published := 0
	for s.Stats().Peers > 1 {
		room.Publish(&outsider, appendFrame(nil, opText, fmt.Append(nil, published)))
		published++
		if !s.Alive(patience) {
			t.Fatal("a loop is stuck")
		}
		for _, p := range s.wheels[phaseOpen].All() { // their loops begin to close them after the message
			due[p.ID()] = published
		}
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	least, most := published, 0
	for range peers {
		c := <-closed
		for i, m := range c.before {
			if m != fmt.Sprint(i) {
				t.Fatalf("%s heard %v: not what was published, in order", c.name, c.before)
			}
		}
		if len(c.before) < due[c.name] {
			t.Errorf("%s heard %d messages before its close frame, want at least %d", c.name, len(c.before), due[c.name])
		}
		least, most = min(least, due[c.name]), max(most, due[c.name])
	}
	if most-least < 3 {
		t.Errorf("the first peer is closed after %d messages, the last after %d: no spread", least, most)
	}
}

// TestDrainReadsOnce: what a peer's kernel has delivered to ours is relayed before the peer is closed.
func TestDrainReadsOnce(t *testing.T) {
	s, drain := drainable(t, "EVENT_LOOPS=1")
	a, b := open(t, s, "r", "a"), open(t, s, "r", "b")
	fd := int(peerOf(t, s, "a").fd)
	peerOf(t, s, "b")
	block, blocked := make(chan struct{}), make(chan struct{})
	s.refusing.Store(true)
	s.loops[0].post(task{do: func(l *loop, _ *peer) {
		close(blocked)
		<-block
		l.leaveRest(nil) // before the socket's event is seen
	}})
	<-blocked
	a.send(text("at the last moment"))
	eventually(t, "it has arrived", func() bool { return unread(t, fd) > 0 })
	close(block)
	b.wantFrame(0x1, "at the last moment")
	b.wantClose(1001)
	a.wantClose(1001)
	s.refusing.Store(false)
	if err := <-drain(patience); err != nil {
		t.Error(err)
	}
}

// TestDrainDoesNotWaitForPeersThatNeverRead: they are cut off at the end, and counted.
func TestDrainDoesNotWaitForPeersThatNeverRead(t *testing.T) {
	t.Parallel()
	s, drain := drainable(t, "DRAIN_PERIOD=100ms")
	sender := open(t, s, "r", "sender")
	open(t, s, "r", "never reads")
	fill(t, s, sender, 1)
	began := time.Now()
	c := make(chan closing, 1)
	go awaitClose(sender, "sender", c)
	err := <-drain(s.config().DrainTime())
	<-c
	if took, most := time.Since(began), s.config().DrainTime()+2*time.Second; took > most || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drained after %v with %v; want an error after %v", took, err, s.config().DrainTime())
	}
	if n := s.Stats().Left; n != 1 {
		t.Errorf("%d left, want 1", n)
	}
	wantNothingHeld(t, s)
}

// TestDrainLateComers: peers that come open while others are being closed are closed in the rest of the period.
func TestDrainLateComers(t *testing.T) {
	t.Parallel()
	period := 2 * time.Second
	for drainLateComers(t, period) > period/2 { // it took so long that little of the period was left
		if period *= 4; period > 3*patience {
			t.Fatal("the machine is too busy")
		}
	}
}

// drainLateComers has peers come open during a drain, and returns how long that took.
func drainLateComers(t *testing.T, period time.Duration) (took time.Duration) {
	s, drain := drainable(t, fmt.Sprint("DRAIN_PERIOD=", period))
	s.handover = time.Hour // so that all come open, however long it takes
	var all []*raw
	for i := range 20 {
		all = append(all, dial(t, s))
		_ = all[i].SetDeadline(time.Now().Add(period + patience))
		all[i].send([]byte(plainRequest("GET", "/")))
		all[i].response()
	}
	began := time.Now()
	drained := drain(period + patience)
	eventually(t, "peers are being closed", func() bool {
		var yes bool
		done := make(chan struct{})
		s.loops[0].post(task{do: func(l *loop, _ *peer) {
			yes = l.drained != nil
			close(done)
		}})
		<-done
		return yes
	})
	closed := make(chan closing, len(all))
	for i, c := range all {
		c.send([]byte(upgradeRequest("r", fmt.Sprint(i))))
		if res, body := c.response(); res.StatusCode != 101 {
			t.Fatalf("number %d: %d %s, want 101", i, res.StatusCode, body)
		}
		go awaitClose(c, fmt.Sprint(i), closed)
	}
	took = time.Since(began)
	s.loops[0].post(task{do: (*loop).closeListener})
	var first, last time.Time
	for i := range all {
		c := <-closed
		if i == 0 {
			first = c.at
		}
		last = c.at
	}
	if d := last.Sub(first); took <= period/2 && d < period/6 {
		t.Errorf("all closed within %v, want most of DRAIN_PERIOD", d)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	wantNothingHeld(t, s)
	return took
}
