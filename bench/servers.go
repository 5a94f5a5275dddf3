package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// server is a relay to measure.
type server struct {
	name   string
	about  string
	path   string   // its binary
	args   []string // of a custom one
	env    []string
	build  []string // go's arguments that make path; nil: it is there
	module string   // whose version is reported
	source string   // the version of its source, if that is not a module's
	url    string   // a running relay (-target) instead of all this
	pid    int

	// perConn is roughly what a silent connection takes of its memory, in bytes; to tell what fits, nothing else.
	perConn int
}

// subject is the name of the relay that the others are compared with.
const subject = "relaygate"

// known are the servers that make bench measures. Their binaries go to bin/peers.
func known(repo, bin string) []server {
	peer := func(name, module string, perConn int, about string) server {
		path := filepath.Join(bin, "peers", name)
		return server{
			name: name, about: about, path: path, module: module, perConn: perConn,
			build: []string{"build", "-C", filepath.Join(repo, "bench", "peers"), "-o", path, "./" + name},
		}
	}
	own, source := filepath.Join(bin, "peers", subject), describe(repo)
	synchronous := peer("gws", "github.com/lxzan/gws", 10<<10, "gws, but a message for one recipient is written at once: whoever writes to a peer that does not read waits for it")
	synchronous.name, synchronous.args = "gws-sync", []string{"-sync"}
	return []server{
		{
			name: subject, about: "this relay", path: own, module: "github.com/lesismal/nbio", perConn: 1 << 10, source: source,
			build: []string{"build", "-C", repo, "-trimpath", "-ldflags", "-s -w -X main.version=" + source, "-o", own, "."}, // as make build does
		},
		peer("gws", "github.com/lxzan/gws", 10<<10, "lxzan/gws: event handler and a goroutine per connection"),
		synchronous,
		peer("gorilla", "github.com/gorilla/websocket", 14<<10, "gorilla/websocket: hub, and two goroutines per connection"),
		peer("coder", "github.com/coder/websocket", 24<<10, "coder/websocket: two goroutines per connection"),
		peer("nbhttp", "github.com/lesismal/nbio", 2<<10, "nbio with nbhttp/websocket and WriteMessage: an event loop"),
	}
}

// perConn is what the most expensive of some servers takes for a connection, in bytes.
func perConn(servers []server) int {
	most := 0
	for _, s := range servers {
		most = max(most, s.perConn)
	}
	return most
}

// describe names the commit of a source tree, and whether it was changed since.
func describe(repo string) string {
	out, err := exec.Command("git", "-C", repo, "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return "devel"
	}
	return strings.TrimSpace(string(out))
}

// serverName is what can be part of a file's name.
var serverName = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// chooseServers reads the -servers list: known names, or name=command for another one that takes HOST and PORT.
func chooseServers(list, repo, bin string) ([]server, error) {
	all := known(repo, bin)
	var out []server
	seen := map[string]bool{}
next:
	for name := range strings.SplitSeq(list, ",") {
		name, command, custom := strings.Cut(strings.TrimSpace(name), "=")
		if !serverName.MatchString(name) {
			return nil, fmt.Errorf("-servers: %q is no name (letters, digits, . _ -)", name)
		}
		if seen[name] {
			return nil, fmt.Errorf("-servers: %s is listed twice", name)
		}
		seen[name] = true
		if custom {
			words := strings.Fields(command)
			if len(words) == 0 {
				return nil, fmt.Errorf("-servers: %q is not name=command", name+"="+command)
			}
			out = append(out, server{name: name, about: command, path: words[0], args: words[1:], perConn: 24 << 10})
			continue
		}
		for _, s := range all {
			if s.name == name {
				out = append(out, s)
				continue next
			}
		}
		return nil, fmt.Errorf("-servers: unknown server %q (want relaygate, gws, gws-sync, gorilla, coder, nbhttp or name=command)", name)
	}
	return out, nil
}

// make builds the server's binary.
func (s *server) make(ctx context.Context) error {
	if s.build == nil {
		return nil
	}
	path, err := filepath.Abs(s.path)
	if err != nil {
		return err
	}
	args := append([]string(nil), s.build...)
	for i, a := range args {
		if a == s.path {
			args[i] = path
		}
	}
	build := exec.CommandContext(ctx, "go", args...)
	// Ctrl-C is for us: the compilers that go has started end with it.
	build.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	build.Cancel = func() error { return syscall.Kill(-build.Process.Pid, syscall.SIGTERM) }
	build.WaitDelay = 2 * time.Second
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // static, as the product is shipped
	out, err := build.CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("build %s: %w\n    %s", s.name, err, strings.Join(lines[max(len(lines)-8, 0):], "\n    "))
	}
	return nil
}

// version tells Go version and library version from the binary.
func (s *server) version() string {
	info, err := buildinfo.ReadFile(s.path)
	if err != nil {
		if _, err := os.Stat(s.path); err != nil {
			return ""
		}
		return "not a Go binary"
	}
	v := info.GoVersion
	if s.source != "" {
		v = s.source + ", " + v
	}
	for _, d := range info.Deps {
		if d.Path == s.module {
			v += ", " + strings.TrimPrefix(d.Path, "github.com/") + " " + d.Version
		}
	}
	return v
}
