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
	"strconv"
	"strings"
	"time"

	"relaygate/bench/host"
)

// options are the flags, checked.
type options struct {
	run        string
	servers    string
	targetURL  string
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
	addresses  []string
	repo       string
	bin        string
	out        string
	quick      bool
	build      bool
	syscalls   bool
	doctor     bool
	list       bool
	compare    []string
	render     string
	set        map[string]bool // flags that were given
}

const usage = `bench measures WebSocket relays of the v1 contract and writes a report.

  bench                          all scenarios, all servers (build them, start them, compare them)
  bench -quick                   relaygate and gws, few scenarios, under a minute
  bench -run 'fanout|chat'       some scenarios; -list names them
  bench -target ws://host:8080   a running relay; with -pid its CPU and memory too, if it is on this machine
  bench -run idle -conns 100000  as many silent peers
  bench -doctor                  only say which limits stand in the way, and how to raise them
  bench -compare a.json b.json   what got better or worse; exit status 1 on worse

-compare is a gate for two runs on one quiet machine; -rounds 9 in both makes it a sharp one. Anything missing or failed
in the new report counts as worse.

Exit status: 0 measured, 1 a failure or something worse, 2 wrong use or nothing to compare, 130 interrupted.

Flags:
`

// parseOptions reads the command line. flag.ErrHelp means that help was asked for and given.
func parseOptions(args []string, out io.Writer) (*options, error) {
	o := &options{set: map[string]bool{}}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(io.Discard) // faults are ours to print, in one line
	f.StringVar(&o.run, "run", "", "measure the scenarios whose names match this `regexp`")
	f.StringVar(&o.servers, "servers", "relaygate,gws,gorilla,coder,nbhttp", "measure these (and gws-sync, if asked), comma-separated; the first is what the others are compared with; name=command adds one that takes HOST and PORT")
	f.StringVar(&o.targetURL, "target", "", "measure the running relay at this `URL` (ws://host:port/v1) instead")
	f.IntVar(&o.pid, "pid", 0, "process id of the -target, if it is on this machine")
	f.StringVar(&o.secret, "secret", "", "ADMIN_SECRET of the -target")
	f.DurationVar(&o.duration, "duration", 500*time.Millisecond, "length of one measurement")
	f.DurationVar(&o.warmup, "warmup", 150*time.Millisecond, "traffic before each measurement")
	f.IntVar(&o.rounds, "rounds", 3, "measurements per server and scenario, interleaved (unless given: latency 5, slow 2, idle 2)")
	f.IntVar(&o.conns, "conns", 15000, "largest number of peers in idle")
	f.DurationVar(&o.heartbeat, "heartbeat", 1200*time.Millisecond, "CONNECTION_CHECK_INTERVAL in idle; with -target the one it runs with")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up on a start, on handshakes or on a drain after this long")
	serverCPUs := f.String("server-cpus", "", "`CPUs` of the servers, such as 0,2-3 (default the first)")
	loadCPUs := f.String("load-cpus", "", "`CPUs` of the load (default the others)")
	addresses := f.String("addresses", "", "`range` of local IPv4 addresses to connect from, such as 127.0.0.1-127.0.0.8; with a loopback -target also to connect to")
	f.StringVar(&o.repo, "repo", ".", "`directory` of relaygate's source")
	f.StringVar(&o.bin, "bin", "bin", "`directory` for the servers' binaries")
	f.StringVar(&o.out, "out", filepath.Join("bench", "out"), "`directory` for reports, one subdirectory per run")
	f.BoolVar(&o.quick, "quick", false, "relaygate and gws, few scenarios, short")
	f.BoolVar(&o.build, "build", true, "build the servers first")
	f.BoolVar(&o.syscalls, "syscalls", false, "count system calls per delivery with strace, in an extra round")
	f.BoolVar(&o.doctor, "doctor", false, "check this machine's limits for -conns, and end")
	f.BoolVar(&o.list, "list", false, "list the scenarios, and end")
	f.StringVar(&o.render, "render", "", "write the pages and charts of this report.json again, beside it, and end")
	compare := f.Bool("compare", false, "compare two report.json, and end")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(out, usage)
			f.SetOutput(out)
			f.PrintDefaults()
		}
		return nil, err
	}
	f.Visit(func(f *flag.Flag) { o.set[f.Name] = true })
	err := o.check(f.Args(), *compare, *serverCPUs, *loadCPUs, *addresses)
	if err != nil {
		return nil, err
	}
	return o, nil
}

func (o *options) check(rest []string, compare bool, serverCPUs, loadCPUs, addresses string) error {
	if compare {
		if len(rest) != 2 {
			return fmt.Errorf("-compare wants two files, the old report.json and the new one; got %d", len(rest))
		}
		o.compare = rest
		return nil
	}
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %q", rest[0])
	}
	if o.quick {
		o.applyQuick()
	}
	if o.duration < 10*time.Millisecond || o.duration > 10*time.Minute {
		return fmt.Errorf("-duration %s: want 10ms to 10m", o.duration)
	}
	if o.rounds < 1 || o.rounds > 100 {
		return fmt.Errorf("-rounds %d: want 1 to 100", o.rounds)
	}
	if o.conns < 30 || o.conns > 5_000_000 {
		return fmt.Errorf("-conns %d: want 30 to 5000000", o.conns)
	}
	if o.heartbeat < 100*time.Millisecond || o.timeout < time.Second || o.warmup < 0 {
		return errors.New("-heartbeat must be at least 100ms, -timeout at least 1s, -warmup not negative")
	}
	if err := o.checkTarget(); err != nil {
		return err
	}
	var err error
	if o.addresses, err = parseAddresses(addresses); err != nil {
		return fmt.Errorf("-addresses: %w", err)
	}
	return o.chooseCPUs(serverCPUs, loadCPUs)
}

func (o *options) applyQuick() {
	if !o.set["servers"] {
		o.servers = "relaygate,gws"
	}
	// Its rounds are few in every scenario.
	o.set["rounds"] = true
	if !o.set["duration"] {
		o.duration = 350 * time.Millisecond
	}
}

func (o *options) checkTarget() error {
	if o.targetURL == "" {
		if o.pid != 0 {
			return errors.New("-pid is only for a -target")
		}
		return nil
	}
	u, err := url.Parse(o.targetURL)
	if err != nil || u.Hostname() == "" {
		return fmt.Errorf("-target %q: want ws://host:port/v1", o.targetURL)
	}
	if u.Scheme != "ws" {
		return fmt.Errorf("-target %q: only ws:// can be measured (TLS would measure the load)", o.targetURL)
	}
	if o.pid != 0 {
		if _, err := os.Stat("/proc/" + strconv.Itoa(o.pid)); err != nil {
			return fmt.Errorf("-pid %d: no such process", o.pid)
		}
	}
	return nil
}

// chooseCPUs applies the defaults: the first CPU for the server, the others for the load; a single one is shared.
func (o *options) chooseCPUs(serverCPUs, loadCPUs string) (err error) {
	all := host.CPUs()
	if o.serverCPUs, err = host.ParseCPUs(serverCPUs); err != nil {
		return fmt.Errorf("-server-cpus: %w", err)
	}
	if o.loadCPUs, err = host.ParseCPUs(loadCPUs); err != nil {
		return fmt.Errorf("-load-cpus: %w", err)
	}
	if len(o.serverCPUs) == 0 {
		o.serverCPUs = all[:1]
	}
	if len(o.loadCPUs) == 0 {
		o.loadCPUs = without(all, o.serverCPUs)
		if len(o.loadCPUs) == 0 {
			o.loadCPUs = all
		}
	}
	if bad := without(append(append([]int(nil), o.serverCPUs...), o.loadCPUs...), all); len(bad) > 0 {
		return fmt.Errorf("CPU %d: this process may run on %s only", bad[0], host.FormatCPUs(all))
	}
	return nil
}

// without returns the elements of a that are not in b.
func without(a, b []int) (out []int) {
next:
	for _, x := range a {
		for _, y := range b {
			if x == y {
				continue next
			}
		}
		out = append(out, x)
	}
	return out
}

// parseAddresses reads one IPv4 address or an inclusive range of at most 256.
func parseAddresses(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, err := netip.ParseAddr(from)
	if err != nil || !a.Is4() {
		return nil, fmt.Errorf("%q is not an IPv4 address", from)
	}
	z, err := netip.ParseAddr(to)
	if err != nil || !z.Is4() {
		return nil, fmt.Errorf("%q is not an IPv4 address", to)
	}
	var out []string
	for ; a.Compare(z) <= 0; a = a.Next() {
		if out = append(out, a.String()); len(out) > 256 {
			return nil, fmt.Errorf("%q is more than 256 addresses", s)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%q ends before it begins", s)
	}
	return out, nil
}
