package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

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

// formatCPUs writes a list such as 0,2,3.
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

// stepAside moves what runs in this process beside the load's threads to the load's CPUs, away from the servers. The
// load's threads pin themselves later, each to its own.
func stepAside(cpus []int) {
	runtime.GOMAXPROCS(len(cpus) + 2)
	threads, _ := proc.AllThreads(os.Getpid())
	for _, t := range threads {
		_ = pin(t.PID, cpus) // it may have ended meanwhile
	}
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
func (b *bench) describeMachine() report.Machine {
	m := report.Machine{CPUs: len(b.cpus), Go: runtime.Version(), OpenFiles: b.limits.openFiles}
	if info, err := proc.CPUInfo(); err == nil && len(info) > 0 {
		m.CPU, m.Virtual = info[0].ModelName, slices.Contains(info[0].Flags, "hypervisor")
	}
	if info, err := proc.Meminfo(); err == nil && info.MemTotalBytes != nil {
		m.MemoryMiB = *info.MemTotalBytes >> 20
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = "Linux " + strings.TrimSpace(string(kernel))
	return m
}
