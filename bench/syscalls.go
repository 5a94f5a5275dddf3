package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls are counted during a pass of their own, by the kernel's tracepoints: a few nanoseconds for each call, and
// send and writev count as well as write. /proc/PID/io leaves out send; ptrace slows a server many times over, which lets
// it batch more than it otherwise would. Tracepoints need root, or CAP_PERFMON and a readable tracefs.

// writes are the calls that put data into a socket. send is sendto.
var writes = []string{"write", "writev", "sendto", "sendmsg", "sendmmsg"}

// countable says why the calls of a process cannot be counted, or nil.
func countable(pid int) error {
	c, err := count(pid)
	if err != nil {
		return fmt.Errorf("%w (as root: mount -t tracefs tracefs /sys/kernel/tracing)", err)
	}
	_, _, err = c.stop()
	return err
}

// tracepoints are event counters of the kernel, on each thread of a process; threads that come later are inherited.
type tracepoints struct {
	calls, writes []int // descriptors
}

// count begins to count a process's calls.
func count(pid int) (*tracepoints, error) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	c := &tracepoints{}
	for _, t := range threads {
		id, _ := strconv.Atoi(t.Name())
		err := open(id, "raw_syscalls/sys_enter", &c.calls)
		for _, name := range writes {
			if err == nil {
				err = open(id, "syscalls/sys_enter_"+name, &c.writes)
			}
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

// open adds a counter of a tracepoint on a thread.
func open(thread int, tracepoint string, to *[]int) error {
	id, err := os.ReadFile("/sys/kernel/tracing/events/" + tracepoint + "/id")
	if err != nil {
		return err
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(id)), 10, 64)
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: n, Bits: unix.PerfBitInherit, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	fd, err := unix.PerfEventOpen(&attr, thread, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("count %s: %w", tracepoint, err)
	}
	*to = append(*to, fd)
	return nil
}

func (c *tracepoints) stop() (calls, writes float64, err error) {
	defer c.close()
	sum := func(fds []int) (total float64) {
		for _, fd := range fds {
			var b [8]byte
			if _, e := unix.Read(fd, b[:]); e != nil {
				err = fmt.Errorf("read a tracepoint's counter: %w", e)
			}
			total += float64(binary.NativeEndian.Uint64(b[:]))
		}
		return total
	}
	return sum(c.calls), sum(c.writes), err
}

func (c *tracepoints) close() {
	for _, fd := range append(c.calls, c.writes...) {
		unix.Close(fd)
	}
}
