package caddyoauth

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var metricInQuery = regexp.MustCompile(`caddy_oauth2_inject_[a-z0-9_]+`)

// metricsIn returns the metrics that queries use, each once, without what Prometheus adds to the names of histograms.
func metricsIn(text string) []string {
	shapes := metricShapes()
	found := make(map[string]bool)
	for _, name := range metricInQuery.FindAllString(text, -1) {
		name = strings.TrimPrefix(name, "caddy_oauth2_inject_")
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base := strings.TrimSuffix(name, suffix); strings.HasPrefix(shapes[base], "histogram") {
				name = base
			}
		}
		found[name] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// grafana is what the test looks at of Grafana's format.
type grafana struct {
	Title, UID    string
	SchemaVersion int
	Templating    struct{ List []struct{ Name, Query any } }
	Panels        []struct {
		ID          int
		Type, Title string
		Description string
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct{ Expr, RefID string }
	}
}

// TestDashboard: it shows every metric and no other, panels do not overlap, and every variable that it uses is declared.
func TestDashboard(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("ops/grafana/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var board grafana
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	if board.Title == "" || board.UID == "" || board.SchemaVersion < 36 {
		t.Errorf("title %q, uid %q, schema %d", board.Title, board.UID, board.SchemaVersion)
	}
	var queries strings.Builder
	ids := make(map[int]bool)
	cells := make(map[[2]int]string)
	for _, panel := range board.Panels {
		if panel.ID == 0 || ids[panel.ID] || panel.Title == "" || panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("panel %d %q has no id, no title or no query of its own", panel.ID, panel.Title)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			queries.WriteString(target.Expr + "\n")
		}
		pos := panel.GridPos
		for x := pos.X; x < pos.X+pos.W; x++ {
			for y := pos.Y; y < pos.Y+pos.H; y++ {
				if other := cells[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %q overlaps %q or the edge", panel.Title, other)
				}
				cells[[2]int{x, y}] = panel.Title
			}
		}
	}
	if got, want := metricsIn(queries.String()), slices.Sorted(maps.Keys(metricShapes())); !slices.Equal(got, want) {
		t.Errorf("the dashboard shows\n%v, the metrics are\n%v", got, want)
	}
	declared := map[string]bool{"__rate_interval": true}
	for _, variable := range board.Templating.List {
		declared[variable.Name.(string)] = true
	}
	for _, use := range regexp.MustCompile(`\$\{?([a-z_]+)`).FindAllStringSubmatch(string(raw), -1) {
		if !declared[use[1]] && use[1] != "__all" {
			t.Errorf("the variable %s is not declared", use[1])
		}
	}
}

// TestAlertRules: they use metrics and events that there are, each is tested and documented. What they do, promtool tests.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	read := func(file string) string {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	rules, tests, docs := read("ops/prometheus/rules.yml"), read("ops/prometheus/rules_test.yml"), read("docs/metrics.md")
	shapes := metricShapes()
	for _, name := range metricsIn(rules) {
		if shapes[name] == "" {
			t.Errorf("there is no metric %s", name)
		}
	}
	names := signalNames(t)
	zero := make(map[string]bool)
	for _, s := range alarming {
		zero[s.name] = true
	}
	for _, match := range regexp.MustCompile(`event=~?"([a-z_|]+)"`).FindAllStringSubmatch(rules, -1) {
		for name := range strings.SplitSeq(match[1], "|") {
			if !slices.Contains(names, name) || !zero[name] {
				t.Errorf("there is no event %s, or its counter does not begin with 0", name)
			}
		}
	}
	for name := range zero {
		if !strings.Contains(rules, name) {
			t.Errorf("no rule looks at the event %s", name)
		}
	}
	alerts := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	if len(alerts) < 10 {
		t.Fatalf("found %d rules", len(alerts))
	}
	documented := 0
	for _, alert := range alerts {
		for _, kind := range []string{" fires\n", " stays quiet\n"} {
			if !strings.Contains(tests, "- name: "+alert[1]+kind) {
				t.Errorf("%s has no test that it%s", alert[1], strings.TrimSuffix(kind, "\n"))
			}
		}
		documented += strings.Count(docs, "| `"+alert[1]+"` |")
	}
	if rows := strings.Count(docs, "| `OAuth2"); documented != len(alerts) || rows != len(alerts) {
		t.Errorf("%d rules, %d of them documented, in %d rows", len(alerts), documented, rows)
	}
}
