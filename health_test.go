package caddyoauth

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// wantHealth asks the admin endpoint until it says so, for an answer holds for a while.
func (c *liveCaddy) wantHealth(status int, text string) {
	c.t.Helper()
	var answer adminAnswer
	c.soon("health is "+text, func() bool {
		answer = c.ask(http.MethodGet, "/oauth2_inject/health")
		return answer.status == status && strings.Contains(answer.body, text)
	})
	var report HealthReport
	if err := json.Unmarshal([]byte(answer.body), &report); err != nil || report.Ready != (status == http.StatusOK) {
		c.t.Errorf("%s: %v", answer.body, err)
	}
	if answer.header.Get("Content-Type") != "application/json" || answer.header.Get("Cache-Control") != "no-store" {
		c.t.Errorf("headers %v", answer.header)
	}
}

func TestHealth(t *testing.T) {
	c := newLiveCaddy(t)
	config := c.config("", "client_secret seeded-secret\nrequired")
	c.mustLoad(config)
	c.wantHealth(http.StatusOK, `"keys":"open","storage":"ok"`) // nobody has asked for the token yet
	c.wantAsked(0)
	c.idp.says(http.StatusUnauthorized, "invalid_client")
	c.want(c.get(), "502 Bad Gateway")
	c.wantHealth(http.StatusServiceUnavailable, `"dead":{"api":"misconfigured"}`)
	c.idp.says(0, "")
	c.mustLoad(config)
	c.want(c.get(), "Bearer token-1")
	c.wantHealth(http.StatusOK, `"ready":true`)
	// Failing is not dead as long as there is a token.
	c.idp.says(http.StatusServiceUnavailable, "temporarily_unavailable")
	if _, err := c.app().Refresh(t.Context(), Ref{Connection: "api"}); err == nil {
		t.Fatal("the refresh did not fail")
	}
	if status := c.app().Status().Connections[0].Status; status != "failing" {
		t.Fatalf("the status is %s, so this test proves nothing", status)
	}
	if report := c.app().look(t.Context()); !report.Ready {
		t.Errorf("%+v", report)
	}
	// Storage that fails.
	if err := os.RemoveAll(filepath.Join(c.dir, "storage")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(c.dir, "storage"), "not a directory")
	c.wantHealth(http.StatusServiceUnavailable, `"storage":"failing"`)
	for _, method := range []string{http.MethodPost, http.MethodDelete} {
		if answer := c.ask(method, "/oauth2_inject/health"); answer.status != http.StatusMethodNotAllowed || answer.header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d", method, answer.status)
		}
	}
	if answer := c.ask(http.MethodHead, "/oauth2_inject/health"); answer.status != http.StatusServiceUnavailable || answer.body != "" {
		t.Errorf("HEAD: %d %q", answer.status, answer.body)
	}
	c.mustLoad("{\n\tadmin unix/" + filepath.Join(c.dir, "adminSOCKET") + "\n}\n")
	if answer := c.ask(http.MethodGet, "/oauth2_inject/health"); answer.status != http.StatusNotFound {
		t.Errorf("without the app: %d", answer.status)
	}
}

// TestHealthOfThePast: a consent that another process, or this one before a restart, found to be gone.
func TestHealthOfThePast(t *testing.T) {
	c := newLiveCaddy(t)
	config := c.config("", strings.Replace(personalOptions, "subject seeded-jane", "required", 1))
	c.mustLoad(config)
	c.connectBriefly("seeded-refresh")
	c.idp.says(http.StatusBadRequest, "invalid_grant")
	c.want(c.get(), "403 Forbidden")
	c.mustLoad("{\n\tadmin unix/" + filepath.Join(c.dir, "adminSOCKET") + "\n}\n") // nothing is in memory any more
	c.mustLoad(config)
	c.wantHealth(http.StatusServiceUnavailable, `"dead":{"api":"revoked"}`)
	c.mustLoad(strings.Replace(config, "required", "", 1))
	c.wantHealth(http.StatusOK, `"ready":true`)
}

func TestHealthWithoutKeys(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.config("", ""))
	c.want(c.get(), "Bearer token-1")
	c.mustLoad(c.config("", "encryption key "+strings.Repeat("0b", 32)+"\n\nclient_secret seeded-other"))
	c.wantHealth(http.StatusServiceUnavailable, `"keys":"wrong_key"`)
}

// hangingStorage does not answer while it is held, whatever the context says, as a dead network file system does.
type hangingStorage struct {
	certmagic.Storage
	held chan struct{}
}

func (s *hangingStorage) Stat(context.Context, string) (certmagic.KeyInfo, error) {
	if s.held != nil {
		<-s.held
	}
	return certmagic.KeyInfo{}, nil
}

// TestAttackHealthOfHangingStorage: however many ask, one waits, and all others are told.
func TestAttackHealthOfHangingStorage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := new(hangingStorage)
		app := &App{active: new(activeSet), store: &recordStore{storage: storage}, health: new(healthCheck), logger: zap.NewNop()}
		if report := app.Health(t.Context()); !report.Ready || report.Keys != "unused" {
			t.Fatalf("%+v", report)
		}
		storage.held = make(chan struct{})
		time.Sleep(healthFor)
		go app.Health(t.Context())
		synctest.Wait()
		if report := app.Health(t.Context()); !report.Ready {
			t.Errorf("the first moment: %+v, and nothing is known yet", report)
		}
		time.Sleep(healthTimeout + time.Second)
		for range 1000 {
			if report := app.Health(t.Context()); report.Ready || report.Storage != "silent" {
				t.Fatalf("%+v", report)
			}
		}
		close(storage.held)
		synctest.Wait()
		if report := app.Health(t.Context()); !report.Ready {
			t.Errorf("it answers again: %+v", report)
		}
	})
}
