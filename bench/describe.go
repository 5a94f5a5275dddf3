package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bench/host"
	"relaygate/bench/report"
)

// describeRun fills in where and how.
func (b *bench) describeRun(began time.Time) {
	r := &b.report
	r.Schema, r.Started = report.Schema, began
	r.Command = b.opt.commandLine(os.Args[1:])
	r.Machine = machine(b.limits)
	r.Method = report.Method{
		ServerCPUs: b.opt.serverCPUs, LoadCPUs: b.opt.loadCPUs, Duration: b.opt.duration.Seconds(),
		Target: b.opt.targetURL != "", Warmup: b.opt.warmup.Seconds(), Rounds: b.opt.rounds, Heartbeat: b.opt.heartbeat.Seconds(), Conns: b.opt.conns,
	}
	if len(without(b.opt.serverCPUs, b.opt.loadCPUs)) < len(b.opt.serverCPUs) {
		r.Notes = append(r.Notes, "Servers and load share a CPU: CPU per delivery holds, throughput and latency include the load's own work.")
	}
	if b.opt.targetURL != "" && b.opt.pid == 0 {
		r.Notes = append(r.Notes, "The target's process is not known (-pid), so there are no CPU and memory figures.")
	}
}

func machine(l host.Limits) report.Machine {
	m := report.Machine{
		CPUs: len(host.CPUs()), Go: runtime.Version(), OpenFiles: uint64(l.OpenFiles),
		PortRange: fmt.Sprintf("%d-%d", l.PortLow, l.PortHigh),
	}
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.SplitSeq(string(b), "\n") {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "model name":
			m.CPU = strings.TrimSpace(value)
		case "flags":
			m.Virtual = strings.Contains(value, " hypervisor")
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	}
	b, _ = os.ReadFile("/etc/os-release")
	for line := range strings.SplitSeq(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			m.System = strings.Trim(v, `"`)
		}
	}
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) == nil {
		m.MemoryMiB = int64(uint64(s.Totalram) * uint64(s.Unit) >> 20)
	}
	return m
}

// command is how to measure one scenario again: the flags of this run, and the scenario's name.
func (b *bench) command(sc scenario) string {
	words := []string{"-run", "^" + sc.name + "$"}
	add := func(name, value string) {
		if b.opt.set[name] {
			words = append(words, "-"+name, value)
		}
	}
	if b.opt.targetURL != "" {
		add("target", b.opt.targetURL)
		add("pid", fmt.Sprint(b.opt.pid))
	} else {
		words = append(words, "-servers", b.opt.servers)
	}
	words = append(words, "-duration", b.opt.duration.String())
	add("warmup", b.opt.warmup.String())
	words = append(words, "-rounds", fmt.Sprint(b.rounds(sc)))
	if sc.kind == idle {
		words = append(words, "-conns", fmt.Sprint(b.opt.conns), "-heartbeat", b.opt.heartbeat.String())
	}
	add("timeout", b.opt.timeout.String())
	add("server-cpus", host.FormatCPUs(b.opt.serverCPUs))
	add("load-cpus", host.FormatCPUs(b.opt.loadCPUs))
	if n := len(b.opt.addresses); n > 0 {
		add("addresses", b.opt.addresses[0]+"-"+b.opt.addresses[n-1])
	}
	add("secret", b.opt.secret)
	return b.opt.commandLine(words)
}

// commandLine is bench with these arguments, ready to be pasted into a shell; but the secret stays one.
func (o *options) commandLine(args []string) string {
	words := []string{"bin/bench"}
	for _, a := range args {
		if o.secret != "" {
			a = strings.ReplaceAll(a, o.secret, "SECRET")
		}
		if a == "" || strings.ContainsFunc(a, special) {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// special tells whether a character means something to a shell.
func special(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_=+:,./@%", r))
}

// limits are this machine's; the open files are those of the -target, whose process has its own limit.
func limits(o *options) host.Limits {
	l := host.ReadLimits("/")
	if o.targetURL != "" {
		l.OpenFiles = host.OpenFilesOf(o.pid)
	}
	return l
}

// pairs is how many pairs of addresses the load may use; 0 means as many as it takes.
func (o *options) pairs() int {
	n := len(o.addresses)
	if n > 0 && o.targetURL != "" {
		return n * n
	}
	return n
}

// doctor prints which limits stand in the way of -conns and returns 1 if one does.
func doctor(l host.Limits, o *options) int {
	var servers []server
	if o.targetURL == "" {
		var err error
		if servers, err = chooseServers(o.servers, o.repo, o.bin); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 2
		}
	}
	findings, fits := l.Check(o.conns, o.pairs(), perConn(servers))
	fmt.Printf("%d connections on this machine:\n", o.conns)
	for _, f := range findings {
		if f.Fix == "" {
			fmt.Printf("  ok   %-24s %s\n", f.Limit, f.Have)
			continue
		}
		fmt.Printf("  LOW  %-24s %s: allows %d\n       raise it: %s\n", f.Limit, f.Have, f.Fits, f.Fix)
	}
	if fits < o.conns {
		fmt.Printf("%d fit as it is.\n", fits)
		return 1
	}
	fmt.Println("They fit.")
	return 0
}
