package main

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// isGCTrace tells the lines of GODEBUG=gctrace=1 from a server's own:
//
//	gc 5 @0.080s 2%: 0.02+0.31+0.01 ms clock, 0.02+0.05/0.2/0.1+0.01 ms cpu, 4->4->1 MB, …
func isGCTrace(line string) bool {
	return strings.HasPrefix(line, "gc ") && strings.Contains(line, " ms clock, ")
}

// logSize is where the server's log ends now.
func (p *process) logSize() int64 {
	fi, err := os.Stat(p.log)
	if err != nil {
		return 0
	}
	return fi.Size()
}

// gcTime is the CPU time of the garbage collections that were reported in the log between two of its sizes.
func (p *process) gcTime(from, to int64) (total time.Duration, collections int) {
	f, err := os.Open(p.log)
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	b, _ := io.ReadAll(io.NewSectionReader(f, from, to-from))
	for line := range bytes.Lines(b) {
		if d, ok := parseGCTrace(string(line)); ok {
			total += d
			collections++
		}
	}
	return total, collections
}

// parseGCTrace sums a line's "ms cpu" phases: sweep termination + assist/background/idle mark + mark termination.
func parseGCTrace(line string) (time.Duration, bool) {
	if !isGCTrace(line) {
		return 0, false
	}
	_, rest, _ := strings.Cut(line, " ms clock, ")
	phases, _, ok := strings.Cut(rest, " ms cpu")
	if !ok {
		return 0, false
	}
	var ms float64
	for _, s := range strings.FieldsFunc(phases, func(r rune) bool { return r == '+' || r == '/' }) {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return 0, false
		}
		ms += v
	}
	return time.Duration(ms * 1e6), true
}
