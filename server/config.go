package server

import (
	"errors"
	"fmt"
	"math"
	"net"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"go.uber.org/zap/zapcore"
)

// Config holds all settings. They are set by environment variables alone. The variables are named in the tags
// only: ParseConfig, Usage and the error messages read them there.
type Config struct {
	Host           string        `env:"HOST" help:"address to listen on; none means all"`
	Port           int           `env:"PORT" envDefault:"8080" help:"TCP port to listen on, 0 to 65535; 0 takes a free one"`
	AdminSecret    Secret        `env:"ADMIN_SECRET" help:"peers must offer it in Sec-WebSocket-Protocol; none lets everybody in"`
	AllowedOrigins []string      `env:"ALLOWED_ORIGINS" help:"comma-separated origins that pages may connect from, such as https://example.com; none or * means any"`
	CheckInterval  Interval      `env:"CONNECTION_CHECK_INTERVAL" envDefault:"30000" help:"time between two pings; a peer that says nothing in between is closed; milliseconds, or a duration such as 30s; 10ms to 24h"`
	HandshakeTime  Interval      `env:"HANDSHAKE_TIMEOUT" envDefault:"10s" help:"time from accept to the complete request header; milliseconds, or a duration; 100ms to 1h"`
	MaxMessage     int           `env:"MAX_MESSAGE_BYTES" envDefault:"1048576" help:"largest message, in bytes; 1 to 67108864"`
	MaxQueue       int           `env:"MAX_QUEUE_BYTES" help:"bytes that may wait for a peer that does not read, before it is closed; at least MAX_MESSAGE_BYTES + 65536; default that, or 1048576 if it is less"`
	EventLoops     int           `env:"EVENT_LOOPS" envDefault:"0" help:"number of event loops, 1 to 1024; 0 means one for each core that Go may use"`
	LogLevel       zapcore.Level `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error; debug logs every connection"`
	LogFormat      LogFormat     `env:"LOG_FORMAT" envDefault:"json" help:"json or console"`

	warnings []string
}

// Secret is a text that must not appear in a log.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// Interval is a duration that can also be written as a plain number of milliseconds.
type Interval time.Duration

// UnmarshalText parses "30000" as milliseconds, or a duration such as "30s".
func (d *Interval) UnmarshalText(text []byte) error {
	s := string(text)
	if isNumber(s) {
		ms, err := strconv.ParseInt(s, 10, 64)
		if err != nil || ms > int64(math.MaxInt64/time.Millisecond) {
			*d = math.MaxInt64 // above every limit: check reports the range
			return nil
		}
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

// UnmarshalText accepts only json and console. It ignores case, as LOG_LEVEL does.
func (f *LogFormat) UnmarshalText(text []byte) error {
	switch s := strings.ToLower(string(text)); s {
	case "json", "console":
		*f = LogFormat(s)
		return nil
	}
	return errors.New("neither json nor console")
}

// isNumber reports whether s consists of digits alone.
func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// parseNumber reads a whole number. A number too large for an int becomes the largest int, so that check can
// report the range.
func parseNumber(s string) (any, error) {
	if !isNumber(strings.TrimPrefix(s, "-")) {
		return nil, errors.New("not a whole number")
	}
	n, _ := strconv.Atoi(s)
	return n, nil
}

// Address returns the address to listen on, as host:port.
func (c *Config) Address() string {
	return net.JoinHostPort(c.Host, strconv.Itoa(c.Port))
}

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

// ParseConfig reads and validates the settings from environ, which has the form of os.Environ. An empty
// variable counts as not set. The error joins all faults. Each begins with its variable's name.
func ParseConfig(environ []string) (Config, error) {
	set := make(map[string]string)
	for k, v := range env.ToMap(environ) {
		if v != "" {
			set[k] = v
		}
	}
	cfg, err := env.ParseAsWithOptions[Config](env.Options{
		Environment: set,
		FuncMap:     map[reflect.Type]env.ParserFunc{reflect.TypeFor[int](): parseNumber},
	})
	faults := unreadable(err, set)
	c := check{set: set, unread: make(map[string]bool)}
	for _, f := range faults {
		c.unread[f.variable] = true
	}
	c.all(&cfg)
	faults = append(faults, c.faults...)
	if len(faults) == 0 {
		return cfg, nil
	}
	var joined []error
	for _, f := range faults {
		joined = append(joined, f)
	}
	return Config{}, errors.Join(joined...)
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
		if s, ok := v.FieldByIndex(f.Index).Interface().(fmt.Stringer); ok {
			o.AddString(f.Tag.Get("env"), s.String())
		} else if err := o.AddReflected(f.Tag.Get("env"), v.FieldByIndex(f.Index).Interface()); err != nil {
			return err
		}
	}
	return nil
}
