package main

import (
	"bytes"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	f := func(environ []string, args string, status int, wantOut, wantErr []string) {
		t.Helper()
		c := command(t, environ, append([]string{"RELAYGATE"}, strings.Fields(args)...)...)
		var stdout, stderr bytes.Buffer
		c.Stdout, c.Stderr = &stdout, &stderr
		_ = c.Run()
		if got := c.ProcessState.ExitCode(); got != status {
			t.Errorf("relaygate %s with %v: exit status %d, want %d", args, environ, got, status)
		}
		check := func(name, text string, want []string) {
			if want == nil && text != "" {
				t.Errorf("relaygate %s: %s is %q, want nothing", args, name, text)
			}
			for _, w := range want {
				if !strings.Contains(text, w) {
					t.Errorf("relaygate %s: %s is %q, want %q in it", args, name, text, w)
				}
			}
		}
		check("standard output", stdout.String(), wantOut)
		check("standard error", stderr.String(), wantErr)
	}
	f(nil, "-version", 0, []string{"relaygate " + version + " (commit abcdef12, " + runtime.Version() + ")\n"}, nil)
	f(nil, "-check", 0, []string{"valid"}, nil)
	f([]string{"CONNECTION_CHECK_INTERVAL=30"}, "-check", 0, []string{"valid"}, []string{"warning: CONNECTION_CHECK_INTERVAL: 30 without a unit is 30ms"})
	f([]string{"PORT=0x", "MAX_MESSAGE_BYTES=0", "LOG_FORMAT=xml"}, "-check", 2, nil, []string{"PORT: ", "MAX_MESSAGE_BYTES: ", "LOG_FORMAT: "})
	f([]string{"ADMIN_SECRET=not a token"}, "", 2, nil, []string{"ADMIN_SECRET: "})
	f(nil, "-nonsense", 2, nil, []string{"-nonsense", "-help"})
	f(nil, "-connections 5", 2, nil, []string{"-connections", "-doctor"})
	f(nil, "-check -root /tmp", 2, nil, []string{"-root", "-doctor"})
	f(nil, "serve", 2, nil, []string{`"serve"`})
	f(nil, "-help", 0, []string{
		"HOST", "PORT (default: 8080)", "ADMIN_SECRET", "ALLOWED_ORIGINS", "CONNECTION_CHECK_INTERVAL (default: 30000)", "milliseconds",
		"HANDSHAKE_TIMEOUT (default: 10s)", "MAX_MESSAGE_BYTES (default: 1048576)", "MAX_QUEUE_BYTES", "EVENT_LOOPS (default: 0)", "LOG_LEVEL (default: info)", "LOG_FORMAT (default: json)",
	}, nil)
}

// The version is that of the changelog's newest section with a date.
func TestVersion(t *testing.T) {
	changes, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	newest := regexp.MustCompile(`(?m)^## ([0-9]+\.[0-9]+\.[0-9]+) - [0-9]{4}-[0-9]{2}-[0-9]{2}$`).FindSubmatch(changes)
	if newest == nil || string(newest[1]) != version {
		t.Errorf("main.go has version %s, CHANGELOG.md %q", version, newest)
	}
}

func TestNotedCommit(t *testing.T) {
	f := func(want string, settings ...debug.BuildSetting) {
		t.Helper()
		if got := noted(settings); got != want {
			t.Errorf("the commit noted in %v is %q, want %q", settings, got, want)
		}
	}
	commit := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef"}
	f("")
	f("", debug.BuildSetting{Key: "vcs.modified", Value: "true"})
	f("01234567", commit, debug.BuildSetting{Key: "vcs.modified", Value: "false"})
	f("01234567-dirty", commit, debug.BuildSetting{Key: "vcs.modified", Value: "true"})
}
