package server

import (
	"syscall"
	"time"

	"go.uber.org/zap"

	"relaygate/server/upgrade"
)

// trouble is something that may go wrong many times a second. A line is logged when it begins, one a minute
// as long as it goes on, and one when it has not happened for troubleOver.
type trouble struct {
	// Static.
	what  string
	count func() int64  // how often it has happened since the start
	err   func() error  // the latest error, nil if there are none
	over  time.Duration // the pause after which it is over

	seen   int64     // count when it was looked at last
	began  time.Time // zero while there is no trouble
	latest time.Time // when it was last seen to happen
	logged time.Time
	times  int64 // since it began
	untold int64 // since it was logged last
}

const (
	troubleOver  = 10 * time.Second
	troubleAgain = time.Minute // between two lines about one trouble
)

// look is called once a second.
func (t *trouble) look(now time.Time, log *zap.Logger) {
	n := t.count()
	more := n - t.seen
	t.seen = n
	t.times += more
	t.untold += more
	if more > 0 {
		t.latest = now
	}
	switch {
	case t.began.IsZero() && more > 0:
		t.began, t.times = now, more
		t.tell(now, log)
	case t.began.IsZero():
	case now.Sub(t.latest) >= t.over:
		log.Info("over: "+t.what, zap.Int64("times", t.times), zap.Duration("lasted", t.latest.Sub(t.began)))
		t.began, t.untold = time.Time{}, 0
	case t.untold > 0 && now.Sub(t.logged) >= troubleAgain:
		t.tell(now, log)
	}
}

func (t *trouble) tell(now time.Time, log *zap.Logger) {
	fields := []zap.Field{zap.Int64("times", t.untold)}
	if t.err != nil {
		fields = append(fields, zap.Error(t.err()))
	}
	log.Warn(t.what, fields...)
	t.logged, t.untold = now, 0
}

// troubles returns what is looked at. What a client does wrong is not among it, unless it may be the fault of
// a setting.
func (s *Server) troubles() (all []*trouble) {
	add := func(what string, count func() int64, err func() error) {
		all = append(all, &trouble{what: what, count: count, err: err, over: troubleOver})
	}
	add("cannot accept connections: open-file limit or memory", s.stats.acceptFails.Load,
		func() error { return syscall.Errno(s.stats.acceptError.Load()) })
	add("cannot accept connections: MAX_CONNECTIONS are open, and as many more as may wait for a refusal", s.stats.acceptPauses.Load, nil)
	add("cannot watch connections: is fs.epoll.max_user_watches reached?", s.stats.watchFails.Load,
		func() error { return syscall.Errno(s.stats.watchError.Load()) })
	for why, setting := range map[upgrade.Refusal]string{
		upgrade.BusyConnections:   "MAX_CONNECTIONS",
		upgrade.BusyConnectRate:   "CONNECT_RATE",
		upgrade.BusyIPConnections: "MAX_CONNECTIONS_PER_IP",
		upgrade.BusyIPRooms:       "MAX_ROOMS_PER_IP",
		upgrade.BusyRoomPeers:     "MAX_ROOM_PEERS",
	} {
		add("upgrades are refused: "+setting, s.stats.refusedFor(why).Load, nil)
	}
	for why, what := range map[closeCause]string{
		closedOverLimit:   "connections are closed without an answer: MAX_CONNECTIONS_PER_IP, by far",
		closedRate:        "peers are closed: they send faster than MESSAGE_RATE, BYTE_RATE or ROOM_BYTE_RATE",
		closedProxyHeader: "connections are closed: their PROXY header is missing or malformed",
		closedUntrusted:   "connections are closed: a PROXY header from an address that is not in TRUSTED_PROXIES",
	} {
		add(what, s.stats.closed[why].Load, nil)
	}
	return all
}
