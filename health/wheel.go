// Package health asks whether a connection is still there. It knows no sockets:
// a Wheel hands over, slot by slot and once per revolution, whoever sits in it,
// and the owner pings, evicts or closes.
package health

import (
	"sync"
	"time"
)

// Seat is a connection's place in a wheel. Embed one in whatever sits there;
// its zero value sits nowhere. Only the wheel touches it.
type Seat struct {
	slot  int32 // 1 + slot, 0 if nowhere
	index int32
}

// Sitter is what sits in a wheel.
type Sitter interface {
	comparable
	Seat() *Seat
}

// Wheel is a ring of slots that a hand passes at an even pace. All who sit in
// it have the same interval, one revolution, so nobody is ever re-inserted and
// nobody needs a timer. It is safe for concurrent use.
type Wheel[T Sitter] struct {
	// Static.
	step   time.Duration
	stride int // from one seat that AddSpread gives to the next, in slots

	mu    sync.Mutex
	slots [][]T
	hand  int       // the slot passed last
	next  int       // where AddSpread puts the next one
	due   time.Time // when the hand moves on; zero before the first Turn
	seen  []T       // scratch of Turn, which runs in one goroutine
}

// NewWheel returns a wheel of n slots (at least 2) whose hand moves every step.
func NewWheel[T Sitter](n int, step time.Duration) *Wheel[T] {
	return &Wheel[T]{step: step, stride: stride(n), slots: make([][]T, n)}
}

// stride returns about 0.618 n, which has no divisor in common with n: steps of it
// reach all slots before they come back, and any few of them lie far apart.
func stride(n int) int {
	s := max(n*618/1000, 1)
	for gcd(s, n) != 1 {
		s++
	}
	return s
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Step returns the time between two moves of the hand.
func (w *Wheel[T]) Step() time.Duration { return w.step }

// Len returns how many sit in the wheel.
func (w *Wheel[T]) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, s := range w.slots {
		n += len(s)
	}
	return n
}

// AddSpread seats x in the slots by turns, so that many who come at once are not
// visited at once. The hand reaches x within one revolution.
func (w *Wheel[T]) AddSpread(x T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = (w.next + w.stride) % len(w.slots)
	w.seat(x, w.next)
}

// Add seats x where the hand has just been: it comes back after at least
// len(slots)-1 steps, at most len(slots).
func (w *Wheel[T]) Add(x T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seat(x, w.hand)
}

func (w *Wheel[T]) seat(x T, slot int) {
	s := x.Seat()
	s.slot, s.index = int32(slot+1), int32(len(w.slots[slot]))
	w.slots[slot] = append(w.slots[slot], x)
}

// Remove takes x out, if it sits in this wheel. x must not sit in another.
func (w *Wheel[T]) Remove(x T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := x.Seat()
	if s.slot == 0 {
		return
	}
	slot := w.slots[s.slot-1]
	last := len(slot) - 1
	moved := slot[last]
	slot[s.index] = moved
	moved.Seat().index = s.index
	var zero T
	slot[last] = zero
	slot = slot[:last]
	switch c := cap(slot); {
	case last == 0:
		slot = nil
	case c > 16 && last < c/4:
		slot = append(make([]T, 0, c/2), slot...)
	}
	w.slots[s.slot-1] = slot
	s.slot = 0
}

// Turn moves the hand to where it should be at now and calls visit for all who
// sit in the slots that it passes; they stay. visit may call any method but
// Turn, and may be called for one whom somebody else has just removed.
//
// Time that was lost (the process was stopped, the machine asleep) beyond an
// eighth of a revolution is not made up for: a hand that hurried would ask the
// same connection twice before it had time to answer.
func (w *Wheel[T]) Turn(now time.Time, visit func(T)) {
	for w.pass(now) {
		for i, x := range w.seen {
			visit(x)
			var zero T
			w.seen[i] = zero
		}
	}
}

// pass moves the hand by one slot, if it is time, and fills seen.
func (w *Wheel[T]) pass(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.due.IsZero() {
		w.due = now.Add(w.step)
	}
	if now.Before(w.due) {
		return false
	}
	if most := w.step * time.Duration(len(w.slots)/8+1); now.Sub(w.due) > most {
		w.due = now.Add(-most)
	}
	w.due = w.due.Add(w.step)
	w.hand++
	if w.hand == len(w.slots) {
		w.hand = 0
	}
	w.seen = append(w.seen[:0], w.slots[w.hand]...)
	return true
}

// All returns all who sit in the wheel at the moment.
func (w *Wheel[T]) All() []T {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []T
	for _, s := range w.slots {
		all = append(all, s...)
	}
	return all
}
