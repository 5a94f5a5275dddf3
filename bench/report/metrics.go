package report

import (
	"slices"
	"strings"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// Metric says how to read a number.
type Metric struct {
	Name   string // in report.json
	Title  string
	Unit   string
	Better int // -1: lower is better, 1: higher, 0: no judgement
	Digits int
	Scale  float64 // multiplies the number for display
}

// Metrics are all that are defined, in the order in which tables show them.
var Metrics []Metric

func define(name, title, unit string, better, digits int, scale float64) string {
	Metrics = append(Metrics, Metric{name, title, unit, better, digits, scale})
	return name
}

// The names of the metrics.
var (
	CPUPerDelivery    = define("cpu_us_per_delivery", "CPU per delivery", "µs", -1, 2, 1)
	HandshakesPerCPU  = define("handshakes_per_cpu_s", "handshakes per CPU second", "", 1, 0, 1)
	ResidentPerPeer   = define("resident_bytes_per_peer", "resident per silent peer", "bytes", -1, 0, 1)
	Deliveries        = define("deliveries_per_s", "deliveries per second", "", 1, 0, 1)
	P50               = define("p50_ms", "median latency", "ms", -1, 3, 1)
	P99               = define("p99_ms", "99th percentile of latency", "ms", -1, 3, 1)
	Lag               = define("load_lag_p99_ms", "load's own lateness, 99th percentile", "ms", 0, 3, 1)
	WritesPerDelivery = define("writes_per_delivery", "writes per delivery", "", -1, 3, 1)
	CallsPerDelivery  = define("syscalls_per_delivery", "system calls per delivery", "", -1, 3, 1)
	Joins             = define("joins_per_s", "joins per second", "", 0, 0, 1)
	PerRead           = define("messages_per_read", "messages per read of a recipient", "", 0, 1, 1)
	RateKept          = define("rate_kept", "rate kept", "%", 1, 1, 100)
	Handshakes        = define("handshakes_per_s", "handshakes per second", "", 1, 0, 1)
	CallsPerPeer      = define("syscalls_per_peer", "system calls per accepted, upgraded peer", "", -1, 1, 1)
	ResidentSlope     = define("resident_bytes_slope", "resident per further peer (from half to all of them)", "bytes", -1, 0, 1)
	KernelPerPeer     = define("kernel_bytes_per_peer", "kernel per peer, both ends", "bytes", 0, 0, 1)
	Empty             = define("empty_mib", "resident before any peer", "MiB", -1, 1, 1)
	HeartbeatCPU      = define("heartbeat_us_per_peer", "CPU per heartbeat", "µs", -1, 2, 1)
	HeartbeatShare    = define("heartbeat_core_100k_30s", "of a core for heartbeats of 100,000 peers every 30 s", "%", -1, 2, 100)
	Pinged            = define("pings_per_peer", "pings per peer and interval", "", 0, 2, 1)
	ServerCPU         = define("server_cpu", "server busy", "%", 0, 0, 100)
	LoadCPU           = define("load_cpu", "load busy", "%", 0, 0, 100)
	OtherCPU          = define("other_cpu", "other processes and the hypervisor", "% of a CPU", 0, 0, 100)
)

// metric finds a metric by name.
func metric(name string) Metric {
	i := slices.IndexFunc(Metrics, func(m Metric) bool { return m.Name == name })
	if i < 0 {
		return Metric{Name: name, Title: name, Digits: 2, Scale: 1}
	}
	return Metrics[i]
}

// Format writes a value with its unit.
func (m Metric) Format(v float64) string { return strings.TrimSpace(m.number(v) + " " + m.Unit) }

func (m Metric) number(v float64) string { return number(v*m.Scale, m.Digits) }

// english writes thousands apart.
var english = message.NewPrinter(language.English)

func number(v float64, digits int) string { return english.Sprintf("%.*f", digits, v) }
