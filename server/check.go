package server

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"

	"relaygate/server/upgrade"
)

// Limits of the settings.
const (
	maxPort       = 65535
	maxMaxMessage = 64 << 20
	queueHeadroom = 64 << 10 // MAX_QUEUE_BYTES must be at least this much above MAX_MESSAGE_BYTES
	maxMaxQueue   = 1 << 30
	maxEventLoops = 1024
	maxCount      = 1_000_000_000     // of connections, peers and relays, and per second
	maxByteRate   = 1_000_000_000_000 // bytes per second
	minBudget     = 64 << 20
)

// check validates the settings that could be read and collects their faults.
type check struct {
	set    map[string]string // the environment
	unread map[string]bool   // variables whose value could not be read and is not validated
	faults []fault
}

// bad records a fault: the variable's value, as it stands in the environment, and what is wrong with it.
func (c *check) bad(variable, value, format string, args ...any) {
	c.faults = append(c.faults, fault{variable, value + " " + fmt.Sprintf(format, args...)})
}

// all validates cfg, rewrites its origins in the spelling of browsers, and fills in the default that depends
// on another setting.
func (c *check) all(cfg *Config) {
	if cfg.Host != "" && !isAddress(cfg.Host) && !isHostName(cfg.Host) {
		c.bad("HOST", fmt.Sprintf("%q", cfg.Host), "is neither an IP address nor a host name")
	}
	c.number("PORT", cfg.Port, 0, maxPort)
	if cfg.AdminSecret != "" && !upgrade.IsToken([]byte(cfg.AdminSecret)) {
		c.bad("ADMIN_SECRET", "its value", "holds a character that no browser can send in Sec-WebSocket-Protocol; allowed are letters, digits and !#$%%&'*+-.^_`|~")
	}
	cfg.AllowedOrigins = c.origins(cfg.AllowedOrigins)
	c.interval("CONNECTION_CHECK_INTERVAL", cfg.CheckInterval, "10ms", "24h")
	c.interval("HANDSHAKE_TIMEOUT", cfg.HandshakeTime, "100ms", "1h")
	c.queue(cfg)
	_, cfg.healthChosen = c.set["HEALTH_ADDR"]
	c.number("EVENT_LOOPS", cfg.EventLoops, 0, maxEventLoops)
	if !c.unread["LOG_LEVEL"] && (cfg.LogLevel < zapcore.DebugLevel || cfg.LogLevel > zapcore.ErrorLevel) {
		c.bad("LOG_LEVEL", fmt.Sprintf("%q", c.set["LOG_LEVEL"]), "is %v", errNoLevel)
	}
	c.proxy(cfg)
	c.admission(cfg)
	if z := cfg.MemoryBudget; !c.unread["MEMORY_BUDGET"] && z.Percent == 0 && z.Bytes != 0 && z.Bytes < minBudget {
		c.bad("MEMORY_BUDGET", c.set["MEMORY_BUDGET"], "is less than 64MiB")
	}
	c.interval("DRAIN_DELAY", cfg.DrainDelay, "0s", "10m")
	c.interval("DRAIN_PERIOD", cfg.DrainPeriod, "0s", "10m")
	cfg.warnings = c.warnings(cfg)
}

func (c *check) proxy(cfg *Config) {
	const variable = "TRUSTED_PROXIES"
	switch off := cfg.ProxyProtocol == ProxyOff; {
	case c.unread["PROXY_PROTOCOL"] || c.unread[variable]:
	case !off && len(cfg.TrustedProxies) == 0:
		c.bad(variable, "nothing", "is not enough for PROXY_PROTOCOL=%s: without a list, any client could name any address", cfg.ProxyProtocol)
	case off && len(cfg.TrustedProxies) > 0:
		c.bad(variable, fmt.Sprintf("%q", c.set[variable]), "has no effect: PROXY_PROTOCOL is off")
	}
}

// admission validates the limits of connections and rates, and fills in the defaults of bursts.
func (c *check) admission(cfg *Config) {
	if c.set["MAX_CONNECTIONS"] == "" {
		cfg.MaxConnections = UnsetConnections
	} else {
		c.number("MAX_CONNECTIONS", cfg.MaxConnections, 0, maxCount)
	}
	c.number("MAX_CONNECTIONS_PER_IP", cfg.MaxConnectionsPerIP, 0, maxCount)
	c.number("MAX_ROOM_PEERS", cfg.MaxRoomPeers, 0, maxCount)
	c.number("MAX_ROOMS_PER_IP", cfg.MaxRoomsPerIP, 0, maxCount)
	c.rate("CONNECT", cfg.ConnectRate, &cfg.ConnectBurst, cfg.ConnectRate, maxCount)
	c.rate("MESSAGE", cfg.MessageRate, &cfg.MessageBurst, 2*cfg.MessageRate, maxCount)
	c.rate("BYTE", cfg.ByteRate, &cfg.ByteBurst, max(2*cfg.ByteRate, cfg.MaxMessage), maxByteRate)
	c.rate("ROOM_BYTE", cfg.RoomByteRate, &cfg.RoomByteBurst, max(2*cfg.RoomByteRate, cfg.MaxMessage), maxByteRate)
}

// rate validates the variables name_RATE and name_BURST. usual is the burst if none is set.
func (c *check) rate(name string, rate int, burst *int, usual, most int) {
	rateName, burstName := name+"_RATE", name+"_BURST"
	if !c.number(rateName, rate, 0, most) {
		return
	}
	switch value, isSet := c.set[burstName]; {
	case !isSet:
		*burst = 0
		if rate > 0 {
			*burst = usual
		}
	case rate == 0 && !c.unread[rateName]:
		c.bad(burstName, value, "has no effect: %s is not set", rateName)
	default:
		c.number(burstName, *burst, 1, 10*most)
	}
}

// number reports whether n is in its range. A value that could not be read passes.
func (c *check) number(variable string, n, least, most int) bool {
	if c.unread[variable] || n >= least && n <= most {
		return true
	}
	c.bad(variable, c.set[variable], "is not from %d to %d", least, most)
	return false
}

func (c *check) interval(variable string, d Interval, least, most string) {
	if c.unread[variable] {
		return
	}
	shortest, _ := time.ParseDuration(least)
	longest, _ := time.ParseDuration(most)
	if v := time.Duration(d); v >= shortest && v <= longest {
		return
	}
	value := c.set[variable]
	if isNumber(value) {
		value += " (milliseconds)"
	}
	c.bad(variable, value, "is not from %s to %s", least, most)
}

// queue validates MAX_MESSAGE_BYTES and MAX_QUEUE_BYTES. If the first is wrong, the second is only checked
// against the widest range.
func (c *check) queue(cfg *Config) {
	const message, queue = "MAX_MESSAGE_BYTES", "MAX_QUEUE_BYTES"
	messageIsRight := c.number(message, cfg.MaxMessage, 1, maxMaxMessage) && !c.unread[message]
	least := cfg.MaxMessage + queueHeadroom
	if _, isSet := c.set[queue]; !isSet {
		cfg.MaxQueue = max(least, 1<<20)
		return
	}
	switch {
	case !messageIsRight:
		c.number(queue, cfg.MaxQueue, 1+queueHeadroom, maxMaxQueue)
	case !c.unread[queue] && (cfg.MaxQueue < least || cfg.MaxQueue > maxMaxQueue):
		c.bad(queue, c.set[queue], "is not from %d (MAX_MESSAGE_BYTES + %d) to %d", least, queueHeadroom, maxMaxQueue)
	}
}

func (c *check) origins(listed []string) (origins []string) {
	const variable = "ALLOWED_ORIGINS"
	empty := len(listed) > 0
	for _, item := range listed {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		empty = false
		origin, err := parseOrigin(item)
		if err != nil {
			c.bad(variable, fmt.Sprintf("%q", item), "%v", err)
		}
		origins = append(origins, origin)
	}
	if empty {
		c.bad(variable, fmt.Sprintf("%q", c.set[variable]), "names no origin")
	}
	return origins
}

// warnings finds intervals below a second without a unit: a user who writes 30 most likely means seconds.
func (c *check) warnings(cfg *Config) (warnings []string) {
	f := func(variable string, d Interval) {
		if n := c.set[variable]; isNumber(n) && d > 0 && time.Duration(d) < time.Second && !c.unread[variable] {
			warnings = append(warnings, fmt.Sprintf(
				"%s: %s without a unit is %v; write %ss if seconds are meant, %v if not", variable, n, d, n, d))
		}
	}
	f("CONNECTION_CHECK_INTERVAL", cfg.CheckInterval)
	f("HANDSHAKE_TIMEOUT", cfg.HandshakeTime)
	f("DRAIN_DELAY", cfg.DrainDelay)
	f("DRAIN_PERIOD", cfg.DrainPeriod)
	return warnings
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// isHostName checks s against RFC 1123 §2.1: labels of letters, digits and hyphens. The last label must not
// be a number, since that would be an IP address. Underscores are accepted too: names in container networks
// have them.
func isHostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if !isLetter(c) && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
		last = label
	}
	return !isNumber(last)
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
