package caddyoauth

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// keysOf asks a running Caddy for the state of its keys.
func (c *liveCaddy) keysOf(method, path string) KeyStatus {
	c.t.Helper()
	answer := c.ask(method, path)
	var status KeyStatus
	if err := json.Unmarshal([]byte(answer.body), &status); err != nil || answer.status != http.StatusOK || answer.header.Get("Cache-Control") != "no-store" {
		c.t.Fatalf("%d %s: %v", answer.status, answer.body, err)
	}
	return status
}

// TestRekeyInARunningCaddy replaces the data key under a connection that is in use, over a reload, and shows neither key nor token.
func TestRekeyInARunningCaddy(t *testing.T) {
	c := newLiveCaddy(t)
	key := strings.Repeat("0a", 32)
	config := c.config("", "encryption key "+key+"\nrekey_pause 1s\n\n")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	c.mustLoad(config)
	c.want(c.get(), "Bearer token-1")
	var before KeyStatus
	c.soon("the record is counted", func() bool {
		before = c.keysOf(http.MethodGet, "/oauth2_inject/keys")
		return before.Records > 0
	})
	if !before.Open || len(before.DataKeys) != 1 || before.DataKeys[0].Records != before.Records || before.Records == 0 || before.Rekey != nil {
		t.Fatalf("%+v", before)
	}
	begun := c.keysOf(http.MethodPost, "/oauth2_inject/rekey")
	if len(begun.DataKeys) != 2 || begun.Rekey == nil || begun.Rekey.Phase != "publishing" {
		t.Fatalf("%+v", begun)
	}
	c.mustLoad(config)
	var after KeyStatus
	c.soon("the rotation is over", func() bool {
		c.want(c.get(), "Bearer token-1")
		after = c.keysOf(http.MethodGet, "/oauth2_inject/keys")
		return after.Rekey == nil
	})
	if len(after.DataKeys) != 1 || after.DataKeys[0].ID != begun.DataKeys[1].ID || after.DataKeys[0].Records != after.Records {
		t.Errorf("%+v", after)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	c.mustLoad(config)
	c.want(c.get(), "Bearer token-1")
	c.wantAsked(1)
	shown := c.log() + c.ask(http.MethodGet, "/oauth2_inject/keys").body
	for _, secret := range []string{key, "token-1"} {
		if strings.Contains(shown, secret) {
			t.Errorf("%q is shown", secret)
		}
	}
	for file, raw := range filesBelow(t, filepath.Join(c.dir, "storage")) {
		if strings.Contains(string(raw), "token-1") {
			t.Errorf("%s holds a token", file)
		}
	}
}

func TestAdminKeysRefuses(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.config("", ""))
	for path, methods := range map[string][]string{
		"/oauth2_inject/keys": {http.MethodPost, http.MethodDelete, http.MethodPut}, "/oauth2_inject/rekey": {http.MethodGet, http.MethodDelete},
	} {
		for _, method := range methods {
			if answer := c.ask(method, path); answer.status != http.StatusMethodNotAllowed || answer.header.Get("Allow") == "" {
				t.Errorf("%s %s: %d, Allow %q", method, path, answer.status, answer.header.Get("Allow"))
			}
		}
	}
}
