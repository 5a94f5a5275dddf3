package health

import (
	"fmt"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Systemd tells the service manager of that name how the service is (Type=notify). Without NOTIFY_SOCKET in
// the environment it does nothing.
type Systemd struct {
	log    *zap.Logger
	stop   chan struct{}
	feeder sync.WaitGroup
}

// NewSystemd returns a Systemd, which must be closed. What cannot be told is logged.
func NewSystemd(log *zap.Logger) *Systemd {
	return &Systemd{log: log, stop: make(chan struct{})}
}

// Ready tells that the service has started.
func (s *Systemd) Ready() { s.tell(daemon.SdNotifyReady) }

// Reloading tells that the service reads its configuration again, until Ready is called (Type=notify-reload).
func (s *Systemd) Reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		s.log.Warn("cannot tell systemd of a reload", zap.Error(err))
		return
	}
	s.tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// Stopping tells that the service has begun to stop, and asks to be left the time for it. Otherwise systemd
// would kill it after TimeoutStopSec.
func (s *Systemd) Stopping(within time.Duration) {
	const reserve = 5 * time.Second // for the end of the process
	s.tell(fmt.Sprintf("%s\nEXTEND_TIMEOUT_USEC=%d", daemon.SdNotifyStopping, (within + reserve).Microseconds()))
}

// FeedWatchdog tells twice in each interval of the watchdog (WatchdogSec) that the service is alive, as long
// as alive returns true. alive has half an interval to find out. If it does not, systemd ends the service.
func (s *Systemd) FeedWatchdog(alive func(within time.Duration) bool) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("the watchdog is not fed", zap.Error(err))
	}
	half := interval / 2
	if half <= 0 {
		return
	}
	s.feeder.Go(func() {
		tick := time.NewTicker(half)
		defer tick.Stop()
		for {
			if alive(half) {
				s.tell(daemon.SdNotifyWatchdog)
			} else {
				s.log.Warn("the watchdog is not fed: not alive", zap.Duration("waited", half))
			}
			select {
			case <-tick.C:
			case <-s.stop:
				return
			}
		}
	})
}

// Close stops feeding the watchdog.
func (s *Systemd) Close() {
	close(s.stop)
	s.feeder.Wait()
}

func (s *Systemd) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("cannot tell systemd", zap.String("state", state), zap.Error(err))
	}
}
