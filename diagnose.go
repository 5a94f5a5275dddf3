package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"relaygate/health/doctor"
	"relaygate/server"
)

// mostWanted bounds -connections.
const mostWanted = 100_000_000

// diagnose says which limits of the host at root, and which settings, stand in the way of the wanted number of
// connections. It returns the exit status: 0 if it fits, or 1, or 2 if the command line is wrong.
func diagnose(cfg *server.Config, root fs.FS, wanted int64, stdout, stderr io.Writer) int {
	if wanted < 1 || wanted > mostWanted {
		fmt.Fprintf(stderr, "relaygate: -connections: %d is not from 1 to %d\n", wanted, mostWanted)
		return 2
	}
	h := doctor.Host{
		Root: root, PageBytes: int64(os.Getpagesize()),
		Connections: func(files uint64) int { return server.ConnectionLimit(files, cfg.Loops()) },
		PeerBytes:   server.PlannedPeerBytes, FixedBytes: server.PlannedFixedBytes,
	}
	limits := append(settingsLimits(cfg, wanted), h.Limits(wanted)...)
	if !doctor.Report(stdout, wanted, limits) {
		return 1
	}
	return 0
}

// settingsLimits returns the limits that cfg sets. Those that depend on the host are among the host's.
func settingsLimits(cfg *server.Config, wanted int64) (limits []doctor.Limit) {
	if n := int64(cfg.MaxConnections); n > 0 {
		limits = append(limits, doctor.Limit{
			Name: "MAX_CONNECTIONS", Found: fmt.Sprint(n), Allows: n, Raise: fmt.Sprintf("MAX_CONNECTIONS=%d", wanted),
		})
	}
	if n := cfg.MemoryBudget.Bytes; n > 0 {
		needed := n * wanted / max(cfg.BudgetConnections(), 1)
		limits = append(limits, doctor.Limit{
			Name: "MEMORY_BUDGET", Found: cfg.MemoryBudget.String(), Allows: cfg.BudgetConnections(),
			Raise: fmt.Sprintf("MEMORY_BUDGET=%dMiB", needed>>20+1),
			Note:  "silent peers; messages come on top",
		})
	}
	return limits
}
