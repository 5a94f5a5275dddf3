package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits are what bounds the number of connections on one machine.
type Limits struct {
	OpenFiles      int64 // of the server's process: the hard limit, to which Go programs raise themselves; 0: not known
	NrOpen         int64 // the most that a process's limit can be raised to
	FileMax        int64 // of the whole system
	PortLow        int64
	PortHigh       int64
	ConntrackMax   int64 // 0: connections are not tracked
	ConntrackCount int64
	MemAvailable   int64 // bytes, of the machine or of our control group
}

// ReadLimits reads them below root ("/" but for tests).
func ReadLimits(root string) Limits {
	number := func(path string) int64 {
		b, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return 0
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	l := Limits{
		NrOpen: number("proc/sys/fs/nr_open"), FileMax: number("proc/sys/fs/file-max"),
		ConntrackMax: number("proc/sys/net/netfilter/nf_conntrack_max"), ConntrackCount: number("proc/sys/net/netfilter/nf_conntrack_count"),
	}
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil {
		l.OpenFiles = int64(min(r.Max, 1<<40))
	}
	b, _ := os.ReadFile(filepath.Join(root, "proc/sys/net/ipv4/ip_local_port_range"))
	fmt.Sscan(string(b), &l.PortLow, &l.PortHigh)
	b, _ = os.ReadFile(filepath.Join(root, "proc/meminfo"))
	kb, _ := field(string(b), "MemAvailable:")
	l.MemAvailable = kb << 10
	if most := number("sys/fs/cgroup/memory.max"); most > 0 { // "max" is no number, and no limit
		l.MemAvailable = min(l.MemAvailable, max(most-number("sys/fs/cgroup/memory.current"), 1))
	}
	return l
}

// OpenFilesOf is the soft limit of a running process, 0 if it is not known.
func OpenFilesOf(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	n, _ := field(string(b), "Max open files")
	return n
}

// PerPair is how many connections to plan for one pair of addresses: most of the port range, at most 20,000.
func (l Limits) PerPair() int {
	if l.PortHigh <= l.PortLow {
		return 20000
	}
	return int(min((l.PortHigh-l.PortLow+1)*7/10, 20000))
}

// Finding is what one limit means for a number of connections.
type Finding struct {
	Limit string // its name: open files, ports, conntrack, memory
	Have  string
	Fits  int    // connections that it allows
	Fix   string // the command that raises it, empty if it is high enough
}

// What one loopback connection takes beside the server's own memory: two sockets with their files in the kernel, and the
// load's record of a peer.
const bytesPerConn = 8 << 10

// spare file descriptors for logs, listeners, epoll.
const spareFiles = 100

// Check says for each limit whether n connections fit. pairs is the number of address pairs the load may use; 0 means
// as many as it takes. perConn is what the server takes for a connection, in bytes. fits is the smallest bound, at most n.
func (l Limits) Check(n, pairs, perConn int) (findings []Finding, fits int) {
	fits = n
	add := func(f Finding, allowed int64) {
		f.Fits = int(max(min(allowed, 1<<31), 0))
		if f.Fits >= n {
			f.Fix = ""
		}
		fits = min(fits, f.Fits)
		findings = append(findings, f)
	}
	need := n + spareFiles
	fix := fmt.Sprintf("ulimit -n %d   (as root; for a service LimitNOFILE=%d)", need, need)
	if int64(need) > l.NrOpen && l.NrOpen > 0 {
		fix = fmt.Sprintf("sysctl -w fs.nr_open=%d && ulimit -n %d   (as root)", need, need)
	}
	if l.OpenFiles > 0 {
		add(Finding{Limit: "open files per process", Have: fmt.Sprint(l.OpenFiles), Fix: fix}, l.OpenFiles-spareFiles)
	}
	if l.FileMax > 0 {
		add(Finding{
			Limit: "open files of the system", Have: fmt.Sprint(l.FileMax),
			Fix: fmt.Sprintf("sysctl -w fs.file-max=%d", 2*n+10000),
		}, (l.FileMax-10000)/2)
	}
	ports := Finding{
		Limit: "ports", Have: fmt.Sprintf("%d-%d, %d connections per pair of addresses", l.PortLow, l.PortHigh, l.PerPair()),
		Fix: fmt.Sprintf("sysctl -w net.ipv4.ip_local_port_range='10000 65000', or more -addresses (%d pairs are needed)", (n+l.PerPair()-1)/max(l.PerPair(), 1)),
	}
	allowed := int64(1 << 31)
	if pairs > 0 {
		allowed = int64(pairs) * int64(l.PerPair())
	}
	add(ports, allowed)
	if l.ConntrackMax > 0 {
		add(Finding{
			Limit: "conntrack", Have: fmt.Sprintf("%d, %d in use", l.ConntrackMax, l.ConntrackCount),
			Fix: fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", int64(n)+l.ConntrackCount+10000),
		}, l.ConntrackMax-l.ConntrackCount-1000)
	}
	each := int64(bytesPerConn + perConn)
	if l.MemAvailable > 0 {
		add(Finding{
			Limit: "memory", Have: fmt.Sprintf("%d MiB available, %d KiB per connection", l.MemAvailable>>20, each>>10),
			Fix: fmt.Sprintf("%d MiB more memory for this machine or control group (memory.max), or -servers that take less", (int64(n)*each-l.MemAvailable)>>20+1),
		}, l.MemAvailable/each)
	}
	return findings, fits
}
