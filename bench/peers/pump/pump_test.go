package pump

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestQueueKeepsOrder(t *testing.T) {
	q := NewQueue(1 << 20)
	const count = 10_000
	go func() {
		for i := range count {
			if !q.Put(Message{Text: true, Payload: fmt.Append(nil, i)}) {
				t.Errorf("message %d did not fit", i)
			}
		}
	}()
	var batch []Message
	for n := 0; n < count; n += len(batch) {
		var ok bool
		if batch, ok = q.Take(batch); !ok {
			t.Fatal("queue closed, want messages")
		}
		for i, m := range batch {
			if want := fmt.Sprint(n + i); string(m.Payload) != want {
				t.Fatalf("got message %s, want %s", m.Payload, want)
			}
		}
	}
}

// What the write pump holds counts until its next Take.
func TestQueueIsBounded(t *testing.T) {
	const size = 100
	m := Message{Payload: make([]byte, size-slotBytes)}
	q := NewQueue(3 * size)
	f := func(want bool) {
		t.Helper()
		if got := q.Put(m); got != want {
			t.Fatalf("Put: %v, want %v", got, want)
		}
	}
	f(true)
	f(true)
	batch, _ := q.Take(nil)
	f(true)
	batch, _ = q.Take(batch)
	f(true)
	f(true)
	f(false)
	f(true) // closed: no more fault of this message
	if _, ok := q.Take(batch); ok {
		t.Fatal("Take: true, want the queue closed")
	}
}

func TestReadMessage(t *testing.T) {
	for _, n := range []int{0, 1, 511, 512, 100_000} {
		want := strings.Repeat("x", n)
		got, err := ReadMessage(io.MultiReader(strings.NewReader(want[:n/2]), strings.NewReader(want[n/2:])))
		if err != nil || string(got) != want {
			t.Errorf("%d bytes: got %d bytes, %v", n, len(got), err)
		}
	}
}
