package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What an operator watches the relay with: deploy/grafana.json, deploy/alerts.yml and docs/operate.md belong to each
// other, and to the metrics that the relay exports.

// series are the exported metrics: by name, the values of each label.
type series map[string]map[string][]string

var (
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? `)
	labelPair  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"`)

	// selector is a metric in an expression, with its label matchers if it has some.
	selector = regexp.MustCompile(`\b((?:relaygate|process|go)_[a-z0-9_]+|up)\b(?:\{([^}]*)\})?`)
)

func parseSeries(text string) series {
	all := series{}
	for line := range strings.SplitSeq(text, "\n") {
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if all[m[1]] == nil {
			all[m[1]] = map[string][]string{}
		}
		for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
			all[m[1]][pair[1]] = append(all[m[1]][pair[1]], pair[3])
		}
	}
	return all
}

// exported returns what a running relay exports.
func exported(t *testing.T) series {
	t.Helper()
	addr := startRelay(t, "HEALTH_ADDR=127.0.0.1:0").logLine(t, "started")["health_address"].(string)
	res, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return parseSeries(string(text))
}

// wantExported wants each metric of an expression to exist, and each label and value that it asks for.
func (s series) wantExported(t *testing.T, where, expr string) {
	t.Helper()
	found := selector.FindAllStringSubmatch(expr, -1)
	if len(found) == 0 {
		t.Errorf("%s: no metric in %q", where, expr)
	}
	for _, m := range found {
		labels, ok := s[m[1]]
		if !ok && m[1] != "up" {
			t.Errorf("%s: %s is not exported", where, m[1])
			continue
		}
		for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
			name, value := pair[1], pair[3]
			if name == "instance" || name == "job" { // Prometheus adds these
				continue
			}
			for one := range strings.SplitSeq(value, "|") {
				if !slices.Contains(labels[name], one) {
					t.Errorf("%s: %s has no %s=%q, only %v", where, m[1], name, one, labels[name])
				}
			}
		}
	}
}

// dashboard is what the tests read of a Grafana dashboard.
type dashboard struct {
	Panels []struct {
		Type, Title string
		Targets     []struct{ Expr string }
	}
	Templating struct {
		List []struct{ Name, Definition string }
	}
}

// dashboardExprs returns the expressions of deploy/grafana.json by panel.
func dashboardExprs(t *testing.T) (titles, exprs []string) {
	t.Helper()
	text, err := os.ReadFile("deploy/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	for _, v := range d.Templating.List {
		if v.Name == "instance" {
			titles, exprs = append(titles, "variable instance"), append(exprs, v.Definition)
		}
	}
	if len(exprs) == 0 {
		t.Error("the dashboard has no variable for the instance")
	}
	for _, p := range d.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("the panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			titles, exprs = append(titles, "panel "+p.Title), append(exprs, target.Expr)
		}
	}
	return titles, exprs
}

// TestDashboardShowsWhatIsExported: every metric and label of the dashboard exists, and every metric of the relay's
// own is shown.
func TestDashboardShowsWhatIsExported(t *testing.T) {
	metrics := exported(t)
	titles, exprs := dashboardExprs(t)
	for i, expr := range exprs {
		metrics.wantExported(t, titles[i], expr)
		if !strings.HasPrefix(titles[i], "variable") && !strings.Contains(expr, `instance=~"$instance"`) {
			t.Errorf("%s: %q is not of the chosen instance", titles[i], expr)
		}
	}
	shown := strings.Join(exprs, "\n")
	for name := range metrics {
		name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if strings.HasPrefix(name, "relaygate_") && !strings.Contains(shown, name) {
			t.Errorf("%s is exported and shown nowhere", name)
		}
	}
}

// An alert in deploy/alerts.yml, up to the next.
var alert = regexp.MustCompile(`(?s)- alert: (\w+)\n\s+expr: (.*?)\n\s+for: (\w+)\n\s+labels: \{severity: (critical|warning)\}\n` +
	`\s+annotations:\n\s+summary: "([^"\n]+)"\n\s+runbook_url: (\S+)\n`)

// TestAlerts: each has all its parts, asks for metrics that exist, is explained where it says, and has its two cases.
func TestAlerts(t *testing.T) {
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	rules, cases, manual := read("deploy/alerts.yml"), read("deploy/alerts_test.yml"), read("docs/operate.md")
	metrics := exported(t)
	alerts := alert.FindAllStringSubmatch(rules, -1)
	if n := strings.Count(rules, "- alert:"); len(alerts) != n || n == 0 {
		t.Errorf("%d of %d alerts have for, severity, summary and runbook_url, in this order", len(alerts), n)
	}
	for _, a := range alerts {
		name, expr, runbook := a[1], a[2], a[6]
		metrics.wantExported(t, name, expr)
		if want := "docs/operate.md#" + strings.ToLower(name); runbook != want {
			t.Errorf("%s: runbook_url is %s, want %s", name, runbook, want)
		}
		if !strings.Contains(manual, "\n### "+name+"\n") {
			t.Errorf("docs/operate.md does not explain %s", name)
		}
		fires := strings.Count(cases, "alertname: "+name+"\n        exp_alerts:\n")
		silent := strings.Count(cases, "alertname: "+name+"\n        exp_alerts: []\n")
		if fires == 0 || silent == 0 {
			t.Errorf("%s: %d cases in which it fires and %d in which it does not, want some each", name, fires, silent)
		}
	}
}
