// Package server holds the sockets and the protocol. It accepts connections, answers their HTTP requests, and
// parses and checks their frames. It hands messages to package router, which writes them to their recipients.
//
// A message's path: a loop's pollset reports its socket (poll.go) → loop.turn reads it and loop.serve splits
// it into frames (loop.go) → loop.nextFrame and loop.message unmask and encode it in the loop's buffer
// (message.go) → router.Room.Publish → loop.flushDue in the next round → router.Room.Flush → peer.Write
// (peer.go) → the socket or, if that is full, the peer's queue (queue.go).
package server

import (
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lesismal/nbio/logging"
	"go.uber.org/zap"

	"relaygate/health"
	"relaygate/page"
	"relaygate/router"
	"relaygate/server/upgrade"
)

// deadlineSlots is the number of slots of the wheels that watch deadlines. A deadline is reported up to 1/31
// late. When a wheel's hand was held up it hurries afterwards, and a deadline may come up to an eighth early.
const deadlineSlots = 32

// Server is a relay. It is made by Listen.
type Server struct {
	// Static after Listen.
	cfg       Config
	log       *zap.Logger
	access    *zap.Logger // nil unless ACCESS_LOG is set
	began     time.Time
	table     *router.Table
	wheels    [phases]*health.Wheel[*peer]
	loops     []*loop
	addr      net.Addr
	inherited bool          // the listening socket comes from systemd
	handover  time.Duration // time between stopAccepting and closeListener

	addresses *addressTable // nil if nothing is limited per IP

	// Owned by the first loop, which accepts.
	listener    int     // the listening socket, -1 when it is closed
	nextLoop    int     // the position of the loop that got the last connection
	waiting     waiting // connections held back by CONNECT_RATE
	lastAccepts bool    // the socket is about to be closed: what waits in it is accepted above every limit

	places       atomic.Int64 // connections within MAX_CONNECTIONS
	acceptPaused atomic.Bool  // accepting has stopped until a connection closes

	budget   budget
	draining atomic.Bool    // Drain was called
	refusing atomic.Bool    // accepting has ended for good, and upgrades are refused
	stop     chan struct{}  // closed to end the goroutines of the wheels and of reclaim
	running  sync.WaitGroup // these goroutines
	stats    stats
}

// Listen starts a relay on cfg's address. It fails if it cannot listen. cfg must come from ParseConfig or be
// as valid.
func Listen(cfg Config, log *zap.Logger) (*Server, error) {
	fd, addr, err := listen(cfg.Address(), cfg.ReusePort)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Address(), err)
	}
	s := newServer(cfg, log, fd, addr)
	if cfg.ReusePort {
		s.handover = handoverTime
		s.takeOver()
	}
	if err := s.start(); err != nil {
		return nil, err
	}
	return s, nil
}

// ListenOn is Listen on a socket that systemd has passed. It fails unless files is one TCP socket that
// listens. It closes files.
func ListenOn(files []*os.File, cfg Config, log *zap.Logger) (*Server, error) {
	fd, addr, err := inherit(files)
	if err != nil {
		return nil, fmt.Errorf("listen on the socket that systemd passed: %w", err)
	}
	s := newServer(cfg, log, fd, addr)
	s.inherited = true
	if err := s.start(); err != nil {
		return nil, err
	}
	return s, nil
}

func newServer(cfg Config, log *zap.Logger, listener int, addr net.Addr) *Server {
	s := &Server{
		cfg: cfg, log: log, access: newAccessLog(&cfg, log), began: time.Now(), table: router.NewTable(),
		stop: make(chan struct{}), listener: listener, addr: addr,
	}
	s.budget.ask = make(chan struct{}, 1)
	s.prepareAdmission()
	logging.SetLogger(nbioLogger{log})
	s.wheels = [phases]*health.Wheel[*peer]{
		phaseHead:      newDeadlineWheel(time.Duration(cfg.HandshakeTime)),
		phaseOpen:      newHeartbeatWheel(time.Duration(cfg.CheckInterval)),
		phaseCloseSent: newDeadlineWheel(closeTimeout),
		phaseFinishing: newDeadlineWheel(closeTimeout),
	}
	return s
}

// start starts to serve. If it fails, the listening socket is closed.
func (s *Server) start() error {
	if err := s.startLoops(); err != nil {
		_ = syscall.Close(s.listener)
		return err
	}
	s.budget.limit.Store(s.growthLimit())
	for in, visit := range visits {
		wheel := s.wheels[in]
		s.running.Go(func() { s.turn(wheel, visit) })
	}
	s.running.Go(s.reclaim)
	s.running.Go(s.watchBudget)
	s.running.Go(s.watchLoops)
	s.loops[0].post(task{do: (*loop).watchListener})
	return nil
}

// Alive reports whether every event loop does a task within the given time. After Drain it reports true.
func (s *Server) Alive(within time.Duration) bool { return s.ask(func(*loop) {}, within) }

// ask calls f in every loop, and waits until all have returned or the time is over. It reports whether all
// have, or the server has stopped. A loop that is late calls f all the same.
func (s *Server) ask(f func(*loop), within time.Duration) bool {
	done := make(chan struct{}, len(s.loops))
	s.postAll(func(l *loop, _ *peer) { f(l); done <- struct{}{} })
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	for range s.loops {
		select {
		case <-done:
		case <-timeout.C:
			return false
		case <-s.stop:
			return true
		}
	}
	return true
}

// visits holds, for each wheel, the task of a peer's loop when the wheel visits the peer.
var visits = [phases]func(*loop, *peer){
	phaseHead:      func(l *loop, p *peer) { l.expired(p, phaseHead) },
	phaseOpen:      (*loop).beat,
	phaseCloseSent: func(l *loop, p *peer) { l.expired(p, phaseCloseSent) },
	phaseFinishing: func(l *loop, p *peer) { l.expired(p, phaseFinishing) },
}

// turn turns one wheel until the server stops.
func (s *Server) turn(w *health.Wheel[*peer], visit func(*loop, *peer)) {
	ticker := time.NewTicker(w.Step())
	defer ticker.Stop()
	post := func(p *peer) { p.loop.post(task{peer: p, do: visit}) }
	for {
		select {
		case now := <-ticker.C:
			w.Turn(now, post)
		case <-s.stop:
			return
		}
	}
}

// Addr returns the address that the relay listens on.
func (s *Server) Addr() net.Addr { return s.addr }

// Loops returns the number of event loops.
func (s *Server) Loops() int { return len(s.loops) }

func newDeadlineWheel(timeout time.Duration) *health.Wheel[*peer] {
	return health.NewWheel[*peer](deadlineSlots, timeout/(deadlineSlots-1))
}

// newHeartbeatWheel makes slots of 100 ms, so that the hand visits few peers at a time. It makes at least 8,
// so that a short interval is spread as well. It makes at most 3,000, enough for 100 ms in five minutes.
func newHeartbeatWheel(interval time.Duration) *health.Wheel[*peer] {
	slots := min(max(8, int(interval/(100*time.Millisecond))), 3000)
	return health.NewWheel[*peer](slots, interval/time.Duration(slots))
}

// now returns the time since the server's start in hundredths of a second. It overflows after 497 days; then
// only the durations in the log are wrong.
func (s *Server) now() uint32 { return hundredths(time.Since(s.began)) }

func hundredths(d time.Duration) uint32 { return uint32(d / (10 * time.Millisecond)) }

// age returns how long ago p was accepted.
func (s *Server) age(p *peer) time.Duration {
	return time.Duration(s.now()-p.born) * 10 * time.Millisecond
}

// age is the same at the beginning of the loop's round.
func (l *loop) age(p *peer) time.Duration {
	return time.Duration(l.clock-p.born) * 10 * time.Millisecond
}

// startLoops starts the event loops.
func (s *Server) startLoops() error {
	gate := upgrade.NewGate(string(s.cfg.AdminSecret), s.cfg.AllowedOrigins)
	gate.Unready = s.Unready
	if s.cfg.TryPage {
		gate.Page = page.Try()
	}
	for range s.cfg.Loops() {
		l := newLoop(s, upgrade.NewHandshaker(gate))
		if err := l.start(); err != nil {
			s.stopLoops()
			return fmt.Errorf("event loop %d of %d: %w", len(s.loops)+1, s.cfg.Loops(), err)
		}
		s.loops = append(s.loops, l)
	}
	return nil
}

func (s *Server) stopLoops() {
	for _, l := range s.loops {
		l.stop()
	}
}

// nbioLogger writes nbio's warnings and errors to our log. Its other messages are dropped: they concern only
// nbio's own pollers.
type nbioLogger struct{ log *zap.Logger }

func (n nbioLogger) SetLevel(int) {}

func (n nbioLogger) Debug(format string, v ...any) {}

func (n nbioLogger) Info(format string, v ...any) {}

func (n nbioLogger) Warn(format string, v ...any) { n.log.Warn(fmt.Sprintf(format, v...)) }

func (n nbioLogger) Error(format string, v ...any) { n.log.Error(fmt.Sprintf(format, v...)) }
