package server

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// reclaimInterval is how often the heap is looked at, and the longest that a reclaim is put off
	// when the last ones were of no use.
	reclaimInterval    = 5 * time.Second
	maxReclaimInterval = 5 * time.Minute

	// reclaimAbove is how much the heap may have grown since the last reclaim before there is another,
	// in bytes.
	reclaimAbove = 8 << 20
)

// reclaim gives memory back to the system that a flood has left behind, until the server stops. Go alone
// collects when the heap has doubled, or after two minutes, and releases pages slowly: 1.5 GiB of a
// flood had become 1.1 GiB after two minutes. A collection costs what the peers that are left
// cost to mark, so one that gave little back doubles the time to the next.
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
		// While much is allocated Go collects often enough, and would want the pages again.
		if grown < reclaimAbove || allocated > grown/2 || time.Since(last) < wait {
			continue
		}
		runtime.GC() // what pools hold outlives one collection
		debug.FreeOSMemory()
		floor, last = readHeap().resident, time.Now()
		if now.resident-min(floor, now.resident) > grown/4 {
			wait = reclaimInterval
		} else {
			wait = min(2*wait, maxReclaimInterval)
		}
	}
}

// heap is what Go says of its heap, in bytes.
type heap struct {
	resident  uint64 // not released to the system
	allocated uint64 // in all, since the start
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
