package caddyoauth

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// defaultEnvironment is what a connection's own options are for, when it is not said.
const defaultEnvironment = "production"

// maxEnvironments bounds those of one secret: each is a connection of its own, and no bound of the operator's counts them.
const maxEnvironments = 20

// firstTokenWait bounds how long the answer to a new connection waits for its first token.
const firstTokenWait = 20 * time.Second

// Create implements api.Secrets.
func (s apiService) Create(ctx context.Context, by string, draft api.Draft) (api.Secret, error) {
	if s.catalog == nil {
		return api.Secret{}, asAPI(errNoStored)
	}
	e := &entry{Kind: entryKind(draft.SecretType), Tenant: draft.Tenant, CreatedBy: by, UpdatedBy: by}
	wrong := faults(draft.Faults)
	e.Name = wrong.name(draft.Fields)
	if draft.Collection != nil {
		e.Collection = *draft.Collection
	}
	if e.Kind == kindOAuth2 {
		s.draftConnection(e, draft.Fields, &wrong)
	} else {
		draftCertificate(e, draft.Fields, &wrong)
	}
	if err := wrong.err(); err != nil {
		return api.Secret{}, err
	}
	made, err := s.put(ctx, entryKey(e.Tenant, e.Kind.space(), e.Name), func(current *entry) (*entry, error) {
		if current != nil {
			return nil, errNameTaken
		}
		e.ID = newID()
		return e, cmp.Or(s.room(e), s.stands(e))
	})
	if err != nil {
		return api.Secret{}, asAPI(err)
	}
	h := held{entry: made}
	s.fetchFirst(ctx, made)
	out := s.summary(h)
	seen := s.lookAt(ctx, h, "")
	if made.Kind == kindOAuth2 {
		out.ConnectionStatus, out.ConnectionError = &seen.status, seen.code
	}
	return out, nil
}

// put changes an entry and puts the change to use in this process; other instances follow.
func (a *App) put(ctx context.Context, key string, alter func(*entry) (*entry, error)) (*entry, error) {
	made, err := a.catalog.change(ctx, a.store, key, alter)
	var late *indexError
	if errors.As(err, &late) {
		a.logger.Warn("other instances learn late of a change", zap.Error(err))
		err = nil
	}
	a.activate()
	a.spread(ctx)
	a.warnOfClashes()
	return made, err
}

// maxEntries bounds the entries of each kind in a tenant, whatever the operator says: all of them are in memory.
const maxEntries = 10_000

// room reports whether there may be one more.
func (a *App) room(e *entry) error {
	most := maxEntries
	if e.Kind == kindOAuth2 && a.limits.maxConnections > 0 {
		most = min(most, a.limits.maxConnections)
	}
	count := 0
	for _, other := range a.entries() {
		if other.Kind == e.Kind && other.Tenant == e.Tenant {
			count++
		}
	}
	if count >= most {
		return api.PlanLimit("there may be %d of this kind, and there are that many", most)
	}
	return nil
}

// stands reports whether something that an entry names was removed at another instance since it was looked up.
func (s apiService) stands(e *entry) error {
	ids := []string{e.Collection}
	for _, environment := range environmentsOf(e) {
		if said, _ := e.in(environment); said != nil { // what cannot be read was refused before
			ids = append(ids, said.certificates()...)
		}
	}
	for _, id := range ids {
		if id != "" && s.entryByID(id) == nil {
			return api.Conflict("a collection or certificate that it names was removed meanwhile; look again")
		}
	}
	return nil
}

// name takes the name out of the fields. Spaces become underscores.
func (f *faults) name(fields map[string]json.RawMessage) string {
	name := strings.ReplaceAll(strings.TrimSpace(f.text(fields, "name")), " ", "_")
	if name == "" {
		f.add("name", "is required")
	} else if !isEntryName(name) {
		f.add("name", "must be of letters, digits, dots, dashes and underscores, begin with a letter or digit, and be at most 64 characters long")
	}
	return name
}

// text takes a text out of the fields; "" when it is not there.
func (f *faults) text(fields map[string]json.RawMessage, field string) string {
	var value string
	raw, ok := fields[field]
	delete(fields, field)
	if ok && json.Unmarshal(raw, &value) != nil {
		f.add(field, "must be a text")
	}
	return value
}

// draftConnection fills in a new connection and names everything that is wrong with it.
func (s apiService) draftConnection(e *entry, fields map[string]json.RawMessage, wrong *faults) {
	e.Note = wrong.text(fields, "description")
	e.BaseEnvironment = cmp.Or(wrong.text(fields, "base_environment"), defaultEnvironment)
	if !isEntryName(e.BaseEnvironment) {
		wrong.add("base_environment", "is not a name")
	}
	environments := wrong.environments(fields, nil)
	if _, said := fields["provider"]; !said {
		wrong.add("provider", "is required; name a preset, or custom")
	}
	e.Options = wrong.options(make(map[string]json.RawMessage), fields)
	s.overrides(e, environments, wrong)
	s.checkConnection(e, wrong)
}

// options changes the options of a connection. Without a grant it is authorization_code, never one that is guessed.
func (f *faults) options(all, fields map[string]json.RawMessage) entryOptions {
	f.apply(all, fields, "", func(use) bool { return true })
	if all["grant"] == nil {
		all["grant"] = json.RawMessage(`"` + oauth.GrantAuthorizationCode + `"`)
	}
	return newEntryOptions(all)
}

// environments takes the overriding fields out of the fields; a nil map stands for null, which for all of them is one for each that
// is known.
func (f *faults) environments(fields map[string]json.RawMessage, known map[string]entryOptions) map[string]map[string]json.RawMessage {
	raw, ok := fields["environments"]
	delete(fields, "environments")
	var all map[string]map[string]json.RawMessage
	if bytes.Equal(raw, jsonNull) {
		all = make(map[string]map[string]json.RawMessage, len(known))
		for name := range known {
			all[name] = nil
		}
		return all
	}
	if ok && json.Unmarshal(raw, &all) != nil {
		f.add("environments", "must be an object with an object for each environment")
	}
	for name := range all {
		if !isEntryName(name) {
			f.add("environments."+name, "is not a name")
		}
	}
	return all
}

// overrides changes the overriding options of environments.
func (s apiService) overrides(e *entry, said map[string]map[string]json.RawMessage, wrong *faults) {
	next := maps.Clone(e.Environments)
	if next == nil {
		next = make(map[string]entryOptions)
	}
	for name, fields := range said {
		if name == e.BaseEnvironment {
			wrong.add("environments."+name, "is the base environment; its values are the fields themselves")
			continue
		}
		if fields == nil {
			delete(next, name)
			continue
		}
		all := next[name].reveal()
		if all == nil {
			all = make(map[string]json.RawMessage)
		}
		wrong.apply(all, fields, "environments."+name+".", func(u use) bool { return u == useOverride || u == useValue })
		next[name] = newEntryOptions(all)
	}
	if e.Environments = next; len(next) > maxEnvironments {
		wrong.add("environments", fmt.Sprintf("there may be %d", maxEnvironments))
	}
}

// checkConnection builds the connection in every environment and names what is wrong.
func (s apiService) checkConnection(e *entry, wrong *faults) {
	if len(e.Environments) > maxEnvironments {
		return // was said
	}
	for _, environment := range environmentsOf(e) {
		prefix := ""
		if environment != e.BaseEnvironment {
			prefix = "environments." + environment + "."
		}
		said, err := e.in(environment)
		if err != nil {
			wrong.addAll(prefix, err)
		}
		if said == nil {
			continue
		}
		wrong.required(said, prefix)
		if _, err := s.buildSaid(e, said, environment, s.entryByID); err != nil {
			wrong.addAll(prefix, err)
		}
		if wrong.has(prefix + "provider") { // then it is no wonder that endpoints are missing
			*wrong = slices.DeleteFunc(*wrong, func(f api.Fault) bool {
				return f.Field == prefix+"auth_url" && said.AuthorizationEndpoint == "" || f.Field == prefix+"token_url" && said.TokenEndpoint == ""
			})
		}
	}
}

// required names what is missing that the API wants, beyond what the configuration does.
func (f *faults) required(c *storedOptions, prefix string) {
	public := c.ClientAuth == string(oauth.None) || c.Grant == oauth.GrantImplicit
	if c.ClientSecret == "" && c.CertificateID == "" && c.SigningKey == nil && !public {
		f.add(prefix+"client_secret", "is required, unless mtls_certificate_id or client_key is given, or client_auth is none")
	}
	if f.account(c, prefix); c.ClientID == "" {
		f.add(prefix+"client_id", "is required")
	}
	if c.Provider != nil {
		return
	}
	if c.TokenEndpoint == "" && c.Grant != oauth.GrantImplicit {
		f.add(prefix+"token_url", "is required for the provider custom")
	}
	if c.AuthorizationEndpoint == "" && (c.Grant == oauth.GrantAuthorizationCode || c.Grant == oauth.GrantImplicit) {
		f.add(prefix+"auth_url", "is required for the provider custom, where the grant sends people there")
	}
}

// account names what is missing of, or too much for, the account of the grant password.
func (f *faults) account(c *storedOptions, prefix string) {
	for _, one := range []struct{ field, value string }{{"username", c.Username}, {"password", c.Password}} {
		if wants := c.Grant == oauth.GrantPassword; wants && one.value == "" {
			f.add(prefix+one.field, "is required for the grant password")
		} else if !wants && one.value != "" {
			f.add(prefix+one.field, "is for the grant password only; leave it out, or say so in grant_type")
		}
	}
}

// fetchFirst gets the first token of a connection that needs no person, so that its state tells whether it works.
func (s apiService) fetchFirst(ctx context.Context, e *entry) {
	if e.Kind != kindOAuth2 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firstTokenWait)
	defer cancel()
	for _, environment := range append([]string{""}, slices.Sorted(maps.Keys(e.Environments))...) {
		c, ok := s.active.get(fullName(e.Tenant, e.Name, environment, e.BaseEnvironment))
		if !ok || c.entry != e || c.needsPerson() || c.source == nil {
			continue
		}
		if _, err := c.source.Token(ctx, c.settings); err != nil {
			s.logger.Warn("a new connection got no token", zap.String("connection", c.name), zap.Error(err))
		}
	}
}

// draftCertificate fills in a new certificate.
func draftCertificate(e *entry, fields map[string]json.RawMessage, wrong *faults) {
	_, key := fields["private_key"]
	_, chain := fields["certificate"]
	if !chain && !key && e.Chain == "" && e.Key.IsZero() {
		wrong.add("certificate", "is required, or private_key for a key that only signs")
	}
	if _, said := fields["description"]; said {
		e.Note = wrong.text(fields, "description")
	}
	if chain {
		e.Chain = strings.TrimSpace(wrong.text(fields, "certificate")) + "\n"
	}
	if key {
		e.Key = secret.New(strings.TrimSpace(wrong.text(fields, "private_key")))
	}
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		wrong.add(field, "a certificate has no such field")
	}
	if len(*wrong) == 0 && (chain || key) { // one that has ended meanwhile can still be described, and moved
		wrong.checkCertificate(e)
	}
}

// checkCertificate reads the chain, and the key if there is one. A key alone signs client assertions.
func (f *faults) checkCertificate(e *entry) {
	if strings.TrimSpace(e.Chain) == "" {
		if err := (&oauth.ClientKey{Held: e.Key, Name: e.Name}).Check(); err != nil {
			f.add("private_key", err.Error())
		}
		e.Chain = ""
		return
	}
	rest := []byte(e.Chain)
	for count := 0; ; count++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if count == 0 || len(bytes.TrimSpace(rest)) > 0 {
				f.add("certificate", "must be certificates in PEM, and nothing else")
			}
			break
		}
		if _, err := x509.ParseCertificate(block.Bytes); block.Type != "CERTIFICATE" || err != nil {
			f.add("certificate", "must be certificates in PEM, and nothing else")
			return
		}
	}
	if e.Key.IsZero() {
		return
	}
	_, err := (&oauth.Certificate{Chain: e.Chain, Key: e.Key, Name: e.Name}).Load()
	var failure *oauth.Error
	switch {
	case err == nil:
	case errors.As(err, &failure) && (failure.Code == "certificate_expired" || failure.Code == "certificate_not_yet_valid"):
		f.add("certificate", failure.Error())
	default:
		f.add("private_key", "is no PEM key without a passphrase that belongs to the certificate")
	}
}

// Interface guard.
var _ api.Secrets = apiService{}
