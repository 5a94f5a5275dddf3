package server

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"go.uber.org/zap/zapcore"

	"relaygate/server/upgrade"
)

// Config is everything that can be set, by environment variables alone. The
// tags are the one place that names them: ParseConfig, Usage and the error
// messages read them.
type Config struct {
	Host           string        `env:"HOST" help:"address to listen on; none means all"`
	Port           uint16        `env:"PORT" envDefault:"8080" help:"TCP port to listen on, 0 to 65535; 0 takes a free one"`
	AdminSecret    Secret        `env:"ADMIN_SECRET" help:"peers must offer it in Sec-WebSocket-Protocol; none lets everybody in"`
	AllowedOrigins []string      `env:"ALLOWED_ORIGINS" help:"comma-separated origins that pages may connect from; none or * means any"`
	CheckInterval  Interval      `env:"CONNECTION_CHECK_INTERVAL" envDefault:"30000" help:"time between two pings; who says nothing in between is closed; milliseconds, or a duration such as 30s; 10ms to 24h"`
	HandshakeTime  Interval      `env:"HANDSHAKE_TIMEOUT" envDefault:"10s" help:"time from accept to the complete request header; milliseconds, or a duration; 100ms to 1h"`
	MaxMessage     int           `env:"MAX_MESSAGE_BYTES" envDefault:"1048576" help:"largest message, in bytes; 1 to 67108864"`
	MaxQueue       int           `env:"MAX_QUEUE_BYTES" help:"bytes that may wait for a peer that does not read, before it is closed; at least MAX_MESSAGE_BYTES + 65536; default that, or 1048576 if it is less"`
	EventLoops     int           `env:"EVENT_LOOPS" envDefault:"0" help:"number of event loops, 1 to 1024; 0 means one for each core that Go may use"`
	LogLevel       zapcore.Level `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error; debug logs every connection"`
	LogFormat      LogFormat     `env:"LOG_FORMAT" envDefault:"json" help:"json or console"`
}

// Limits of the settings.
const (
	minCheckInterval = 10 * time.Millisecond
	maxCheckInterval = 24 * time.Hour
	minHandshake     = 100 * time.Millisecond
	maxHandshake     = time.Hour
	maxMaxMessage    = 64 << 20
	queueHeadroom    = 64 << 10 // what MAX_QUEUE_BYTES must exceed MAX_MESSAGE_BYTES by
	maxMaxQueue      = 1 << 30
	maxEventLoops    = 1024
)

// Secret is a text that no log shows.
type Secret string

// String hides it.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// Interval is a duration that is also written as a plain number of milliseconds.
type Interval time.Duration

// UnmarshalText parses "30000", in milliseconds, or "30s".
func (d *Interval) UnmarshalText(text []byte) error {
	s := string(text)
	if ms, err := strconv.ParseUint(s, 10, 40); err == nil {
		*d = Interval(time.Duration(ms) * time.Millisecond)
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("neither a number of milliseconds nor a duration such as 30s")
	}
	*d = Interval(v)
	return nil
}

func (d Interval) String() string { return time.Duration(d).String() }

// LogFormat is json or console.
type LogFormat string

// UnmarshalText refuses anything else.
func (f *LogFormat) UnmarshalText(text []byte) error {
	switch s := string(text); s {
	case "json", "console":
		*f = LogFormat(s)
		return nil
	}
	return errors.New("neither json nor console")
}

// Address returns what to listen on, as host:port.
func (c *Config) Address() string {
	return net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
}

// Loops returns the number of event loops: EVENT_LOOPS or, where that is 0, one for
// each core. On 2 cores, shared with the load, two loops delivered 1.25 times as much
// as one in rooms of 10 and 1.5 times in rooms of 1,000, the same in rooms of 2 and
// 0.85 times where 16 senders keep a room busy, since batches are smaller; three and
// four delivered no more than two and cost up to 1.7 times (bench, same run).
func (c *Config) Loops() int {
	if c.EventLoops > 0 {
		return c.EventLoops
	}
	return runtime.GOMAXPROCS(0)
}

// ParseConfig reads and validates the settings from environ, of the form of
// os.Environ. A variable that is empty counts as not set. The error joins all
// faults, each beginning with its variable's name.
func ParseConfig(environ []string) (Config, error) {
	set := make(map[string]string)
	for k, v := range env.ToMap(environ) {
		if v != "" {
			set[k] = v
		}
	}
	cfg, err := env.ParseAsWithOptions[Config](env.Options{Environment: set})
	faults := namedFaults(err, set)
	failed := make(map[string]bool)
	for _, f := range faults {
		failed[f.variable] = true
	}
	_, queueIsSet := set["MAX_QUEUE_BYTES"]
	for _, f := range cfg.check(queueIsSet) {
		if !failed[f.variable] { // a value that could not be read need not be judged too
			faults = append(faults, f)
		}
	}
	if len(faults) == 0 {
		return cfg, nil
	}
	var joined []error
	for _, f := range faults {
		joined = append(joined, f)
	}
	return Config{}, errors.Join(joined...)
}

// fault is what is wrong with one variable.
type fault struct{ variable, text string }

func (f fault) Error() string { return f.variable + ": " + f.text }

// namedFaults translates the library's errors, which name the struct's fields.
func namedFaults(err error, set map[string]string) []fault {
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
		var num *strconv.NumError
		if errors.As(why, &num) {
			why = fmt.Errorf("not a whole number in range (%w)", num.Err)
		}
		faults = append(faults, fault{variable, fmt.Sprintf("%q: %v", set[variable], why)})
	}
	return faults
}

// check judges what was read, and fills in the default that depends on another
// setting.
func (c *Config) check(queueIsSet bool) []fault {
	var faults []fault
	bad := func(variable, format string, args ...any) {
		faults = append(faults, fault{variable, fmt.Sprintf(format, args...)})
	}
	if c.Host != "" && net.ParseIP(c.Host) == nil && strings.ContainsAny(c.Host, ":/ []") {
		bad("HOST", "%q: neither an IP address nor a host name", c.Host)
	}
	if c.AdminSecret != "" && !upgrade.IsToken([]byte(c.AdminSecret)) {
		bad("ADMIN_SECRET", "holds a character that no browser can send in Sec-WebSocket-Protocol; allowed are letters, digits and !#$%%&'*+-.^_`|~")
	}
	var origins []string
	for _, o := range c.AllowedOrigins {
		if o = strings.TrimSpace(o); o != "" {
			origins = append(origins, o)
		}
	}
	if len(c.AllowedOrigins) > 0 && len(origins) == 0 {
		bad("ALLOWED_ORIGINS", "%q: names no origin", strings.Join(c.AllowedOrigins, ","))
	}
	c.AllowedOrigins = origins
	if v := time.Duration(c.CheckInterval); v < minCheckInterval || v > maxCheckInterval {
		bad("CONNECTION_CHECK_INTERVAL", "%v: not from %v to %v", v, minCheckInterval, maxCheckInterval)
	}
	if v := time.Duration(c.HandshakeTime); v < minHandshake || v > maxHandshake {
		bad("HANDSHAKE_TIMEOUT", "%v: not from %v to %v", v, minHandshake, maxHandshake)
	}
	if c.MaxMessage < 1 || c.MaxMessage > maxMaxMessage {
		bad("MAX_MESSAGE_BYTES", "%d: not from 1 to %d", c.MaxMessage, maxMaxMessage)
	}
	least := c.MaxMessage + queueHeadroom
	switch {
	case !queueIsSet:
		c.MaxQueue = max(least, 1<<20)
	case c.MaxQueue < least || c.MaxQueue > maxMaxQueue:
		bad("MAX_QUEUE_BYTES", "%d: not from %d (MAX_MESSAGE_BYTES + %d) to %d", c.MaxQueue, least, queueHeadroom, maxMaxQueue)
	}
	if c.EventLoops < 0 || c.EventLoops > maxEventLoops {
		bad("EVENT_LOOPS", "%d: not from 0 to %d", c.EventLoops, maxEventLoops)
	}
	if c.LogLevel < zapcore.DebugLevel || c.LogLevel > zapcore.ErrorLevel {
		bad("LOG_LEVEL", "%v: not debug, info, warn or error", c.LogLevel)
	}
	return faults
}

// Usage lists the environment variables, with units and defaults.
func Usage() string {
	var b strings.Builder
	for f := range fields() {
		def := f.Tag.Get("envDefault")
		if def == "" {
			def = "not set"
		}
		fmt.Fprintf(&b, "  %s (default: %s)\n        %s\n", f.Tag.Get("env"), def, f.Tag.Get("help"))
	}
	return b.String()
}

func fields() func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
			if !yield(f) {
				return
			}
		}
	}
}

// MarshalLogObject logs every setting by its variable's name, a secret hidden.
func (c Config) MarshalLogObject(o zapcore.ObjectEncoder) error {
	v := reflect.ValueOf(c)
	for f := range fields() {
		if s, ok := v.FieldByIndex(f.Index).Interface().(fmt.Stringer); ok {
			o.AddString(f.Tag.Get("env"), s.String())
		} else if err := o.AddReflected(f.Tag.Get("env"), v.FieldByIndex(f.Index).Interface()); err != nil {
			return err
		}
	}
	return nil
}
