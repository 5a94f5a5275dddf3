package server

import (
	"sync"
	"time"
)

// MESSAGE_RATE, BYTE_RATE and ROOM_BYTE_RATE: a peer that sends faster is held back, which means that its
// socket is not read. A peer that is held back for rateTimeout without a break is closed.

const (
	// rateTimeout is how long a peer may press against a limit. A break is a moment in which all that it has
	// sent is read.
	rateTimeout = 10 * time.Second

	// heldStep is how often the peers that are held back are looked at.
	heldStep = 10 * time.Millisecond
)

// rates holds the settings in the form that a pacer needs.
type rates struct {
	message      time.Duration // time in which a message is earned; 0 if there is no limit
	messageBurst time.Duration // time in which all but one of the burst are earned
	byte         float64       // nanoseconds in which a byte is earned; 0 if there is no limit
	byteBurst    time.Duration // time in which the burst is earned

	roomBytes, roomBurst int64 // per second, and at once; 0 if there is no limit

	timeout time.Duration // rateTimeout
}

func newRates(cfg *Config) (r rates) {
	if n := cfg.MessageRate; n > 0 {
		r.message = max(time.Second/time.Duration(n), 1)
		r.messageBurst = time.Duration(cfg.MessageBurst-1) * r.message
	}
	if n := cfg.ByteRate; n > 0 {
		r.byte = float64(time.Second) / float64(n)
		r.byteBurst = time.Duration(r.byte * float64(cfg.ByteBurst))
	}
	r.roomBytes, r.roomBurst = int64(cfg.RoomByteRate), int64(cfg.RoomByteBurst)
	r.timeout = rateTimeout
	return r
}

// pace holds a peer's token buckets. Each is kept as the time at which it will be full again (the "generic
// cell rate algorithm" of ITU-T I.371). All times are since the server's start.
type pace struct {
	messages, bytes time.Duration
	since           time.Duration // when the peer began to be held back; 0 if it is not
}

var paces = sync.Pool{New: func() any { return new(pace) }}

// pacer applies the rates to the peers of one loop, which owns it.
type pacer struct {
	rates rates         // static, but in tests
	loop  *loop         // static
	now   time.Duration // taken at the beginning of each turn
	paces []*pace       // by slot; nil where the buckets are full. A silent peer needs none
	held  []*peer       // held back; those that had no turn for longest come first
	late  []*peer       // held back, after held: they have been served since the last release
	timed bool          // a timer is running that will post release
}

// newPacer returns nil if no rate is set.
func newPacer(l *loop) *pacer {
	cfg := l.cfg
	if cfg.MessageRate+cfg.ByteRate+cfg.RoomByteRate == 0 {
		return nil
	}
	return &pacer{rates: newRates(cfg), loop: l}
}

// end makes l go on without c, which is replaced since the rates have changed. Those that are held back are read
// again.
func (c *pacer) end() {
	c.loop.turns = append(append(c.loop.turns, c.held...), c.late...)
	c.held, c.late = nil, nil // also for release, which a timer may still post
	for slot, x := range c.paces {
		if x != nil {
			*x = pace{}
			paces.Put(x)
			c.paces[slot] = nil
		}
	}
}

// begin begins a turn.
func (c *pacer) begin() { c.now = time.Since(c.loop.srv.began) }

// take takes a frame of n bytes from p's buckets. whole says that it ends a message, or is a control frame.
func (c *pacer) take(p *peer, n int, whole bool) {
	if c.rates.message == 0 && c.rates.byte == 0 {
		return
	}
	x := c.pace(p)
	if whole {
		x.messages = max(x.messages, c.now) + c.rates.message
	}
	x.bytes = max(x.bytes, c.now) + time.Duration(float64(n)*c.rates.byte)
}

// pace returns p's pace, and makes one if there is none.
func (c *pacer) pace(p *peer) *pace {
	if n := int(p.slot); n >= len(c.paces) {
		c.paces = append(c.paces, make([]*pace, max(n+1, len(c.loop.peers))-len(c.paces))...)
	}
	x := c.paces[p.slot]
	if x == nil {
		x = paces.Get().(*pace)
		c.paces[p.slot] = x
	}
	return x
}

// existing returns p's pace, or nil if its buckets are full.
func (c *pacer) existing(p *peer) *pace {
	if int(p.slot) < len(c.paces) {
		return c.paces[p.slot]
	}
	return nil
}

// drop releases p's pace.
func (c *pacer) drop(p *peer) {
	if x := c.existing(p); x != nil {
		*x = pace{}
		paces.Put(x)
		c.paces[p.slot] = nil
	}
}

// over reports whether p, or its room, is over a limit.
func (c *pacer) over(p *peer) bool {
	if p.phase != phaseOpen {
		return false
	}
	if x := c.existing(p); x != nil && (x.messages-c.now > c.rates.messageBurst || x.bytes-c.now > c.rates.byteBurst) {
		return true
	}
	return c.rates.roomBytes > 0 && p.Room().Over(c.now, c.rates.roomBytes, c.rates.roomBurst)
}

// hold holds p back until release finds that it may go on, or closes it if that has lasted for too long.
// served says that something of p was served in this turn. Such a peer comes after those that were not: when a
// relay is over its rate, each of its members gets a share.
func (c *pacer) hold(p *peer, served bool) {
	x := c.pace(p)
	switch {
	case x.since == 0:
		x.since = c.now
		c.loop.srv.stats.heldBack.Add(1)
	case served && c.now-x.since >= c.rates.timeout:
		c.giveUp(p)
		return
	}
	p.inTurns = true
	if served {
		c.late = append(c.late, p)
	} else {
		c.held = append(c.held, p)
	}
	if !c.timed {
		c.timed = true
		c.startTimer()
	}
}

// giveUp closes p. It is read on, to its answer.
func (c *pacer) giveUp(p *peer) {
	p.inTurns = true
	c.loop.turns = append(c.loop.turns, p)
	c.loop.closeWith(p, closingRate)
}

func (c *pacer) startTimer() {
	time.AfterFunc(heldStep, func() { c.loop.post(task{do: func(*loop, *peer) { c.release() }}) })
}

// release is the timer's task. It lets those go on that are over no limit any more, and closes those that
// have been held back for too long.
func (c *pacer) release() {
	c.begin()
	c.held = append(c.held, c.late...)
	clear(c.late)
	c.late = c.late[:0]
	still := c.held[:0]
	for _, p := range c.held {
		switch {
		case !c.over(p): // or it is not open any more
			c.loop.turns = append(c.loop.turns, p)
		case c.now-c.paces[p.slot].since >= c.rates.timeout:
			c.giveUp(p)
		default:
			still = append(still, p)
		}
	}
	clear(c.held[len(still):])
	c.held = still
	if c.timed = len(still) > 0; c.timed {
		c.startTimer()
	}
}

// rest is called when all that p has sent is read.
func (c *pacer) rest(p *peer) {
	if x := c.existing(p); x != nil {
		x.since = 0
		if x.messages <= c.now && x.bytes <= c.now {
			c.drop(p)
		}
	}
}
