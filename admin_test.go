package caddyoauth

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// adminAnswer is what Caddy's admin endpoint said.
type adminAnswer struct {
	status int
	header http.Header
	body   string
}

func (c *liveCaddy) ask(method, path string) adminAnswer {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, "http://localhost"+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := c.admin.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return adminAnswer{resp.StatusCode, resp.Header, string(body)}
}

// wantStatus asks for the connections, and checks what it is told.
func wantStatus(t *testing.T, c *liveCaddy, holds func(StatusReport) bool) string {
	t.Helper()
	answer := c.ask(http.MethodGet, "/oauth2_inject/connections")
	var report StatusReport
	if err := json.Unmarshal([]byte(answer.body), &report); err != nil || answer.status != http.StatusOK {
		t.Fatalf("%d %s: %v", answer.status, answer.body, err)
	}
	if !holds(report) {
		t.Fatalf("got %s", answer.body)
	}
	return answer.body
}

func TestAdminShowsMetadataOnly(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.config("", "client_secret seeded-secret"))
	wantStatus(t, c, func(r StatusReport) bool {
		return len(r.Connections) == 1 && r.Connections[0].Connection == "api" && r.Connections[0].Status == "pending" &&
			r.Connections[0].ExpiresAt == nil && r.Connections[0].LastUsed == nil
	})
	c.want(c.get(), "Bearer token-1")
	body := wantStatus(t, c, func(r StatusReport) bool {
		s := r.Connections[0]
		return s.Status == "active" && s.Generation == 1 && s.ExpiresAt != nil && s.IssuedAt != nil && s.RefreshAt != nil && s.LastUsed != nil &&
			s.ExpiresAt.After(*s.RefreshAt) && s.Error == "" && s.Counters.TokenRequests == 1 && s.Counters.Refreshes == 1
	})
	if strings.Contains(body, "seeded") || strings.Contains(body, strings.Repeat("0a", 8)) {
		t.Errorf("the status holds a secret")
	}
	if answer := c.ask(http.MethodGet, "/oauth2_inject/connections"); answer.header.Get("Content-Type") != "application/json" || answer.header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", answer.header)
	}
}

func TestAdminShowsFailures(t *testing.T) {
	c := newLiveCaddy(t)
	c.idp.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"invalid_client","error_description":"seeded-description"}`)
	})
	c.mustLoad(c.config("", "client_secret seeded-secret"))
	c.want(c.get(), "502 Bad Gateway")
	c.soon("the failure is counted", func() bool { return c.app().Status().Connections[0].Counters.Failures == 1 })
	wantStatus(t, c, func(r StatusReport) bool {
		s := r.Connections[0]
		return s.Status == "misconfigured" && s.Error == "invalid_client" && s.Failures == 1 && s.NextAttempt != nil && s.Counters.Failures == 1
	})
}

func TestAdminRefusesOtherMethods(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.config("", ""))
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodHead} {
		if answer := c.ask(method, "/oauth2_inject/connections"); answer.status != http.StatusMethodNotAllowed || answer.header.Get("Allow") != http.MethodGet {
			t.Errorf("%s: %d, Allow %q", method, answer.status, answer.header.Get("Allow"))
		}
	}
	if answer := c.ask(http.MethodGet, "/oauth2_inject/connections/x"); answer.status != http.StatusNotFound {
		t.Errorf("a path below: %d", answer.status)
	}
}

func TestAdminWithoutConnections(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad("{\n\tadmin unix/" + filepath.Join(c.dir, "adminSOCKET") + "\n}\n")
	if answer := c.ask(http.MethodGet, "/oauth2_inject/connections"); answer.status != http.StatusOK || strings.TrimSpace(answer.body) != `{"connections":[]}` {
		t.Errorf("got %d %s", answer.status, answer.body)
	}
}

// TestConfigurationKeepsPlaceholders looks where Caddy shows or keeps its configuration.
func TestConfigurationKeepsPlaceholders(t *testing.T) {
	c := newLiveCaddy(t)
	t.Setenv("TEST_ADMIN_SECRET", "seeded-env")
	file := filepath.Join(c.dir, "secret")
	writeFile(t, file, "seeded-file\n")
	autosave := caddy.ConfigAutosavePath
	caddy.ConfigAutosavePath = filepath.Join(c.dir, "autosave.json")
	t.Cleanup(func() { caddy.ConfigAutosavePath = autosave })
	config := c.config("", "encryption passphrase {file."+file+"}.and.more 100000\n\nclient_secret {env.TEST_ADMIN_SECRET}\ntoken_param key {file."+file+"}")
	c.mustLoad(config)
	c.want(c.get(), "Bearer token-1")
	saved, err := os.ReadFile(caddy.ConfigAutosavePath)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"adapt": string(mustAdapt(t, config)), "config API": c.ask(http.MethodGet, "/config/").body, "autosave": string(saved),
	} {
		if strings.Contains(text, "seeded-") {
			t.Errorf("%s shows a secret", name)
		}
		for _, placeholder := range []string{"{env.TEST_ADMIN_SECRET}", "{file." + file + "}"} {
			if !strings.Contains(text, placeholder) {
				t.Errorf("%s does not show %s", name, placeholder)
			}
		}
	}
}
