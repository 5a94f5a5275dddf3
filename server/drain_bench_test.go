package server

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// BenchmarkSortLeaves sorts the peers of a loop.
func BenchmarkSortLeaves(b *testing.B) {
	for name, n := range map[string]int{"100k": 100_000, "1M": 1_000_000} {
		b.Run(name, func(b *testing.B) {
			order := make([]uint64, n)
			for range b.N {
				b.StopTimer()
				for slot := range order {
					order[slot] = leaveKey(rand.Uint32N(360_000), slot)
				}
				b.StartTimer()
				slices.Sort(order)
			}
		})
	}
}

// BenchmarkCollectLeaves looks at every peer of a loop.
func BenchmarkCollectLeaves(b *testing.B) {
	for name, n := range map[string]int{"100k": 100_000, "1M": 1_000_000} {
		b.Run(name, func(b *testing.B) {
			peers := make([]*peer, n)
			for i := range peers {
				peers[i] = &peer{phase: phaseOpen, spoke: rand.Uint32N(360_000)}
			}
			rand.Shuffle(n, func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
			l := &loop{srv: &Server{began: time.Now()}, poll: &pollset{wakeup: -1}, peers: peers}
			for range b.N {
				l.drained = &leaves{period: time.Second}
				for l.drained.looked < n {
					l.collectLeaves(nil)
				}
			}
		})
	}
}
