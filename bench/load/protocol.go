package load

// The orchestrator and its workers exchange JSON lines: a Command on the worker's standard input, one Reply to each on
// its standard output. Durations are nanoseconds.

// What a Command asks for.
const (
	DoConnect = "connect" // open the rooms of Shape; may be repeated, for more rooms
	DoGreet   = "greet"   // a text ping from everyone, and wait for the pongs: then the relay has taken all of them in
	DoStart   = "start"   // begin the traffic
	DoMark    = "mark"    // report the counters
	DoStick   = "stick"   // the loose peers stop reading
	DoUnstick = "unstick" // they read again
	DoHalt    = "halt"    // stop sending, wait for what is under way, report what was wrong
	DoOnce    = "once"    // one message on every stream, and wait for all copies
	DoDrop    = "drop"    // reset every connection
	DoRedial  = "redial"  // open all of them again
)

// Traffic patterns.
const (
	Broadcast = "broadcast" // senders send to their whole room
	Direct    = "direct"    // each sender has one recipient, named by targetPeerId
	Star      = "star"      // everyone to the room's first peer, which answers each, both by targetPeerId
)

// Shape is a set of rooms and the traffic in them. A room is entirely within one worker, which so can check every copy.
type Shape struct {
	Rooms   int    `json:"rooms"`
	Peers   int    `json:"peers"` // per room
	Loose   int    `json:"loose"` // per room: the last ones, which leave and join or stop reading
	Senders int    `json:"senders"`
	Pattern string `json:"pattern"`
	Window  int    `json:"window"` // messages a sender keeps in flight (closed loop)
	Size    int    `json:"size"`   // bytes of payload
	Binary  bool   `json:"binary"`
}

// Conns is the number of connections of the whole shape.
func (s Shape) Conns() int { return s.Rooms * s.Peers }

// opcode is that of the shape's messages.
func (s *Shape) opcode() byte {
	if s.Binary {
		return opBinary
	}
	return opText
}

// Route is a pair of addresses and how many of the connections, in order, use it. An empty Source lets the kernel pick.
type Route struct {
	Source string `json:"source"` // IP
	Target string `json:"target"` // IP:port
	Count  int    `json:"count"`
}

// Command is one line to a worker; fields beside Do matter to the commands named.
type Command struct {
	Do string `json:"do"`

	// connect
	Shape    *Shape  `json:"shape,omitempty"`
	Routes   []Route `json:"routes,omitempty"`
	Host     string  `json:"host,omitempty"`  // Host header
	Path     string  `json:"path,omitempty"`  // request path, e.g. /v1
	Query    string  `json:"query,omitempty"` // of the target's URL, kept
	Secret   string  `json:"secret,omitempty"`
	Relay    string  `json:"relay,omitempty"`    // prefix of the relay ids
	First    uint32  `json:"first,omitempty"`    // number of the first room
	Parallel int     `json:"parallel,omitempty"` // handshakes under way at once

	// start
	Rate  float64 `json:"rate,omitempty"`  // messages per second of this worker's senders together; 0 is closed loop
	Churn float64 `json:"churn,omitempty"` // loose peers per second that leave and come back

	// mark
	Reset bool `json:"reset,omitempty"` // new histograms, of messages that are due from now on
	Until bool `json:"until,omitempty"` // and up to now: later ones are not recorded, these are whenever they arrive
	PID   int  `json:"pid,omitempty"`   // whose CPU clock to read in the same moment

	// connect, redial, greet, once, halt
	Timeout int64 `json:"timeout,omitempty"` // give up after so long
}

// Reply answers a Command.
type Reply struct {
	Error string `json:"error,omitempty"`

	// connect, redial, greet, once
	Opened int    `json:"opened"` // connections of this command that are open; greet: peers answered; once: peers served
	Failed int    `json:"failed"`
	Why    string `json:"why,omitempty"` // the first failure
	Took   int64  `json:"took"`          // from the command to the last connection

	// all
	Marks Marks `json:"marks"`

	// halt
	Violations Violations `json:"violations"`
}

// Marks are a worker's counters since it started, read in one moment.
type Marks struct {
	Wall      int64  `json:"wall"`
	CPU       int64  `json:"cpu"`       // this worker's own
	ServerCPU int64  `json:"serverCPU"` // 0 without a PID
	Sent      uint64 `json:"sent"`
	Delivered uint64 `json:"delivered"` // valid copies received, loose peers' included
	Bytes     uint64 `json:"bytes"`     // payload of them
	Reads     uint64 `json:"reads"`     // reads that brought something: how far the relay batched
	Joins     uint64 `json:"joins"`     // handshakes completed
	Pings     uint64 `json:"pings"`     // the relay's heartbeats, all answered
	Dropped   uint64 `json:"dropped"`   // loose peers that the relay closed
	Cut       uint64 `json:"cut"`       // firm peers that the relay closed
	Open      int    `json:"open"`

	Latency []byte `json:"latency,omitempty"` // HdrHistogram V2, nanoseconds from the intended send time (open loop)
	Lag     []byte `json:"lag,omitempty"`     // how late this worker itself sent
}
