package caddyoauth

import (
	"encoding/json"
	"maps"
	"reflect"
	"strconv"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// Whoever may change a connection may say where its secrets and its tokens go, and none of them is theirs to read. Its secrets have to
// be brought along, so they are nothing new to who sends them elsewhere. Tokens cannot be brought along. They go on to the new place only
// if who moves the connection has shown to know the secret that they were obtained with; else they stay behind, and are obtained anew.

// checkMoves refuses a change that would send a secret, which its owner alone knows, to another place: whoever changes where it goes has
// to bring it along. So a role that may change a connection is no way to read what it keeps.
func (f *faults) checkMoves(current, next *entry, said map[string]json.RawMessage) {
	var environments map[string]map[string]json.RawMessage
	_ = json.Unmarshal(said["environments"], &environments) // was read before
	for _, environment := range environmentsOf(next) {
		before, after := places(current, environment), places(next, environment)
		if reflect.DeepEqual(before, after) {
			continue
		}
		overrides := next.Environments[environment] // none of the base environment
		secrets := 0
		for _, name := range hiddenOptions {
			field, given := name, said[name]
			if _, own := overrides.hidden[name]; own {
				field, given = "environments."+environment+"."+name, environments[environment][name]
			} else if _, has := next.Options.hidden[name]; !has {
				continue
			}
			if secrets++; given == nil {
				f.add(field, "is required again, since the change would send it to another place")
			}
		}
		if secrets == 0 {
			f.add("environments."+environment, "has no secret to confirm another endpoint or host with; make a new connection")
		}
	}
}

// places returns what says where secrets and tokens go.
func places(e *entry, environment string) map[string]any {
	out := make(map[string]any)
	for _, options := range []entryOptions{e.Options, e.Environments[environment]} {
		for name, raw := range options.open {
			if u := storedUses[name]; u != usePlace && u != useOverride {
				continue
			}
			var value any
			_ = json.Unmarshal(raw, &value) // what is stored is JSON
			out[name] = value
		}
		if raw, ok := options.hidden["test_call"]; ok {
			out["test_call"] = raw.Digest() // it may hold a secret, and says where the token goes
		}
	}
	return out
}

// moved is what the token sets of a connection in one environment are worth after changes through the API.
type moved struct {
	Times    uint64 `json:"times,omitempty"`    // how often they were left behind
	Replaced bool   `json:"replaced,omitempty"` // the secrets were replaced since, by somebody who need not have known them
}

// provingOptions are the secrets that show whose connection it is: the authorization server looks at no other.
var provingOptions = []string{"client_secret", "password"}

// settleMoves leaves the token sets behind where a connection was moved, and it is not proven by whom.
func (e *entry) settleMoves(before *entry) {
	e.Moved = maps.Clone(before.Moved)
	if e.Moved == nil {
		e.Moved = make(map[string]moved)
	}
	for _, environment := range environmentsOf(before) {
		now := e.Moved[environment]
		same, proof := e.provesSame(before, environment)
		switch {
		case !reflect.DeepEqual(places(before, environment), places(e, environment)) && (!same || !proof || now.Replaced):
			now = moved{Times: now.Times + 1}
		case !same:
			now.Replaced = true
		}
		if e.Moved[environment] = now; now == (moved{}) {
			delete(e.Moved, environment)
		}
	}
}

// provesSame reports whether the secrets are the same as before, and whether there are any, so that this proves something.
func (e *entry) provesSame(before *entry, environment string) (same, proof bool) {
	for _, name := range provingOptions {
		then := before.hiddenIn(environment, name)
		if !then.Equal(e.hiddenIn(environment, name)) {
			return false, false
		}
		proof = proof || !then.IsZero()
	}
	return true, proof
}

// hiddenIn returns an option of an environment that is never shown.
func (e *entry) hiddenIn(environment, name string) secret.Text {
	if own, ok := e.Environments[environment].hidden[name]; ok {
		return own
	}
	return e.Options.hidden[name]
}

// after has nothing count that was obtained before the connection was moved that often.
func (b *built) after(times uint64) {
	if times == 0 {
		return
	}
	unmoved := b.digest
	b.digest = func(scopes []string) string { return keyPart("moved", strconv.FormatUint(times, 10), unmoved(scopes)) }
	b.fingerprint = b.digest(b.consent.scopes)
}
