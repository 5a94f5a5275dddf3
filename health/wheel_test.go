package health

import (
	"sync"
	"testing"
	"time"
)

type sitter struct {
	seat   Seat
	visits int
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

// turn moves the hand by one slot.
func (w *turner) turn(visit func(*sitter)) {
	w.now = w.now.Add(step)
	w.Turn(w.now, visit)
}

func (w *turner) count(s *sitter) { s.visits++ }

func TestEachIsVisitedOncePerRevolution(t *testing.T) {
	const slots, sitters = 10, 1003
	w := newTurner(slots)
	all := make([]sitter, sitters)
	for i := range all {
		w.Spread(&all[i])
	}
	for revolution := 1; revolution <= 3; revolution++ {
		for range slots {
			before := 0
			w.turn(func(s *sitter) { before++; s.visits++ })
			if before < sitters/slots || before > sitters/slots+1 {
				t.Fatalf("%d visits in one step, want an even share of %d", before, sitters)
			}
		}
		for i := range all {
			if all[i].visits != revolution {
				t.Fatalf("%d visits after %d revolutions", all[i].visits, revolution)
			}
		}
	}
	if n := w.Len(); n != sitters || len(w.All()) != n {
		t.Errorf("Len %d, All %d, want %d", n, len(w.All()), sitters)
	}
}

func TestBehindComesBackAfterARevolution(t *testing.T) {
	const slots = 8
	w := newTurner(slots)
	for range 3 {
		w.turn(w.count)
	}
	var s sitter
	w.Behind(&s)
	for n := 1; n <= slots; n++ {
		w.turn(w.count)
		if want := n / slots; s.visits != want {
			t.Fatalf("%d visits after %d steps, want %d", s.visits, n, want)
		}
	}
}

func TestRemove(t *testing.T) {
	w := newTurner(2)
	all := make([]sitter, 100)
	for i := range all {
		w.Spread(&all[i])
	}
	for i := range all {
		if i%3 != 0 {
			w.Remove(&all[i])
			w.Remove(&all[i]) // it is out already
		}
	}
	w.turn(w.count)
	w.turn(w.count)
	for i := range all {
		want := 0
		if i%3 == 0 {
			want = 1
		}
		if all[i].visits != want {
			t.Errorf("sitter %d was visited %d times, want %d", i, all[i].visits, want)
		}
	}
	w.Spread(&all[1])
	if n := w.Len(); n != 35 {
		t.Errorf("Len %d, want 35: 34 stayed and one came back", n)
	}
}

func TestRemoveDuringVisit(t *testing.T) {
	w := newTurner(2)
	all := make([]sitter, 10)
	for i := range all {
		w.Spread(&all[i])
	}
	for range 4 {
		w.turn(func(s *sitter) { s.visits++; w.Remove(s) })
	}
	for i := range all {
		if all[i].visits != 1 {
			t.Errorf("sitter %d was visited %d times, want once", i, all[i].visits)
		}
	}
	if n := w.Len(); n != 0 {
		t.Errorf("Len %d, want 0", n)
	}
}

func TestLostTimeIsNotMadeUpFor(t *testing.T) {
	const slots = 64
	w := newTurner(slots)
	all := make([]sitter, slots)
	for i := range all {
		w.Spread(&all[i])
	}
	visits := 0
	w.now = w.now.Add(time.Hour)
	w.Turn(w.now, func(*sitter) { visits++ })
	if visits == 0 || visits > slots/8+2 {
		t.Errorf("%d visits after an hour was lost, want an eighth of %d at most", visits, slots)
	}
	late := visits
	for range slots / 2 {
		w.turn(func(*sitter) { visits++ })
	}
	if n := visits - late; n != slots/2 {
		t.Errorf("%d visits in the %d steps after that, want one each", n, slots/2)
	}
}

func TestConcurrentUse(t *testing.T) {
	w := newTurner(4)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 200 {
				var s sitter
				w.Spread(&s)
				w.Remove(&s)
				w.Behind(&s)
				w.Remove(&s)
			}
		})
	}
	for range 50 {
		w.turn(func(s *sitter) { w.Remove(s) })
	}
	group.Wait()
	if n := w.Len(); n != 0 {
		t.Errorf("Len %d, want 0", n)
	}
}

func TestTurnDoesNotAllocate(t *testing.T) {
	w := newTurner(4)
	all := make([]sitter, 400)
	for i := range all {
		w.Spread(&all[i])
	}
	visit := w.count
	for range 4 {
		w.turn(visit)
	}
	if n := testing.AllocsPerRun(100, func() { w.turn(visit) }); n != 0 {
		t.Errorf("%v allocations per step, want 0", n)
	}
}

func BenchmarkWheelTurn(b *testing.B) {
	w := newTurner(300)
	for range 15000 {
		w.Spread(new(sitter))
	}
	visit := w.count
	b.ReportAllocs()
	for b.Loop() {
		w.turn(visit)
	}
}
