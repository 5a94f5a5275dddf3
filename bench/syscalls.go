package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls are counted in a pass of their own, by a tracepoint of the kernel: a few nanoseconds for each call, and
// send and writev count as well as write. /proc/PID/io leaves out send, and ptrace slows a server many times over, which
// lets it batch more than it otherwise would.
const tracepoint = "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id"

// writes selects the calls that put data into a socket.
var writes = fmt.Sprintf("id==%d || id==%d || id==%d || id==%d || id==%d\x00",
	unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG)

// counters are descriptors of two counters for each thread: of all calls, and of writes. Threads to come inherit them.
type counters [2][]int

// count begins to count a process's calls. That takes root, or CAP_PERFMON and a readable tracefs.
func count(pid int) (c *counters, err error) {
	number, err := os.ReadFile(tracepoint)
	if err != nil {
		return nil, fmt.Errorf("%w (as root: mount -t tracefs tracefs /sys/kernel/tracing)", err)
	}
	id, _ := strconv.ParseUint(strings.TrimSpace(string(number)), 10, 64)
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Bits: unix.PerfBitInherit, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	threads, err := proc.AllThreads(pid)
	c = &counters{}
	for _, t := range threads {
		for i := range c {
			fd, e := unix.PerfEventOpen(&attr, t.PID, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if e == nil {
				c[i] = append(c[i], fd)
				if i == 1 {
					e = filter(fd, writes)
				}
			}
			if e != nil && e != unix.ESRCH { // the thread may have ended
				c.stop()
				return nil, fmt.Errorf("perf_event_open: %w", e)
			}
		}
	}
	return c, err
}

// filter lets a counter count only what a NUL-terminated expression selects.
func filter(fd int, expression string) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.PERF_EVENT_IOC_SET_FILTER, uintptr(unsafe.Pointer(unsafe.StringData(expression))))
	if e != 0 {
		return e
	}
	return nil
}

// stop ends the counting and returns how many calls there were, and how many of them were writes.
func (c *counters) stop() (calls, writes float64) {
	var sums [2]float64
	for i, fds := range c {
		for _, fd := range fds {
			var b [8]byte
			_, _ = unix.Read(fd, b[:])
			sums[i] += float64(binary.NativeEndian.Uint64(b[:]))
			unix.Close(fd)
		}
	}
	return sums[0], sums[1]
}
