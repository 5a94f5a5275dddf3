//go:build !race

package router

import "testing"

// What is measured here depends on sync.Pool, which forgets at random under the race detector.

func TestRelayingDoesNotAllocate(t *testing.T) {
	frame, target := make([]byte, 130), []byte("7")
	for _, n := range []int{2, 10, 100, 1000} {
		members, s := deafRoom(n), new(Scratch)
		r := members[0].Room()
		f := func(what string, publish func()) {
			t.Helper()
			once := func() {
				publish()
				flushAll(r, s)
			}
			once()
			if allocs := testing.AllocsPerRun(500, once); allocs != 0 {
				t.Errorf("%s in a room of %d: %v allocations, want 0", what, n, allocs)
			}
		}
		f("a broadcast", func() { r.Publish(&members[0].Member, frame) })
		f("a direct message", func() { r.PublishTo(&members[0].Member, target, frame) })
		f("a mixture", func() {
			r.Publish(&members[0].Member, frame)
			r.PublishTo(&members[1].Member, target, frame)
			r.Publish(&members[1].Member, frame)
		})
		f("a message from everybody", func() {
			for _, m := range members[:min(n, 100)] {
				r.Publish(&m.Member, frame)
			}
		})
		f("a drain", func() {
			r.Publish(&members[0].Member, frame)
			r.Drain(s)
		})
	}
}

// A full room's log is kept for the next one: a flood grows it once.
func TestFullLogIsKept(t *testing.T) {
	f := func(what string, publish func(r *Room, from *Member)) {
		t.Helper()
		members, s := deafRoom(100), new(Scratch)
		r := members[0].Room()
		once := func() {
			for !r.Full() {
				publish(r, &members[0].Member)
			}
			flushAll(r, s)
		}
		once()
		if allocs := testing.AllocsPerRun(50, once); allocs != 0 {
			t.Errorf("a room full of %s: %v allocations, want 0", what, allocs)
		}
	}
	frame := make([]byte, 1000)
	f("broadcasts", func(r *Room, from *Member) { r.Publish(from, frame) })
	f("direct messages", func(r *Room, from *Member) { r.PublishTo(from, []byte("7"), frame) })
	f("both", func(r *Room, from *Member) {
		r.Publish(from, frame)
		r.PublishTo(from, []byte("7"), frame[:50])
	})
	f("empty messages", func(r *Room, from *Member) { r.Publish(from, frame[:2]) })
}
