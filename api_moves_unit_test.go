package caddyoauth

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/provider"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// TestEveryPlaceIsAMove walks all options of a connection: a change of each that says where secrets or tokens go needs the secrets again,
// in every environment, and of the others none does.
func TestEveryPlaceIsAMove(t *testing.T) {
	t.Parallel()
	for name, what := range storedUses {
		for _, environment := range []string{"production", "staging"} {
			if environment == "staging" && what != useOverride && what != useValue || name == "client_secret" {
				continue
			}
			before, after := oauth2Entry("drive"), oauth2Entry("drive")
			before.Environments = map[string]entryOptions{"staging": newEntryOptions(nil)}
			after.Environments = map[string]entryOptions{"staging": newEntryOptions(nil)}
			said := map[string]json.RawMessage{name: json.RawMessage(`"x"`)}
			if environment == "staging" {
				after.Environments["staging"] = newEntryOptions(said)
				said = map[string]json.RawMessage{"environments": json.RawMessage(`{"staging":{"` + name + `":"x"}}`)}
			} else {
				all := before.Options.reveal()
				all[name] = said[name]
				after.Options = newEntryOptions(all)
			}
			var wrong faults
			wrong.checkMoves(before, after, said)
			after.settleMoves(before)
			place := what == usePlace || what == useOverride
			if asks := wrong.has("client_secret"); asks != place {
				t.Errorf("%s in %s: the secret is asked for: %v", name, environment, asks)
			}
			if left := after.Moved[environment].Times != 0; left && !place {
				t.Errorf("%s in %s: the tokens are left behind", name, environment)
			}
		}
	}
}

// TestPresetsAskForTheirScopes: whoever names no scopes through the API asks for those that the preset recommends.
func TestPresetsAskForTheirScopes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"google", "github", "salesforce", "microsoft", "slack"} {
		preset, err := provider.Resolve(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		app := &App{}
		e := &entry{Kind: kindOAuth2, Name: "x"}
		var wrong faults
		apiService{app}.draftConnection(e, map[string]json.RawMessage{
			"provider": json.RawMessage(`"` + name + `"`), "client_id": json.RawMessage(`"x"`), "client_secret": json.RawMessage(`"y"`),
		}, &wrong)
		b, _, err := app.buildStored(e, e.BaseEnvironment, app.entryByID)
		if len(wrong) > 0 || err != nil {
			t.Errorf("%s: %v %v", name, wrong, err)
			continue
		}
		if want := preset.Scopes(nil); !slices.Equal(b.consent.scopes, want) {
			t.Errorf("%s asks for %q, recommended are %q", name, b.consent.scopes, want)
		}
	}
}

// TestSecretsHaveFewEnvironments: each is a connection of its own, with a token that is fetched.
func TestSecretsHaveFewEnvironments(t *testing.T) {
	t.Parallel()
	for count, want := range map[int]bool{maxEnvironments: false, maxEnvironments + 1: true, 5000: true} {
		said := make(map[string]map[string]json.RawMessage)
		for i := range count {
			said[newID()] = map[string]json.RawMessage{"client_id": json.RawMessage(`"` + string(rune('a'+i%26)) + `"`)}
		}
		var wrong faults
		apiService{&App{}}.overrides(oauth2Entry("drive"), said, &wrong)
		if wrong.has("environments") != want {
			t.Errorf("%d: %v", count, wrong)
		}
	}
}

// TestCertificatesThatDoNotFit: what cannot work is refused when it is made, and what has ended since can still be described and moved.
func TestCertificatesThatDoNotFit(t *testing.T) {
	t.Parallel()
	pair := func(ends time.Duration) (chain, key string) {
		dir := t.TempDir()
		clientCertificate(t, dir, -2*time.Hour, ends)
		chainText, err := os.ReadFile(filepath.Join(dir, "client.crt"))
		keyText, keyErr := os.ReadFile(filepath.Join(dir, "client.key"))
		if err := errors.Join(err, keyErr); err != nil {
			t.Fatal(err)
		}
		return string(chainText), string(keyText)
	}
	chain, key := pair(time.Hour)
	endedChain, endedKey := pair(-time.Hour)
	_, otherKey := pair(time.Hour)
	for name, tt := range map[string]struct{ cert, private, field string }{
		"good": {chain, key, ""}, "a key alone": {"", key, ""}, "to be trusted": {chain, "", ""},
		"ended": {endedChain, endedKey, "certificate"}, "another's key": {chain, otherKey, "private_key"},
		"the key in the chain": {chain + key, "", "certificate"}, "no key": {chain, chain, "private_key"},
		"no PEM": {"x", "", "certificate"}, "words behind it": {chain + "x", "", "certificate"}, "nothing": {"", "", "certificate"},
	} {
		fields := make(map[string]json.RawMessage)
		for field, text := range map[string]string{"certificate": tt.cert, "private_key": tt.private} {
			if text != "" {
				fields[field], _ = json.Marshal(text)
			}
		}
		var wrong faults
		draftCertificate(&entry{Kind: kindCertificate, Name: "x"}, fields, &wrong)
		if got := wrong.has(tt.field) || tt.field == ""; !got || tt.field == "" && len(wrong) > 0 {
			t.Errorf("%s: %v", name, wrong)
		}
	}
	collection := newID()
	past := &entry{Kind: kindCertificate, ID: newID(), Name: "x", Chain: endedChain, Key: secret.New(endedKey)}
	app := apiService{&App{}}
	next, err := app.altered(past, "jane", api.Draft{Collection: &collection, Fields: map[string]json.RawMessage{"description": json.RawMessage(`"has ended"`)}})
	if err != nil || next.Note != "has ended" || next.Collection != collection {
		t.Errorf("got %v", err)
	}
}
