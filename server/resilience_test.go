package server

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"relaygate/router"
	"relaygate/server/upgrade"
)

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestDroppedAnywhere opens 5,000 connections and drops each at a random point of
// its life, by FIN or by reset. Nothing of them may stay.
func TestDroppedAnywhere(t *testing.T) {
	const connections, atOnce = 5000, 50
	s := start(t)
	keeper := join(t, s, "kept", "keeper")
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	life := bytes.Join([][]byte{
		[]byte(upgradeRequest("r", "p")),
		text("hello"), maskedFrame(0x01, []byte("frag")), maskedFrame(0x89, []byte("x")), maskedFrame(0x80, repeat("m", 3000)),
		text(`{"targetPeerId":"p"}`), end,
	}, nil)
	var group sync.WaitGroup
	for worker := range atOnce {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 2))
			for range connections / atOnce {
				if err := dropped(s, life[:rng.IntN(len(life)+1)], rng.IntN(2) == 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	eventually(t, "only one peer is held", func() bool {
		st := s.Stats()
		return st.Accepted == connections+1 && st.Connections == 1 && st.Peers == 1 && st.Rooms == 1 && st.Seats == 1
	})
	eventually(t, "goroutines and descriptors are as before", func() bool {
		return runtime.NumGoroutine() <= goroutines && descriptors(t) <= files
	})
	say(t, keeper, "ping")
	hear(t, keeper, "pong")
	closed := int64(0)
	for _, n := range s.Stats().Closed {
		closed += n
	}
	if closed != connections {
		t.Errorf("%d connections are counted as closed, want %d", closed, connections)
	}
}

// dropped sends the beginning of a life and ends it.
func dropped(s *Server, life []byte, byReset bool) error {
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	_, _ = c.Write(life) // it may be closed already
	if byReset {
		return c.(*net.TCPConn).SetLinger(0)
	}
	return nil
}

// TestPeerThatNeverReads is closed once too much waits for it. The rest of its
// relay hears everything, in order.
func TestPeerThatNeverReads(t *testing.T) {
	const messages, size = 300, 64 << 10
	s := start(t, "MAX_MESSAGE_BYTES=65536", "MAX_QUEUE_BYTES=1048576")
	stuck := open(t, s, "r", "stuck")
	stuck.awaitHandled()
	sender, reader := join(t, s, "r", "sender"), join(t, s, "r", "reader")
	for n := range messages {
		want := append(fmt.Appendf(nil, "%06d", n), repeat("x", size-6)...)
		sayBytes(t, sender, websocket.MessageBinary, want)
		hearBytes(t, reader, websocket.MessageBinary, want)
	}
	eventually(t, "the peer is closed as slow", func() bool { return s.Stats().Closed["slow"] == 1 })
	if n := s.Stats().Peers; n != 2 {
		t.Errorf("%d peers are left, want 2", n)
	}
}

// TestOneBatchAboveTheLimit does not make a peer too slow that has read all before it.
func TestOneBatchAboveTheLimit(t *testing.T) {
	s := start(t, "MAX_MESSAGE_BYTES=65536", "MAX_QUEUE_BYTES=131072")
	c := open(t, s, "r", "c")
	c.awaitHandled()
	p := peerOf(t, s, "c")
	if err := unix.SetsockoptInt(int(p.fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<10); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	from := outsider(t, s, "r")
	message, messages := repeat("x", 64<<10-1), 0
	for ; !from.Room().Full(); messages++ {
		from.Room().Publish(from, appendFrame(nil, opBinary, message))
	}
	flush(s)
	if n := p.waiting(); n <= s.config().MaxQueue {
		t.Fatalf("%d bytes wait for the peer, want all that its socket did not take: more than %d", n, s.config().MaxQueue)
	}
	for range messages {
		c.wantFrame(0x2, string(message))
	}
	c.awaitHandled()
}

// TestMemoryFollowsWhatCame: headers that promise 64 MiB each cost their own bytes.
func TestMemoryFollowsWhatCame(t *testing.T) {
	const peers = 100
	s := start(t, "MAX_MESSAGE_BYTES=67108864", "MAX_QUEUE_BYTES=67174400")
	var before, after runtime.MemStats
	var all []*raw
	for i := range peers {
		all = append(all, open(t, s, "r", fmt.Sprint(i)))
	}
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, c := range all {
		c.send(maskedFrame(0x89, []byte("here")), frameHeader(0x82, 0x80, 64<<20), []byte("mask"), repeat("x", 1000))
	}
	for _, c := range all {
		c.wantFrame(0xa, "here")
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > peers*16<<10 {
		t.Errorf("%d partial messages of 1,000 bytes cost %d bytes", peers, grown)
	}
}

// TestIdlePeerHoldsNoBuffer, whatever it sent before.
func TestIdlePeerHoldsNoBuffer(t *testing.T) {
	s := start(t)
	c := open(t, s, "r", "p")
	c.sendSlowly(text("slow"))
	c.send(maskedFrame(0x01, []byte("a")), maskedFrame(0x80, []byte("b")), maskedFrame(0x82, repeat("x", 100<<10)))
	c.awaitHandled()
	p := peerOf(t, s, "p")
	p.inLoop(func(*loop) {
		if p.in != nil || p.out != nil {
			t.Errorf("it holds %+v and %+v", p.in, p.out)
		}
	})
}

// TestNoMessageToAStranger: descriptors are reused at once, while rooms are flushed
// by several loops. Whatever a peer hears must come from its own room.
func TestNoMessageToAStranger(t *testing.T) {
	s := start(t, "EVENT_LOOPS=3")
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for n := range 60 {
				room := fmt.Sprintf("room-%d-%d", worker%4, n/4)
				c, err := net.Dial("tcp", s.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				_, _ = c.Write(bytes.Join([][]byte{
					[]byte(upgradeRequest(room, fmt.Sprint(worker))),
					text(room), text(room), maskedFrame(0x89, []byte("last")),
				}, nil))
				heard, in := "", make([]byte, 4096)
				for !strings.Contains(heard, "last") {
					k, err := c.Read(in)
					if err != nil {
						t.Errorf("read: %v after %q", err, heard)
						break
					}
					heard += string(in[:k])
				}
				if strings.Count(heard, "room-") != strings.Count(heard, room) {
					t.Errorf("in %s was heard: %q", room, heard)
				}
				if n%2 == 0 {
					_ = c.(*net.TCPConn).SetLinger(0)
				}
				c.Close()
			}
		})
	}
	group.Wait()
}

// TestPanicEndsOneConnection: a bug in one connection's handling is logged with its
// stack and counted, and nobody else notices.
func TestPanicEndsOneConnection(t *testing.T) {
	core, logged := observer.New(zapcore.ErrorLevel)
	s, err := Listen(config(t), zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		drain(t, s)
	}()
	other := join(t, s, "r", "other")
	victim := dial(t, s)
	eventually(t, "the connection is accepted", func() bool { return len(s.wheels[phaseHead].All()) == 1 })
	p := s.wheels[phaseHead].All()[0]
	var handshaker *upgrade.Handshaker
	p.inLoop(func(l *loop) { handshaker, l.handshaker = l.handshaker, nil })
	victim.send([]byte(upgradeRequest("r", "victim")))
	if _, err := io.ReadAll(victim.in); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the victim saw %v, want the end", err)
	}
	eventually(t, "it is counted", func() bool { st := s.Stats(); return st.Panics == 1 && st.Closed["panic"] == 1 })
	if all := logged.FilterMessage("panic").All(); len(all) != 1 || !strings.Contains(string(all[0].ContextMap()["stack"].(string)), "serve") {
		t.Errorf("logged %v, want one panic with its stack", all)
	}
	p.inLoop(func(l *loop) { l.handshaker = handshaker })
	say(t, other, "ping")
	hear(t, other, "pong")
	other.CloseNow()
}

// TestPanicAtTheUpgrade: a bug that shows while a peer joins its room costs that peer. Its loop goes on, and
// its room without it.
func TestPanicAtTheUpgrade(t *testing.T) {
	t.Run("before it is in the room", func(t *testing.T) {
		losesOnlyTheVictim(t, func(s *Server, victim *raw) (repair func()) {
			table := s.table
			setTable := func(table *router.Table) {
				release := stall(s)
				s.table = table
				release()
			}
			setTable(new(router.Table)) // which panics in Join: it has no seed
			victim.send([]byte(upgradeRequest("r", "victim")))
			return func() { setTable(table) }
		})
	})
	t.Run("when it is in the room", func(t *testing.T) {
		losesOnlyTheVictim(t, func(s *Server, _ *raw) (repair func()) {
			p := s.wheels[phaseHead].All()[0]
			p.loop.post(task{peer: p, do: func(*loop, *peer) {
				p.Init("victim", p)
				s.table.Join([]byte("r"), &p.Member)
				panic("between its entry and its 101")
			}})
			return func() {}
		})
	})
}

// losesOnlyTheVictim has provoke cause a panic in the loop of a connection, beside others in room r. repair
// takes back what provoke did, once the connection has ended.
func losesOnlyTheVictim(t *testing.T, provoke func(s *Server, victim *raw) (repair func())) {
	s, err := Listen(config(t), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			return // a loop that waits for a lock cannot be drained
		}
		drain(t, s)
		wantNothingHeld(t, s)
	}()
	var all []*raw
	for i := range 4 { // in every loop
		c := open(t, s, "r", fmt.Sprint(i))
		c.awaitHandled()
		all = append(all, c)
	}
	victim := dial(t, s)
	eventually(t, "the connection is accepted", func() bool { return s.wheels[phaseHead].Len() == 1 })
	repair := provoke(s, victim)
	if got, err := io.ReadAll(victim.in); len(got) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("the victim saw %.80q, %v; want the end", got, err)
	}
	repair()
	all = append(all, open(t, s, "r", "next"))
	for _, c := range all {
		c.awaitHandled()
	}
	all[0].send(text("hello"))
	for _, c := range all[1:] {
		c.wantFrame(0x1, "hello")
	}
	if st := s.Stats(); st.Panics != 1 || st.Closed["panic"] != 1 || st.Peers != len(all) || st.Seats != len(all) {
		t.Errorf("%d panics, %d connections closed for one, %d peers, %d seats; want 1, 1, %[5]d, %[5]d",
			st.Panics, st.Closed["panic"], st.Peers, st.Seats, len(all))
	}
	for _, c := range all {
		c.Close()
	}
}
