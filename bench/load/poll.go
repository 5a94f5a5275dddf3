package load

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// noPwait2 is set on kernels before 5.11; the open loop's clock then has a millisecond's resolution.
var noPwait2 bool

// rawPoll asks for events without waiting.
func rawPoll(ep int, events []unix.EpollEvent) (int, error) {
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	return polled(n, e)
}

// blockingPoll waits for events, at most for limit (nil: for ever).
func blockingPoll(ep int, events []unix.EpollEvent, limit *unix.Timespec) (int, error) {
	if !noPwait2 {
		n, _, e := syscall.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(ep), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)),
			uintptr(unsafe.Pointer(limit)), 0, 0)
		if e != unix.ENOSYS {
			return polled(n, e)
		}
		noPwait2 = true
	}
	ms := -1
	if limit != nil {
		ms = int((limit.Nano() + int64(time.Millisecond) - 1) / int64(time.Millisecond))
	}
	n, err := unix.EpollWait(ep, events, ms)
	if err == unix.EINTR {
		return 0, nil
	}
	return n, err
}

func polled(n uintptr, e syscall.Errno) (int, error) {
	if e == unix.EINTR {
		return 0, nil
	}
	if e != 0 {
		return 0, fmt.Errorf("epoll_wait: %w", e)
	}
	return int(n), nil
}
