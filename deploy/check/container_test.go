package check

import (
	"bufio"
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

const root = "../.."

// stages parses deploy/Dockerfile as docker build does. A warning of its linter is a fault.
func stages(t *testing.T) []instructions.Stage {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "deploy/Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range parsed.Warnings {
		t.Errorf("Dockerfile: %s", w.Short)
	}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, message string, _ []parser.Range) {
		t.Errorf("Dockerfile: %s: %s", rule, message)
	}})
	found, _, err := instructions.Parse(parsed.AST, lint)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestImage: the image holds the program alone, which runs as nobody, is probed, and can be scraped.
func TestImage(t *testing.T) {
	all := stages(t)
	last := all[len(all)-1]
	if last.BaseName != "scratch" {
		t.Errorf("the image is based on %s, want scratch", last.BaseName)
	}
	if platform := all[0].Platform; platform != "$BUILDPLATFORM" {
		t.Errorf("the build runs on %q, want $BUILDPLATFORM", platform)
	}
	var user, entry, probe, health string
	var ports, copied []string
	for _, c := range last.Commands {
		switch c := c.(type) {
		case *instructions.UserCommand:
			user = c.User
		case *instructions.EntrypointCommand:
			entry = strings.Join(c.CmdLine, " ")
		case *instructions.HealthCheckCommand:
			probe = strings.Join(c.Health.Test, " ")
		case *instructions.ExposeCommand:
			ports = append(ports, c.Ports...)
		case *instructions.CopyCommand:
			copied = append(copied, c.SourcePaths...)
		case *instructions.EnvCommand:
			for _, pair := range c.Env {
				if pair.Key == "HEALTH_ADDR" {
					health = pair.Value
				}
			}
		}
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %q, want %q", what, got, want)
		}
	}
	want("the user", user, "65532:65532")
	want("the entry point", entry, "/relaygate")
	want("the health check", probe, "CMD /relaygate -probe")
	want("HEALTH_ADDR", health, "0.0.0.0:8081")
	want("what is exposed", strings.Join(ports, " "), "8080 8081")
	want("what is copied", strings.Join(copied, " "), "/relaygate")
}

// buildContext copies what .dockerignore lets through, which is what COPY sees.
func buildContext(t *testing.T, to string) {
	t.Helper()
	f, err := os.Open(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if name == ".git" || name == "bin" {
				return filepath.SkipDir
			}
			return nil
		}
		if skip, err := ignored.MatchesOrParentMatches(name); err != nil || skip {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, ".") {
			t.Errorf("%s reaches the build", name)
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, text, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestImageRuns does what docker build and docker run would do: it runs the build stage's commands on what
// .dockerignore lets through, for two architectures, and then the program, in a root directory that holds nothing
// else, as the image's user.
func TestImageRuns(t *testing.T) {
	src, image := t.TempDir(), t.TempDir()
	buildContext(t, src)
	for _, arch := range []string{"arm64", runtime.GOARCH} { // the second one is run
		for _, c := range stages(t)[0].Commands {
			run, ok := c.(*instructions.RunCommand)
			if !ok {
				continue
			}
			line := strings.ReplaceAll(strings.Join(run.CmdLine, " "), "-o /relaygate", "-o "+filepath.Join(image, "relaygate"))
			sh := exec.Command("sh", "-c", line)
			sh.Dir = src
			sh.Env = append(os.Environ(), "TARGETOS=linux", "TARGETARCH="+arch, "TARGETVARIANT=", "COMMIT=abcdef12")
			if out, err := sh.CombinedOutput(); err != nil {
				t.Fatalf("RUN %s: %v\n%s", line, err, out)
			}
		}
	}
	if os.Getuid() != 0 {
		t.Skip("only root may change the root directory")
	}
	for dir := image; dir != "/"; dir = filepath.Dir(dir) { // TempDir is for its owner only
		if filepath.Base(dir) == "001" || filepath.Base(dir) == "002" || strings.HasPrefix(filepath.Base(dir), "Test") {
			_ = os.Chmod(dir, 0o755)
		}
	}
	inImage := func(args ...string) *exec.Cmd {
		c := exec.Command("/relaygate", args...)
		c.Dir = "/"
		c.Env = []string{"HOST=127.0.0.1", "PORT=0", "HEALTH_ADDR=127.0.0.1:0", "DRAIN_PERIOD=0s"}
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: image, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
		return c
	}
	out, err := inImage("-version").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("commit abcdef12")) {
		t.Errorf("-version in the image: %v, %s", err, out)
	}
	c := inImage()
	logs, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(30*time.Second, func() { _ = c.Process.Kill() }).Stop()
	var lines []string
	for in := bufio.NewScanner(logs); in.Scan(); {
		lines = append(lines, in.Text())
		if strings.Contains(in.Text(), `"msg":"started"`) {
			_ = c.Process.Signal(syscall.SIGTERM)
		}
	}
	err = c.Wait()
	if started := slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, `"msg":"started"`) }); err != nil || !started {
		t.Errorf("in the image it ended with %v, having said\n%s", err, strings.Join(lines, "\n"))
	}
}
