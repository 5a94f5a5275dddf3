package server

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// Buffers for unfinished input and outgoing queues. Their sizes are a quarter of a power of two apart (64,
// 80, 96, 112, 128, 160, …), so rounding up to a size costs at most a quarter more. They are pooled by size.
// Go's collector empties the pools.

const (
	minBufferBits = 6 // 64 bytes
	maxBufferBits = 27
	bufferSizes   = (maxBufferBits - minBufferBits) * 4
)

// buffer is a byte slice that belongs to a pool or to one connection. cap(b) is one of the sizes or, above
// the largest, exactly the size that was asked for.
type buffer struct {
	b    []byte
	sent int // in an outgoing queue: bytes of b that the socket has taken
}

var bufferPools [bufferSizes]sync.Pool

// bufferBytes is the size of all buffers of the process that are in use. It is changed only where a buffer is
// needed: most messages need none.
var bufferBytes atomic.Int64

// getBuffer returns an empty buffer with room for at least n bytes.
func getBuffer(n int) *buffer {
	class, size := bufferClass(n)
	bufferBytes.Add(int64(size))
	if class < 0 {
		return &buffer{b: make([]byte, 0, n)}
	}
	if x, ok := bufferPools[class].Get().(*buffer); ok {
		return x
	}
	return &buffer{b: make([]byte, 0, size)}
}

// putBuffer gives x, which may be nil, back to its pool. Nothing may alias it any more.
func putBuffer(x *buffer) {
	if x == nil {
		return
	}
	bufferBytes.Add(-int64(cap(x.b)))
	x.b, x.sent = x.b[:0], 0
	if class, size := bufferClass(cap(x.b)); class >= 0 && size == cap(x.b) {
		bufferPools[class].Put(x)
	}
}

// size returns what x, which may be nil, takes, in bytes.
func (x *buffer) size() int {
	if x == nil {
		return 0
	}
	return cap(x.b)
}

// bufferClass returns the smallest size that is at least n and the index of its pool. The index is -1 if n is
// above the largest size.
func bufferClass(n int) (class, size int) {
	n = max(n, 1<<minBufferBits)
	doubling := bits.Len(uint(n-1)) - 1 // n is above 1<<doubling, or the smallest size
	if n == 1<<minBufferBits {
		return 0, n
	}
	step := 1 << (doubling - 2)
	quarters := (n - 1<<doubling + step - 1) / step // 1 to 4
	class = (doubling-minBufferBits)*4 + quarters
	if class >= bufferSizes {
		return -1, n
	}
	return class, 1<<doubling + quarters*step
}

// appendTo appends b to x, which may be nil, and returns the buffer that holds both: x itself or a larger
// one. A larger one has room for a quarter more than it needs, but not for more than most bytes. So appending
// piece by piece costs a constant factor, and little is allocated for bytes that never come.
func appendTo(x *buffer, b []byte, most int) *buffer {
	if x == nil {
		x = getBuffer(len(b))
	} else if n := len(x.b) + len(b); n > cap(x.b) {
		larger := getBuffer(max(n, min(most, n+n/4)))
		larger.b = append(larger.b, x.b...)
		putBuffer(x)
		x = larger
	}
	x.b = append(x.b, b...)
	return x
}
