package server

import "relaygate/health"

// Read returns what the relay has and has counted. It waits for the loops, for at most a second.
func (s *Server) Read() health.Reading {
	st, m := s.Stats(), s.measured()
	r := health.Reading{
		Connections: int64(st.Connections), MaxConnections: int64(s.config().MaxConnections), Peers: int64(st.Peers), Rooms: int64(st.Rooms),
		HeldBytes: bytesHeld(), HeldLimit: s.budget.limit.Load(), BudgetBytes: s.config().MemoryBudget.Bytes,
		Counters: health.Counters{
			Accepted: st.Accepted, Upgraded: st.Upgraded, Closed: st.Closed, Refused: st.Refused,
			Delivered: m.traffic.Broadcasts + m.traffic.Directs, DeliveredBytes: m.traffic.Bytes,
		},
		Delays: m.traffic.Delays,
	}
	for _, t := range m.received {
		r.Received += t.messages
		r.ReceivedBytes += t.bytes
	}
	return r
}
