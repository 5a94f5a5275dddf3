package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// options are the flags, checked.
type options struct {
	run           string
	servers       string
	furtherInSome bool     // of the servers some are measured in a few scenarios only
	custom        []string // of -server, each NAME=command
	against       string
	target        string
	pid           int
	duration      time.Duration
	warmup        time.Duration
	rounds        int
	conns         int
	heartbeat     time.Duration
	timeout       time.Duration
	serverCPUs    int
	addresses     []netip.Addr
	repo          string
	bin           string
	out           string
	quick         bool
	build         bool
	doctor        bool
	compare       bool
	rest          []string // arguments that are no flags
	args          []string // as given
}

const usage = `bench measures WebSocket relays of the v1 contract and writes a report.

  bench                          all scenarios (build the servers, start them, compare them)
  bench -quick                   relaygate and gws, few scenarios, about a minute
  bench -run 'fanout|chat'       some scenarios
  bench -server mine='./mine --port {port}'
                                 relaygate beside any relay that speaks v1; -against mine takes the ratios to that one
  bench -target ws://host:8080   a running relay; with -pid its CPU and memory too, if it is on this machine
  bench -run idle -conns 100000  as many silent peers
  bench -doctor                  only say which limits stand in the way, and how to raise them
  bench -compare a.json b.json   what got better or worse; exit status 1 on worse

Servers get the first of the CPUs that bench may run on (taskset says which), the load the others. A -target's ADMIN_SECRET
is taken from the environment.

-compare is a gate for two runs of 5 or more rounds on one quiet machine. Anything missing or failed in the new report
counts as worse.

Exit status: 0 measured, 1 a failure or something worse, 2 wrong use or nothing to compare, 130 interrupted.
`

// flags declares what there is.
func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(io.Discard) // faults are ours to print, in one line
	f.StringVar(&o.run, "run", "", "measure the scenarios whose names match this `regexp`")
	f.StringVar(&o.servers, "servers", builtIn, "measure these, in every scenario, some of "+builtIn+" (default "+quick+", the others in some scenarios; only relaygate where -server is given)")
	f.Func("server", "measure another relay too: `NAME=command`, where {port} stands for the port to listen on (PORT and HOST are set as well); may be repeated", func(s string) error {
		o.custom = append(o.custom, s)
		return nil
	})
	f.StringVar(&o.against, "against", "", "the `server` that ratios are taken to (default the first)")
	f.StringVar(&o.target, "target", "", "measure the running relay at this `URL` (ws://host:port/v1) instead")
	f.IntVar(&o.pid, "pid", 0, "process id of the -target, if it is on this machine")
	f.DurationVar(&o.duration, "duration", 500*time.Millisecond, "length of one measurement")
	f.DurationVar(&o.warmup, "warmup", 150*time.Millisecond, "traffic before each measurement")
	f.IntVar(&o.rounds, "rounds", 5, "measurements per server and scenario, interleaved; fewer than 5 give no verdicts")
	f.IntVar(&o.conns, "conns", 15000, "number of peers in idle")
	f.DurationVar(&o.heartbeat, "heartbeat", 5*time.Second, "CONNECTION_CHECK_INTERVAL in idle; with -target the one it runs with")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up on a start, on handshakes or on a drain after this long")
	f.IntVar(&o.serverCPUs, "server-cpus", 1, "how many CPUs the servers get")
	f.Func("addresses", "local IPv4 `addresses` to connect from, such as 127.0.0.1,127.0.0.2, each good for about 20,000 connections (default as many of 127.0.0.0/8 as it takes, to a relay on this machine)", o.parseAddresses)
	f.StringVar(&o.repo, "repo", ".", "`directory` of relaygate's source")
	f.StringVar(&o.bin, "bin", "bin", "`directory` for the servers' binaries")
	f.StringVar(&o.out, "out", filepath.Join("bench", "out"), "`directory` for reports, one subdirectory per run")
	f.BoolVar(&o.quick, "quick", false, "relaygate and gws, few scenarios, short")
	f.BoolVar(&o.build, "build", true, "build the servers first")
	f.BoolVar(&o.doctor, "doctor", false, "check this machine's limits for -conns, and end")
	f.BoolVar(&o.compare, "compare", false, "compare two report.json, and end")
	return f
}

func (o *options) parseAddresses(list string) error {
	for s := range strings.SplitSeq(list, ",") {
		a, err := netip.ParseAddr(s)
		if err != nil || !a.Is4() {
			return fmt.Errorf("%q is not an IPv4 address", s)
		}
		o.addresses = append(o.addresses, a)
	}
	return nil
}

// parseOptions reads the command line. flag.ErrHelp means that help was asked for and given.
func parseOptions(args []string, out io.Writer) (*options, error) {
	o := &options{args: args}
	f := o.flags()
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(out, usage, "\nFlags:\n")
			f.SetOutput(out)
			f.PrintDefaults()
			fmt.Fprint(out, "\nScenarios:\n")
			for _, s := range scenarios {
				fmt.Fprintf(out, "  %-12s %s: %s\n", s.name, s.title, s.about)
			}
		}
		return nil, err
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	switch {
	case given["servers"]:
	case o.custom != nil:
		o.servers = subject
	case o.quick:
		o.servers = quick
	default:
		o.furtherInSome = true
	}
	if o.quick && !given["duration"] {
		o.duration = 240 * time.Millisecond
	}
	o.rest = f.Args()
	return o, o.check()
}

func (o *options) check() error {
	switch {
	case o.compare && len(o.rest) != 2:
		return fmt.Errorf("-compare wants two files, the old report.json and the new one; got %d", len(o.rest))
	case !o.compare && len(o.rest) > 0:
		return fmt.Errorf("unexpected argument %q", o.rest[0])
	case o.duration < 10*time.Millisecond || o.duration > 10*time.Minute:
		return fmt.Errorf("-duration %s: want 10ms to 10m", o.duration)
	case o.rounds < 1 || o.rounds > 100:
		return fmt.Errorf("-rounds %d: want 1 to 100", o.rounds)
	case o.conns < 30 || o.conns > 5_000_000:
		return fmt.Errorf("-conns %d: want 30 to 5000000", o.conns)
	case o.heartbeat < 100*time.Millisecond || o.timeout < time.Second || o.warmup < 0:
		return errors.New("-heartbeat must be at least 100ms, -timeout at least 1s, -warmup not negative")
	case o.serverCPUs < 1 || o.serverCPUs > len(cpusOf(0)):
		return fmt.Errorf("-server-cpus %d: this process may run on %d", o.serverCPUs, len(cpusOf(0)))
	case o.target == "" && o.pid != 0:
		return errors.New("-pid is only for a -target")
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", o.pid)); o.pid != 0 && err != nil {
		return fmt.Errorf("-pid %d: no such process", o.pid)
	}
	return nil
}

// plain are words that a shell takes as they are.
var plain = regexp.MustCompile(`^[A-Za-z0-9_=+:,./@%-]+$`)

// commandLine is bench with the arguments of this run and more, ready to be pasted into a shell.
func (o *options) commandLine(more ...string) string {
	line := "bin/bench"
	for _, a := range append(o.args[:len(o.args):len(o.args)], more...) {
		if !plain.MatchString(a) {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		line += " " + a
	}
	return line
}
