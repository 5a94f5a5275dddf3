// Package server is the sockets and the protocol: it accepts connections,
// answers their HTTP requests, parses and checks their frames, and hands
// messages to package router, which writes them to whom they concern.
//
// A message's walk: nbio's poller reports its socket → loop.read and loop.serve
// (loop.go) → loop.frames and loop.message (message.go), where it is unmasked and
// encoded in the loop's buffer → router.Room.Publish → the loop's tick →
// router.Room.Flush → peer.Write (peer.go) → send (conn.go) or, where the socket
// is full, nbio's queue.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lesismal/nbio"
	"github.com/lesismal/nbio/logging"
	"github.com/lesismal/nbio/mempool"
	"go.uber.org/zap"

	"relaygate/health"
	"relaygate/router"
	"relaygate/server/upgrade"
)

const (
	// readBufferBytes is the size of each loop's read buffer: a message that fits is
	// not copied, and not joined from pieces.
	readBufferBytes = 512 << 10

	// readsPerEvent bounds how often one connection is read before the next
	// has its turn.
	readsPerEvent = 2

	// closeTimeout is how long a peer may take to answer our close frame.
	closeTimeout = 5 * time.Second

	// deadlineSlots is the number of slots of the wheels that watch deadlines:
	// they come up to 1/31 late, never early.
	deadlineSlots = 32
)

// Server is a relay. It is made by Listen.
type Server struct {
	// Static after Listen.
	cfg      Config
	log      *zap.Logger
	table    *router.Table
	wheels   [seats]*health.Wheel[*peer]
	engine   *nbio.Engine
	loops    []*loop
	listener *os.File // the listening socket
	addr     net.Addr

	draining atomic.Bool
	stop     chan struct{}  // closed to end the goroutines below
	running  sync.WaitGroup // acceptor and wheels
	stats    stats
}

// Listen starts a relay on cfg's address. cfg must come from ParseConfig or be
// as valid. It fails if it cannot listen.
func Listen(cfg Config, log *zap.Logger) (*Server, error) {
	s := &Server{cfg: cfg, log: log, table: router.NewTable(), stop: make(chan struct{})}
	logging.SetLogger(nbioLogger{log})
	s.wheels = [seats]*health.Wheel[*peer]{
		seatHandshake: newDeadlineWheel(time.Duration(cfg.HandshakeTime)),
		seatHeartbeat: newHeartbeatWheel(time.Duration(cfg.CheckInterval)),
		seatClosing:   newDeadlineWheel(closeTimeout),
	}
	var err error
	if s.listener, s.addr, err = listen(cfg.Address()); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Address(), err)
	}
	if err := s.startEngine(); err != nil {
		_ = s.listener.Close()
		return nil, err
	}
	s.running.Go(s.acceptAll)
	s.running.Go(func() { s.turn(seatHandshake, func(p *peer) { p.closeHandshake() }) })
	s.running.Go(func() { s.turn(seatHeartbeat, (*peer).beat) })
	s.running.Go(func() { s.turn(seatClosing, func(p *peer) { p.closeNow() }) })
	return s, nil
}

// Addr returns the address that the relay listens on.
func (s *Server) Addr() net.Addr { return s.addr }

// Loops returns the number of event loops.
func (s *Server) Loops() int { return len(s.loops) }

func newDeadlineWheel(timeout time.Duration) *health.Wheel[*peer] {
	return health.NewWheel[*peer](deadlineSlots, timeout/(deadlineSlots-1))
}

// newHeartbeatWheel makes slots of 100 ms, so that the hand finds few peers at a
// time; at least 8, so that a short interval is spread as well, and at most 3,000,
// which is as fine as five minutes need.
func newHeartbeatWheel(interval time.Duration) *health.Wheel[*peer] {
	slots := min(max(8, int(interval/(100*time.Millisecond))), 3000)
	return health.NewWheel[*peer](slots, interval/time.Duration(slots))
}

func (s *Server) turn(in seating, visit func(*peer)) {
	w := s.wheels[in]
	ticker := time.NewTicker(w.Step())
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			w.Turn(now, visit)
		case <-s.stop:
			return
		}
	}
}

// queueAllocator allocates what waits in nbio's queues. nbio appends to the last
// buffer of a queue until it holds 64 KiB; above 32 KiB its allocator gives just
// what is asked for, so every small message behind that would copy the buffer.
type queueAllocator struct{ mempool.Allocator }

const (
	pooledBytes = 32 << 10 // the largest buffer that nbio's allocator rounds up
	queueBytes  = 64 << 10 // nbio's maxWriteCacheOrFlushSize
)

// Malloc implements mempool.Allocator.
func (a queueAllocator) Malloc(size int) *[]byte {
	if size <= pooledBytes || size >= queueBytes {
		return a.Allocator.Malloc(size)
	}
	b := make([]byte, size, queueBytes)
	return &b
}

// startEngine starts nbio with our loops.
func (s *Server) startEngine() error {
	n := s.cfg.Loops()
	s.engine = nbio.NewEngine(nbio.Config{
		Name:           "relaygate",
		NPoller:        n,
		ReadBufferSize: 1, // the loops have their own
		// The default pool mixes all sizes: small queues would hold large buffers.
		BodyAllocator: queueAllocator{mempool.NewAligned()},
	})
	s.engine.OnRead(func(c *nbio.Conn) {
		switch x := c.Session().(type) {
		case *peer:
			s.loopOf(c).read(x)
		case *loop:
			x.tick()
		}
	})
	s.engine.OnWrittenSize(func(c *nbio.Conn, _ []byte, written int) {
		if p, ok := c.Session().(*peer); ok {
			p.onWritten(written)
		}
	})
	s.engine.OnClose(func(c *nbio.Conn, err error) {
		if p, ok := c.Session().(*peer); ok {
			p.onClose(err)
		}
	})
	wakes, err := makeWakes(n)
	if err != nil {
		return err
	}
	gate := upgrade.NewGate(string(s.cfg.AdminSecret), s.cfg.AllowedOrigins)
	for range n {
		s.loops = append(s.loops, &loop{srv: s, shaker: upgrade.NewHandshaker(gate), in: make([]byte, readBufferBytes)})
	}
	if err := s.engine.Start(); err != nil {
		for _, fd := range wakes {
			_ = syscall.Close(fd)
		}
		return fmt.Errorf("start event loops: %w", err)
	}
	for i, l := range s.loops {
		l.wake = wakes[i]
		c := newConn(l.wake, nbio.ConnTypeUnix)
		c.SetSession(l)
		if _, err := s.engine.AddConn(c); err != nil {
			// The engine is left as it is: stopped right behind its start, nbio can
			// miss that and spin for ever.
			return fmt.Errorf("watch eventfd: %w", err)
		}
	}
	return nil
}

// loopOf returns the loop that serves a connection: nbio picks the poller by the
// descriptor's number.
func (s *Server) loopOf(c *nbio.Conn) *loop { return s.loops[c.Hash()%len(s.loops)] }

// makeWakes makes an eventfd for each of n loops. Descriptors are made until there
// is one whose number is right for each.
func makeWakes(n int) (found []int, err error) {
	found = slices.Repeat([]int{-1}, n)
	var spare []int
	defer func() {
		for _, fd := range spare {
			_ = syscall.Close(fd)
		}
	}()
	for missing := n; missing > 0; {
		fd, err := eventfd()
		if err != nil {
			for _, fd := range found {
				if fd >= 0 {
					_ = syscall.Close(fd)
				}
			}
			return nil, fmt.Errorf("descriptors for %d event loops: %w", n, err)
		}
		if i := fd % n; found[i] < 0 {
			found[i] = fd
			missing--
		} else {
			spare = append(spare, fd)
		}
	}
	return found, nil
}

// Drain stops the relay: it accepts no more, delivers what was published, says
// 1001 to every peer and waits until they have gone or ctx ends, then closes
// what is left. It is called once.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	_ = s.listener.Close()
	var scratch router.Scratch
	for _, r := range s.table.All() {
		if r.Drain(&scratch) {
			s.loops[0].post(r) // somebody went on publishing
		}
	}
	for _, in := range []seating{seatHandshake, seatHeartbeat} {
		for _, p := range s.wheels[in].All() {
			p.close(byeDrain, false)
		}
	}
	err := s.awaitEmpty(ctx)
	close(s.stop)
	s.running.Wait()
	for _, l := range s.loops {
		l.silence()
	}
	s.engine.Stop()
	return err
}

// awaitEmpty returns an error that says how many connections were left.
func (s *Server) awaitEmpty(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.stats.connections.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d connections had not closed: %w", s.stats.connections.Load(), ctx.Err())
		}
	}
	return nil
}

// panicked ends the connection whose handling panicked.
func (s *Server) panicked(p *peer, reason any, stack []byte) {
	s.stats.panics.Add(1)
	s.log.Error("panic", zap.Any("reason", reason), zap.ByteString("stack", stack))
	if p != nil {
		p.cause.Store(uint32(closedPanic))
		_ = p.nb.CloseWithError(errPanicked)
	}
}

var errPanicked = errors.New("panic while handling the connection")

// nbioLogger writes nbio's warnings and errors to our log. What else nbio says is
// about its own pollers, and left out.
type nbioLogger struct{ log *zap.Logger }

func (n nbioLogger) SetLevel(int) {}

func (n nbioLogger) Debug(format string, v ...any) {}

func (n nbioLogger) Info(format string, v ...any) {}

func (n nbioLogger) Warn(format string, v ...any) { n.log.Warn(fmt.Sprintf(format, v...)) }

func (n nbioLogger) Error(format string, v ...any) { n.log.Error(fmt.Sprintf(format, v...)) }
