package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"relaygate/health/histogram"
	"relaygate/router"
	"relaygate/server/upgrade"
)

// What is told to Prometheus. Every label has a fixed set of values, all of which exist from the start.

// describe makes the description of a metric.
func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("relaygate_"+name, help, labels, nil)
}

var (
	descConnections    = describe("connections", "Open sockets, peers included.")
	descPeers          = describe("peers", "Members of rooms.")
	descRooms          = describe("rooms", "Rooms with at least one member.")
	descRoomPeers      = describe("room_peers", "Sizes of the rooms that there are now: a snapshot, not for rate().")
	descLoops          = describe("loops", "Event loops.")
	descReady          = describe("ready", "1 if connections may be sent here.")
	descUnready        = describe("unready", "1 if the reason keeps the relay from being ready.", "reason")
	descMaxConnections = describe("max_connections", "MAX_CONNECTIONS, 0 if there is no limit.")

	descAccepted     = describe("connections_accepted_total", "Accepted sockets.")
	descAcceptErrors = describe("accept_errors_total", "Failed accepts, mostly for lack of descriptors.")
	descUpgrades     = describe("upgrades_total", "Connections that became peers.")
	descRefused      = describe("requests_refused_total", "HTTP requests that were refused.", "reason")
	descClosed       = describe("connections_closed_total", "Connections that have ended.", "reason")
	descHeldBack     = describe("peers_held_back_total", "Times that a peer began to be held back by a rate.")
	descPanics       = describe("panics_total", "Bugs that cost one connection each.")

	descReceived       = describe("messages_received_total", "Messages from peers.", "kind")
	descReceivedBytes  = describe("received_bytes_total", "Payloads of messages from peers.", "kind")
	descDeliveries     = describe("deliveries_total", "Messages handed to a recipient's socket or queue, whether or not it then takes them.", "kind")
	descDeliveredBytes = describe("delivered_bytes_total", "Frames of these.")
	descWrites         = describe("writes_total", "Writes to recipients; each takes all that a batch has for one of them.")
	descDropped        = describe("messages_dropped_total", "Messages that had no recipient.", "reason")
	descQueueDropped   = describe("queue_dropped_bytes_total", "Bytes that waited for a connection when it ended.", "reason")
	descHeartbeats     = describe("heartbeats_sent_total", "Pings of the heartbeat.")

	descHeld      = describe("held_bytes", "What peers make the process hold: buffers are unfinished input and queues for sockets.", "in")
	descHeldLimit = describe("held_limit_bytes", "What they may make it hold, 0 if there is no memory budget.")
	descBudget    = describe("memory_budget_bytes", "MEMORY_BUDGET, 0 if there is none.")

	descBatch      = describe("batch_messages", "Messages in each batch that was written to a room.")
	descRound      = describe("round_duration_seconds", "One round of an event loop: reading, serving, writing.")
	descDelay      = describe("publish_to_write_seconds", "From reading a batch's first message to the end of writing it, for one batch in 8.")
	descRoundTrip  = describe("heartbeat_round_trip_seconds", "From a heartbeat's ping to the peer's pong.")
	descHandshake  = describe("handshake_duration_seconds", "From accept to the 101, in steps of 10 ms.")
	descLag        = describe("loop_lag_seconds", "How long an event loop takes to begin a task, measured once a second.")
	allMetricDescs = []*prometheus.Desc{
		descConnections, descPeers, descRooms, descRoomPeers, descLoops, descReady, descUnready, descMaxConnections,
		descAccepted, descAcceptErrors, descUpgrades, descRefused, descClosed, descHeldBack, descPanics,
		descReceived, descReceivedBytes, descDeliveries, descDeliveredBytes, descWrites, descDropped, descQueueDropped,
		descHeartbeats, descHeld, descHeldLimit, descBudget,
		descBatch, descRound, descDelay, descRoundTrip, descHandshake, descLag,
	}
)

// unreadyReasons are the reasons of Unready.
var unreadyReasons = [...]string{"draining", "memory", "connections"}

// Describe implements prometheus.Collector.
func (s *Server) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range allMetricDescs {
		descs <- d
	}
}

// Collect implements prometheus.Collector. It waits for the loops, for at most a second.
func (s *Server) Collect(metrics chan<- prometheus.Metric) {
	c := collector{metrics}
	st, m := s.Stats(), s.measured()
	s.collectState(c, st)
	s.collectCounters(c, st)
	for k := range kinds {
		c.count(descReceived, m.received[k].messages, kindNames[k])
		c.count(descReceivedBytes, m.received[k].bytes, kindNames[k])
	}
	for d := range drops {
		c.count(descDropped, m.dropped[d], dropNames[d])
	}
	t := &m.traffic
	c.count(descDeliveries, t.Broadcasts, "broadcast")
	c.count(descDeliveries, t.Directs, "direct")
	c.count(descDeliveredBytes, t.Bytes)
	c.count(descWrites, t.Writes)
	c.count(descHeartbeats, m.heartbeats)
	c.sizes(descBatch, &t.Batches)
	c.times(descDelay, &t.Delays)
	c.times(descRound, &m.rounds)
	c.times(descRoundTrip, &m.roundTrips)
	c.times(descHandshake, &m.handshakes)
	c.times(descLag, &m.lags)
}

// collectState tells what there is now.
func (s *Server) collectState(c collector, st Stats) {
	c.gauge(descConnections, int64(st.Connections))
	c.gauge(descPeers, int64(st.Peers))
	c.gauge(descRooms, int64(st.Rooms))
	sizes := s.table.Sizes()
	c.sizes(descRoomPeers, &sizes)
	c.gauge(descLoops, int64(len(s.loops)))
	reasons := s.Unready()
	c.gauge(descReady, bit(len(reasons) == 0))
	for _, known := range unreadyReasons {
		n := int64(0)
		for _, r := range reasons {
			n += bit(r == known)
		}
		c.gauge(descUnready, n, known)
	}
	c.gauge(descMaxConnections, int64(s.config().MaxConnections))
	c.gauge(descHeld, bufferBytes.Load(), "buffers")
	c.gauge(descHeld, router.LogBytes(), "room_logs")
	c.gauge(descHeldLimit, s.budget.limit.Load())
	c.gauge(descBudget, s.config().MemoryBudget.Bytes)
}

// collectCounters tells what all loops count together.
func (s *Server) collectCounters(c collector, st Stats) {
	c.count(descAccepted, st.Accepted)
	c.count(descAcceptErrors, st.AcceptErrors)
	c.count(descUpgrades, st.Upgraded)
	c.count(descHeldBack, st.HeldBack)
	c.count(descPanics, st.Panics)
	for _, r := range upgrade.Refusals {
		c.count(descRefused, st.Refused[string(r)], string(r))
	}
	for why := range closeCauses {
		c.count(descClosed, st.Closed[why.String()], why.String())
		c.count(descQueueDropped, s.stats.queueDropped[why].Load(), why.String())
	}
}

func bit(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

// collector makes Prometheus' metrics of our numbers.
type collector struct{ metrics chan<- prometheus.Metric }

func (c collector) gauge(d *prometheus.Desc, v int64, labels ...string) {
	c.metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
}

func (c collector) count(d *prometheus.Desc, v int64, labels ...string) {
	c.metrics <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

// times has buckets from 16 µs to 16.8 s.
func (c collector) times(d *prometheus.Desc, h *histogram.Histogram) { c.histogram(d, h, 4, 24, 1e-6) }

// sizes has buckets from 1 to 1,048,576.
func (c collector) sizes(d *prometheus.Desc, h *histogram.Histogram) { c.histogram(d, h, 0, 20, 1) }

func (c collector) histogram(d *prometheus.Desc, h *histogram.Histogram, first, last int, unit float64) {
	c.metrics <- prometheus.MustNewConstHistogram(d, h.Total(), float64(h.Sum)*unit, h.Cumulative(first, last, unit))
}
