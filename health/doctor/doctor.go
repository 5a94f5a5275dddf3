// Package doctor finds out which limits of a host stand in the way of how many connections, and which line raises
// each. It reads /proc and /sys, and changes nothing. It knows no sockets and no settings: its caller says what a
// connection takes.
package doctor

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"strconv"
	"strings"
)

// Any is Limit.Allows where there is no limit.
const Any = math.MaxInt64

// Limit is one limit of the host, and what it means.
type Limit struct {
	Name   string
	Found  string // its value
	Allows int64  // connections, or Any
	Raise  string // the line that raises it to what is wanted
	Note   string // what it is for
	Advice bool   // it is no limit to connections in general
	Err    error  // it could not be read
}

// Host is a host to look at.
type Host struct {
	Root      fs.FS // its root directory, of which proc and sys are read
	PageBytes int64 // of memory

	// What a connection takes.
	Connections func(files uint64) int // that an open-file limit allows
	PeerBytes   int64                  // of memory, of a silent one: in the process and in the kernel
	FixedBytes  int64                  // of memory, of the process without connections
}

// Limits returns all limits. wanted is the number of connections that the lines are for.
func (h *Host) Limits(wanted int64) []Limit {
	checks := []func(int64) Limit{
		h.openFiles, h.mostOpenFiles, h.filesOfAll, h.epollWatches, h.acceptQueue, h.handshakes, h.socketMemory,
		h.tracked, h.memory, h.cgroupMemory, h.receiveBuffers, h.sendBuffers, h.ports,
	}
	limits := make([]Limit, 0, len(checks))
	for _, check := range checks {
		limits = append(limits, check(wanted))
	}
	return limits
}

// Report writes what the limits mean for the wanted number of connections, and reports whether it fits. It does not
// if a limit could not be read.
func Report(w io.Writer, wanted int64, limits []Limit) (fits bool) {
	var low, unknown []string
	least := int64(Any)
	for _, l := range limits {
		verdict := "ok"
		switch {
		case l.Err != nil:
			verdict = "?"
			unknown = append(unknown, l.Name)
		case l.Advice:
			verdict = "note"
		case l.Allows < wanted:
			verdict = "LOW"
			low = append(low, l.Name)
		}
		if l.Err == nil && !l.Advice {
			least = min(least, l.Allows)
		}
		l.write(w, verdict, wanted)
	}
	switch {
	case len(low) > 0:
		fmt.Fprintf(w, "\n%s connections do not fit, %s do. Too low: %s\n", number(wanted), number(least), strings.Join(low, ", "))
	case len(unknown) > 0:
		fmt.Fprintf(w, "\nwhether %s connections fit is not known: cannot read %s\n", number(wanted), strings.Join(unknown, ", "))
	default:
		fmt.Fprintf(w, "\n%s connections fit; %s would\n", number(wanted), number(least))
	}
	return len(low)+len(unknown) == 0
}

func (l *Limit) write(w io.Writer, verdict string, wanted int64) {
	if l.Err != nil {
		fmt.Fprintf(w, "%-4s  %s: %v\n", verdict, l.Name, l.Err)
		return
	}
	fmt.Fprintf(w, "%-4s  %-34s %-34s allows %s\n", verdict, l.Name, l.Found, number(l.Allows))
	if l.Note != "" {
		fmt.Fprintf(w, "      %s\n", l.Note)
	}
	if l.Allows < wanted && l.Raise != "" {
		verb := "raise it"
		if l.Advice {
			verb = "change it"
		}
		fmt.Fprintf(w, "      %s: %s\n", verb, l.Raise)
	}
}

// number writes n with commas, or "any number".
func number(n int64) string {
	if n == Any {
		return "any number"
	}
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
