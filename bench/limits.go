package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// limits are what bounds the number of connections on one machine.
type limits struct {
	openFiles int // of the server's process
	ports     int // that outgoing connections of one pair of addresses may have
	memory    int // bytes available
}

// readLimits raises this process's open files, and so its children's, to the hard limit. A -target has a limit of its own.
func readLimits(target int) limits {
	l := limits{ports: 28232}
	if v, err := proc.SysctlInts("net.ipv4.ip_local_port_range"); err == nil && len(v) == 2 {
		l.ports = v[1] - v[0] + 1
	}
	if m, err := proc.Meminfo(); err == nil && m.MemAvailableBytes != nil {
		l.memory = int(*m.MemAvailableBytes)
	}
	// Of our control group; "max" is no number.
	if most, err := readNumber("/sys/fs/cgroup/memory.max"); err == nil {
		used, _ := readNumber("/sys/fs/cgroup/memory.current")
		l.memory = min(l.memory, max(most-used, 1))
	}
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) == nil {
		r.Cur = r.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &r)
		l.openFiles = int(min(r.Max, 1<<40))
	}
	if p, err := proc.Proc(target); target != 0 && err == nil {
		if x, err := p.Limits(); err == nil {
			l.openFiles = min(l.openFiles, int(min(x.OpenFiles, 1<<40)))
		}
	}
	return l
}

func readNumber(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// perPair is how many connections to plan for one pair of addresses: most of the port range, at most 20,000.
func (l limits) perPair() int { return max(min(l.ports*7/10, 20000), 1) }

// finding is what one limit means for a number of connections.
type finding struct {
	limit string
	fits  int    // connections that it allows
	fix   string // what raises it
}

// What one loopback connection takes beside the server's own memory: two sockets with their files in the kernel, and the
// load's record of a peer. And file descriptors for logs, listeners, epoll.
const (
	bytesPerConn = 8 << 10
	spareFiles   = 100
)

// fitting says for each limit how many of n connections fit, and how many fit all of them.
func (b *bench) fitting(n int) (out []finding, fits int) {
	l, perConn := b.limits, 0
	for _, s := range b.servers {
		perConn = max(perConn, bytesPerConn+s.perConn)
	}
	out = []finding{{
		fmt.Sprintf("open files per process: %d", l.openFiles), max(l.openFiles-spareFiles, 0),
		fmt.Sprintf("ulimit -n %d as root, LimitNOFILE=%[1]d for a service (above sysctl fs.nr_open: that first)", n+spareFiles),
	}, {
		fmt.Sprintf("memory: %d MiB available, %d KiB per connection", l.memory>>20, perConn>>10), l.memory / perConn,
		"more memory for this machine or control group (memory.max), or -servers that take less",
	}}
	if pairs := len(b.opt.addresses); pairs > 0 {
		out = append(out, finding{
			fmt.Sprintf("ports: %d connections from each of -addresses", l.perPair()), pairs * l.perPair(),
			"more -addresses, or sysctl -w net.ipv4.ip_local_port_range='10000 65000'",
		})
	}
	fits = n
	for _, f := range out {
		fits = min(fits, f.fits)
	}
	return out, fits
}

// doctor prints which limits stand in the way of -conns and returns 1 if one does.
func (b *bench) doctor() int {
	n := b.opt.conns
	findings, fits := b.fitting(n)
	for _, f := range findings {
		if f.fits >= n {
			fmt.Printf("ok   %s\n", f.limit)
		} else {
			fmt.Printf("LOW  %s: allows %d\n     raise it: %s\n", f.limit, f.fits, f.fix)
		}
	}
	if fits < n {
		fmt.Printf("%d of %d connections fit as it is.\n", fits, n)
		return 1
	}
	fmt.Printf("%d connections fit.\n", n)
	return 0
}
