//go:build debian

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDebianPackage builds the package as make deb does, in a copy of the files that it takes, and looks inside.
func TestDebianPackage(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	run := func(dir, name string, args ...string) string {
		t.Helper()
		c := exec.Command(name, args...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	dir := t.TempDir()
	run("", "cp", "-r", "deploy", "docs", "README.md", "CHANGELOG.md", "LICENSE", dir)
	run("", "install", "-D", path, filepath.Join(dir, "bin", "relaygate"))
	run(dir, "deploy/deb/build")
	packages, err := filepath.Glob(filepath.Join(dir, "bin", "relaygate_"+version+"_*.deb"))
	if err != nil || len(packages) != 1 {
		t.Fatalf("%q, %v; want one package", packages, err)
	}
	if out := run(dir, "dpkg-deb", "--info", packages[0]); !strings.Contains(out, "Version: "+version+"\n") || !strings.Contains(out, "conffiles") {
		t.Errorf("the package says %s", out)
	}
	root := filepath.Join(dir, "root")
	run(dir, "dpkg-deb", "--extract", packages[0], root)
	for _, name := range []string{
		"lib/systemd/system/relaygate.service", "lib/systemd/system/relaygate.socket", "usr/share/doc/relaygate/operate.md",
		"usr/share/doc/relaygate/sysctl.conf", "usr/share/doc/relaygate/copyright",
	} {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Error(err)
		}
	}
	c := exec.Command(filepath.Join(root, "usr/bin/relaygate"), "-check")
	c.Env = []string{"CONFIG_FILE=" + filepath.Join(root, "etc/relaygate/relaygate.env")}
	if out, err := c.CombinedOutput(); err != nil || strings.Contains(string(out), "warning") {
		t.Errorf("the settings of the package: %v, %s", err, out)
	}
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		run(dir, "sh", "-n", filepath.Join("deploy", "deb", script))
	}
}
