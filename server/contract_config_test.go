package server

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
)

// variables are all that can be set.
var variables = []string{
	"CONFIG_FILE", "HOST", "PORT", "ADMIN_SECRET", "ADMIN_SECRET_FILE", "ALLOWED_ORIGINS", "CONNECTION_CHECK_INTERVAL", "HANDSHAKE_TIMEOUT",
	"MAX_MESSAGE_BYTES", "MAX_QUEUE_BYTES", "EVENT_LOOPS", "TRY_PAGE", "LOG_LEVEL", "LOG_FORMAT",
	"PROXY_PROTOCOL", "TRUSTED_PROXIES", "MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_IP", "MAX_ROOM_PEERS", "MAX_ROOMS_PER_IP",
	"CONNECT_RATE", "CONNECT_BURST", "MESSAGE_RATE", "MESSAGE_BURST", "BYTE_RATE", "BYTE_BURST",
	"ROOM_BYTE_RATE", "ROOM_BYTE_BURST", "MEMORY_BUDGET", "DRAIN_DELAY", "DRAIN_PERIOD", "REUSE_PORT",
	"HEALTH_ADDR", "DEBUG", "DEBUG_IDS", "ACCESS_LOG", "LOG_IDS",
}

func TestConfigDefaults(t *testing.T) {
	want := Config{
		Port:          8080,
		CheckInterval: Interval(30 * time.Second),
		HandshakeTime: Interval(10 * time.Second),
		MaxMessage:    1 << 20,
		MaxQueue:      1<<20 + 64<<10,
		TryPage:       true,
		HealthAddress: "127.0.0.1:8081",
		LogLevel:      zapcore.InfoLevel,
		LogFormat:     "json",

		ProxyProtocol:  ProxyOff,
		MaxConnections: UnsetConnections,
		MemoryBudget:   Size{Percent: 60},
		DrainPeriod:    Interval(5 * time.Second),
	}
	f := func(environ ...string) {
		t.Helper()
		got, err := ParseConfig(environ)
		if err != nil {
			t.Fatalf("ParseConfig(%q): %v", environ, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("ParseConfig(%q) = %+v, want %+v", environ, got, want)
		}
	}
	f()
	f("PATH=/bin", "RELAYGATE=x", "port=99", "MAX_MESSAGE=5", "=C:=x", "HOSTNAME=a b")
	var empty []string
	for _, name := range variables {
		if name != "HEALTH_ADDR" { // empty means off
			empty = append(empty, name+"=")
		}
	}
	f(empty...)
}

func TestConfigValid(t *testing.T) {
	f := func(variable, value string, get func(c Config) any, want any) {
		t.Helper()
		c, err := ParseConfig([]string{variable + "=" + value})
		if err != nil {
			t.Errorf("%s=%.80q: %v", variable, value, err)
		} else if got := get(c); !reflect.DeepEqual(got, want) {
			t.Errorf("%s=%.80q gives %v, want %v", variable, value, got, want)
		}
	}
	address := func(c Config) any { return c.Address() }
	f("HOST", "127.0.0.1", address, "127.0.0.1:8080")
	f("HOST", "::1", address, "[::1]:8080")
	f("HOST", "fe80::1", address, "[fe80::1]:8080")
	f("HOST", "0.0.0.0", address, "0.0.0.0:8080")
	f("HOST", "localhost", address, "localhost:8080")
	f("HOST", "relay.example.com", address, "relay.example.com:8080")
	f("HOST", "fe80::1%eth0", address, "[fe80::1%eth0]:8080")
	f("HOST", "my_relay-1.", address, "my_relay-1.:8080")
	f("PORT", "0", address, ":0")
	f("PORT", "1", address, ":1")
	f("PORT", "65535", address, ":65535")

	secrets := func(c Config) any { return []string(c.AdminSecrets) }
	f("ADMIN_SECRET", "s", secrets, []string{"s"})
	f("ADMIN_SECRET", "!#$%&'*+-.^_`|~09AZaz", secrets, []string{"!#$%&'*+-.^_`|~09AZaz"})
	f("ADMIN_SECRET", strings.Repeat("x", 4096), secrets, []string{strings.Repeat("x", 4096)})
	f("ADMIN_SECRET", "new, old,", secrets, []string{"new", "old"})
	f("ADMIN_SECRET", "x"+strings.Repeat(",x", 15), secrets, strings.Split("x"+strings.Repeat(",x", 15), ","))

	origins := func(c Config) any { return c.AllowedOrigins }
	f("ALLOWED_ORIGINS", "*", origins, []string{"*"})
	f("ALLOWED_ORIGINS", "https://a.example", origins, []string{"https://a.example"})
	f("ALLOWED_ORIGINS", " https://a.example ,\thttp://b:3000,", origins, []string{"https://a.example", "http://b:3000"})
	f("ALLOWED_ORIGINS", "null,,*", origins, []string{"null", "*"})

	for variable, get := range map[string]func(c Config) any{
		"CONNECTION_CHECK_INTERVAL": func(c Config) any { return time.Duration(c.CheckInterval) },
		"HANDSHAKE_TIMEOUT":         func(c Config) any { return time.Duration(c.HandshakeTime) },
	} {
		f(variable, "30000", get, 30*time.Second)
		f(variable, "100", get, 100*time.Millisecond)
		f(variable, "30s", get, 30*time.Second)
		f(variable, "1m30s", get, 90*time.Second)
		f(variable, "0.5s", get, 500*time.Millisecond)
		f(variable, "250ms", get, 250*time.Millisecond)
		f(variable, "1h", get, time.Hour)
		f(variable, "3600000", get, time.Hour)
	}
	interval := func(c Config) any { return time.Duration(c.CheckInterval) }
	f("CONNECTION_CHECK_INTERVAL", "10", interval, 10*time.Millisecond)
	f("CONNECTION_CHECK_INTERVAL", "24h", interval, 24*time.Hour)

	message := func(c Config) any { return c.MaxMessage }
	f("MAX_MESSAGE_BYTES", "1", message, 1)
	f("MAX_MESSAGE_BYTES", "67108864", message, 64<<20)

	queue := func(c Config) any { return c.MaxQueue }
	f("MAX_QUEUE_BYTES", "1114112", queue, 1<<20+64<<10)
	f("MAX_QUEUE_BYTES", "1073741824", queue, 1<<30)
	// Its default is 1 MiB, or what the largest message needs.
	f("MAX_MESSAGE_BYTES", "1000", queue, 1<<20)
	f("MAX_MESSAGE_BYTES", "983040", queue, 1<<20)
	f("MAX_MESSAGE_BYTES", "67108864", queue, 64<<20+64<<10)

	health := func(c Config) any { return fmt.Sprintf("%v %v", c.HealthAddress, c.HealthAddressChosen()) }
	f("HEALTH_ADDR", "", health, "off true")
	f("HEALTH_ADDR", "OFF", health, "off true")
	f("HEALTH_ADDR", ":9090", health, ":9090 true")
	f("HEALTH_ADDR", "[::1]:0", health, "[::1]:0 true")
	f("HEALTH_ADDR", "localhost:65535", health, "localhost:65535 true")

	loops := func(c Config) any { return c.EventLoops }
	f("EVENT_LOOPS", "0", loops, 0)
	f("EVENT_LOOPS", "1", loops, 1)
	f("EVENT_LOOPS", "1024", loops, 1024)

	level := func(c Config) any { return c.LogLevel.String() }
	for _, name := range []string{"debug", "info", "warn", "error"} {
		f("LOG_LEVEL", name, level, name)
	}
	format := func(c Config) any { return string(c.LogFormat) }
	f("LOG_FORMAT", "json", format, "json")
	f("LOG_FORMAT", "console", format, "console")
	f("LOG_FORMAT", "JSON", format, "json")
	f("LOG_FORMAT", "Console", format, "console")
	f("LOG_LEVEL", "INFO", level, "info")

	mode := func(c Config) any { return string(c.ProxyProtocol) }
	f("PROXY_PROTOCOL", "OFF", mode, "off")
	f("MAX_CONNECTIONS", "0", func(c Config) any { return c.MaxConnections }, 0)
	f("MAX_CONNECTIONS_PER_IP", "1000000000", func(c Config) any { return c.MaxConnectionsPerIP }, 1_000_000_000)
	bursts := func(c Config) any {
		return [...]int{c.ConnectBurst, c.MessageBurst, c.ByteBurst, c.RoomByteBurst}
	}
	f("CONNECT_RATE", "0", bursts, [...]int{0, 0, 0, 0})
	f("CONNECT_RATE", "5", bursts, [...]int{5, 0, 0, 0})
	f("MESSAGE_RATE", "5", bursts, [...]int{0, 10, 0, 0})
	f("BYTE_RATE", "5", bursts, [...]int{0, 0, 1 << 20, 0})
	f("BYTE_RATE", "1000000000000", bursts, [...]int{0, 0, 2_000_000_000_000, 0})
	f("ROOM_BYTE_RATE", "1000000", bursts, [...]int{0, 0, 0, 2_000_000})
	budget := func(c Config) any { return c.MemoryBudget.String() }
	f("MEMORY_BUDGET", "0", budget, "0")
	f("MEMORY_BUDGET", "67108864", budget, "67108864")
	f("MEMORY_BUDGET", "64MiB", budget, "67108864")
	f("MEMORY_BUDGET", "1 gib", budget, "1073741824")
	f("MEMORY_BUDGET", "70%", budget, "70%")
	f("DRAIN_DELAY", "0", func(c Config) any { return c.DrainDelay.String() }, "0s")
	f("DRAIN_PERIOD", "10m", func(c Config) any { return c.DrainPeriod.String() }, "10m0s")
	f("TRY_PAGE", "OFF", func(c Config) any { return c.TryPage.String() }, "off")
	f("TRY_PAGE", "true", func(c Config) any { return c.TryPage.String() }, "on")
	f("REUSE_PORT", "TRUE", func(c Config) any { return c.ReusePort }, true)
}

// Some settings need another.
func TestConfigTogether(t *testing.T) {
	f := func(want string, environ ...string) {
		t.Helper()
		_, err := ParseConfig(environ)
		if got := faultNames(err); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%q: faults of %q, want %q", environ, got, want)
		}
	}
	f("", "PROXY_PROTOCOL=required", "TRUSTED_PROXIES=10.0.0.0/8, ::1,,127.0.0.1")
	f("TRUSTED_PROXIES", "PROXY_PROTOCOL=optional")
	f("TRUSTED_PROXIES", "TRUSTED_PROXIES=127.0.0.1")
	f("TRUSTED_PROXIES", "PROXY_PROTOCOL=optional", "TRUSTED_PROXIES=10.0.0.0/8,balancer")
	f("PROXY_PROTOCOL", "PROXY_PROTOCOL=yes", "TRUSTED_PROXIES=127.0.0.1")
	f("", "CONNECT_RATE=10", "CONNECT_BURST=1000")
	f("CONNECT_BURST", "CONNECT_BURST=10")
	f("MESSAGE_RATE", "MESSAGE_RATE=fast", "MESSAGE_BURST=10")
	f("BYTE_BURST", "BYTE_RATE=1000", "BYTE_BURST=0")
}

func TestConfigInvalid(t *testing.T) {
	f := func(variable string, values ...string) {
		t.Helper()
		for _, value := range values {
			got, err := ParseConfig([]string{variable + "=" + value})
			if err == nil {
				t.Errorf("%s=%.80q is taken: %+v", variable, value, got)
			} else if msg := err.Error(); !strings.HasPrefix(msg, variable+": ") || strings.Contains(msg, "\n") {
				t.Errorf("%s=%.80q: %q, want one line that begins with %s", variable, value, msg, variable)
			}
		}
	}
	f("HOST", "a b", ":80", "127.0.0.1:80", "[::1]", "http://a", "a/b", " ", "127.0.0.256", "127.1", "a..b", ".", "-a", "a-.b", "a,b", "é",
		"a@b", "::1%", strings.Repeat("a", 64), strings.Repeat("a.", 127)+"a")
	f("PORT", "-1", "99999999999999999999", "1e3", "65536", "80a", "0x50", "+80", "8080.0", " 80", "http")
	f("ADMIN_SECRET", "a b", "a,b c", "a\"b", "(a)", "é", "a\tb", "a/b", "a=", "a:b", " ", ",", " , ", "x"+strings.Repeat(",x", 16))
	f("ALLOWED_ORIGINS", ",", " ", " , ,")
	f("CONNECTION_CHECK_INTERVAL", "0", "9", "-1", "-30s", "9ms", "24h1ms", "86400001", "1.5", "1e4", "30 s", "thirty", "30S",
		"0x10", "99999999999999999999", "1000000h")
	f("HANDSHAKE_TIMEOUT", "0", "99", "-1", "-10s", "99ms", "61m", "3600001", "1.5", "ten", "0s")
	f("MAX_MESSAGE_BYTES", "0", "-1", "67108865", "1MiB", "1e6", "1.0", "99999999999999999999")
	f("MAX_QUEUE_BYTES", "0", "-1", "1", "1048576", "1114111", "1073741825", "2MiB", "99999999999999999999")
	f("EVENT_LOOPS", "-1", "1025", "auto", "1.0")
	f("LOG_LEVEL", "dpanic", "panic", "fatal", "trace", "verbose", "1")
	f("PROXY_PROTOCOL", "on", "v2", "1")
	f("TRUSTED_PROXIES", "a", "10.0.0.0/33", "10.0.0.1/8", "::ffff:10.0.0.0/104", "fe80::1%eth0", ",")
	f("MAX_CONNECTIONS", "-1", "many", "1000000001")
	f("MAX_CONNECTIONS_PER_IP", "-1")
	f("MAX_ROOM_PEERS", "-1", "1.5")
	f("MAX_ROOMS_PER_IP", "-1")
	f("CONNECT_RATE", "-1", "10/s")
	f("MESSAGE_RATE", "-1", "0.5")
	f("BYTE_RATE", "-1", "1MiB", "1000000000001")
	f("ROOM_BYTE_RATE", "-1")
	f("MEMORY_BUDGET", "1", "63MiB", "0%", "101%", "-1", "4G", "lots", "99999999999999999999", "9999999999999GiB", "%", "MiB")
	f("DRAIN_DELAY", "-1s", "11m")
	f("DRAIN_PERIOD", "-1s", "601s", "slowly")
	f("TRY_PAGE", "yes", "2", "-")
	f("REUSE_PORT", "yes", "2", "on")
	f("HEALTH_ADDR", "on", "8081", "127.0.0.1", "::1:80", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "a b:80", "http://a:80")
	f("DEBUG", "yes", "2")
	f("DEBUG_IDS", "yes")
	f("ACCESS_LOG", "yes")
	f("LOG_IDS", "yes")
	f("LOG_FORMAT", "text", "xml", "jsn", "json,console")
}

// The queue must have room for the largest message.
func TestConfigQueueHoldsMessage(t *testing.T) {
	f := func(message, queue int, want string) {
		t.Helper()
		_, err := ParseConfig([]string{fmt.Sprint("MAX_MESSAGE_BYTES=", message), fmt.Sprint("MAX_QUEUE_BYTES=", queue)})
		if got := faultNames(err); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("message %d, queue %d: faults of %q, want %q", message, queue, got, want)
		}
	}
	f(1, 65537, "")
	f(1, 65536, "MAX_QUEUE_BYTES")
	f(1000, 66536, "")
	f(1000, 66535, "MAX_QUEUE_BYTES")
	f(64<<20, 64<<20+64<<10, "")
	f(64<<20, 64<<20+64<<10-1, "MAX_QUEUE_BYTES")
}

// A fault says what was written, and what may be.
func TestConfigFaults(t *testing.T) {
	f := func(want string, environ ...string) {
		t.Helper()
		if _, err := ParseConfig(environ); err == nil || err.Error() != want {
			t.Errorf("%q: %v\nwant %s", environ, err, want)
		}
	}
	f("PORT: 99999 is not from 0 to 65535", "PORT=99999")
	f("PORT: -1 is not from 0 to 65535", "PORT=-1")
	f(`PORT: "http" is not a whole number`, "PORT=http")
	f(`HOST: "a b" is neither an IP address nor a host name`, "HOST=a b")
	f("CONNECTION_CHECK_INTERVAL: 5 (milliseconds) is not from 10ms to 24h", "CONNECTION_CHECK_INTERVAL=5")
	f("CONNECTION_CHECK_INTERVAL: 99999999999999999999 (milliseconds) is not from 10ms to 24h", "CONNECTION_CHECK_INTERVAL=99999999999999999999")
	f("HANDSHAKE_TIMEOUT: 2h is not from 100ms to 1h", "HANDSHAKE_TIMEOUT=2h")
	f(`HANDSHAKE_TIMEOUT: "ten" is neither a number of milliseconds nor a duration such as 30s`, "HANDSHAKE_TIMEOUT=ten")
	f("MAX_MESSAGE_BYTES: 0 is not from 1 to 67108864", "MAX_MESSAGE_BYTES=0")
	f("MAX_MESSAGE_BYTES: 99999999999999999999 is not from 1 to 67108864", "MAX_MESSAGE_BYTES=99999999999999999999")
	f("MAX_QUEUE_BYTES: 1000 is not from 1114112 (MAX_MESSAGE_BYTES + 65536) to 1073741824", "MAX_QUEUE_BYTES=1000")
	f("EVENT_LOOPS: 1025 is not from 0 to 1024", "EVENT_LOOPS=1025")
	f(`LOG_LEVEL: "trace" is none of debug, info, warn and error`, "LOG_LEVEL=trace")
	f(`LOG_LEVEL: "fatal" is none of debug, info, warn and error`, "LOG_LEVEL=fatal")
	f(`LOG_FORMAT: "xml" is neither json nor console`, "LOG_FORMAT=xml")

	// One fault is not reported through another.
	f("MAX_MESSAGE_BYTES: 999999999 is not from 1 to 67108864", "MAX_MESSAGE_BYTES=999999999", "MAX_QUEUE_BYTES=100000")
	f(`MAX_MESSAGE_BYTES: "1MiB" is not a whole number`, "MAX_MESSAGE_BYTES=1MiB", "MAX_QUEUE_BYTES=100000")
	f("MAX_MESSAGE_BYTES: 0 is not from 1 to 67108864\nMAX_QUEUE_BYTES: 65536 is not from 65537 to 1073741824",
		"MAX_MESSAGE_BYTES=0", "MAX_QUEUE_BYTES=65536")
}

// A small number without a unit is taken as it is, but most likely not meant so.
func TestConfigWarnings(t *testing.T) {
	f := func(variable, value, want string) {
		t.Helper()
		c, err := ParseConfig([]string{variable + "=" + value})
		if err != nil {
			t.Errorf("%s=%s: %v", variable, value, err)
		} else if got := strings.Join(c.Warnings(), "; "); got != want {
			t.Errorf("%s=%s warns %q, want %q", variable, value, got, want)
		}
	}
	const interval, timeout = "CONNECTION_CHECK_INTERVAL", "HANDSHAKE_TIMEOUT"
	f(interval, "30", interval+": 30 without a unit is 30ms; write 30s if seconds are meant, 30ms if not")
	f(interval, "999", interval+": 999 without a unit is 999ms; write 999s if seconds are meant, 999ms if not")
	f(timeout, "100", timeout+": 100 without a unit is 100ms; write 100s if seconds are meant, 100ms if not")
	f(interval, "1000", "")
	f(interval, "30ms", "")
	f(interval, "0.5s", "")
	f(timeout, "", "")
}

// faultNames returns the variables that the lines of err begin with.
func faultNames(err error) (names []string) {
	if err == nil {
		return nil
	}
	for line := range strings.Lines(err.Error()) {
		name, _, _ := strings.Cut(line, ": ")
		names = append(names, name)
	}
	return names
}

// All faults are reported at once, each with its variable's name, whether a value
// cannot be read or is out of range.
func TestConfigAllFaults(t *testing.T) {
	right := []string{"CONNECT_RATE=5", "MESSAGE_RATE=5", "BYTE_RATE=5", "ROOM_BYTE_RATE=5"} // a burst without a rate has no effect
	f := func(environ ...string) {
		t.Helper()
		_, err := ParseConfig(environ)
		got := faultNames(err)
		var want []string
		for _, v := range environ {
			if name, _, _ := strings.Cut(v, "="); !slices.Contains(right, v) {
				want = append(want, name)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("faults of %q, want %q:\n%v", got, want, err)
		}
	}
	const secret = "hunter2 x"
	all := []string{
		"CONFIG_FILE=/nonexistent", "HOST=a b", "PORT=http", "ADMIN_SECRET=" + secret, "ADMIN_SECRET_FILE=/nonexistent", "ALLOWED_ORIGINS=,", "CONNECTION_CHECK_INTERVAL=often",
		"HANDSHAKE_TIMEOUT=1", "MAX_MESSAGE_BYTES=0", "MAX_QUEUE_BYTES=x", "EVENT_LOOPS=9999", "TRY_PAGE=x", "LOG_LEVEL=fatal", "LOG_FORMAT=xml",
		"PROXY_PROTOCOL=on", "TRUSTED_PROXIES=x", "MAX_CONNECTIONS=-1", "MAX_CONNECTIONS_PER_IP=x", "MAX_ROOM_PEERS=x",
		"MAX_ROOMS_PER_IP=-1", "CONNECT_RATE=5", "CONNECT_BURST=0", "MESSAGE_RATE=5", "MESSAGE_BURST=x", "BYTE_RATE=5", "BYTE_BURST=-1",
		"ROOM_BYTE_RATE=5", "ROOM_BYTE_BURST=0", "MEMORY_BUDGET=1", "DRAIN_DELAY=x", "DRAIN_PERIOD=1h", "REUSE_PORT=maybe",
		"HEALTH_ADDR=here", "DEBUG=x", "DEBUG_IDS=x", "ACCESS_LOG=x", "LOG_IDS=x",
	}
	if len(all) != len(variables) {
		t.Fatalf("%d faults for %d variables", len(all), len(variables))
	}
	f(all...)
	f("PORT=x", "MAX_MESSAGE_BYTES=x", "EVENT_LOOPS=x", "LOG_LEVEL=x")
	f("HANDSHAKE_TIMEOUT=0", "CONNECTION_CHECK_INTERVAL=0")
	for i := range all { // a correct value does not hide the other faults
		if slices.Contains(right, all[i]) {
			continue
		}
		f(slices.Delete(slices.Clone(all), i, i+1)...)
	}
	if _, err := ParseConfig(all); strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the secret is shown: %v", err)
	}
}

// Two lines for each variable: its name and default, then what it means.
func TestUsage(t *testing.T) {
	entries := make(map[string]string)
	lines := strings.Split(strings.TrimSuffix(Usage(), "\n"), "\n")
	for pair := range slices.Chunk(lines, 2) {
		name, _, _ := strings.Cut(strings.TrimSpace(pair[0]), " ")
		entries[name] = strings.Join(pair, "\n")
	}
	if len(lines) != 2*len(variables) {
		t.Errorf("%d lines, want two for each of %d variables:\n%s", len(lines), len(variables), Usage())
	}
	f := func(variable string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(entries[variable], w) {
				t.Errorf("usage of %s is %q, want %q in it", variable, entries[variable], w)
			}
		}
	}
	for _, name := range variables {
		f(name, "(default: ")
	}
	f("PORT", "default: 8080")
	f("CONNECTION_CHECK_INTERVAL", "default: 30000", "milliseconds", "30s")
	f("HANDSHAKE_TIMEOUT", "default: 10s", "milliseconds")
	f("MAX_MESSAGE_BYTES", "default: 1048576", "bytes")
	f("MAX_QUEUE_BYTES", "bytes")
	f("EVENT_LOOPS", "default: 0")
	f("LOG_LEVEL", "default: info", "debug")
	f("LOG_FORMAT", "default: json", "console")
}

// What is logged at the start: every setting by its name, but for the secret.
func TestConfigLog(t *testing.T) {
	const secret = "hunter2-correct-horse"
	c, err := ParseConfig([]string{"ADMIN_SECRET=" + secret, "CONNECTION_CHECK_INTERVAL=15000", "ALLOWED_ORIGINS=https://a, https://b"})
	if err != nil {
		t.Fatal(err)
	}
	logged := zapcore.NewMapObjectEncoder()
	if err := c.MarshalLogObject(logged); err != nil {
		t.Fatal(err)
	}
	for _, name := range variables {
		if _, ok := logged.Fields[name]; !ok {
			t.Errorf("%s is not logged", name)
		}
	}
	if text := fmt.Sprint(logged.Fields, c, fmt.Sprintf("%+v %#v", c, c)); strings.Contains(text, "hunter2") {
		t.Errorf("the secret is shown: %s", text)
	}
	if got := logged.Fields["CONNECTION_CHECK_INTERVAL"]; got != "15s" {
		t.Errorf("CONNECTION_CHECK_INTERVAL is logged as %v, want 15s", got)
	}
}
