package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"relaygate/bench/report"
)

// proc is /proc, which Linux always has.
var proc = func() procfs.FS {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		panic(err)
	}
	return fs
}()

// parseCPUs reads a list such as 0,2-3. Empty means none.
func parseCPUs(list string) (out []int, err error) {
	for part := range strings.SplitSeq(list, ",") {
		if part == "" {
			continue
		}
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(from)
		b := a
		if err == nil && isRange {
			b, err = strconv.Atoi(to)
		}
		if err != nil || a < 0 || b < a || b > 4095 {
			return nil, fmt.Errorf("%q is not a list of CPUs such as 0,2-3", list)
		}
		for ; a <= b; a++ {
			out = append(out, a)
		}
	}
	return out, nil
}

// formatCPUs writes a list that parseCPUs reads.
func formatCPUs(cpus []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(cpus), " ", ","), "[]")
}

// cpusOf are the CPUs that a process may run on.
func cpusOf(pid int) (out []int) {
	var set unix.CPUSet
	if unix.SchedGetaffinity(pid, &set) != nil {
		return []int{0}
	}
	for c := 0; len(out) < set.Count(); c++ {
		if set.IsSet(c) {
			out = append(out, c)
		}
	}
	return out
}

// allowedCPUs are those of this process, as it was started.
var allowedCPUs = func() func() []int {
	cpus := cpusOf(0)
	return func() []int { return cpus }
}()

// stepAside moves what runs in this process beside the load's threads to the load's CPUs, away from the servers. The
// load's threads pin themselves later, each to its own.
func (b *bench) stepAside(cpus []int) {
	if slices.Equal(b.aside, cpus) {
		return
	}
	b.aside = cpus
	runtime.GOMAXPROCS(len(cpus) + 2)
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, t := range tasks {
		if id, err := strconv.Atoi(t.Name()); err == nil {
			pin(id, cpus) // a thread may have ended meanwhile
		}
	}
}

// cpuTimes are seconds of the whole machine: of all processes together, and taken by the hypervisor for others.
func cpuTimes() (busy, stolen float64) {
	s, err := proc.Stat()
	if err != nil {
		return 0, 0
	}
	t := s.CPUTotal
	return t.User + t.Nice + t.System + t.IRQ + t.SoftIRQ, t.Steal
}

// ticks are a process's CPU time in user and in kernel mode, in ticks.
func ticks(pid int) (user, system float64) {
	if p, err := proc.Proc(pid); err == nil {
		if s, err := p.Stat(); err == nil {
			return float64(s.UTime), float64(s.STime)
		}
	}
	return 0, 0
}

// resident is a process's resident memory in bytes, to the byte where the kernel has smaps_rollup; 0 if there is none.
func resident(pid int) float64 {
	p, err := proc.Proc(pid)
	if pid == 0 || err != nil {
		return 0
	}
	if s, err := p.ProcSMapsRollup(); err == nil {
		return float64(s.Rss)
	}
	s, _ := p.NewStatus()
	return float64(s.VmRSS)
}

// kernelMemory is unreclaimable slab, which sockets are made of, and TCP's buffers, in bytes. It is the machine's, so only
// differences say something, and both ends of a loopback connection are in it.
func kernelMemory() (bytes float64) {
	if m, err := proc.Meminfo(); err == nil && m.SUnreclaimBytes != nil {
		bytes = float64(*m.SUnreclaimBytes)
	}
	if s, err := proc.NetSockstat(); err == nil {
		for _, p := range s.Protocols {
			if p.Protocol == "TCP" && p.Mem != nil {
				bytes += float64(*p.Mem * os.Getpagesize())
			}
		}
	}
	return bytes
}

// describeMachine tells where a run takes place.
func describeMachine(l limits) report.Machine {
	m := report.Machine{CPUs: len(allowedCPUs()), Go: runtime.Version(), OpenFiles: uint64(l.openFiles), Ports: fmt.Sprintf("%d-%d", l.ports[0], l.ports[1])}
	if info, err := proc.CPUInfo(); err == nil && len(info) > 0 {
		m.CPU, m.Virtual = info[0].ModelName, slices.Contains(info[0].Flags, "hypervisor")
	}
	if info, err := proc.Meminfo(); err == nil && info.MemTotalBytes != nil {
		m.MemoryMiB = *info.MemTotalBytes >> 20
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	}
	return m
}

// limits are what bounds the number of connections on one machine.
type limits struct {
	openFiles int // of the server's process
	nrOpen    int // the most that a process's limit can be raised to
	fileMax   int // of the whole system
	ports     [2]int
	conntrack int // the most; 0: connections are not tracked
	tracked   int // now
	memory    int // bytes available
}

// readLimits raises this process's open files, and so its children's, to the hard limit. A -target has a limit of its own.
func readLimits(o *options) limits {
	number := func(name string) int {
		if v, err := proc.SysctlInts(name); err == nil && len(v) > 0 {
			return v[0]
		}
		return 0
	}
	l := limits{
		nrOpen: number("fs.nr_open"), fileMax: number("fs.file-max"), ports: [2]int{32768, 60999},
		conntrack: number("net.netfilter.nf_conntrack_max"), tracked: number("net.netfilter.nf_conntrack_count"),
	}
	if v, err := proc.SysctlInts("net.ipv4.ip_local_port_range"); err == nil && len(v) == 2 {
		l.ports = [2]int(v)
	}
	if m, err := proc.Meminfo(); err == nil && m.MemAvailableBytes != nil {
		l.memory = int(*m.MemAvailableBytes)
	}
	// Of our control group; "max" is no number.
	most, _ := os.ReadFile("/sys/fs/cgroup/memory.max")
	if n, err := strconv.Atoi(strings.TrimSpace(string(most))); err == nil {
		used, _ := os.ReadFile("/sys/fs/cgroup/memory.current")
		now, _ := strconv.Atoi(strings.TrimSpace(string(used)))
		l.memory = min(l.memory, max(n-now, 1))
	}
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) == nil {
		r.Cur = r.Max
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &r)
		l.openFiles = int(min(r.Max, 1<<40))
	}
	if p, err := proc.Proc(o.pid); o.pid != 0 && err == nil {
		if x, err := p.Limits(); err == nil {
			l.openFiles = min(l.openFiles, int(min(x.OpenFiles, 1<<40)))
		}
	}
	return l
}

// perPair is how many connections to plan for one pair of addresses: most of the port range, at most 20,000.
func (l limits) perPair() int { return max(min((l.ports[1]-l.ports[0]+1)*7/10, 20000), 1) }

// finding is what one limit means for a number of connections.
type finding struct {
	limit, have string
	fits        int    // connections that it allows
	fix         string // the command that raises it
}

// What one loopback connection takes beside the server's own memory: two sockets with their files in the kernel, and the
// load's record of a peer. And file descriptors for logs, listeners, epoll.
const (
	bytesPerConn = 8 << 10
	spareFiles   = 100
)

// check says for each limit how many connections fit. pairs is the number of address pairs the load may use; 0 means as
// many as it takes. perConn is what the server takes for a connection, in bytes.
func (l limits) check(n, pairs, perConn int) (out []finding, fits int) {
	add := func(limit, have string, fits int, fix string) {
		out = append(out, finding{limit, have, max(fits, 0), fix})
	}
	raise := fmt.Sprintf("ulimit -n %d   (as root; for a service LimitNOFILE=%d)", n+spareFiles, n+spareFiles)
	if n+spareFiles > l.nrOpen && l.nrOpen > 0 {
		raise = fmt.Sprintf("sysctl -w fs.nr_open=%d && %s", n+spareFiles, raise)
	}
	add("open files per process", strconv.Itoa(l.openFiles), l.openFiles-spareFiles, raise)
	if l.fileMax > 0 {
		add("open files of the system", strconv.Itoa(l.fileMax), (l.fileMax-10000)/2, fmt.Sprintf("sysctl -w fs.file-max=%d", 2*n+10000))
	}
	allowed := pairs * l.perPair()
	if pairs == 0 {
		allowed = 1 << 31
	}
	add("ports", fmt.Sprintf("%d-%d, %d connections per pair of addresses", l.ports[0], l.ports[1], l.perPair()), allowed,
		fmt.Sprintf("sysctl -w net.ipv4.ip_local_port_range='10000 65000', or more -addresses (%d pairs are needed)", (n+l.perPair()-1)/l.perPair()))
	if l.conntrack > 0 {
		add("conntrack", fmt.Sprintf("%d, %d in use", l.conntrack, l.tracked), l.conntrack-l.tracked-1000,
			fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", n+l.tracked+10000))
	}
	each := bytesPerConn + perConn
	add("memory", fmt.Sprintf("%d MiB available, %d KiB per connection", l.memory>>20, each>>10), l.memory/each,
		fmt.Sprintf("%d MiB more memory for this machine or control group (memory.max), or -servers that take less", (n*each-l.memory)>>20+1))
	fits = n
	for _, f := range out {
		fits = min(fits, f.fits)
	}
	return out, fits
}

// fitting is check for this run's servers and addresses.
func (b *bench) fitting(n int) ([]finding, int) {
	perConn, pairs := 0, len(b.opt.addresses)
	for _, s := range b.servers {
		perConn = max(perConn, s.perConn)
	}
	if b.opt.target != "" {
		pairs *= pairs
	}
	return b.limits.check(n, pairs, perConn)
}

// doctor prints which limits stand in the way of -conns and returns 1 if one does.
func (b *bench) doctor() int {
	n := b.opt.conns
	findings, fits := b.fitting(n)
	fmt.Printf("%d connections on this machine:\n", n)
	for _, f := range findings {
		if f.fits >= n {
			fmt.Printf("  ok   %-24s %s\n", f.limit, f.have)
		} else {
			fmt.Printf("  LOW  %-24s %s: allows %d\n       raise it: %s\n", f.limit, f.have, f.fits, f.fix)
		}
	}
	if err := countable(os.Getpid()); err != nil {
		fmt.Printf("System calls cannot be counted: %v\n", err)
	}
	if fits < n {
		fmt.Printf("%d fit as it is.\n", fits)
		return 1
	}
	fmt.Println("They fit.")
	return 0
}
