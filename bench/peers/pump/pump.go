// Package pump is what a read pump and a write pump need in the two relays that run a pair of goroutines per connection.
package pump

import (
	"bytes"
	"io"
	"sync"
)

const (
	slotBytes = 32 // what a queued message costs besides its payload
	keepSlots = 64 // room for messages that a drained queue keeps
)

// Message is one message for one recipient. The payload is shared by all of them; nobody writes to it.
type Message struct {
	Text    bool
	Payload []byte
}

// Queue is the send channel of a write pump, bounded in bytes and grown on demand: a channel's ring is allocated whole,
// so that room for a burst of thousands would cost every silent connection tens of KiB.
type Queue struct {
	limit int

	mu       sync.Mutex
	filled   sync.Cond
	messages []Message
	waiting  int // bytes put and not known to be written
	taken    int // bytes of them that the write pump holds
	closed   bool
}

// NewQueue returns a queue for at most limit bytes.
func NewQueue(limit int) *Queue {
	q := &Queue{limit: limit}
	q.filled.L = &q.mu
	return q
}

// Put appends m and reports whether it fits. The first message that does not closes the queue, and the caller then
// closes the connection: what a peer receives has no gaps. After Close, Put does nothing.
func (q *Queue) Put(m Message) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return true
	}
	n := len(m.Payload) + slotBytes
	if q.waiting+n > q.limit {
		q.closeLocked()
		return false
	}
	q.waiting += n
	q.messages = append(q.messages, m)
	if len(q.messages) == 1 {
		q.filled.Signal()
	}
	return true
}

// Take waits for messages and takes all of them, or reports false after Close. written is what the last Take gave;
// its slots are used again.
func (q *Queue) Take(written []Message) ([]Message, bool) {
	clear(written)
	if cap(written) > keepSlots {
		written = nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting -= q.taken
	for len(q.messages) == 0 && !q.closed {
		q.filled.Wait()
	}
	q.taken = q.waiting
	batch := q.messages
	q.messages = written[:0]
	return batch, !q.closed
}

// Close ends Take and drops what is queued.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closeLocked()
}

func (q *Queue) closeLocked() {
	q.closed = true
	q.messages = nil
	q.filled.Signal()
}

var readers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// ReadMessage reads r to its end into a slice of just that size. io.ReadAll begins with 512 bytes and grows by copying;
// most messages are much smaller or much larger.
func ReadMessage(r io.Reader) ([]byte, error) {
	b := readers.Get().(*bytes.Buffer)
	defer func() {
		if b.Cap() <= 64<<10 {
			b.Reset()
			readers.Put(b)
		}
	}()
	if _, err := b.ReadFrom(r); err != nil {
		return nil, err
	}
	return bytes.Clone(b.Bytes()), nil
}
