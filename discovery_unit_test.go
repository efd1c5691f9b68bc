package caddyoauth

import (
	"errors"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// TestWhatIsSaidOfDiscovery: where the endpoints are is a line; that they are elsewhere than before, or cannot be read again, a warning.
func TestWhatIsSaidOfDiscovery(t *testing.T) {
	t.Parallel()
	at := func(hosts ...string) *oauth.Server {
		return &oauth.Server{Issuer: "https://idp.example", TokenEndpoint: "https://" + hosts[0] + "/t", AuthorizationEndpoint: "https://" + hosts[1] + "/a"}
	}
	for name, tc := range map[string]struct {
		news  oauth.News
		level zapcore.Level
		said  int
	}{
		"first":            {oauth.News{New: at("a.example", "b.example")}, zap.InfoLevel, 1},
		"other paths":      {oauth.News{Old: at("a.example", "a.example"), New: &oauth.Server{TokenEndpoint: "https://a.example/new"}}, zap.InfoLevel, 0},
		"other hosts":      {oauth.News{Old: at("a.example", "a.example"), New: at("a.example", "evil.example")}, zap.WarnLevel, 1},
		"another port":     {oauth.News{Old: at("a.example", "a.example"), New: at("a.example:8443", "a.example")}, zap.WarnLevel, 1},
		"cannot be read":   {oauth.News{Old: at("a.example", "a.example"), Err: errors.New("down")}, zap.WarnLevel, 1},
		"the same as ever": {oauth.News{Old: at("a.example", "b.example"), New: at("b.example", "a.example")}, zap.InfoLevel, 0},
	} {
		core, said := observer.New(zap.DebugLevel)
		(&App{logger: zap.New(core)}).heard("drive", tc.news)
		if lines := said.All(); len(lines) != tc.said || tc.said > 0 && (lines[0].Level != tc.level || lines[0].ContextMap()["connection"] != "drive") {
			t.Errorf("%s: %v", name, lines)
		}
	}
}

// TestMetadataAreForgotten with the last configuration that uses them, and shared until then.
func TestMetadataAreForgotten(t *testing.T) {
	t.Parallel()
	e := emptyEngine()
	e.metadata = make(map[string]*oauth.Metadata)
	app := func(key string) *App {
		a := &App{engine: e, active: &activeSet{byName: make(map[string]*activeConnection)}}
		a.active.put(&activeConnection{name: "c", discovery: &discovery{key: key}, settings: connection.Settings{}.Complete()})
		e.join(a)
		return a
	}
	first, second := app("a"), app("a")
	fresh := new(oauth.Metadata)
	if e.sharedMetadata("a", fresh) != fresh || e.sharedMetadata("a", new(oauth.Metadata)) != fresh {
		t.Error("the metadata are not shared")
	}
	e.leave(first)
	if len(e.metadata) != 1 {
		t.Error("they are forgotten too early")
	}
	e.leave(second)
	if len(e.metadata) != 0 {
		t.Error("nobody uses them, and they are still there")
	}
}
