package router

import (
	"fmt"
	"testing"
)

// deaf is a member whose writes cost nothing.
type deaf struct{ Member }

func (*deaf) Write([]byte) {}

// deafRoom returns the members of one room, called 0, 1, 2 and so on.
func deafRoom(n int) []*deaf {
	table := NewTable()
	members := make([]*deaf, n)
	for i := range members {
		members[i] = new(deaf)
		members[i].Init(fmt.Sprint(i), members[i])
		table.Join([]byte("r"), &members[i].Member)
	}
	return members
}

// BenchmarkPublish is a message's way into the log alone: the log is thrown away
// unread when it is full.
func BenchmarkPublish(b *testing.B) {
	members, frame := deafRoom(10), make([]byte, 130)
	r := members[0].Room()
	b.ReportAllocs()
	for b.Loop() {
		r.Publish(&members[0].Member, frame)
		if r.Full() {
			r.mu.Lock()
			r.log.recycle()
			r.log = nil
			r.full.Store(false)
			r.mu.Unlock()
		}
	}
}

func BenchmarkFlush(b *testing.B) {
	frame := make([]byte, 130)
	for _, n := range []int{2, 10, 1000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			members, s := deafRoom(n), new(Scratch)
			r := members[0].Room()
			b.ReportAllocs()
			for b.Loop() {
				r.Publish(&members[0].Member, frame)
				flushAll(r, s)
			}
		})
	}
}

// BenchmarkFlushManySenders: each sender gets a write of its own making, the log
// without what it said itself.
func BenchmarkFlushManySenders(b *testing.B) {
	frame := make([]byte, 130)
	for _, x := range []struct{ members, senders, each int }{{100, 16, 1}, {100, 100, 1}, {1000, 1000, 1}, {100, 16, 16}} {
		b.Run(fmt.Sprintf("members=%d/senders=%d/each=%d", x.members, x.senders, x.each), func(b *testing.B) {
			members, s := deafRoom(x.members), new(Scratch)
			r := members[0].Room()
			b.ReportAllocs()
			for b.Loop() {
				for range x.each {
					for _, m := range members[:x.senders] {
						r.Publish(&m.Member, frame)
					}
				}
				flushAll(r, s)
			}
		})
	}
}

func BenchmarkPublishTo(b *testing.B) {
	frame, target := make([]byte, 130), []byte("7")
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			members, s := deafRoom(n), new(Scratch)
			r := members[0].Room()
			b.ReportAllocs()
			for b.Loop() {
				r.PublishTo(&members[0].Member, target, frame)
				flushAll(r, s)
			}
		})
	}
}

// BenchmarkPublishToEach sends everybody a message of its own in one tick, alone
// and with one broadcast among them.
func BenchmarkPublishToEach(b *testing.B) {
	frame := make([]byte, 130)
	for _, broadcasts := range []int{0, 1} {
		b.Run(fmt.Sprintf("members=1000/broadcasts=%d", broadcasts), func(b *testing.B) {
			members, s := deafRoom(1000), new(Scratch)
			r := members[0].Room()
			b.ReportAllocs()
			for b.Loop() {
				for range broadcasts {
					r.Publish(&members[0].Member, frame)
				}
				for _, m := range members {
					r.PublishTo(&members[0].Member, []byte(m.id), frame)
				}
				flushAll(r, s)
			}
		})
	}
}

func BenchmarkJoinLeave(b *testing.B) {
	f := func(name string, others int, sameID, indexed bool) {
		b.Run(name, func(b *testing.B) {
			table := NewTable()
			for i := range others {
				e, id := new(deaf), "p"
				if !sameID {
					id = fmt.Sprint(i)
				}
				e.Init(id, e)
				table.Join([]byte("r"), &e.Member)
				if indexed && i == others-1 {
					e.Room().PublishTo(&e.Member, []byte("p"), []byte("x"))
					flushAll(e.Room(), new(Scratch))
				}
			}
			relayID := []byte("r")
			b.ReportAllocs()
			for b.Loop() {
				m := new(deaf)
				m.Init("p", m)
				table.Join(relayID, &m.Member)
				table.Leave(&m.Member)
			}
		})
	}
	f("alone", 0, false, false)
	f("members=1000", 1000, false, false)
	f("members=1000/indexed", 1000, false, true)
	f("members=10000/indexed/same", 10000, true, true)
}
