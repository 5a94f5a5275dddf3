package server

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// reclaimInterval is how often the heap is examined. maxReclaimInterval is the longest wait between two
	// reclaims when the last ones freed little.
	reclaimInterval    = 5 * time.Second
	maxReclaimInterval = 5 * time.Minute

	// reclaimAbove is how many bytes the heap must have grown since the last reclaim to cause another.
	reclaimAbove = 8 << 20
)

// reclaim returns a flood's memory to the system. It runs until the server stops. By itself Go collects when
// the heap has doubled, or after two minutes, and releases pages slowly: 1.5 GiB of a flood had become 1.1
// GiB after two minutes. The cost of a collection grows with the peers that it has to mark, so one that freed
// little doubles the time to the next.
func (s *Server) reclaim() {
	ticker := time.NewTicker(reclaimInterval)
	defer ticker.Stop()
	floor, wait := readHeap().resident, reclaimInterval
	before, last := readHeap(), time.Now()
	for {
		select {
		case <-ticker.C:
		case <-s.stop:
			return
		}
		now := readHeap()
		allocated := now.allocated - before.allocated
		before = now
		grown := now.resident - min(floor, now.resident)
		// While much is allocated, Go collects often enough and would need the pages again.
		if grown < reclaimAbove || allocated > grown/2 || time.Since(last) < wait {
			continue
		}
		runtime.GC() // the first of two collections, since pools survive one; FreeOSMemory does the second
		debug.FreeOSMemory()
		floor, last = readHeap().resident, time.Now()
		if now.resident-min(floor, now.resident) > grown/4 {
			wait = reclaimInterval
		} else {
			wait = min(2*wait, maxReclaimInterval)
		}
	}
}

// heap holds the runtime's figures for its heap, in bytes.
type heap struct {
	resident  uint64 // not released to the system
	allocated uint64 // total since the start
}

func readHeap() heap {
	sample := [...]metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(sample[:])
	return heap{
		resident:  sample[0].Value.Uint64() + sample[1].Value.Uint64() + sample[2].Value.Uint64(),
		allocated: sample[3].Value.Uint64(),
	}
}
