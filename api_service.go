package caddyoauth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// apiService does what the REST API is asked for, on behalf of one app.
type apiService struct{ *App }

// service returns what the API works with.
func (a *App) service() api.Service {
	s := apiService{a}
	return api.Service{
		Secrets: s, Tokens: apiTokens{a}, Versions: apiTokens{a}, Collections: apiCollections{a}, Keys: apiKeys{a}, Sealing: apiSealing{a},
		Health: a.apiHealth, Trail: a.AuditTrail, Record: a.audit, Once: apiOnce{a}, Options: apiOptions(),
	}
}

// apiOptions are the options that the API knows by their name in the configuration.
func apiOptions() []api.Option {
	var all []api.Option
	t := reflect.TypeFor[Connection]()
	for i := range t.NumField() {
		field := t.Field(i)
		if name := jsonName(field); storedUses[name] != 0 && apiNames[name] == "" && !spelled[name] {
			option := api.Option{Name: name, Type: field.Type}
			if name == "client_key" {
				option.Type = reflect.TypeFor[SigningKey]()
			}
			all = append(all, option)
		}
	}
	return all
}

// configuredID is the ID of a configured connection. It is the same on every instance.
func configuredID(c *activeConnection) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s%s", len(c.key.id.Tenant), c.key.id.Tenant, c.name))
	return formatID([16]byte(sum[:16]), 8)
}

// held is a secret as the API sees it: an entry, or a configured connection.
type held struct {
	entry      *entry
	configured *activeConnection
}

// held returns all secrets.
func (s apiService) held() []held {
	var all []held
	for _, c := range s.active.all() {
		if c.entry == nil {
			all = append(all, held{configured: c})
		}
	}
	for _, e := range s.entries() {
		if e.Kind.space() == "secret" {
			all = append(all, held{entry: e})
		}
	}
	return all
}

// entries returns what was made at run time, as far as it is known.
func (a *App) entries() []*entry {
	if a.catalog == nil {
		return nil
	}
	all, _ := a.catalog.all()
	return all
}

// entryByID returns an entry; nil if there is none.
func (a *App) entryByID(id string) *entry {
	for _, e := range a.entries() {
		if e.ID == id {
			return e
		}
	}
	return nil
}

// List implements api.Secrets.
func (s apiService) List(ctx context.Context, states bool) ([]api.Secret, error) {
	if err := s.awaitStored(ctx); err != nil {
		return nil, err
	}
	var all []api.Secret
	for _, one := range s.held() {
		secret := s.summary(one)
		if states {
			s.addStanding(ctx, one, &secret)
		}
		all = append(all, secret)
	}
	return all, nil
}

// awaitStored waits until the storage was read once.
func (a *App) awaitStored(ctx context.Context) error {
	if a.catalog == nil || a.active.storedVersion() > 0 {
		return nil
	}
	if err := a.follow(ctx); err != nil {
		return asAPI(fmt.Errorf("%w: %w", ErrStorage, err))
	}
	return nil
}

// summary is what a list shows of a secret, without its state.
func (s apiService) summary(h held) api.Secret {
	if h.configured != nil {
		c := h.configured
		environment := s.Environment
		return api.Secret{
			ID: configuredID(c), Name: c.name, SecretType: "oauth2", Provider: new(cmp.Or(s.presetOf(c.name), "custom")), Tenant: c.key.id.Tenant,
			RedirectURI: s.redirectURI(c), BaseEnvironment: &environment, ReadOnly: true,
		}
	}
	e := h.entry
	out := api.Secret{
		ID: e.ID, Name: e.Name, SecretType: string(e.Kind), Tenant: e.Tenant, Revision: e.Revision, CreatedAt: e.CreatedAt, UpdatedAt: e.UpdatedAt,
		CollectionID: pointerTo(e.Collection),
	}
	if e.Kind == kindOAuth2 {
		var preset ProviderPreset
		_ = json.Unmarshal(e.Options.open["provider"], &preset) // none is custom
		out.Provider, out.BaseEnvironment = new(cmp.Or(preset.Name, "custom")), new(e.BaseEnvironment)
		out.MTLSCertificateID = pointerTo(e.Options.text("mtls_certificate_id"))
		if c, ok := s.active.getStored(fullName(e.Tenant, e.Name, "", "")); ok {
			out.RedirectURI = s.redirectURI(c)
		}
	}
	return out
}

func pointerTo(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// presetOf returns the preset of a configured connection; "" if it has none, or is inline.
func (a *App) presetOf(name string) string {
	if config := a.Connections[name]; config != nil && config.Provider != nil {
		return config.Provider.Name
	}
	return ""
}

// Describe implements api.Secrets.
func (s apiService) Describe(ctx context.Context, id string) (api.SecretDetail, error) {
	for _, h := range s.held() {
		if s.summary(h).ID == id {
			return s.detail(ctx, h), nil
		}
	}
	return api.SecretDetail{}, api.NotFound()
}

func (s apiService) detail(ctx context.Context, h held) api.SecretDetail {
	out := api.SecretDetail{Secret: s.summary(h)}
	seen := s.addStanding(ctx, h, &out.Secret)
	if e := h.entry; e != nil {
		out.Description, out.CreatedAt, out.UpdatedAt, out.CreatedBy, out.UpdatedBy = e.Note, &e.CreatedAt, &e.UpdatedAt, e.CreatedBy, e.UpdatedBy
		if e.Kind == kindCertificate {
			out.Certificate = describeCertificate(e)
			return out
		}
		out.Options, out.SecretOptions = shown(e.Options), slices.Sorted(maps.Keys(e.Options.hidden))
		for _, environment := range slices.Sorted(maps.Keys(e.Environments)) {
			if out.Environments == nil {
				out.Environments = make(map[string]api.Environment)
			}
			overrides := e.Environments[environment]
			out.Environments[environment] = api.Environment{
				Options: shown(overrides), SecretOptions: slices.Sorted(maps.Keys(overrides.hidden)), ConnectionStatus: s.lookAt(ctx, h, environment).status,
			}
		}
	}
	if c := seen.connection; out.Token != nil && !seen.state.Status.NeedsPerson() {
		if found, err := s.others(ctx, c, c.key.id, seen.state.Consent); err == nil { // a note that cannot be read is no reason to see nothing
			out.Token.Also, out.Token.SameToken = s.neighbours(Ref{Connection: c.name}, found.owners), found.sameToken
		}
	}
	return out
}

// describeCertificate is what may be shown of a certificate.
func describeCertificate(e *entry) *api.Certificate {
	out := &api.Certificate{HasKey: !e.Key.IsZero()}
	for block, rest := pem.Decode([]byte(e.Chain)); block != nil; block, rest = pem.Decode(rest) {
		out.ChainLength++
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil || out.ChainLength > 1 {
			continue
		}
		sum := sha256.Sum256(leaf.Raw)
		out.Subject, out.Issuer, out.Serial = leaf.Subject.String(), leaf.Issuer.String(), leaf.SerialNumber.Text(16)
		out.NotBefore, out.NotAfter, out.Fingerprint = known(leaf.NotBefore), known(leaf.NotAfter), hex.EncodeToString(sum[:])
	}
	return out
}

// apiHealth is Health in the API's words.
func (a *App) apiHealth(ctx context.Context) api.Health {
	report := a.Health(ctx)
	health := api.Health{Status: "ok", Checks: []api.HealthCheck{
		{Name: "keys", OK: report.Keys == "open" || report.Keys == "unused", Detail: report.Keys},
		{Name: "storage", OK: report.Storage == "ok", Detail: report.Storage},
		{Name: "required_connections", OK: len(report.Dead) == 0, Detail: strings.Join(slices.Sorted(maps.Keys(report.Dead)), ", ")},
	}}
	if !report.Ready {
		health.Status = "unready"
	}
	return health
}

// asAPI turns an error of an operation into the API's answer. Others are unexpected, and pass as they are.
func asAPI(err error) error {
	var already *api.Error
	var unavailable *connection.Unavailable
	switch {
	case err == nil, errors.As(err, &already):
		return err
	case errors.Is(err, ErrNotFound):
		return api.NotFound()
	case errors.Is(err, errNameTaken):
		return api.Conflict("the name is taken")
	case errors.Is(err, errRevision):
		return api.Stale()
	case errors.Is(err, errNoStored):
		return api.PlanLimit("%s", errNoStored)
	case errors.Is(err, ErrNotPersonal), errors.Is(err, ErrNoTestCall), errors.Is(err, ErrNoRollback):
		return api.Conflict("%s", err)
	case errors.Is(err, ErrBusy):
		return api.Unavailable(time.Second, "it is being changed at this moment")
	case errors.As(err, &unavailable):
		return unavailableAPI(unavailable)
	case errors.Is(err, ErrStorage), errors.Is(err, connection.ErrUnreadable):
		return api.Unavailable(5*time.Second, "the storage cannot be read or written at the moment")
	}
	return err
}

func unavailableAPI(u *connection.Unavailable) error {
	switch {
	case u.Status.NeedsPerson():
		return api.Conflict("a person has to connect the account first (%s)", u.Code)
	case u.Status == connection.StatusMisconfigured:
		return api.Provider(u.Code, "the provider refuses the client")
	}
	return api.Unavailable(time.Until(u.RetryAt), "the token cannot be renewed at the moment ("+u.Code+")")
}
