package server

import (
	"fmt"
	"syscall"
)

// RaiseFileLimit raises the soft limit on open files to the hard limit, and returns the limit that now holds.
func RaiseFileLimit() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the open-file limit: %w", err)
	}
	var err error
	if soft := limit.Cur; soft < limit.Max {
		limit.Cur = limit.Max
		if err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			err = fmt.Errorf("raise the open-file limit from %d to %d: %w", soft, limit.Max, err)
			limit.Cur = soft
		}
	}
	return limit.Cur, err
}

// Descriptors that are not connections.
const (
	ownFiles     = 32 // listener, log, Go's runtime, what a library opens for a moment
	filesPerLoop = 8  // epoll instances and eventfds, ours and nbio's
)

// refusalFiles returns how many connections above a limit of most are accepted, so that they can be refused
// with an HTTP answer: an eighth, at least 16 and at most 1,024.
func refusalFiles(most int) int { return min(max(most/8, 16), 1024) }

// ConnectionLimit returns how many connections a process with that many descriptors and loops can have, with
// room for what else it opens and for connections that are to be refused.
func ConnectionLimit(files uint64, loops int) int {
	rest := int(min(files, maxCount)) - ownFiles - filesPerLoop*loops
	most := max(rest*8/9, rest-refusalFiles(maxCount)) // an eighth of most is left, or as much as is ever needed
	return max(min(most, rest-refusalFiles(0)), 1)
}
