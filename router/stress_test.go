package router

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// flushers do what a server's event loops do with the rooms that they are to note.
// What they leave undone stays undone: nobody else flushes.
type flushers struct {
	loops   []*flusher
	undone  sync.WaitGroup // the notes that nobody has handled
	running sync.WaitGroup
}

type flusher struct {
	mu    sync.Mutex
	come  *sync.Cond
	noted []*Room
	ended bool
}

func startFlushers(n int) *flushers {
	f := new(flushers)
	for range n {
		l := new(flusher)
		l.come = sync.NewCond(&l.mu)
		f.loops = append(f.loops, l)
	}
	for i := range f.loops {
		f.running.Go(func() { f.run(i) })
	}
	return f
}

func (f *flushers) note(i int, r *Room) {
	f.undone.Add(1)
	l := f.loops[i%len(f.loops)]
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noted = append(l.noted, r)
	l.come.Signal()
}

// do does what a publisher in loop i must, and drains a full room.
func (f *flushers) do(i int, note bool, r *Room, s *Scratch) {
	if r.Full() {
		note = r.Drain(s)
	}
	if note {
		f.note(i, r)
	}
}

func (f *flushers) run(i int) {
	l, s := f.loops[i], new(Scratch)
	for {
		l.mu.Lock()
		for len(l.noted) == 0 && !l.ended {
			l.come.Wait()
		}
		if len(l.noted) == 0 {
			l.mu.Unlock()
			return
		}
		ticking := l.noted
		l.noted = nil
		l.mu.Unlock()
		for _, r := range ticking {
			left, help := r.Flush(s)
			again := left != Flushed
			if again {
				f.note(i, r)
			}
			if help {
				for other := range f.loops {
					if other != i {
						f.note(other, r)
					}
				}
			}
			f.undone.Done()
		}
	}
}

// end waits until nothing is noted any more.
func (f *flushers) end() {
	f.undone.Wait()
	for _, l := range f.loops {
		l.mu.Lock()
		l.ended = true
		l.come.Signal()
		l.mu.Unlock()
	}
	f.running.Wait()
}

// wantInOrder fails unless e heard every number from 0 to messages-1 from each
// of senders, each sender's in order. Messages are lines "sender:number", and maybe padding.
func wantInOrder(t *testing.T, e *ear, senders, messages int) {
	t.Helper()
	next := make([]int, senders)
	heard, _ := e.take()
	for line := range strings.Lines(heard) {
		var from, n int
		if _, err := fmt.Sscanf(line, "%d:%d", &from, &n); err != nil {
			t.Fatalf("%s heard %.100q, want a line of a message: %v", e.ID(), line, err)
		}
		if n != next[from] {
			t.Fatalf("%s heard number %d of sender %d, want number %d", e.ID(), n, from, next[from])
		}
		next[from]++
	}
	for i, n := range next {
		if n != messages {
			t.Errorf("%s heard %d messages of sender %d, want %d", e.ID(), n, i, messages)
		}
	}
}

// stress lets senders speak in one room of stay silent members, broadcasts and
// direct messages to all of them by turns, while others come and go there and
// elsewhere, and several loops flush. padding makes messages long.
func stress(t *testing.T, stay, senders, messages, padding int) {
	table, loops := NewTable(), startFlushers(3)
	var stayers []*ear
	for range stay {
		stayers = append(stayers, joinRoom(table, "r", "stayer"))
	}
	r := stayers[0].Room()
	var speaking, passing sync.WaitGroup
	var silent atomic.Bool
	pad := strings.Repeat(" ", padding)
	for i := range senders {
		speaking.Go(func() {
			e, s := joinRoom(table, "r", fmt.Sprint(i)), new(Scratch)
			for n := range messages {
				frame := fmt.Appendf(nil, "%d:%d %s\n", i, n, pad)
				var note bool
				if n%3 == 0 {
					var found bool
					if note, found = r.PublishTo(&e.Member, []byte("stayer"), frame); !found {
						t.Error("nobody called stayer was found")
					}
				} else {
					note, _ = r.Publish(&e.Member, frame)
				}
				loops.do(i, note, r, s)
			}
			table.Leave(&e.Member)
		})
	}
	for i := range 2 {
		passing.Go(func() {
			s := new(Scratch)
			for n := 0; !silent.Load(); n++ {
				e := joinRoom(table, [...]string{"r", "brief"}[n%2], "passer")
				note, found := e.Room().PublishTo(&e.Member, []byte("passer"), []byte("me\n"))
				if !found {
					t.Error("a member that is in its room was not found there")
				}
				loops.do(i, note, e.Room(), s)
				table.Leave(&e.Member)
			}
		})
	}
	speaking.Wait()
	silent.Store(true)
	passing.Wait()
	loops.end()
	wantIdle(t, r)
	for _, e := range stayers {
		wantInOrder(t, e, senders, messages)
		table.Leave(&e.Member)
	}
	wantEmptyTable(t, table)
}

func TestStressSmallRoom(t *testing.T) { stress(t, 2, 4, 500, 0) }

func TestStressManyChunks(t *testing.T) { stress(t, 3*maxChunk, 3, 40, 0) }

// Three messages fill a log, so publishers drain it themselves.
func TestStressLogLimit(t *testing.T) { stress(t, 2, 3, 20, LogLimit/3) }
