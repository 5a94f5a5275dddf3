package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	url    string   // a running relay (-target) instead of all this
	pid    int
}

// subject is the name of the relay that the others are compared with.
const subject = "relaygate"

// known are the servers that make bench measures. Their binaries go to bin/peers.
func known(repo, bin string) []server {
	peer := func(name, module, about string) server {
		path := filepath.Join(bin, "peers", name)
		return server{
			name: name, about: about, path: path, module: module,
			build: []string{"build", "-C", filepath.Join(repo, "bench", "peers"), "-o", path, "./" + name},
		}
	}
	own := filepath.Join(bin, "peers", subject)
	return []server{
		{name: subject, about: "this relay", path: own, module: "github.com/lesismal/nbio", build: []string{"build", "-C", repo, "-o", own, "."}},
		peer("gws", "github.com/lxzan/gws", "lxzan/gws: event handler and a goroutine per connection"),
		peer("gorilla", "github.com/gorilla/websocket", "gorilla/websocket: hub, and two goroutines per connection"),
		peer("coder", "github.com/coder/websocket", "coder/websocket: two goroutines per connection"),
		peer("nbhttp", "github.com/lesismal/nbio", "nbio with nbhttp/websocket and WriteMessage: an event loop"),
	}
}

// chooseServers reads the -servers list: known names, or name=command for another one that takes HOST and PORT.
func chooseServers(list, repo, bin string) ([]server, error) {
	all := known(repo, bin)
	var out []server
	seen := map[string]bool{}
next:
	for name := range strings.SplitSeq(list, ",") {
		name, command, custom := strings.Cut(strings.TrimSpace(name), "=")
		if seen[name] {
			return nil, fmt.Errorf("-servers: %s is listed twice", name)
		}
		seen[name] = true
		if custom {
			words := strings.Fields(command)
			if name == "" || len(words) == 0 {
				return nil, fmt.Errorf("-servers: %q is not name=command", name+"="+command)
			}
			out = append(out, server{name: name, about: command, path: words[0], args: words[1:]})
			continue
		}
		for _, s := range all {
			if s.name == name {
				out = append(out, s)
				continue next
			}
		}
		return nil, fmt.Errorf("-servers: unknown server %q (want relaygate, gws, gorilla, coder, nbhttp or name=command)", name)
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
	for _, d := range info.Deps {
		if d.Path == s.module {
			v += ", " + strings.TrimPrefix(d.Path, "github.com/") + " " + d.Version
		}
	}
	return v
}
