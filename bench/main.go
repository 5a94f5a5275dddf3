// Command bench measures what a peer and a message cost in relaygate, beside other relays of the same contract.
//
// It starts every server as a process of its own, drives it over loopback connections from threads on other CPUs (package
// load), reads the server's CPU clock and memory from the kernel, and leaves a report (package report). It talks to the
// servers over the wire only and imports nothing of relaygate.
//
// The walk: options.go → server.go builds → run.go goes through scenarios.go, rounds and servers; each measurement is a
// session.go: start, connect, warm up, measure (traffic.go, connections.go), check every message, stop → report.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"relaygate/bench/report"
)

// The main goroutine stays on the main thread, which starts the servers (see spawn).
func init() { runtime.LockOSThread() }

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v (-h lists what there is)\n", err)
	}
	os.Exit(status)
}

// run is main with a result: the exit status.
func run(args []string) (int, error) {
	o, err := parseOptions(args, os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0, nil
	case err != nil:
		return 2, err
	case o.compare:
		return compare(o.rest[0], o.rest[1])
	}
	b, err := newBench(o)
	if err != nil {
		return 2, err
	}
	if o.doctor {
		return b.doctor(), nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends us at once, and the kernel our children
	return b.run(ctx)
}

// compare prints what changed from the old report to the new one, and returns the exit status of a gate.
func compare(old, new string) (int, error) {
	a, err := report.Read(old)
	if err != nil {
		return 2, err
	}
	b, err := report.Read(new)
	if err != nil {
		return 2, err
	}
	c := report.Compare(a, b)
	fmt.Print(c.Text)
	return c.Status, nil
}
