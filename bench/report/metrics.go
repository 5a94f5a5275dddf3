package report

import (
	"strconv"
	"strings"
)

// The names of metrics in report.json.
const (
	CPUPerDelivery    = "cpu_us_per_delivery"
	Deliveries        = "deliveries_per_s"
	WritesPerDelivery = "writes_per_delivery"
	CallsPerDelivery  = "syscalls_per_delivery"
	Joins             = "joins_per_s"
	P50               = "p50_ms"
	P99               = "p99_ms"
	Lag               = "load_lag_p99_ms"
	PerRead           = "messages_per_read"
	RateKept          = "rate_kept"
	HandshakesPerCPU  = "handshakes_per_cpu_s"
	Handshakes        = "handshakes_per_s"
	CallsPerPeer      = "syscalls_per_peer"
	ResidentPerPeer   = "resident_bytes_per_peer"
	ResidentSlope     = "resident_bytes_slope"
	KernelPerPeer     = "kernel_bytes_per_peer"
	Empty             = "empty_mib"
	HeartbeatCPU      = "heartbeat_us_per_peer"
	HeartbeatShare    = "heartbeat_core_100k_30s"
	Pinged            = "pings_per_peer"
	ServerCPU         = "server_cpu"
	LoadCPU           = "load_cpu"
	OtherCPU          = "other_cpu"
)

// Metric says how to read a number.
type Metric struct {
	Name   string
	Title  string
	Unit   string
	Better int // -1: lower is better, 1: higher, 0: no judgement
	Digits int
	Scale  float64 // multiplies the number for display; 0 means 1
}

// Metrics in the order in which tables show them.
var Metrics = []Metric{
	{CPUPerDelivery, "CPU per delivery", "µs", -1, 2, 0},
	{HandshakesPerCPU, "handshakes per CPU second", "", 1, 0, 0},
	{ResidentPerPeer, "resident per silent peer", "bytes", -1, 0, 0},
	{Deliveries, "deliveries per second", "", 1, 0, 0},
	{P50, "median latency", "ms", -1, 3, 0},
	{P99, "99th percentile of latency", "ms", -1, 3, 0},
	{Lag, "load's own lateness, 99th percentile", "ms", 0, 3, 0},
	{WritesPerDelivery, "writes per delivery", "", -1, 3, 0},
	{CallsPerDelivery, "system calls per delivery", "", -1, 3, 0},
	{Joins, "joins per second", "", 0, 0, 0},
	{PerRead, "messages per read of a recipient", "", 0, 1, 0},
	{RateKept, "rate kept", "%", 1, 1, 100},
	{Handshakes, "handshakes per second", "", 1, 0, 0},
	{CallsPerPeer, "system calls per accepted, upgraded peer", "", -1, 1, 0},
	{ResidentSlope, "resident per further peer (from half to all of them)", "bytes", -1, 0, 0},
	{KernelPerPeer, "kernel per peer, both ends", "bytes", 0, 0, 0},
	{Empty, "resident before any peer", "MiB", -1, 1, 0},
	{HeartbeatCPU, "CPU per heartbeat", "µs", -1, 2, 0},
	{HeartbeatShare, "of a core for heartbeats of 100,000 peers every 30 s", "%", -1, 2, 100},
	{Pinged, "pings per peer and interval", "", 0, 2, 0},
	{ServerCPU, "server busy", "%", 0, 0, 100},
	{LoadCPU, "load busy", "%", 0, 0, 100},
	{OtherCPU, "other processes and the hypervisor", "% of a CPU", 0, 0, 100},
}

// metric finds a metric by name.
func metric(name string) Metric {
	for _, m := range Metrics {
		if m.Name == name {
			return m
		}
	}
	return Metric{Name: name, Title: name, Digits: 2}
}

// Format writes a value with its unit.
func (m Metric) Format(v float64) string { return strings.TrimSpace(m.number(v) + " " + m.Unit) }

func (m Metric) number(v float64) string {
	if m.Scale != 0 {
		v *= m.Scale
	}
	return number(v, m.Digits)
}

// number writes digits after the point, and thousands apart.
func number(v float64, digits int) string {
	s := strconv.FormatFloat(v, 'f', digits, 64)
	whole, rest, point := strings.Cut(s, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if point {
		whole += "." + rest
	}
	return sign + whole
}
