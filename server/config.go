package server

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"runtime"
	"strconv"
	"strings"

	"github.com/caarlos0/env/v11"
	"go.uber.org/zap/zapcore"
)

// Config holds all settings. The variables that set them are named in the tags only: ParseConfig, Usage and the
// error messages read them there. Those with the tag reload can be changed while the relay runs: see Reload.
type Config struct {
	ConfigFile      string `env:"CONFIG_FILE" help:"file of settings, one KEY=VALUE in a line; # begins a line of comment; the environment has precedence"`
	AdminSecretFile string `env:"ADMIN_SECRET_FILE" reload:"yes" help:"file that holds what ADMIN_SECRET would"`

	Host           string        `env:"HOST" help:"address to listen on; none means all"`
	Port           int           `env:"PORT" envDefault:"8080" help:"TCP port to listen on, 0 to 65535; 0 takes a free one"`
	AdminSecrets   Secrets       `env:"ADMIN_SECRET" reload:"yes" help:"peers must offer it in Sec-WebSocket-Protocol; none lets everybody in; of several, separated by commas, any one will do"`
	AllowedOrigins []string      `env:"ALLOWED_ORIGINS" reload:"yes" help:"comma-separated origins that pages may connect from, such as https://example.com; none or * means any"`
	CheckInterval  Interval      `env:"CONNECTION_CHECK_INTERVAL" envDefault:"30000" help:"time between two pings; a peer that says nothing in between is closed; milliseconds, or a duration such as 30s; 10ms to 24h"`
	HandshakeTime  Interval      `env:"HANDSHAKE_TIMEOUT" envDefault:"10s" help:"time from accept to the complete request header; milliseconds, or a duration; 100ms to 1h"`
	MaxMessage     int           `env:"MAX_MESSAGE_BYTES" reload:"yes" envDefault:"1048576" help:"largest message, in bytes; 1 to 67108864"`
	MaxQueue       int           `env:"MAX_QUEUE_BYTES" reload:"yes" help:"bytes that may wait for a peer that does not read, before it is closed; at least MAX_MESSAGE_BYTES + 65536; default that, or 1048576 if it is less"`
	EventLoops     int           `env:"EVENT_LOOPS" envDefault:"0" help:"number of event loops, 1 to 1024; 0 means one for each core that Go may use"`
	TryPage        Switch        `env:"TRY_PAGE" envDefault:"on" help:"on or off: whether GET / answers browsers with a page to try the relay on"`
	HealthAddress  HealthAddress `env:"HEALTH_ADDR" envDefault:"127.0.0.1:8081" help:"host:port where operators are answered: /livez, /readyz, /metrics, /debug/rooms; empty or off: nowhere"`
	Debug          bool          `env:"DEBUG" envDefault:"false" help:"true or false: whether HEALTH_ADDR also serves /debug/pprof"`
	DebugIDs       bool          `env:"DEBUG_IDS" envDefault:"false" help:"true or false: whether /debug/rooms shows ids and addresses as they are, not as keyed hashes"`
	LogLevel       zapcore.Level `env:"LOG_LEVEL" reload:"yes" envDefault:"info" help:"debug, info, warn or error; debug logs every connection"`
	LogFormat      LogFormat     `env:"LOG_FORMAT" envDefault:"json" help:"json or console"`
	AccessLog      bool          `env:"ACCESS_LOG" envDefault:"false" help:"true or false: whether each connection is logged at its end"`
	LogIDs         bool          `env:"LOG_IDS" envDefault:"false" help:"true or false: whether ACCESS_LOG shows ids and addresses as they are, not as keyed hashes"`

	ProxyProtocol  ProxyMode `env:"PROXY_PROTOCOL" envDefault:"off" help:"off, optional or required: whether connections from TRUSTED_PROXIES begin with a PROXY protocol header (version 1 or 2) that names the client"`
	TrustedProxies Prefixes  `env:"TRUSTED_PROXIES" reload:"yes" help:"comma-separated addresses and CIDRs of the load balancers whose PROXY header is believed, such as 10.0.0.0/8; required unless PROXY_PROTOCOL is off"`

	MaxConnections      int `env:"MAX_CONNECTIONS" reload:"yes" help:"connections at once; more are refused with 503; 0 means any number; default the open-file limit less a reserve"`
	MaxConnectionsPerIP int `env:"MAX_CONNECTIONS_PER_IP" reload:"yes" envDefault:"0" help:"connections at once from one IPv4 address or one IPv6 /64; 0 means any number"`
	MaxRoomPeers        int `env:"MAX_ROOM_PEERS" reload:"yes" envDefault:"0" help:"peers at once in one relay; 0 means any number"`
	MaxRoomsPerIP       int `env:"MAX_ROOMS_PER_IP" reload:"yes" envDefault:"0" help:"relays in which one IPv4 address or one IPv6 /64 has peers at once; 0 means any number"`
	ConnectRate         int `env:"CONNECT_RATE" reload:"yes" envDefault:"0" help:"new connections per second; more wait for their turn, or are refused with 503 if that would take longer than HANDSHAKE_TIMEOUT; 0 means any number"`
	ConnectBurst        int `env:"CONNECT_BURST" reload:"yes" help:"connections that may come at once before CONNECT_RATE holds; default CONNECT_RATE"`
	MessageRate         int `env:"MESSAGE_RATE" reload:"yes" envDefault:"0" help:"messages per second from one peer; a faster one is held back, and closed after ten seconds of it; 0 means any number"`
	MessageBurst        int `env:"MESSAGE_BURST" reload:"yes" help:"messages that a peer may send at once before MESSAGE_RATE holds; default twice MESSAGE_RATE"`
	ByteRate            int `env:"BYTE_RATE" reload:"yes" envDefault:"0" help:"bytes of messages per second from one peer; as MESSAGE_RATE"`
	ByteBurst           int `env:"BYTE_BURST" reload:"yes" help:"bytes that a peer may send at once before BYTE_RATE holds; default twice BYTE_RATE, or MAX_MESSAGE_BYTES if that is more"`
	RoomByteRate        int `env:"ROOM_BYTE_RATE" reload:"yes" envDefault:"0" help:"bytes per second delivered in one relay, counted once for each recipient; its senders are held back, and closed after ten seconds of it; 0 means any number"`
	RoomByteBurst       int `env:"ROOM_BYTE_BURST" reload:"yes" help:"bytes that may be delivered in a relay at once before ROOM_BYTE_RATE holds; default twice ROOM_BYTE_RATE, or MAX_MESSAGE_BYTES if that is more"`

	MemoryBudget Size `env:"MEMORY_BUDGET" reload:"yes" envDefault:"60%" help:"memory of the whole process: bytes, such as 268435456, 256MiB or 4GiB, or a share of what the machine or its cgroup allows, such as 60%; at least 64MiB; 0 means no budget"`

	DrainDelay  Interval `env:"DRAIN_DELAY" reload:"yes" envDefault:"0s" help:"time after SIGTERM in which connections are still accepted, so that a balancer can notice that the relay is not ready; 0s to 10m"`
	DrainPeriod Interval `env:"DRAIN_PERIOD" reload:"yes" envDefault:"5s" help:"time over which the peers are closed after that; 0s to 10m"`
	ReusePort   bool     `env:"REUSE_PORT" envDefault:"false" help:"true or false: whether another relaygate may listen on the same port, to take over from this one"`

	warnings     []string
	healthChosen bool // HEALTH_ADDR is set
}

// UnsetConnections is Config.MaxConnections if MAX_CONNECTIONS is not set: the open-file limit decides.
const UnsetConnections = -1

// Address returns the address to listen on, as host:port.
func (c *Config) Address() string {
	return net.JoinHostPort(c.Host, strconv.Itoa(c.Port))
}

// HealthAddressChosen reports whether HEALTH_ADDR was set, and is not the default.
func (c *Config) HealthAddressChosen() bool { return c.healthChosen }

// Loops returns the number of event loops: EVENT_LOOPS or, if that is 0, one for each core. On 2 cores,
// shared with the load, two loops were compared with one (bench, same run). They delivered 1.25 times as much
// in rooms of 10, 1.5 times in rooms of 1,000 and the same in rooms of 2. Where 16 senders keep a room busy
// they delivered 0.85 times as much, since batches are smaller. Three and four loops delivered no more than
// two and cost up to 1.7 times.
func (c *Config) Loops() int {
	if c.EventLoops > 0 {
		return c.EventLoops
	}
	return runtime.GOMAXPROCS(0)
}

// ParseConfig reads and validates the settings from environ, which has the form of os.Environ, and from the
// files that it names. An empty variable counts as not set, but for
// HEALTH_ADDR, where it means off. The error joins all faults. Each begins with its
// variable's name; then the Config holds only the settings that could be read, and they may be wrong.
func ParseConfig(environ []string) (Config, error) {
	from := gather(environ)
	set := from.set
	cfg, err := env.ParseAsWithOptions[Config](env.Options{
		Environment: set,
		FuncMap: map[reflect.Type]env.ParserFunc{
			reflect.TypeFor[int]():  parseNumber,
			reflect.TypeFor[bool](): parseBool,
		},
	})
	faults := append(from.faults, unreadable(err, set)...)
	c := check{set: set, unread: make(map[string]bool)}
	for _, f := range faults {
		c.unread[f.variable] = true
	}
	c.all(&cfg)
	faults = append(faults, c.faults...)
	cfg.warnings = append(from.warnings, cfg.warnings...)
	var joined []error
	for _, f := range faults {
		if place := from.places[f.variable]; place != "" {
			f.text += " (" + place + ")"
		}
		joined = append(joined, f)
	}
	return cfg, errors.Join(joined...)
}

// Warnings returns a text for each setting that is valid but most likely a mistake. Each begins with the
// variable's name.
func (c Config) Warnings() []string { return c.warnings }

var errNoLevel = errors.New("none of debug, info, warn and error")

// fault is a variable and what is wrong with its value.
type fault struct{ variable, text string }

func (f fault) Error() string { return f.variable + ": " + f.text }

// unreadable translates the library's errors, which name the struct's fields, into faults, which name
// variables.
func unreadable(err error, set map[string]string) []fault {
	var all env.AggregateError
	if err == nil {
		return nil
	}
	if !errors.As(err, &all) {
		return []fault{{"environment", err.Error()}}
	}
	var faults []fault
	for _, e := range all.Errors {
		var pe env.ParseError
		if !errors.As(e, &pe) {
			faults = append(faults, fault{"environment", e.Error()})
			continue
		}
		variable := pe.Name
		if f, ok := reflect.TypeFor[Config]().FieldByName(pe.Name); ok {
			variable = f.Tag.Get("env")
		}
		why := pe.Err
		if variable == "LOG_LEVEL" {
			why = errNoLevel
		}
		faults = append(faults, fault{variable, fmt.Sprintf("%q is %v", set[variable], why)})
	}
	return faults
}

// Usage lists the variables, with units and defaults. Those that SIGHUP re-reads have a mark.
func Usage() string {
	var b strings.Builder
	for f := range fields() {
		def := f.Tag.Get("envDefault")
		if def == "" {
			def = "not set"
		}
		mark := ""
		if f.Tag.Get("reload") != "" {
			mark = " *"
		}
		fmt.Fprintf(&b, "  %s (default: %s)%s\n        %s\n", f.Tag.Get("env"), def, mark, f.Tag.Get("help"))
	}
	return b.String()
}

// fields returns an iterator over the fields that a variable sets.
func fields() func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
			if f.IsExported() && !yield(f) {
				return
			}
		}
	}
}

// MarshalLogObject logs every setting under its variable's name. Secrets are hidden.
func (c Config) MarshalLogObject(o zapcore.ObjectEncoder) error {
	v := reflect.ValueOf(c)
	for f := range fields() {
		value := v.FieldByIndex(f.Index).Interface()
		if s, ok := value.(fmt.Stringer); ok {
			o.AddString(f.Tag.Get("env"), s.String())
		} else if err := o.AddReflected(f.Tag.Get("env"), value); err != nil {
			return err
		}
	}
	return nil
}
