package server

import (
	"testing"
	"unsafe"
)

// TestPeerSize: a silent peer is little more than this struct, and Go's allocator
// hands out 128 bytes or 144.
func TestPeerSize(t *testing.T) {
	if n := unsafe.Sizeof(peer{}); n > 128 {
		t.Errorf("a peer takes %d bytes, want at most 128", n)
	}
}
