package server

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/router"
)

// What a peer sent and this kernel acknowledged is relayed, however the peer ends and whatever its
// connection and its room are busy with at that time. Each case is repeated, with a ledger of what
// a listener must have.

// rounds is how often each case is repeated.
func rounds() int {
	if raceEnabled || testing.Short() {
		return 20
	}
	return 200
}

// said is what each of those who end says before.
const said = 4

// bystanders are the peers of a room in which others come and end.
type bystanders struct {
	s                *Server
	listener, sender *raw
	heard            *atomic.Int64 // messages of those who ended, as the listener counted
	pongs            *atomic.Int64 // answers to the sender's pings
}

func standBy(t *testing.T, environ ...string) *bystanders {
	s := start(t, environ...)
	b := &bystanders{s: s, listener: open(t, s, "r", "listener"), sender: open(t, s, "r", "sender")}
	for _, c := range []*raw{b.listener, b.sender} {
		if err := c.SetDeadline(time.Now().Add(10 * patience)); err != nil {
			t.Fatal(err)
		}
		c.awaitHandled()
	}
	b.heard = heardBy(t, b.listener, "N")
	b.pongs = heardBy(t, b.sender, "g")
	return b
}

// ways to end, with what is sent last.
var ways = map[string]func(t *testing.T, c *raw){
	"FIN": func(t *testing.T, c *raw) {
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	},
	"close frame": func(t *testing.T, c *raw) { c.send(closeFrame(1000, "")) },
	"close frame and FIN": func(t *testing.T, c *raw) {
		c.send(closeFrame(1000, ""))
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	},
	"reset": func(t *testing.T, c *raw) {
		eventually(t, "all is acknowledged", func() bool { return notAcknowledged(t, c) == 0 })
		reset(t, c)
	},
}

func reset(t *testing.T, c *raw) {
	t.Helper()
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// notAcknowledged is how many bytes that c sent have not been acknowledged.
func notAcknowledged(t *testing.T, c *raw) (n int) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := rc.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return n
}

// atOnce is how many peers end at the same time.
const atOnce = 10

// TestEnds has peers end in every way and in every state of their connection and room.
func TestEnds(t *testing.T) {
	// A state is brought about before the peers speak, and left after they have ended.
	states := map[string]func(t *testing.T, b *bystanders) (leave func()){
		"idle": func(*testing.T, *bystanders) func() { return func() {} },
		"with queues": func(t *testing.T, b *bystanders) func() {
			for i := range atOnce {
				p := peerOf(t, b.s, fmt.Sprint("c", i))
				if err := unix.SetsockoptInt(int(p.fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<10); err != nil {
					t.Fatal(err)
				}
				message := text(fmt.Sprintf(`{"targetPeerId":"c%d","text":"%s"}`, i, strings.Repeat("x", 32<<10)))
				for p.waiting() == 0 {
					sent := b.pongs.Load()
					b.sender.send(message, text("ping"))
					eventually(t, "that is handled", func() bool { return b.pongs.Load() > sent })
				}
			}
			return func() {}
		},
		"in a full room": func(t *testing.T, b *bystanders) func() {
			fillRoom(t, b.s)
			return func() { flush(b.s) }
		},
		"behind one large message": func(t *testing.T, b *bystanders) func() {
			from := new(router.Member)
			from.Init("from", nobody{})
			b.s.table.Join([]byte("r"), from)
			from.Room().Publish(from, appendFrame(nil, opBinary, make([]byte, 4<<20)))
			b.s.table.Leave(from)
			return func() { flush(b.s) }
		},
		"unread": func(t *testing.T, b *bystanders) func() { return stall(b.s) },
	}
	for state, bring := range states {
		for way, end := range ways {
			t.Run(way+" "+state, func(t *testing.T) {
				b := standBy(t, "MAX_MESSAGE_BYTES=8388608")
				for i := range rounds() / atOnce {
					var all []*raw
					for k := range atOnce {
						all = append(all, open(t, b.s, "r", fmt.Sprint("c", k)))
					}
					leave := bring(t, b)
					for _, c := range all {
						c.send(bytes.Repeat(maskedFrame(0x82, []byte("N")), said))
					}
					for _, c := range all {
						end(t, c)
					}
					leave()
					want := int64(said * atOnce * (i + 1))
					eventually(t, fmt.Sprintf("round %d is heard", i), func() bool {
						flush(b.s)
						return b.heard.Load() >= want
					})
					if n := b.heard.Load(); n > want {
						t.Fatalf("%d messages are heard, want %d", n, want)
					}
					for _, c := range all {
						c.Close()
					}
					eventually(t, "they have gone", func() bool { return b.s.Stats().Connections == 2 })
				}
			})
		}
	}
}

// stall keeps every loop of s busy until release is called.
func stall(s *Server) (release func()) {
	open := make(chan struct{})
	for _, l := range s.loops {
		stalled := make(chan struct{})
		l.post(task{do: func(*loop, *peer) {
			close(stalled)
			<-open
		}})
		<-stalled
	}
	return func() { close(open) }
}

// TestEndBehindManyReads has peers end behind as much as their sockets take while the relay reads nothing. A
// part of the last message may be missing: then that message does not count.
func TestEndBehindManyReads(t *testing.T) {
	const size = 1000
	for _, way := range []string{"FIN", "reset"} {
		t.Run(way, func(t *testing.T) {
			b := standBy(t, "MAX_QUEUE_BYTES=67108864") // or a listener on a busy machine is closed as slow
			message := text(`{"targetPeerId":"listener","text":"N` + strings.Repeat("x", size) + `"}`)
			forNobody := text(`{"targetPeerId":"nobody","text":"` + strings.Repeat("x", 1<<20-100) + `"}`)
			var least, most int64 // of messages that the listener must and may have
			for range rounds() / atOnce {
				var all []*raw
				for k := range atOnce {
					c := open(t, b.s, "r", fmt.Sprint("c", k))
					c.send(forNobody, text("ping")) // teaches the kernel to take much
					c.wantFrame(0x1, "pong")
					all = append(all, c)
				}
				release := stall(b.s)
				for k, c := range all {
					written := 0
					_ = c.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
					for written < 2<<20 {
						n, err := c.Write(bytes.Repeat(message, 64))
						if written += n; err != nil {
							break
						}
					}
					most += int64(written / len(message))
					if way == "reset" {
						least += int64(unread(t, int(peerOf(t, b.s, fmt.Sprint("c", k)).fd)) / len(message))
						reset(t, c)
					} else {
						least += int64(written / len(message))
						_ = c.CloseWrite() // and all of it is delivered
					}
				}
				release()
				if way != "reset" {
					for _, c := range all {
						_, _ = io.Copy(io.Discard, c)
						c.Close()
					}
				}
				eventually(t, "they have gone", func() bool { return b.s.Stats().Connections == 2 })
				eventually(t, fmt.Sprintf("%d messages are heard", least), func() bool {
					flush(b.s)
					return b.heard.Load() >= least
				})
				if n := b.heard.Load(); n > most {
					t.Fatalf("%d messages are heard, at most %d were sent", n, most)
				}
			}
			if way == "reset" && least == 0 {
				t.Error("nothing was delivered before any reset")
			}
			t.Logf("%d messages were heard, of which %d must be", b.heard.Load(), least)
		})
	}
}

// TestHalfClosedRequests: a client that asks many things and then shuts its side gets all the answers,
// also those that had to wait until it read.
func TestHalfClosedRequests(t *testing.T) {
	s := start(t)
	for _, requests := range append(slices.Repeat([]int{600}, rounds()), 60_000) {
		c := dial(t, s)
		if err := c.SetReadBuffer(64 << 10); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = c.Write(bytes.Repeat([]byte("GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n"), requests))
			_ = c.CloseWrite()
		}()
		if requests > 1000 { // let answers wait
			eventually(t, "answers wait", func() bool {
				all := s.wheels[phaseHead].All()
				return len(all) == 1 && all[0].waiting() > 0
			})
		}
		got, err := io.ReadAll(c.in)
		if n := bytes.Count(got, []byte("HTTP/1.1 200")); err != nil || n != requests {
			t.Fatalf("%d answers to %d requests, %v", n, requests, err)
		}
		c.Close()
	}
}

// TestSeatIsGivenBack: a peer that is closed by the relay is out of its room and of every count at
// once, though its socket may be awaited.
func TestSeatIsGivenBack(t *testing.T) {
	for name, provoke := range map[string]func(s *Server, c *raw, p *peer){
		"heartbeat": func(s *Server, c *raw, p *peer) {
			p.inLoop(func(l *loop) {
				p.heard = false
				l.beat(p)
			})
		},
		"violation": func(s *Server, c *raw, p *peer) { c.send(frameHeader(0x81, 0, 1), []byte("x")) },
		"not UTF-8": func(s *Server, c *raw, p *peer) { c.send(maskedFrame(0x81, []byte{0xff})) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			c := open(t, s, "r", "c")
			provoke(s, c, peerOf(t, s, "c"))
			op, _ := c.frame()
			if st := s.Stats(); op != opClose || st.Peers != 0 || st.Rooms != 0 || s.wheels[phaseOpen].Len() != 0 {
				t.Errorf("frame %#x came; then %d peers, %d rooms, %d heartbeats", op, st.Peers, st.Rooms, s.wheels[phaseOpen].Len())
			}
			if n := s.Stats().Connections; n != 1 {
				t.Errorf("%d connections, want the socket to be awaited", n)
			}
			c.Close()
		})
	}
}
