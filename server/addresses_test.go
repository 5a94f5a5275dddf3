package server

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

func networkOf(i int) (n network) {
	binary.BigEndian.PutUint32(n[:], uint32(i))
	return n
}

// TestAddressTableGivesBack: after 200,000 networks came and went, their memory is given back, while a few that
// stay are still counted right.
func TestAddressTableGivesBack(t *testing.T) {
	const networks, stay = 200_000, 500
	table := newAddressTable()
	before := heapBytes()
	for i := range networks {
		table.enter(networkOf(i), 1)
		table.enterRelay(networkOf(i), []byte("relay"), 1)
	}
	full := heapBytes() - before
	for i := stay; i < networks; i++ {
		table.leave(networkOf(i), holdsIPPlace)
		table.leaveRelay(networkOf(i), []byte("relay"))
	}
	left := heapBytes() - before
	t.Logf("%d bytes for each of %d networks in a relay; %d bytes in all for %d", full/networks, networks, left, stay)
	if full < networks*40 || left > full/50 {
		t.Errorf("%d bytes are held for %d networks, %d for %d", left, stay, full, networks)
	}
	if n, r := table.size(); n != stay || r != stay {
		t.Errorf("%d networks and %d relays are counted, want %d", n, r, stay)
	}
	for i := range stay {
		if held, ok := table.enter(networkOf(i), 1); held != overIP || !ok {
			t.Fatalf("network %d: %v, %v; want a second connection to be above the limit", i, held, ok)
		}
	}
	runtime.KeepAlive(table)
}

// TestAddressTableAgainstModel does random calls from several goroutines, each with networks of its own that
// share the shards, and compares with a plain count.
func TestAddressTableAgainstModel(t *testing.T) {
	const workers, calls, most = 4, 20_000, 3
	table := newAddressTable()
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 1))
			type counts struct {
				within, over int
				relays       [5]int
			}
			model := make(map[network]*counts)
			for call := range calls {
				n := networkOf(worker<<16 + rng.IntN(300))
				if model[n] == nil {
					model[n] = new(counts)
				}
				m, r := model[n], rng.IntN(5)
				relay := []byte(fmt.Sprint(r))
				relays := 0
				for _, k := range m.relays {
					relays += min(k, 1)
				}
				var got, want any
				switch rng.IntN(6) {
				case 0, 1:
					held, ok := table.enter(n, most)
					got, want = fmt.Sprint(held, ok), fmt.Sprint(standing(0), false)
					if m.within < most {
						m.within++
						want = fmt.Sprint(holdsIPPlace, true)
					} else if m.over < maxOver {
						m.over++
						want = fmt.Sprint(overIP, true)
					}
				case 2:
					if m.within > 0 {
						m.within--
						table.leave(n, holdsIPPlace)
					}
				case 3:
					if m.over > 0 && rng.IntN(2) == 0 {
						m.over--
						table.leave(n, overIP)
					} else if m.over > 0 {
						got, want = table.promote(n, most), m.within < most
						if m.within < most {
							m.within, m.over = m.within+1, m.over-1
						}
					}
				case 4:
					got, want = table.enterRelay(n, relay, most), m.relays[r] > 0 || relays < most
					if want == true {
						m.relays[r]++
					}
				case 5:
					if m.relays[r] > 0 {
						m.relays[r]--
						table.leaveRelay(n, relay)
					}
				}
				if got != want {
					t.Errorf("worker %d, call %d: %v, want %v", worker, call, got, want)
					return
				}
			}
			for n, m := range model {
				for range m.within {
					table.leave(n, holdsIPPlace)
				}
				for range m.over {
					table.leave(n, overIP)
				}
				for r, k := range m.relays {
					for range k {
						table.leaveRelay(n, []byte(fmt.Sprint(r)))
					}
				}
			}
		})
	}
	group.Wait()
	if n, r := table.size(); n != 0 || r != 0 {
		t.Errorf("%d networks and %d relays are left, want none", n, r)
	}
	for i := range table.shards {
		if s := &table.shards[i]; s.networks.m != nil || s.relays.m != nil {
			t.Fatal("an empty shard holds a map")
		}
	}
}

// BenchmarkAddressTable is the cost of one connection's calls.
func BenchmarkAddressTable(b *testing.B) {
	table := newAddressTable()
	relay := []byte("relay")
	for i := range 100_000 {
		table.enter(networkOf(i), 1)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		n := networkOf(100_000 + i)
		i++
		held, _ := table.enter(n, 1)
		table.enterRelay(n, relay, 1)
		table.leaveRelay(n, relay)
		table.leave(n, held)
	}
}
