package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// countAll adds a round under strace for each server. Tracing slows a server many times over, which lets it batch more
// than it otherwise would, so the count is a lower bound; nothing else of that round is kept.
func (b *bench) countAll(ctx context.Context, sc scenario, servers []server) {
	if _, err := exec.LookPath("strace"); err != nil {
		b.note("System calls were not counted: strace is not installed.")
		return
	}
	for i, s := range servers {
		if ctx.Err() != nil || s.url != "" && s.pid == 0 {
			return
		}
		b.progress.status("%s: system calls of %s", sc.name, s.name)
		res := &b.results().Results[i]
		n, err := b.countSyscalls(ctx, sc, s)
		switch {
		case err != nil:
			b.note(fmt.Sprintf("System calls of %s were not counted: %v", s.name, err))
		case len(res.Rounds) > 0:
			res.Rounds[len(res.Rounds)-1].Metrics[report.Syscalls] = n
			b.progress.line("%s, %s: %.3f system calls per delivery (under strace)", sc.name, s.name, n)
		}
	}
}

func (b *bench) countSyscalls(ctx context.Context, sc scenario, srv server) (perDelivery float64, err error) {
	s, err := b.begin(ctx, srv, sc.shape.Conns(), sc.shape.Rooms)
	if err != nil {
		return 0, err
	}
	defer s.end()
	if err := s.connect(ctx, sc.shape); err != nil {
		return 0, err
	}
	file := filepath.Join(b.logs, "strace-"+sc.name+"-"+srv.name)
	trace := exec.Command("strace", "-c", "-f", "-o", file, "-p", strconv.Itoa(s.t.pid))
	trace.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := b.spawn.start(trace); err != nil {
		return 0, err
	}
	stop := func() error {
		trace.Process.Signal(os.Interrupt)
		return trace.Wait()
	}
	// The traffic begins when the tracer is attached and ends before it leaves, so every delivery's calls are counted.
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		stop()
		return 0, err
	}
	_, err = s.fleet.all(ctx, b.opt.timeout, load.Command{Do: load.DoStart})
	if err == nil {
		err = pause(ctx, b.opt.duration)
	}
	var t load.Reply
	if err == nil {
		t, err = s.fleet.all(ctx, b.opt.timeout, load.Command{Do: load.DoHalt})
	}
	stop()
	if err != nil {
		return 0, err
	}
	out, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	calls, err := parseStrace(string(out))
	if err != nil {
		return 0, err
	}
	if t.Marks.Delivered == 0 {
		return 0, errors.New("no message was delivered under strace")
	}
	return float64(calls) / float64(t.Marks.Delivered), nil
}

// parseStrace sums the table of strace -c. Waiting in a futex is the scheduler's and is counted like any other call.
func parseStrace(table string) (calls int, err error) {
	for line := range strings.SplitSeq(table, "\n") {
		f := strings.Fields(line)
		// % time, seconds, usecs/call, calls, [errors,] name
		if len(f) < 5 || f[len(f)-1] == "total" || f[len(f)-1] == "syscall" || strings.HasPrefix(f[0], "-") {
			continue
		}
		n, err := strconv.Atoi(f[3])
		if err != nil {
			return 0, fmt.Errorf("strace line %q", line)
		}
		calls += n
	}
	if calls == 0 {
		return 0, fmt.Errorf("strace counted no calls")
	}
	return calls, nil
}
