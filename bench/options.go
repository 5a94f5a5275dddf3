package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are the flags, checked.
type options struct {
	run        string
	servers    string
	custom     []string // of -server, each NAME=command
	against    string
	target     string
	pid        int
	secret     string
	duration   time.Duration
	warmup     time.Duration
	rounds     int
	conns      int
	heartbeat  time.Duration
	timeout    time.Duration
	serverCPUs []int
	loadCPUs   []int
	addresses  []netip.Addr
	repo       string
	bin        string
	out        string
	quick      bool
	build      bool
	doctor     bool
	list       bool
	compare    []string
	args       []string        // as given
	set        map[string]bool // flags that were given
}

const usage = `bench measures WebSocket relays of the v1 contract and writes a report.

  bench                          all scenarios, all servers (build them, start them, compare them)
  bench -quick                   relaygate and gws, few scenarios, a minute or two
  bench -run 'fanout|chat'       some scenarios; -list names them
  bench -server mine='./mine --port {port}'
                                 relaygate beside any relay that speaks v1; -against mine takes the ratios to that one
  bench -target ws://host:8080   a running relay; with -pid its CPU and memory too, if it is on this machine
  bench -run idle -conns 100000  as many silent peers
  bench -doctor                  only say which limits stand in the way, and how to raise them
  bench -compare a.json b.json   what got better or worse; exit status 1 on worse

-compare is a gate for two runs of 5 or more rounds on one quiet machine. Anything missing or failed in the new report
counts as worse.

Exit status: 0 measured, 1 a failure or something worse, 2 wrong use or nothing to compare, 130 interrupted.

Flags:
`

const builtIn = "relaygate,gws,gorilla,coder,nbhttp"

// parseOptions reads the command line. flag.ErrHelp means that help was asked for and given.
func parseOptions(args []string, out io.Writer) (*options, error) {
	o := &options{args: args, set: map[string]bool{}}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(io.Discard) // faults are ours to print, in one line
	f.StringVar(&o.run, "run", "", "measure the scenarios whose names match this `regexp`")
	f.StringVar(&o.servers, "servers", builtIn, "measure these (and gws-sync, if asked), comma-separated; only relaygate where -server is given")
	f.Func("server", "measure another relay too: `NAME=command`, where {port} stands for the port to listen on (PORT and HOST are set as well); may be repeated", func(s string) error {
		o.custom = append(o.custom, s)
		return nil
	})
	f.StringVar(&o.against, "against", "", "the `server` that ratios are taken to (default the first)")
	f.StringVar(&o.target, "target", "", "measure the running relay at this `URL` (ws://host:port/v1) instead")
	f.IntVar(&o.pid, "pid", 0, "process id of the -target, if it is on this machine")
	f.StringVar(&o.secret, "secret", "", "ADMIN_SECRET of the -target")
	f.DurationVar(&o.duration, "duration", 500*time.Millisecond, "length of one measurement")
	f.DurationVar(&o.warmup, "warmup", 150*time.Millisecond, "traffic before each measurement")
	f.IntVar(&o.rounds, "rounds", 5, "measurements per server and scenario, interleaved; fewer than 5 give no verdicts")
	f.IntVar(&o.conns, "conns", 15000, "largest number of peers in idle")
	f.DurationVar(&o.heartbeat, "heartbeat", 5*time.Second, "CONNECTION_CHECK_INTERVAL in idle; with -target the one it runs with")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up on a start, on handshakes or on a drain after this long")
	serverCPUs := f.String("server-cpus", "", "`CPUs` of the servers, such as 0,2-3 (default the first)")
	loadCPUs := f.String("load-cpus", "", "`CPUs` of the load (default the others)")
	addresses := f.String("addresses", "", "`range` of local IPv4 addresses to connect from, such as 127.0.0.1-127.0.0.8; with a loopback -target also to connect to")
	f.StringVar(&o.repo, "repo", ".", "`directory` of relaygate's source")
	f.StringVar(&o.bin, "bin", "bin", "`directory` for the servers' binaries")
	f.StringVar(&o.out, "out", filepath.Join("bench", "out"), "`directory` for reports, one subdirectory per run")
	f.BoolVar(&o.quick, "quick", false, "relaygate and gws, few scenarios, short")
	f.BoolVar(&o.build, "build", true, "build the servers first")
	f.BoolVar(&o.doctor, "doctor", false, "check this machine's limits for -conns, and end")
	f.BoolVar(&o.list, "list", false, "list the scenarios, and end")
	gate := f.Bool("compare", false, "compare two report.json, and end")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(out, usage)
			f.SetOutput(out)
			f.PrintDefaults()
		}
		return nil, err
	}
	f.Visit(func(f *flag.Flag) { o.set[f.Name] = true })
	if *gate {
		if o.compare = f.Args(); len(o.compare) != 2 {
			return nil, fmt.Errorf("-compare wants two files, the old report.json and the new one; got %d", len(o.compare))
		}
		return o, nil
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return o, errors.Join(o.check(), o.chooseCPUs(*serverCPUs, *loadCPUs), o.chooseAddresses(*addresses))
}

func (o *options) check() error {
	if o.quick && !o.set["duration"] {
		o.duration = 400 * time.Millisecond
	}
	if !o.set["servers"] {
		switch {
		case o.custom != nil:
			o.servers = subject
		case o.quick:
			o.servers = "relaygate,gws"
		}
	}
	switch {
	case o.duration < 10*time.Millisecond || o.duration > 10*time.Minute:
		return fmt.Errorf("-duration %s: want 10ms to 10m", o.duration)
	case o.rounds < 1 || o.rounds > 100:
		return fmt.Errorf("-rounds %d: want 1 to 100", o.rounds)
	case o.conns < 30 || o.conns > 5_000_000:
		return fmt.Errorf("-conns %d: want 30 to 5000000", o.conns)
	case o.heartbeat < 100*time.Millisecond || o.timeout < time.Second || o.warmup < 0:
		return errors.New("-heartbeat must be at least 100ms, -timeout at least 1s, -warmup not negative")
	case o.target == "" && o.pid != 0:
		return errors.New("-pid is only for a -target")
	case o.target == "":
		return nil
	}
	u, err := url.Parse(o.target)
	if err != nil || u.Hostname() == "" || u.Scheme != "ws" {
		return fmt.Errorf("-target %q: want ws://host:port/v1 (TLS would measure the load)", o.target)
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(o.pid)); o.pid != 0 && err != nil {
		return fmt.Errorf("-pid %d: no such process", o.pid)
	}
	return nil
}

// chooseCPUs applies the defaults: the first CPU for the server, the others for the load; a single one is shared.
func (o *options) chooseCPUs(serverCPUs, loadCPUs string) (err error) {
	if o.serverCPUs, err = parseCPUs(serverCPUs); err != nil {
		return fmt.Errorf("-server-cpus: %w", err)
	}
	if o.loadCPUs, err = parseCPUs(loadCPUs); err != nil {
		return fmt.Errorf("-load-cpus: %w", err)
	}
	all := allowedCPUs()
	if len(o.serverCPUs) == 0 {
		o.serverCPUs = all[:1]
	}
	if len(o.loadCPUs) == 0 {
		o.loadCPUs = without(all, o.serverCPUs)
	}
	if len(o.loadCPUs) == 0 {
		o.loadCPUs = all
	}
	if bad := without(slices.Concat(o.serverCPUs, o.loadCPUs), all); len(bad) > 0 {
		return fmt.Errorf("CPU %d: this process may run on %s only", bad[0], formatCPUs(all))
	}
	return nil
}

// without returns the elements of a that are not in b.
func without(a, b []int) []int {
	return slices.DeleteFunc(slices.Clone(a), func(x int) bool { return slices.Contains(b, x) })
}

// chooseAddresses reads one IPv4 address or an inclusive range of at most 256.
func (o *options) chooseAddresses(s string) error {
	if s == "" {
		return nil
	}
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, err := netip.ParseAddr(from)
	z, err2 := netip.ParseAddr(to)
	if err != nil || err2 != nil || !a.Is4() || !z.Is4() || z.Less(a) {
		return fmt.Errorf("-addresses: %q is not a range of IPv4 addresses", s)
	}
	for ; !z.Less(a) && len(o.addresses) < 256; a = a.Next() {
		o.addresses = append(o.addresses, a)
	}
	if !z.Less(a) {
		return fmt.Errorf("-addresses: %q is more than 256 addresses", s)
	}
	return nil
}

// again is the command line that measures one scenario of this run once more.
func (o *options) again(sc *scenario) string {
	words := []string{"-run", "^" + sc.name + "$"}
	for i := 0; i < len(o.args); i++ {
		name, _, joined := strings.Cut(strings.TrimLeft(o.args[i], "-"), "=")
		if name != "run" {
			words = append(words, o.args[i])
		} else if !joined {
			i++ // its value
		}
	}
	return o.commandLine(words)
}

// commandLine is bench with these arguments, ready to be pasted into a shell; but the secret stays one.
func (o *options) commandLine(args []string) string {
	words := []string{"bin/bench"}
	for _, a := range args {
		if o.secret != "" {
			a = strings.ReplaceAll(a, o.secret, "SECRET")
		}
		special := func(r rune) bool {
			return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_=+:,./@%", r))
		}
		if a == "" || strings.ContainsFunc(a, special) {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}
