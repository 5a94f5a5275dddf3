package server

import (
	"math/rand/v2"

	"relaygate/server/upgrade"
)

// Who is let in.

// A refused client is asked to come back after retryMin to retryMax seconds. The time is random so that not
// all come back at once.
const (
	retryMin = 2
	retryMax = 30
)

func retryAfter() (seconds int) { return retryMin + rand.IntN(retryMax-retryMin+1) }

// refuses returns why no upgrade is let in at the moment, or "" if they are.
func (s *Server) refuses() upgrade.Refusal {
	if s.refusing.Load() {
		return upgrade.BusyDraining
	}
	return ""
}
