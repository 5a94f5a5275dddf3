//go:build promtool

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Prometheus' own tool reads what deploy/ has for it.

func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %v: %v\n%s", args, err, out)
	}
}

func TestPromtoolAlerts(t *testing.T) {
	promtool(t, "check", "rules", "deploy/alerts.yml")
	promtool(t, "test", "rules", "deploy/alerts_test.yml")
}

// TestPromtoolDashboard has the dashboard's expressions checked as recording rules, with Grafana's variables replaced.
func TestPromtoolDashboard(t *testing.T) {
	titles, exprs := dashboardExprs(t)
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for i, expr := range exprs {
		if strings.HasPrefix(titles[i], "variable") {
			continue // label_values is Grafana's
		}
		expr = strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(expr)
		fmt.Fprintf(&rules, "  - record: panel%d\n    expr: %q\n", i, expr)
	}
	path := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(path, []byte(rules.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", path)
}
