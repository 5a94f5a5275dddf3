// Command bench measures what a peer and a message cost in relaygate, beside other relays of the same contract.
//
// It starts every server as a process of its own, drives it with load processes (package load) over loopback
// connections, reads the server's CPU clock and memory from the kernel, and leaves a report (package report). It talks
// to the servers over the wire only and imports nothing of relaygate.
//
// The walk: options → servers built → for each scenario, round and server: start, connect, warm up, measure, check
// every message, stop → medians and round-by-round ratios → report.md, report.json, report.html.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

func main() {
	args := os.Args[1:]
	// Two modes for bench's own children; no option parsing on their way.
	if len(args) > 0 && args[0] == "-worker" {
		// The orchestrator closes our input when it wants us to end.
		signal.Ignore(os.Interrupt, syscall.SIGTERM)
		exit(load.Run(0, os.Stdout))
	}
	if len(args) > 0 && args[0] == "-exec-pinned" {
		exit(execPinned(args[1:]))
	}
	os.Exit(run(args))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run is main with a result: the exit status.
func run(args []string) int {
	opt, err := parseOptions(args, os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "bench: %v (-h lists what there is)\n", err)
		return 2
	}
	switch {
	case opt.list:
		for _, s := range scenarios {
			fmt.Printf("%-12s %s\n", s.name, s.about)
		}
		return 0
	case opt.doctor:
		return doctor(limits(opt), opt)
	case opt.compare != nil:
		return compare(opt.compare[0], opt.compare[1])
	case opt.render != "":
		return render(opt.render)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends us at once, and the kernel our children
	b, err := newBench(opt)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	return b.run(ctx)
}

// compare prints what changed from the old report to the new one, and returns the exit status of a gate.
func compare(old, new string) int {
	a, err := report.Read(old)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: -compare:", err)
		return 2
	}
	b, err := report.Read(new)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: -compare:", err)
		return 2
	}
	c := report.Compare(a, b)
	fmt.Print(c)
	return c.Status()
}

// render writes a report's pages again from its figures.
func render(file string) int {
	r, err := report.Read(file)
	if err == nil {
		r.Conclude()
		err = r.Write(filepath.Dir(file))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: -render:", err)
		return 2
	}
	return 0
}
