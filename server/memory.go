package server

import (
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"go.uber.org/zap"

	"relaygate/router"
)

// MEMORY_BUDGET bounds what peers can make the process hold: unfinished input, the logs of rooms, and outgoing
// queues. Every buffer is counted when it is taken from its pool and when it is put back, so the sum is always
// known. Three things follow from it:
//
//   - above refuseAt percent of the limit, upgrades are refused, and also when silent peers alone take so much;
//   - above the limit, peers are not read, and a flush stops after the part under way;
//   - then the peers that hold most are closed, until relieveTo percent are left (see relief). If none holds
//     anything, the logs of rooms are flushed, of which each loop then writes one part at a time.
//
// The limit is what the budget leaves beside memory that is not counted: see growthLimit.

const (
	refuseAt  = 80 // percent of the limit
	relieveTo = 90

	// fixedBytes is for the program and for Go's runtime. A fresh process has some 14 MiB resident.
	fixedBytes = 20 << 20

	// peerBytes is for a silent peer with a short id, its share of a room, and the collector's own memory.
	peerBytes = 512

	// loopBytes is for a loop's buffers, and for what it may hold beyond the limit: a part of a flush, or what
	// one read brings.
	loopBytes = 4 << 20

	// smallHolder is the size below which a peer is not closed while rooms' logs hold most.
	smallHolder = 4 << 10

	// leastGrowth is the limit when connections alone use up the budget.
	leastGrowth = 8 << 20
)

// ResolveBudget turns a share in cfg's MEMORY_BUDGET into bytes. If the machine's memory cannot be found out,
// there is no budget, and an error.
func ResolveBudget(cfg *Config) error {
	z := &cfg.MemoryBudget
	if z.Percent > 0 {
		machine, err := memlimit.FromSystem()
		if err != nil {
			*z = Size{}
			return fmt.Errorf("find out the machine's memory: %w", err)
		}
		if cgroup, err := memlimit.FromCgroup(); err == nil { // otherwise there is no limit
			machine = min(machine, cgroup)
		}
		*z = Size{Bytes: max(int64(machine/100)*int64(z.Percent), minBudget)}
	}
	return nil
}

// LimitMemory makes a budget, resolved, Go's memory limit. GOMEMLIMIT in the environment has precedence.
func LimitMemory(budget Size) {
	switch {
	case os.Getenv("GOMEMLIMIT") != "":
	case budget.Bytes > 0:
		debug.SetMemoryLimit(budget.Bytes - fixedBytes/2) // the rest is for what the kernel maps of the program
	default:
		debug.SetMemoryLimit(math.MaxInt64)
	}
}

// budget is the state of MEMORY_BUDGET.
type budget struct {
	limit     atomic.Int64  // of bytesHeld; 0 if there is no budget
	relieving atomic.Bool   // relief is under way: loops do not flush
	ask       chan struct{} // asks for relief; its capacity is 1
}

// bytesHeld returns what peers make the process hold, in bytes.
func bytesHeld() int64 { return bufferBytes.Load() + router.LogBytes() }

// growthLimit returns the limit of bytesHeld. An eighth of the budget is left to Go's collector, which needs
// room for buffers that are not used any more but not collected yet.
func (s *Server) growthLimit() int64 {
	b := s.config().MemoryBudget.Bytes
	if b == 0 {
		return 0
	}
	return max(b-b/8-fixedBytes-int64(len(s.loops))*loopBytes-s.silentBytes(), leastGrowth)
}

// silentBytes returns what silent peers take. Ids may have 1,024 bytes each, so they are counted.
func (s *Server) silentBytes() int64 { return s.stats.connections.Load()*peerBytes + s.table.IDBytes() }

// overLimit reports whether peers hold more than they may. If so, it asks for relief.
func (s *Server) overLimit() bool {
	limit := s.budget.limit.Load()
	if limit == 0 || bytesHeld() <= limit {
		return false
	}
	if !s.budget.relieving.Swap(true) {
		s.budget.ask <- struct{}{}
	}
	return true
}

// nearLimit reports whether no more peers should be let in.
func (s *Server) nearLimit() bool {
	limit := s.budget.limit.Load()
	if limit == 0 {
		return false
	}
	b := s.config().MemoryBudget.Bytes
	return bytesHeld() > limit/100*refuseAt || s.silentBytes() > mostSilentBytes(b)
}

// mostSilentBytes returns how much of a budget silent peers may take.
func mostSilentBytes(budget int64) int64 { return (budget - budget/8 - fixedBytes) / 100 * refuseAt }

// What connections take, to plan a host by.
const (
	// PlannedPeerBytes is for a silent peer, in this process and in the kernel, which takes some 3 KiB.
	PlannedPeerBytes = peerBytes + 3<<10

	// PlannedFixedBytes is for a process without connections.
	PlannedFixedBytes = fixedBytes
)

// BudgetConnections returns how many silent peers a MEMORY_BUDGET in bytes lets in.
func (c *Config) BudgetConnections() int64 { return mostSilentBytes(c.MemoryBudget.Bytes) / peerBytes }

const (
	// budgetTick is how often the limit is computed anew, since it depends on the number of connections.
	budgetTick = 100 * time.Millisecond

	// logPause is the pause after which a reason for trouble is logged again.
	logPause = 10 * time.Second
)

// watchBudget keeps the limit and gives relief until the server stops.
func (s *Server) watchBudget() {
	if limit := s.growthLimit(); limit == leastGrowth {
		s.log.Warn("MEMORY_BUDGET is small for this number of event loops: little is left for messages",
			zap.Int64("budget_bytes", s.config().MemoryBudget.Bytes), zap.Int64("limit_bytes", limit))
	}
	ticker := time.NewTicker(budgetTick)
	defer ticker.Stop()
	var trouble memoryLog
	for {
		select {
		case <-ticker.C:
			s.budget.limit.Store(s.growthLimit())
			trouble.note(s, 0)
		case <-s.budget.ask:
			n := s.relief()
			if n == 0 { // the logs of rooms alone are too large
				s.onLoops(func(l *loop) { l.flushAnyway = true })
				time.Sleep(time.Millisecond)
			}
			s.budget.relieving.Store(false)
			for _, l := range s.loops {
				l.Wake()
			}
			trouble.note(s, n)
		case <-s.stop:
			return
		}
	}
}

// holder is a peer and what it holds, in bytes.
type holder struct {
	peer  *peer
	bytes int
}

// relief closes the peers that hold most, most first, until relieveTo percent of the limit are left. It
// returns how many it has closed.
func (s *Server) relief() (closed int) {
	holders, limit, logs := s.holders(), s.budget.limit.Load(), router.LogBytes()
	excess := int(logs - limit/100*relieveTo) // bytesHeld counts twice what is being copied
	for _, h := range holders {
		excess += h.bytes
	}
	slices.SortFunc(holders, heavierFirst)
	for _, h := range holders {
		if excess <= 0 || h.bytes < smallHolder && logs > limit/2 { // what helps then is that rooms are flushed
			break
		}
		excess -= h.bytes
		closed++
		h.peer.loop.post(task{peer: h.peer, do: (*loop).closeForMemory})
	}
	s.onLoops(func(*loop) {}) // wait until they are closed
	return closed
}

// holders returns all peers that hold something.
func (s *Server) holders() (all []holder) {
	var mu sync.Mutex
	s.onLoops(func(l *loop) {
		own := l.holders()
		mu.Lock()
		defer mu.Unlock()
		all = append(all, own...)
	})
	return all
}

// holders returns the loop's peers that hold something.
func (l *loop) holders() (own []holder) {
	for _, p := range l.peers {
		if p != nil {
			if n := p.bytesHeld(); n > 0 {
				own = append(own, holder{p, n})
			}
		}
	}
	return own
}

func heavierFirst(a, b holder) int { return b.bytes - a.bytes }

// onLoops calls f in every loop and waits until all have returned. A stopped loop does not call it.
func (s *Server) onLoops(f func(*loop)) {
	var waiting sync.WaitGroup
	for _, l := range s.loops {
		waiting.Add(1)
		if !l.post(task{do: func(l *loop, _ *peer) { defer waiting.Done(); f(l) }}) {
			waiting.Done()
		}
	}
	waiting.Wait()
}

// bytesHeld returns the bytes of p's unfinished input and of its queue. The loop calls it.
func (p *peer) bytesHeld() (n int) {
	if in := p.in; in != nil {
		n = in.part.size() + in.later.size() + in.message.size()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return n + p.out.size()
}

// closeForMemory is the task for a peer that holds too much. A peer for which something waits is not sent a
// close frame, since it does not read.
func (l *loop) closeForMemory(p *peer) {
	if p.phase == phaseClosed {
		return
	}
	l.leaving = maxLeaveFlushes // a flush would need memory
	if p.phase == phaseOpen && !p.waits() {
		l.closeAtOnce(p, closingMemory)
		return
	}
	p.cause = closedMemory
	l.close(p)
}

// memoryLog logs the beginning and the end of a shortage of memory.
type memoryLog struct {
	short  bool      // a shortage has begun and not ended
	closed int       // peers closed since it was logged last
	logged time.Time // when it was logged last
}

// note is called regularly, and with the number of peers that were closed for lack of memory.
func (m *memoryLog) note(s *Server, closed int) {
	m.closed += closed
	state := []zap.Field{
		zap.Int64("held_bytes", bytesHeld()), zap.Int64("limit_bytes", s.budget.limit.Load()), zap.Int("closed", m.closed),
	}
	switch now := time.Now(); {
	case s.nearLimit() || m.closed > 0:
		if m.short && (m.closed == 0 || now.Sub(m.logged) < logPause) {
			return
		}
		s.log.Warn("memory is short: upgrades are refused, and peers that hold most are closed", state...)
		m.short, m.closed, m.logged = true, 0, now
	case m.short && now.Sub(m.logged) >= time.Second:
		s.log.Info("memory is not short any more", state...)
		m.short = false
	}
}
