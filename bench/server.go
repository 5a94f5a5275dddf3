package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// server is a relay to measure.
type server struct {
	name    string
	about   string
	command []string // what is started; PORT and HOST are in its environment
	build   []string // go's arguments that make command[0]; nil: it is there
	module  string   // whose version is reported
	source  string   // the version of its source, if that is not a module's
	custom  bool     // of -server: {port} in its command stands for the port
	url     string   // a running relay (-target) instead of all this
	pid     int

	cpus, loadCPUs []int    // its own, and the load's beside it
	env            []string // further variables

	// perConn is roughly what a silent connection takes of its memory, in bytes; to tell what fits, nothing else.
	perConn int

	// further ones are measured in some scenarios only, unless they are asked for.
	further bool
}

// subject is the name of the relay that the others are compared with.
const subject = "relaygate"

// builtIns are the servers that bench makes itself.
func builtIns(o *options) []*server {
	own, peers := filepath.Join(o.bin, "peers", subject), filepath.Join(o.bin, "peers", "peers")
	source := describe(o.repo)
	peer := func(name, module string, perConn int, about string) *server {
		return &server{
			name: name, about: about, command: []string{peers, name}, module: module, perConn: perConn,
			build: []string{"build", "-C", filepath.Join(o.repo, "bench"), "-trimpath", "-ldflags", "-s -w", "-o", peers, "./peers"},
		}
	}
	return []*server{
		{
			name: subject, about: "this relay", command: []string{own}, module: "github.com/lesismal/nbio", perConn: 1 << 10, source: source,
			build: []string{"build", "-C", o.repo, "-trimpath", "-ldflags", "-s -w -X main.commit=" + source, "-o", own, "."}, // as make build does
		},
		peer("gws", "github.com/lxzan/gws", 10<<10, "lxzan/gws: event handler and a goroutine per connection, a write queue without a bound"),
		peer("gorilla", "github.com/gorilla/websocket", 14<<10, "gorilla/websocket: two goroutines and a channel of 256 messages per connection, as in its chat example"),
		peer("nbhttp", "github.com/lesismal/nbio", 2<<10, "nbio with nbhttp/websocket and WriteMessage: an event loop"),
	}
}

// describe names the commit of a source tree, and whether it was changed since.
func describe(repo string) string {
	out, err := exec.Command("git", "-C", repo, "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*").Output()
	if err != nil {
		return "devel"
	}
	return strings.TrimSpace(string(out))
}

var serverName = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// builtIn are the names of the servers that bench makes.
const builtIn = "relaygate,gws,gorilla,nbhttp"

// chooseServers reads -target, or -servers and -server.
func chooseServers(o *options) (out []*server, err error) {
	if o.target != "" {
		return []*server{{name: "target", about: o.target, url: o.target, pid: o.pid}}, nil
	}
	names := o.servers
	switch {
	case o.set["servers"]:
	case o.custom != nil:
		names = subject
	case o.quick:
		names = "relaygate,gws"
	default:
		names = builtIn
	}
	known := builtIns(o)
	for name := range strings.FieldsFuncSeq(names, func(r rune) bool { return r == ',' }) {
		i := slices.IndexFunc(known, func(s *server) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-servers: unknown server %q (want some of %s)", name, builtIn)
		}
		known[i].further = !o.set["servers"] && name != subject && name != "gws"
		out = append(out, known[i])
	}
	for _, definition := range o.custom {
		name, command, _ := strings.Cut(definition, "=")
		if !serverName.MatchString(name) || strings.TrimSpace(command) == "" {
			return nil, fmt.Errorf("-server %q: want NAME=command", definition)
		}
		out = append(out, &server{name: name, about: command, custom: true, perConn: 24 << 10})
	}
	for i, s := range out {
		if slices.ContainsFunc(out[:i], func(x *server) bool { return x.name == s.name }) {
			return nil, fmt.Errorf("server %s is listed twice", s.name)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("-servers: there is nothing to measure")
	}
	return out, nil
}

// make builds the server's binary.
func (s *server) make(ctx context.Context) (err error) {
	args := slices.Clone(s.build)
	i := slices.Index(args, "-o") + 1
	if args[i], err = filepath.Abs(args[i]); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", args...)
	// Ctrl-C is for us: the compilers that go has started end with it.
	build.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	build.Cancel = func() error { return syscall.Kill(-build.Process.Pid, syscall.SIGTERM) }
	build.WaitDelay = 2 * time.Second
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // static, as the product is shipped
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, lastLines(out))
	}
	return nil
}

// version reads Go's version and the library's from the binary.
func (s *server) version() (string, error) {
	if s.build == nil {
		return "", nil
	}
	info, err := buildinfo.ReadFile(s.command[0])
	if err != nil {
		return "", err
	}
	v := strings.TrimPrefix(s.source+", "+info.GoVersion, ", ")
	for _, d := range info.Deps {
		if d.Path == s.module {
			v += ", " + strings.TrimPrefix(d.Path, "github.com/") + " " + d.Version
		}
	}
	return v, nil
}

// spawn starts a process on CPUs which it inherits from this thread: a program is pinned before it begins,
// which also decides how many threads a Go program runs. It must be called on the main thread: "signal me when my parent
// dies" means to the kernel the thread that forked, and Go's other threads come and go.
func (b *bench) spawn(c *exec.Cmd, cpus []int) error {
	// Ctrl-C goes to the whole foreground group; children are ended by us, in order.
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := pin(0, cpus); err != nil {
		return err
	}
	return errors.Join(c.Start(), pin(0, b.opt.loadCPUs))
}

// process is a started server. Its output goes to a file, whose end explains a death.
type process struct {
	name string
	port int
	log  string
	dead chan struct{}
	cmd  *exec.Cmd
}

// startServer starts a relay on a free loopback port and waits until it accepts.
func (b *bench) startServer(ctx context.Context, s *server, env ...string) (*process, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	command := s.command
	if s.custom {
		// A shell reads the quotes, and is replaced by the command.
		command = []string{"/bin/sh", "-c", "exec " + strings.ReplaceAll(s.about, "{port}", strconv.Itoa(port))}
	}
	log, err := os.CreateTemp(b.logs, s.name+"-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	// A fixed environment, so that a figure does not depend on whose shell it was.
	cmd.Env = append(append(env, s.env...), "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"), "HOST=127.0.0.1", "PORT="+strconv.Itoa(port))
	p := &process{name: s.name, port: port, log: log.Name(), dead: make(chan struct{}), cmd: cmd}
	if err := b.spawn(cmd, s.cpus); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	go func() {
		cmd.Wait()
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
		if err := p.ended(0); err != nil {
			return err
		}
		if time.Now().After(until) {
			return fmt.Errorf("%s does not accept connections after %s%s", p.name, limit, p.lastWords())
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

// ended returns an error that says how the server ended, or nil. One that has just been seen to misbehave is given a
// moment: its end may be reported later.
func (p *process) ended(moment time.Duration) error {
	select {
	case <-p.dead:
		return fmt.Errorf("%s ended (%v)%s", p.name, p.cmd.ProcessState, p.lastWords())
	case <-time.After(moment):
		return nil
	}
}

// stop asks the server to end, and makes it and what it has started.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.dead:
	case <-time.After(2 * time.Second):
	}
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.dead
}

func (p *process) lastWords() string {
	f, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	f.Seek(-16<<10, io.SeekEnd) // fails for a shorter one, which is then read from its beginning
	b, _ := io.ReadAll(f)
	if len(bytes.TrimSpace(b)) == 0 {
		return "; it wrote nothing"
	}
	return "; its last lines:\n" + lastLines(b)
}

func lastLines(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(len(lines)-8, 0):], "\n")
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

// pin restricts a thread to CPUs; 0 is the calling one.
func pin(thread int, cpus []int) error {
	var set unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	if err := unix.SchedSetaffinity(thread, &set); err != nil {
		return fmt.Errorf("run on CPUs %s: %w", formatCPUs(cpus), err)
	}
	return nil
}
