package connection

import (
	"slices"
	"strings"
)

// difference says why a token set of a person cannot be used under the present configuration, although it is kept. It is an error
// whose text may be shown.
type difference struct {
	client  bool     // it was obtained as another client, or elsewhere
	missing []string // scopes that nobody consented to
}

// Codes of differences.
const (
	codeClientChanged = "client_changed"
	codeScopesMissing = "scopes_missing"
)

func (d *difference) code() string {
	if d.client {
		return codeClientChanged
	}
	return codeScopesMissing
}

func (d *difference) Error() string {
	if d.client {
		return "the account was connected under another client id, token endpoint, audience or resource; it has to be connected again"
	}
	return "the account was connected without the scopes " + strings.Join(d.missing, ", ") + "; it has to be connected again"
}

// differs compares a record with the configuration; nil means that its token set may be used. It is worked out anew each time and
// never stored: instances with an old and a new configuration would overwrite each other's word without end, and whoever takes a
// change back must not have to connect again.
//
// Of people's token sets the fingerprint is over the scopes that were asked for then. A configuration that asks for fewer scopes,
// or for others that were granted all the same, is no difference.
func (s *Settings) differs(own string, rec Record) *difference {
	if rec.Fingerprint == own || rec.Current.Generation == 0 {
		return nil
	}
	asked, known := s.askedFor(rec)
	if !known {
		return &difference{client: true}
	}
	has := append(SplitScopes(rec.Current.Scope), asked...)
	var missing []string
	for _, scope := range s.Scopes {
		if !slices.Contains(has, scope) {
			missing = append(missing, scope)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &difference{missing: missing}
}

// askedFor finds the scopes that a record's fingerprint is over: those that were kept with the consent, or, in records that are
// older than that, those that were granted. When neither fits something else is different as well.
func (s *Settings) askedFor(rec Record) (scopes []string, known bool) {
	if s.FingerprintOf == nil {
		return nil, false
	}
	scopes = SplitScopes(rec.Current.Scope)
	if rec.Current.Consent != nil {
		scopes = rec.Current.Consent.Requested
	}
	return scopes, s.FingerprintOf(scopes) == rec.Fingerprint
}

// SplitScopes takes a scope apart (RFC 6749 section 3.3). Some servers separate by commas.
func SplitScopes(scope string) []string {
	return strings.FieldsFunc(scope, func(r rune) bool { return r == ' ' || r == ',' })
}
