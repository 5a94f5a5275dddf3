// Package health schedules the checks whether a connection is still alive. It knows no sockets: once per
// revolution a Wheel hands over the connections that sit in each slot, and the owner pings or closes them.
// Systemd tells the service manager how the process is.
package health

import (
	"sync"
	"time"
)

// Seat is a connection's place in a wheel. Embed one in the type that sits there. The zero value sits in no
// wheel. Only the wheel uses its fields.
type Seat struct {
	slot  int32 // 1 + slot, 0 if in no wheel
	index int32
}

// Sitter is a type whose values can sit in a wheel.
type Sitter interface {
	comparable
	Seat() *Seat
}

// Wheel is a ring of slots that a hand passes at an even pace. All sitters have the same interval, one
// revolution, so none is ever re-inserted and none needs a timer. It is safe for concurrent use.
type Wheel[T Sitter] struct {
	// Static.
	step   time.Duration
	stride int // distance in slots between two consecutive seats of AddSpread

	mu    sync.Mutex
	slots [][]T
	hand  int       // the slot passed last
	next  int       // slot of AddSpread's latest seat
	due   time.Time // time of the hand's next move; zero before the first Turn
	seen  []T       // scratch of Turn, which runs in one goroutine
}

// NewWheel returns a wheel of n slots (at least 2) whose hand moves every step.
func NewWheel[T Sitter](n int, step time.Duration) *Wheel[T] {
	return &Wheel[T]{step: step, stride: stride(n), slots: make([][]T, n)}
}

// stride returns about 0.618 n, and a number that has no divisor in common with n. Steps of that size reach
// all slots before they repeat, and any few consecutive ones lie far apart.
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

// Len returns the number of sitters.
func (w *Wheel[T]) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, s := range w.slots {
		n += len(s)
	}
	return n
}

// AddSpread seats x in the next slot of a sequence spread over the wheel. Many that are added at once are
// thus not visited at once. The hand reaches x within one revolution.
func (w *Wheel[T]) AddSpread(x T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = (w.next + w.stride) % len(w.slots)
	w.seat(x, w.next)
}

// Add seats x in the slot that the hand has just passed. The hand comes back after at least len(slots)-1
// steps, at most len(slots).
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

// Since returns how long before now the hand was to pass x, which must sit in this wheel. It is right to within
// a step. If the hand has not passed x yet, the result has no meaning.
func (w *Wheel[T]) Since(x T, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	back := w.hand - int(x.Seat().slot-1)
	if back < 0 {
		back += len(w.slots)
	}
	return now.Sub(w.due) + w.step*time.Duration(back+1)
}

// Turn moves the hand to its position at time now and calls visit for all sitters in the slots that it
// passes. They stay seated. visit may call any method but Turn. It may be called for a sitter that another
// goroutine has just removed.
//
// The hand catches up on lost time (the process was stopped, the machine asleep) by at most an eighth of a
// revolution. If it hurried more, it would visit a connection twice before that had time to answer.
func (w *Wheel[T]) Turn(now time.Time, visit func(T)) {
	for w.pass(now) {
		for i, x := range w.seen {
			visit(x)
			var zero T
			w.seen[i] = zero
		}
	}
}

// pass moves the hand by one slot if its time has come, and fills seen.
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

// All returns all current sitters.
func (w *Wheel[T]) All() []T {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []T
	for _, s := range w.slots {
		all = append(all, s...)
	}
	return all
}
