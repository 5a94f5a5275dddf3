package health

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type sitter struct {
	seat   Seat
	visits []time.Time
}

func (s *sitter) Seat() *Seat { return &s.seat }

const step = 10 * time.Millisecond

// turner drives a wheel by a clock of its own.
type turner struct {
	*Wheel[*sitter]
	now time.Time
}

func newTurner(slots int) *turner {
	w := &turner{NewWheel[*sitter](slots, step), time.Unix(1000, 0)}
	w.Turn(w.now, nil) // the first turn only sets the clock
	return w
}

// turn lets d pass, then moves the hand.
func (w *turner) turn(d time.Duration, visit func(*sitter)) {
	w.now = w.now.Add(d)
	w.Turn(w.now, visit)
}

// see is a visit that notes when it was.
func (w *turner) see(s *sitter) { s.visits = append(s.visits, w.now) }

func (w *turner) spread(n int) []*sitter {
	all := make([]*sitter, n)
	for i := range all {
		all[i] = new(sitter)
		w.AddSpread(all[i])
	}
	return all
}

func (w *turner) wantLen(t *testing.T, want int) {
	t.Helper()
	if n, all := w.Len(), len(w.All()); n != want || all != want {
		t.Errorf("Len %d, %d in All, want %d", n, all, want)
	}
}

func TestEachIsVisitedOncePerRevolution(t *testing.T) {
	f := func(slots, sitters int) {
		t.Helper()
		w := newTurner(slots)
		all := w.spread(sitters)
		for revolution := 1; revolution <= 3; revolution++ {
			for range slots {
				visits := 0
				w.turn(step, func(s *sitter) { visits++; w.see(s) })
				if least := sitters / slots; visits < least || visits > least+1 {
					t.Fatalf("%d slots: %d visits in one step, want an even share of %d", slots, visits, sitters)
				}
			}
			for i, s := range all {
				if len(s.visits) != revolution {
					t.Fatalf("%d slots: sitter %d had %d visits in %d revolutions", slots, i, len(s.visits), revolution)
				}
			}
		}
		for i, s := range all {
			for n := 1; n < len(s.visits); n++ {
				if d := s.visits[n].Sub(s.visits[n-1]); d != time.Duration(slots)*step {
					t.Fatalf("%d slots: sitter %d was visited after %v, want a revolution", slots, i, d)
				}
			}
		}
		w.wantLen(t, sitters)
	}
	f(2, 1)
	f(2, 5)
	f(10, 3)
	f(10, 1003)
	f(300, 3000)
}

// A wheel that is driven as the server does it, in a bubble's clock.
func TestTickedWheel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots, sitters = 300, 1000
		w := NewWheel[*sitter](slots, 100*time.Millisecond)
		all := make([]*sitter, sitters)
		for i := range all {
			all[i] = new(sitter)
			w.AddSpread(all[i])
		}
		ticker, end := time.NewTicker(w.Step()), time.After(5*30*time.Second+50*time.Millisecond)
		defer ticker.Stop()
		for running := true; running; {
			select {
			case now := <-ticker.C:
				w.Turn(now, func(s *sitter) { s.visits = append(s.visits, now) })
			case <-end:
				running = false
			}
		}
		for i, s := range all {
			// The wheel's clock starts with its first turn, so of five revolutions
			// the last may lack its last step.
			if n := len(s.visits); n != 4 && n != 5 {
				t.Fatalf("sitter %d had %d visits in five revolutions", i, n)
			}
			for n := 1; n < len(s.visits); n++ {
				if d := s.visits[n].Sub(s.visits[n-1]); d != 30*time.Second {
					t.Fatalf("sitter %d was visited after %v, want 30s", i, d)
				}
			}
		}
	})
}

func TestNothingBeforeItsTime(t *testing.T) {
	w := &turner{NewWheel[*sitter](4, step), time.Unix(1000, 0)}
	all := w.spread(4)
	w.turn(0, w.see) // the first turn only sets the clock
	w.turn(step-1, w.see)
	for i, s := range all {
		if len(s.visits) != 0 {
			t.Errorf("sitter %d was visited before a step had passed", i)
		}
	}
	w.turn(1, w.see)
	w.turn(0, w.see)
	visits := 0
	for _, s := range all {
		visits += len(s.visits)
	}
	if visits != 1 {
		t.Errorf("%d visits after one step, want 1", visits)
	}
}

func TestSpreadIsReachedWithinARevolution(t *testing.T) {
	const slots = 8
	for start := range slots {
		w := newTurner(slots)
		for range start {
			w.turn(step, w.see)
		}
		all := w.spread(3 * slots)
		for range slots {
			w.turn(step, w.see)
		}
		for i, s := range all {
			if len(s.visits) != 1 {
				t.Errorf("start at %d: sitter %d had %d visits in its first revolution, want 1", start, i, len(s.visits))
			}
		}
	}
}

func TestBehindComesBackAfterARevolution(t *testing.T) {
	const slots = 8
	for start := range slots {
		for _, after := range []time.Duration{0, step / 2, step - 1} {
			w := newTurner(slots)
			for range start {
				w.turn(step, w.see)
			}
			w.turn(after, w.see)
			var s sitter
			seated := w.now
			w.Add(&s)
			w.turn(step-after, w.see)
			for len(s.visits) == 0 {
				w.turn(step, w.see)
			}
			if d := s.visits[0].Sub(seated); d < (slots-1)*step || d > slots*step {
				t.Errorf("start at %d and %v: visited after %v, want %d to %d steps of %v", start, after, d, slots-1, slots, step)
			}
		}
	}
}

// A hand that is late hurries, so one who is seated meanwhile waits for less than a
// revolution; for that much less than the time that is made up for.
func TestBehindALateHand(t *testing.T) {
	const slots, least = 32, (32 - 32/8 - 2) * step
	w := newTurner(slots)
	w.turn(step, w.see)
	for _, late := range []time.Duration{step / 2, 3 * step, time.Hour} {
		w.now = w.now.Add(late) // and nobody turned
		var s sitter
		seated := w.now
		w.Add(&s)
		for w.turn(0, w.see); len(s.visits) == 0; {
			w.turn(step, w.see)
		}
		if d := s.visits[0].Sub(seated); d < least {
			t.Errorf("a hand %v late: visited after %v, want at least %v", late, d, least)
		}
		w.Remove(&s)
	}
}

func TestRemove(t *testing.T) {
	w := newTurner(3)
	all := w.spread(200)
	stays := func(i int) bool { return i%5 == 0 }
	for i, s := range all {
		if !stays(i) {
			w.Remove(s)
			w.Remove(s) // it is out already
		}
	}
	w.Remove(new(sitter)) // it never was in
	w.wantLen(t, 40)
	for range 3 {
		w.turn(step, w.see)
	}
	for i, s := range all {
		want := 0
		if stays(i) {
			want = 1
		}
		if len(s.visits) != want {
			t.Errorf("sitter %d was visited %d times, want %d", i, len(s.visits), want)
		}
	}
	w.AddSpread(all[1])
	w.wantLen(t, 41)
	if !slices.Contains(w.All(), all[1]) {
		t.Error("one that came back is not among all")
	}
}

func TestRemovedIsForgotten(t *testing.T) {
	w := newTurner(2)
	all := w.spread(2000)
	w.turn(step, w.see)
	w.turn(step, w.see)
	for _, s := range w.seen[:cap(w.seen)] {
		if s != nil {
			t.Fatal("the hand holds on to one that it visited")
		}
	}
	for _, s := range all[4:] {
		w.Remove(s)
	}
	for i, slot := range w.slots {
		if c := cap(slot); c > 16 {
			t.Errorf("slot %d, where 2 of 1,000 stayed, has place for %d", i, c)
		}
		for _, s := range slot[len(slot):cap(slot)] {
			if s != nil {
				t.Fatalf("slot %d holds on to one that was removed", i)
			}
		}
	}
	for _, s := range all[:4] {
		w.Remove(s)
	}
	for i, slot := range w.slots {
		if slot != nil {
			t.Errorf("slot %d is empty and has place for %d", i, cap(slot))
		}
	}
}

// A visit may do what an owner does: evict the one visited or any other, seat
// somebody, count.
func TestVisitMayCallTheWheel(t *testing.T) {
	const slots = 4
	w, closing := newTurner(slots), newTurner(slots)
	all := w.spread(10 * slots)
	joined := 0
	for range slots {
		w.turn(step, func(s *sitter) {
			w.see(s)
			w.Remove(s)
			closing.Add(s)
			w.Add(new(sitter))
			joined++
			w.wantLen(t, len(all))
		})
	}
	for i, s := range all {
		if len(s.visits) != 1 {
			t.Errorf("sitter %d was visited %d times, want once", i, len(s.visits))
		}
	}
	if joined != len(all) {
		t.Errorf("%d came during visits, want %d: those who came behind the hand are not visited at once", joined, len(all))
	}
	closing.wantLen(t, len(all))
}

// Everybody leaves a slot while it is visited, the one visited last first.
func TestRemoveOthersDuringVisit(t *testing.T) {
	w := newTurner(2)
	all := w.spread(20)
	for range 2 {
		w.turn(step, func(s *sitter) {
			w.see(s)
			for _, x := range slices.Backward(all) {
				w.Remove(x)
			}
		})
	}
	w.wantLen(t, 0)
	for i, s := range all {
		if len(s.visits) > 1 {
			t.Errorf("sitter %d was visited %d times, want once at most", i, len(s.visits))
		}
	}
}

// A hand that is a little late catches up, so that a revolution keeps its length.
func TestLateTurnsAreMadeUpFor(t *testing.T) {
	const slots = 64
	w := newTurner(slots)
	all := w.spread(slots)
	for n := range slots { // a turn every two steps, a bit late
		w.turn(2*step+step/4*time.Duration(1-2*(n%2)), w.see)
	}
	for i, s := range all {
		if len(s.visits) != 2 {
			t.Errorf("sitter %d was visited %d times in two revolutions", i, len(s.visits))
		}
	}
}

func TestLostTimeIsNotMadeUpFor(t *testing.T) {
	f := func(slots int) {
		t.Helper()
		w := newTurner(slots)
		all := w.spread(slots)
		for range slots {
			w.turn(step, w.see)
		}
		visits := 0
		w.turn(time.Hour, func(s *sitter) { visits++; w.see(s) })
		if visits < slots/8 || visits > slots/8+2 {
			t.Errorf("%d slots: %d visits after an hour was lost, want an eighth of them", slots, visits)
		}
		for range slots / 2 {
			before := visits
			w.turn(step, func(s *sitter) { visits++; w.see(s) })
			if visits != before+1 {
				t.Errorf("%d slots: %d visits in a step after that, want 1", slots, visits-before)
			}
		}
		for range 2 * slots {
			w.turn(step, w.see)
		}
		for i, s := range all {
			for n := 1; n < len(s.visits); n++ {
				if d, least := s.visits[n].Sub(s.visits[n-1]), time.Duration(slots-slots/8-1)*step; d < least {
					t.Errorf("%d slots: sitter %d was visited after %v, want at least %v to answer", slots, i, d, least)
				}
			}
		}
	}
	f(8)
	f(64)
	f(300)
}

func TestClockThatStandsOrGoesBack(t *testing.T) {
	w := newTurner(4)
	w.spread(4)
	w.turn(step, w.see)
	w.turn(-time.Hour, func(*sitter) { t.Error("a visit while the clock goes back") })
	w.turn(time.Hour, func(*sitter) { t.Error("a visit at a time that has been") })
	visits := 0
	w.turn(step, func(*sitter) { visits++ })
	if visits != 1 {
		t.Errorf("%d visits in the step after that, want 1", visits)
	}
}

// Many come, go and are counted while the hand moves. Those who stay are visited once
// per revolution all the same.
func TestConcurrentUse(t *testing.T) {
	const slots, revolutions = 4, 20
	w := newTurner(slots)
	stay := w.spread(50)
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			var mine [10]sitter
			for {
				for i := range mine {
					w.AddSpread(&mine[i])
				}
				for i := range mine {
					w.Remove(&mine[i])
					w.Add(&mine[i])
				}
				if n := w.Len(); n < len(stay) || n > len(stay)+4*len(mine) {
					t.Errorf("Len %d, want %d to %d", n, len(stay), len(stay)+4*len(mine))
				}
				for i := range mine {
					w.Remove(&mine[i])
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	staying := make(map[*sitter]bool)
	for _, s := range stay {
		staying[s] = true
	}
	for range revolutions * slots {
		w.turn(step, func(s *sitter) {
			if staying[s] {
				w.see(s)
			}
		})
	}
	close(stop)
	group.Wait()
	for i, s := range stay {
		if len(s.visits) != revolutions {
			t.Errorf("sitter %d was visited %d times, want %d", i, len(s.visits), revolutions)
		}
	}
	w.wantLen(t, len(stay))
}

func TestWheelDoesNotAllocate(t *testing.T) {
	w := newTurner(4)
	all := w.spread(400)
	visits := 0
	visit := func(*sitter) { visits++ }
	for range 4 {
		w.turn(step, visit)
	}
	if n := testing.AllocsPerRun(100, func() { w.turn(step, visit) }); n != 0 {
		t.Errorf("%v allocations per step, want 0", n)
	}
	if n := testing.AllocsPerRun(100, func() { w.Remove(all[0]); w.Add(all[0]) }); n != 0 {
		t.Errorf("%v allocations to change one's seat, want 0", n)
	}
}

func BenchmarkWheelTurn(b *testing.B) {
	w := newTurner(300)
	w.spread(15000)
	visits := 0
	visit := func(*sitter) { visits++ }
	b.ReportAllocs()
	for b.Loop() {
		w.turn(step, visit)
	}
}
