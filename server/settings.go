package server

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The types of the settings that are neither texts nor numbers.

// Secrets is a list of texts that must not appear in a log.
type Secrets []string

// UnmarshalText parses a comma-separated list. It ignores blanks around an item, and empty items. It returns no
// error: that would be reported with the value.
func (s *Secrets) UnmarshalText(text []byte) error {
	*s = nil
	for item := range strings.SplitSeq(string(text), ",") {
		if item = strings.TrimSpace(item); item != "" {
			*s = append(*s, item)
		}
	}
	return nil
}

// String shows only how many secrets there are.
func (s Secrets) String() string {
	return strings.TrimSuffix(strings.Repeat("***,", len(s)), ",")
}

// GoString hides the secrets in %#v, too.
func (s Secrets) GoString() string { return s.String() }

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

// Switch is on or off.
type Switch bool

// UnmarshalText accepts on and off, and what a bool may be. It ignores case.
func (w *Switch) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "on", "true", "1":
		*w = true
	case "off", "false", "0":
		*w = false
	default:
		return errors.New("neither on nor off")
	}
	return nil
}

func (w Switch) String() string {
	if w {
		return "on"
	}
	return "off"
}

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

// HealthAddress is the host:port at which operators are answered, or empty if they are not.
type HealthAddress string

// UnmarshalText parses host:port, :port or off.
func (a *HealthAddress) UnmarshalText(text []byte) error {
	*a = ""
	if strings.EqualFold(string(text), "off") {
		return nil
	}
	host, port, err := net.SplitHostPort(string(text))
	if err != nil {
		return errors.New("neither host:port nor off")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("no address: the port is not from 0 to %d", maxPort)
	}
	if host != "" && !isAddress(host) && !isHostName(host) {
		return errors.New("no address: the part before the port is neither an IP address nor a host name")
	}
	*a = HealthAddress(text)
	return nil
}

func (a HealthAddress) String() string {
	if a == "" {
		return "off"
	}
	return string(a)
}

// ProxyMode says whether connections begin with a PROXY protocol header: off, optional or required.
type ProxyMode string

// The modes of PROXY_PROTOCOL.
const (
	ProxyOff      ProxyMode = "off"
	ProxyOptional ProxyMode = "optional"
	ProxyRequired ProxyMode = "required"
)

// UnmarshalText accepts only the modes. It ignores case.
func (m *ProxyMode) UnmarshalText(text []byte) error {
	switch v := ProxyMode(strings.ToLower(string(text))); v {
	case ProxyOff, ProxyOptional, ProxyRequired:
		*m = v
		return nil
	}
	return errors.New("none of off, optional and required")
}

// Prefixes is a list of CIDRs.
type Prefixes []netip.Prefix

// UnmarshalText parses a comma-separated list of addresses and CIDRs. It ignores blanks around an item, and
// empty items.
func (p *Prefixes) UnmarshalText(text []byte) error {
	var prefixes Prefixes
	for item := range strings.SplitSeq(string(text), ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		prefix, err := parsePrefix(item)
		if err != nil {
			return err
		}
		prefixes = append(prefixes, prefix)
	}
	if len(prefixes) == 0 {
		return errors.New("an empty list")
	}
	*p = prefixes
	return nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("no list of addresses and CIDRs: %q is neither", s)
	case prefix != prefix.Masked():
		return netip.Prefix{}, fmt.Errorf("no list of addresses and CIDRs: %s has bits behind its prefix; write %s", s, prefix.Masked())
	case prefix.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("no list of addresses and CIDRs: write %s as IPv4", s)
	}
	return prefix, nil
}

// Contain reports whether one of p contains addr, which must not be an IPv4 address mapped to IPv6.
func (p Prefixes) Contain(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(prefix netip.Prefix) bool { return prefix.Contains(addr) })
}

func (p Prefixes) String() string {
	var items []string
	for _, prefix := range p {
		items = append(items, prefix.String())
	}
	return strings.Join(items, ",")
}

// Size is a number of bytes or, if Percent is not 0, a share of the memory that the process may use.
type Size struct {
	Bytes   int64 `env:"-"`
	Percent int   `env:"-"`
}

var errNoSize = errors.New("no size such as 268435456, 256MiB, 4GiB or 60%")

// UnmarshalText parses bytes, KiB, MiB, GiB or percent.
func (z *Size) UnmarshalText(text []byte) error {
	s := strings.ToLower(strings.TrimSpace(string(text)))
	unit := int64(1)
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"%", 1}, {"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"b", 1}} {
		if before, found := strings.CutSuffix(s, u.suffix); found {
			s, unit = strings.TrimSpace(before), u.bytes
			break
		}
	}
	if !isNumber(s) {
		return errNoSize
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > math.MaxInt64/unit {
		return errNoSize
	}
	if strings.HasSuffix(string(text), "%") {
		if n < 1 || n > 100 {
			return errors.New("not from 1% to 100%")
		}
		*z = Size{Percent: int(n)}
		return nil
	}
	*z = Size{Bytes: n * unit}
	return nil
}

func (z Size) String() string {
	if z.Percent > 0 {
		return fmt.Sprintf("%d%%", z.Percent)
	}
	return strconv.FormatInt(z.Bytes, 10)
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

// parseBool reads true or false, in any case.
func parseBool(s string) (any, error) {
	switch strings.ToLower(s) {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return nil, errors.New("neither true nor false")
}
