//go:build systemd

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// deploy/relaygate.service and relaygate.socket, checked by systemd's own tool. Nothing is started.

// installUnits copies both units into a directory of their own, in which the service runs the built binary.
func installUnits(t *testing.T) (service, socket string) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"relaygate.service", "relaygate.socket"} {
		text, err := os.ReadFile(filepath.Join("deploy", name))
		if err != nil {
			t.Fatal(err)
		}
		moved := strings.ReplaceAll(string(text), "/usr/bin/relaygate", path)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(moved), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "relaygate.service"), filepath.Join(dir, "relaygate.socket")
}

func analyze(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemd-analyze", append([]string{"--no-pager"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestSystemdUnits: both are valid, without a warning.
func TestSystemdUnits(t *testing.T) {
	service, socket := installUnits(t)
	if out := analyze(t, "verify", "--man=no", service, socket); strings.Contains(out, "relaygate") {
		t.Errorf("systemd-analyze verify says:\n%s", out)
	}
}

// TestSystemdSecurity: the exposure is below 2.0 of 10.
func TestSystemdSecurity(t *testing.T) {
	service, _ := installUnits(t)
	out := analyze(t, "security", "--offline=true", "--threshold=19", service)
	t.Log(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:])
}

// TestSystemdSyscalls: the service may do what it cannot do without. A system call that is forbidden fails with
// EPERM, which Go's runtime may answer by ending the process.
func TestSystemdSyscalls(t *testing.T) {
	text, err := os.ReadFile("deploy/relaygate.service")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	for _, name := range syscallsOf(t, "@default") { // "always permitted"
		allowed[name] = true
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		list, found := strings.CutPrefix(line, "SystemCallFilter=")
		if !found {
			continue
		}
		list, denied := strings.CutPrefix(list, "~")
		for item := range strings.FieldsSeq(list) {
			for _, name := range syscallsOf(t, item) {
				allowed[name] = !denied
			}
		}
	}
	for _, needed := range strings.Fields(`accept4 arch_prctl bind clone close connect dup epoll_create1 epoll_ctl
		epoll_pwait epoll_wait eventfd2 execve exit_group fcntl fstat futex getpid getrandom getsockname getsockopt gettid ioctl kill
		listen madvise mmap munmap nanosleep newfstatat openat prctl pread64 prlimit64 read recvfrom restart_syscall rt_sigaction
		rt_sigprocmask rt_sigreturn sched_getaffinity sched_yield sendmsg sendto setsockopt shutdown sigaltstack socket sysinfo tgkill
		uname write writev`) {
		if !allowed[needed] {
			t.Errorf("the service may not call %s", needed)
		}
	}
	for _, dangerous := range []string{"bpf", "mount", "chroot", "ptrace", "reboot", "init_module", "setuid", "sched_setscheduler"} {
		if allowed[dangerous] {
			t.Errorf("the service may call %s", dangerous)
		}
	}
}

// syscallsOf resolves a group such as @default. Any other name is a system call.
func syscallsOf(t *testing.T, name string) (names []string) {
	t.Helper()
	if !strings.HasPrefix(name, "@") {
		return []string{name}
	}
	for line := range strings.SplitSeq(analyze(t, "syscall-filter", name), "\n") {
		if line = strings.TrimSpace(line); line == "" || line == name || strings.HasPrefix(line, "#") {
			continue
		}
		names = append(names, syscallsOf(t, line)...)
	}
	return names
}
