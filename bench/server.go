package main

import (
	"bytes"
	"cmp"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
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

	"relaygate/bench/load"
)

// server is a relay to measure.
type server struct {
	name    string
	about   string
	command []string     // what is started; PORT and HOST are in its environment
	source  string       // directory of the Go package that is built as command[0]; empty: it is there
	module  string       // whose version is reported
	custom  bool         // of -server: {port} in its command stands for the port
	running *load.Target // a running relay (-target) instead of all this
	pid     int

	cpus, loadCPUs []int    // its own, and the load's beside it
	env            []string // further variables

	// perConn is roughly what a silent connection takes of its memory, in bytes; to tell what fits, nothing else.
	perConn int

	// further ones are measured in some scenarios only, unless they are asked for.
	further bool
}

// subject is the name of the relay that the others are compared with, builtIn are those of the servers that bench makes.
const (
	subject = "relaygate"
	builtIn = "relaygate,gws,gorilla,nbhttp"
	quick   = "relaygate,gws"
)

// builtIns are the servers that bench makes itself.
func builtIns(o *options) []*server {
	own, peers := filepath.Join(o.bin, "peers", subject), filepath.Join(o.bin, "peers", "peers")
	peer := func(name, module string, perConn int, about string) *server {
		source := filepath.Join(o.repo, "bench", "peers")
		return &server{name: name, about: about, command: []string{peers, name}, source: source, module: module, perConn: perConn}
	}
	return []*server{
		{name: subject, about: "this relay", command: []string{own}, source: o.repo, module: "github.com/lesismal/nbio", perConn: 1 << 10},
		peer("gws", "github.com/lxzan/gws", 10<<10, "lxzan/gws: event handler and a goroutine per connection, a write queue without a bound"),
		peer("gorilla", "github.com/gorilla/websocket", 14<<10, "gorilla/websocket: two goroutines and a channel of 256 messages per connection, as in its chat example"),
		peer("nbhttp", "github.com/lesismal/nbio", 2<<10, "nbio with nbhttp/websocket and WriteMessage: an event loop"),
	}
}

var customServer = regexp.MustCompile(`^([A-Za-z0-9._-]+)=(.*\S.*)$`)

// chooseServers reads -target, or -servers and -server.
func chooseServers(o *options) (out []*server, err error) {
	if o.target != "" {
		target, err := running(o.target)
		return []*server{{name: "target", about: o.target, running: target, pid: o.pid}}, err
	}
	known := builtIns(o)
	for name := range strings.FieldsFuncSeq(o.servers, func(r rune) bool { return r == ',' }) {
		i := slices.IndexFunc(known, func(s *server) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-servers: unknown server %q (want some of %s)", name, builtIn)
		}
		known[i].further = o.furtherInSome && !strings.Contains(quick, name)
		out = append(out, known[i])
	}
	for _, definition := range o.custom {
		m := customServer.FindStringSubmatch(definition)
		if m == nil {
			return nil, fmt.Errorf("-server %q: want NAME=command", definition)
		}
		out = append(out, &server{name: m[1], about: m[2], custom: true, perConn: 24 << 10})
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

// running resolves a -target URL.
func running(target string) (*load.Target, error) {
	u, err := url.Parse(target)
	if err != nil || u.Hostname() == "" || u.Scheme != "ws" {
		return nil, fmt.Errorf("-target %q: want ws://host:port/v1 (TLS would measure the load)", target)
	}
	addr, err := net.ResolveTCPAddr("tcp4", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80")))
	if err != nil {
		return nil, fmt.Errorf("-target: %w", err)
	}
	at := addr.AddrPort()
	t := &load.Target{
		Host: u.Host, Path: cmp.Or(strings.TrimSuffix(u.Path, "/"), "/v1") + "?", Secret: os.Getenv("ADMIN_SECRET"),
		Addr: netip.AddrPortFrom(at.Addr().Unmap(), at.Port()),
	}
	if u.RawQuery != "" {
		t.Path += u.RawQuery + "&"
	}
	return t, nil
}

// make builds the server's binary.
func (s *server) make(ctx context.Context) error {
	binary, err := filepath.Abs(s.command[0])
	if err != nil {
		return err
	}
	// As the product is shipped: static, and with a commit set by the linker, since relaygate without one reads it from Go's
	// build information, which stays in its memory.
	build := exec.CommandContext(ctx, "go", "build", "-C", s.source, "-trimpath", "-ldflags", "-s -w -X main.commit=measured", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, lastLines(out))
	}
	return nil
}

// version reads from the binary its own version, which names the commit, Go's and the library's.
func (s *server) version() (string, error) {
	if s.source == "" {
		return "", nil
	}
	info, err := buildinfo.ReadFile(s.command[0])
	if err != nil {
		return "", err
	}
	v := info.Main.Version + ", " + info.GoVersion
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
	return errors.Join(c.Start(), pin(0, b.loadCPUs))
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
	b, err := os.ReadFile(p.log)
	if err != nil {
		return ""
	}
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
		port := 20000 + rand.N(12000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
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
