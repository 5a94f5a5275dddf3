package server

import (
	"fmt"
	"syscall"

	"github.com/lesismal/nbio"
)

// maxDescriptors bounds nbio's table of connections, which is made at the start
// with 8 bytes for each: some hosts set no limit at all on open files.
const maxDescriptors = 1 << 21

// RaiseFileLimit raises the soft limit on open files to the hard one, tells nbio,
// and returns what holds now. It must be called before Listen.
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
	files := min(limit.Cur, maxDescriptors)
	nbio.MaxOpenFiles = int(files)
	return files, err
}
