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
