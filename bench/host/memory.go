package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Resident is a process's resident memory in bytes: the exact sum of smaps_rollup, or where that is missing VmRSS.
func Resident(pid int) (int64, error) {
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid)); err == nil {
		if kb, ok := field(string(b), "Rss:"); ok {
			return kb << 10, nil
		}
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	kb, ok := field(string(b), "VmRSS:")
	if !ok {
		return 0, fmt.Errorf("no VmRSS of process %d", pid)
	}
	return kb << 10, nil
}

// Kernel is the kernel's memory in bytes: unreclaimable slab, which sockets are made of, and TCP's buffers. It is the
// machine's, so only differences say something, and both ends of a loopback connection are in it.
func Kernel() (slab, tcp int64) {
	b, _ := os.ReadFile("/proc/meminfo")
	kb, _ := field(string(b), "SUnreclaim:")
	s, _ := os.ReadFile("/proc/net/sockstat")
	for line := range strings.SplitSeq(string(s), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "TCP:" && f[len(f)-2] == "mem" {
			pages, _ := strconv.ParseInt(f[len(f)-1], 10, 64)
			tcp = pages * int64(os.Getpagesize())
		}
	}
	return kb << 10, tcp
}

// field finds the number after a name at the start of a line.
func field(text, name string) (int64, bool) {
	for line := range strings.SplitSeq(text, "\n") {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				n, err := strconv.ParseInt(f[0], 10, 64)
				return n, err == nil
			}
		}
	}
	return 0, false
}
