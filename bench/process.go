package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"relaygate/bench/host"
)

// spawner starts processes from one thread that lives as long as this process: the kernel's "signal me when my parent
// dies" means the thread that forked, and Go's threads come and go.
type spawner chan func()

func newSpawner() spawner {
	s := make(spawner)
	go func() {
		runtime.LockOSThread()
		for f := range s {
			f()
		}
	}()
	return s
}

func (s spawner) start(c *exec.Cmd) error {
	done := make(chan error)
	s <- func() { done <- c.Start() }
	return <-done
}

// pinnedCommand runs a program on the given CPUs, by way of this binary (see execPinned): set before the program starts,
// the affinity also decides how many threads a Go program runs.
func pinnedCommand(cpus []int, path string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := exec.Command(self, append([]string{"-exec-pinned", host.FormatCPUs(cpus), path}, args...)...)
	// Ctrl-C goes to the whole foreground group; children are ended by us, in order.
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return c, nil
}

// execPinned becomes the program named in args, restricted to CPUs. The death signal survives the exec.
func execPinned(args []string) error {
	if len(args) < 2 {
		return errors.New("-exec-pinned wants CPUs and a program")
	}
	cpus, err := host.ParseCPUs(args[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if len(cpus) > 0 {
		if err := host.Pin(cpus); err != nil {
			return err
		}
	}
	path, err := exec.LookPath(args[1])
	if err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", path, syscall.Exec(path, args[1:], os.Environ()))
}

// process is a started server. Its output goes to a file, whose end explains a death.
type process struct {
	name string
	pid  int
	port int
	log  string
	dead chan struct{}
	err  error // set before dead is closed
	cmd  *exec.Cmd
}

// startServer starts a relay on a free loopback port and waits until it accepts.
func (b *bench) startServer(ctx context.Context, s server, env ...string) (*process, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	cmd, err := pinnedCommand(b.opt.serverCPUs, s.path, s.args...)
	if err != nil {
		return nil, err
	}
	log, err := os.CreateTemp(b.logs, s.name+"-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	// A fixed environment, so that a figure does not depend on whose shell it was. gctrace costs a line per collection
	// and gives the share of garbage collection in any Go server without touching it.
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "GODEBUG=gctrace=1",
		"HOST=127.0.0.1", "PORT=" + strconv.Itoa(port),
	}, append(s.env, env...)...)
	p := &process{name: s.name, port: port, log: log.Name(), dead: make(chan struct{}), cmd: cmd}
	if err := b.spawn.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	p.pid = cmd.Process.Pid
	go func() {
		p.err = cmd.Wait()
		close(p.dead)
	}()
	if err := p.awaitAccept(ctx, b.opt.timeout); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *process) awaitAccept(ctx context.Context, limit time.Duration) error {
	until := time.Now().Add(limit)
	for {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)))
		if err == nil {
			return c.Close()
		}
		if err := p.alive(); err != nil {
			return err
		}
		if time.Now().After(until) {
			return fmt.Errorf("%s does not accept connections after %s%s", p.name, limit, p.lastLines())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// alive returns an error that says how the server ended, or nil.
func (p *process) alive() error {
	select {
	case <-p.dead:
		return fmt.Errorf("%s ended (%v)%s", p.name, p.cmd.ProcessState, p.lastLines())
	default:
		return nil
	}
}

// ended is alive for a server that has just been seen to misbehave: its end may be reported a moment later.
func (p *process) ended() error {
	select {
	case <-p.dead:
	case <-time.After(200 * time.Millisecond):
	}
	return p.alive()
}

// stop asks the server to end, and makes it.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.dead:
	case <-time.After(2 * time.Second):
		p.cmd.Process.Kill()
		<-p.dead
	}
}

// lastLines is the end of the server's output, collections left out.
func (p *process) lastLines() string {
	f, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		f.Seek(max(size-16<<10, 0), io.SeekStart)
	}
	b, _ := io.ReadAll(f)
	var lines []string
	for line := range bytes.Lines(b) {
		if s := strings.TrimRight(string(line), "\n"); s != "" && !isGCTrace(s) {
			lines = append(lines, s)
		}
	}
	if len(lines) == 0 {
		return "; it wrote nothing"
	}
	return "; its last lines:\n    " + strings.Join(lines[max(len(lines)-8, 0):], "\n    ")
}

// freePort finds a port outside the range that outgoing connections are given, which the load uses up.
func freePort() (int, error) {
	for range 200 {
		port := 20000 + int(time.Now().UnixNano()/1000%12000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
		time.Sleep(37 * time.Microsecond)
	}
	return 0, errors.New("no free port between 20000 and 32000")
}
