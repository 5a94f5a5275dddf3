package report

// The names of metrics in report.json.
const (
	CPUPerDelivery   = "cpu_us_per_delivery"
	Deliveries       = "deliveries_per_s"
	SystemShare      = "system_share"
	GCShare          = "gc_share"
	PerRead          = "messages_per_read"
	ServerCPU        = "server_cpu"
	LoadCPU          = "load_cpu"
	Syscalls         = "syscalls_per_delivery"
	Joins            = "joins_per_s"
	P50Half          = "p50_ms_half"
	P99Half          = "p99_ms_half"
	P999Half         = "p999_ms_half"
	P9999Half        = "p9999_ms_half"
	LagHalf          = "load_lag_p99_ms_half"
	Sustained        = "sustained_per_s"
	P99Alone         = "p99_ms_before"
	P99Stuck         = "p99_ms_stuck"
	RateStuck        = "rate_kept_stuck"
	StuckClosed      = "stuck_closed"
	StuckGrowth      = "server_growth_mib"
	HandshakesPerCPU = "handshakes_per_cpu_s"
	Handshakes       = "handshakes_per_s"
	StormSeconds     = "storm_s"
	StormPerCPU      = "storm_per_cpu_s"
	ResidentPerPeer  = "resident_bytes_per_peer"
	ResidentSlope    = "resident_bytes_slope"
	KernelPerPeer    = "kernel_bytes_per_peer"
	HeartbeatCPU     = "heartbeat_us_per_peer"
	HeartbeatShare   = "heartbeat_core_100k_30s"
	Pinged           = "pings_per_peer"
	BroadcastsServed = "peers_served"
	OtherCPU         = "other_cpu"
	Stolen           = "stolen_cpu"
	Empty            = "empty_mib"
)

// Curves in report.json.
const (
	LatencyCurve    = "latency_ms_by_percentile"
	ThroughputCurve = "delivered_by_offered"
	P99Curve        = "p99_ms_by_offered"
	MemoryCurve     = "resident_bytes_by_peers"
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
	{Deliveries, "deliveries", "/s", 1, 0, 0},
	{Joins, "joins", "/s", 0, 0, 0},
	{P50Half, "p50 at half", "ms", -1, 3, 0},
	{P99Half, "p99 at half", "ms", -1, 3, 0},
	{P999Half, "p99.9 at half", "ms", -1, 3, 0},
	{P9999Half, "p99.99 at half", "ms", -1, 3, 0},
	{LagHalf, "load's own lag p99", "ms", 0, 3, 0},
	{Sustained, "highest rate kept", "/s", 1, 0, 0},
	{P99Alone, "p99 before", "ms", -1, 2, 0},
	{P99Stuck, "p99 beside a stuck reader", "ms", -1, 2, 0},
	{RateStuck, "rate kept", "%", 1, 1, 100},
	{StuckClosed, "stuck readers closed", "%", 0, 0, 100},
	{StuckGrowth, "server grew", "MiB", -1, 1, 0},
	{HandshakesPerCPU, "handshakes per CPU second", "", 1, 0, 0},
	{Handshakes, "handshakes", "/s", 1, 0, 0},
	{StormSeconds, "storm: last one back after", "s", -1, 3, 0},
	{StormPerCPU, "storm: per CPU second", "", 1, 0, 0},
	{ResidentPerPeer, "resident per peer", "B", -1, 0, 0},
	{ResidentSlope, "slope", "B/peer", -1, 0, 0},
	{KernelPerPeer, "kernel per peer, both ends", "B", -1, 0, 0},
	{Empty, "empty process", "MiB", -1, 1, 0},
	{HeartbeatCPU, "CPU per heartbeat", "µs", -1, 2, 0},
	{HeartbeatShare, "of a core for 100,000 peers at 30 s", "%", -1, 2, 100},
	{Pinged, "pings per peer and interval", "", 0, 2, 0},
	{BroadcastsServed, "peers served by a broadcast", "", 0, 0, 0},
	{Syscalls, "system calls per delivery", "", -1, 3, 0},
	{PerRead, "messages per read", "", 0, 1, 0},
	{SystemShare, "in the kernel", "%", 0, 0, 100},
	{GCShare, "garbage collection", "%", 0, 1, 100},
	{ServerCPU, "server busy", "%", 0, 0, 100},
	{LoadCPU, "load busy", "%", 0, 0, 100},
	{OtherCPU, "other processes", "% of a CPU", 0, 0, 100},
	{Stolen, "taken by the hypervisor", "% of a CPU", 0, 0, 100},
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
