// Package host reads what Linux tells about this machine and its processes: CPU clocks, memory, limits. It knows no
// relay and no WebSocket. What it reads is below a root directory, so that tests can show it another machine.
package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPUTime is the CPU time a process has used, read from its CPU clock in nanoseconds (Linux's posix-cpu-timers: the
// clock's number is made of the process id's complement), where /proc counts in ticks of 10 ms.
func CPUTime(pid int) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// UserSystem is the same time split into user and system, in ticks of 10 ms.
func UserSystem(pid int) (user, system time.Duration, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The command's name, in parentheses, may hold blanks.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 13 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	u, _ := strconv.Atoi(f[11])
	s, _ := strconv.Atoi(f[12])
	const tick = 10 * time.Millisecond
	return time.Duration(u) * tick, time.Duration(s) * tick, nil
}

// ParseCPUs reads a list such as 0,2-3. Empty means none.
func ParseCPUs(list string) ([]int, error) {
	var out []int
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

// FormatCPUs writes a list that ParseCPUs reads.
func FormatCPUs(cpus []int) string {
	parts := make([]string, len(cpus))
	for i, c := range cpus {
		parts[i] = strconv.Itoa(c)
	}
	return strings.Join(parts, ",")
}

// CPUsOf is how many CPUs a process may run on, 1 if that is not known.
func CPUsOf(pid int) int {
	var set unix.CPUSet
	if pid == 0 || unix.SchedGetaffinity(pid, &set) != nil {
		return 1
	}
	return set.Count()
}

// CPUs are those this process may run on.
func CPUs() []int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return []int{0}
	}
	var out []int
	for c := 0; len(out) < set.Count(); c++ {
		if set.IsSet(c) {
			out = append(out, c)
		}
	}
	return out
}

// Pin restricts this process to the CPUs. It must be followed by exec: only the calling thread is moved.
func Pin(cpus []int) error {
	var set unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("run on CPUs %s: %w", FormatCPUs(cpus), err)
	}
	return nil
}

// Machine is the CPU time of all processes together, the time the hypervisor gave to others, and the idle time, over all
// CPUs, in ticks of 10 ms.
func Machine() (busy, stolen, idle time.Duration) {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	const tick = 10 * time.Millisecond
	for i, s := range strings.Fields(line) {
		n, _ := strconv.Atoi(s)
		switch i {
		case 1, 2, 3, 6, 7: // user, nice, system, irq, softirq
			busy += time.Duration(n) * tick
		case 4, 5:
			idle += time.Duration(n) * tick
		case 8:
			stolen = time.Duration(n) * tick
		}
	}
	return busy, stolen, idle
}
