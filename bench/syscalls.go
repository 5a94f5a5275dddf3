package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls are counted during a pass of their own. The kernel's tracepoints count them in a few nanoseconds each, send
// and writev as well as write, which /proc/PID/io does not (it leaves out send, and counts per file system call). They
// need root, or CAP_PERFMON and a readable tracefs. strace is the second choice: it slows a server many times over, which
// lets it batch more than it otherwise would, so its counts are a lower bound.

// writes are the calls that put data into a socket. send is sendto.
var writes = []string{"write", "writev", "sendto", "sendmsg", "sendmmsg"}

// counter counts a process's calls from its making to stop.
type counter interface {
	stop() (calls, writes float64, err error)
}

// howToCount names the way that this machine offers.
func howToCount() (string, error) {
	c, err := newTracepoints(os.Getpid())
	if err == nil {
		c.stop()
		return "the kernel's tracepoints", nil
	}
	if _, missing := exec.LookPath("strace"); missing != nil {
		return "", fmt.Errorf("%w (as root: mount -t tracefs tracefs /sys/kernel/tracing); and strace is not installed", err)
	}
	return "strace, which slows the server: a lower bound", nil
}

func (b *bench) count(pid int) (counter, error) {
	if c, err := newTracepoints(pid); err == nil {
		return c, nil
	}
	return b.newStrace(pid)
}

// tracepoints are event counters of the kernel, on each thread of a process; threads that come later are inherited.
type tracepoints struct {
	calls, writes []int // descriptors
}

func newTracepoints(pid int) (*tracepoints, error) {
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

// strace is a running strace -c.
type strace struct {
	cmd  *exec.Cmd
	file string
}

func (b *bench) newStrace(pid int) (*strace, error) {
	s := &strace{file: filepath.Join(b.logs, "strace-"+strconv.Itoa(pid))}
	s.cmd = exec.Command("strace", "-c", "-f", "-o", s.file, "-p", strconv.Itoa(pid))
	if err := b.spawn.start(s.cmd, b.opt.loadCPUs); err != nil {
		return nil, err
	}
	time.Sleep(300 * time.Millisecond) // it attaches
	return s, nil
}

func (s *strace) stop() (calls, writes float64, err error) {
	s.cmd.Process.Signal(syscall.SIGINT)
	s.cmd.Wait() // it reports its own end by signal as a failure
	out, err := os.ReadFile(s.file)
	if err != nil {
		return 0, 0, err
	}
	return parseStrace(string(out))
}

// parseStrace reads the table of strace -c.
func parseStrace(table string) (calls, written float64, err error) {
	for line := range strings.SplitSeq(table, "\n") {
		f := strings.Fields(line)
		// % time, seconds, usecs/call, calls, [errors,] name
		if len(f) < 5 || f[len(f)-1] == "total" {
			continue
		}
		n, err := strconv.Atoi(f[3])
		if err != nil {
			continue // the head, or a rule
		}
		calls += float64(n)
		for _, name := range writes {
			if f[len(f)-1] == name {
				written += float64(n)
			}
		}
	}
	if calls == 0 {
		return 0, 0, errors.New("strace counted no calls")
	}
	return calls, written, nil
}
