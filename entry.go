package caddyoauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// An entry is something that was made at run time, and is kept in storage instead of in the configuration. Its stored form is
// its own type with a version, as that of a record is: fields may only be added, and testdata/entries keeps samples that must be
// readable for ever.

const entryVersion = 1

// entryKind says what an entry is.
type entryKind string

// The kinds of entries.
const (
	kindOAuth2      entryKind = "oauth2"
	kindCertificate entryKind = "certificate"
	kindCollection  entryKind = "collection"
	kindAPIKey      entryKind = "api_key"
)

// entryName is what names of entries and environments look like. They stand in URLs, in the configuration and in logs.
var entryName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

func isEntryName(name string) bool { return entryName.MatchString(name) }

// space says among which names of its tenant an entry's name is unique.
func (k entryKind) space() string {
	if k == kindOAuth2 || k == kindCertificate {
		return "secret"
	}
	return string(k)
}

// entry is one such thing. It is never changed, only replaced.
type entry struct {
	Kind       entryKind
	ID         string // a UUID
	Tenant     string // "" is the default tenant
	Name       string
	Collection string // the ID of a collection; "" = none
	Note       string // for people
	Revision   uint64 // counts changes, from 1
	Nonce      string // tells writers of the same revision apart
	CreatedAt  time.Time
	UpdatedAt  time.Time
	CreatedBy  string
	UpdatedBy  string

	Options         entryOptions // of a connection
	BaseEnvironment string       // which environment they are for
	Environments    map[string]entryOptions
	Moved           map[string]moved // by environment

	Chain string      // of a certificate, PEM
	Key   secret.Text // of a certificate, PEM

	Access *access // of an API key
}

// access is what an API key gives access to.
type access struct {
	Prefix      string // the part that may be shown
	Hash        string // SHA-256 of the whole key, in hex: with 256 random bits in the key there is nothing to guess
	Role        string
	Collections []string  // IDs; empty = all of the tenant
	AllTenants  bool      // not only the key's own
	ExpiresAt   time.Time // zero = never
}

// entryOptions are options of a connection by their configuration names, as JSON. Those that hold secrets are kept apart, so that what
// is shown cannot hold one.
type entryOptions struct {
	open   map[string]json.RawMessage
	hidden map[string]secret.Text
}

// hiddenOptions hold secrets, or may. They are never shown.
var hiddenOptions = []string{"client_secret", "password", "token_params", "headers", "params", "test_call"}

// newEntryOptions sorts options into those that may be shown and those that may not.
func newEntryOptions(all map[string]json.RawMessage) entryOptions {
	o := entryOptions{open: make(map[string]json.RawMessage), hidden: make(map[string]secret.Text)}
	for name, value := range all {
		if slices.Contains(hiddenOptions, name) {
			o.hidden[name] = secret.New(string(value))
			continue
		}
		o.open[name] = value
	}
	return o
}

// reveal returns all options, for sealing and for building a connection.
func (o entryOptions) reveal() map[string]json.RawMessage {
	if len(o.open)+len(o.hidden) == 0 {
		return nil
	}
	all := maps.Clone(o.open)
	if all == nil {
		all = make(map[string]json.RawMessage)
	}
	for name, value := range o.hidden {
		all[name] = json.RawMessage(value.Reveal())
	}
	return all
}

// text returns an option that is a string and may be shown; "" if there is none.
func (o entryOptions) text(name string) string {
	var value string
	_ = json.Unmarshal(o.open[name], &value) // no value and one of another type are the same here
	return value
}

type entryV1 struct {
	Version    int       `json:"version"`
	Kind       string    `json:"kind"`
	ID         string    `json:"id"`
	Tenant     string    `json:"tenant,omitempty"`
	Name       string    `json:"name"`
	Collection string    `json:"collection,omitempty"`
	Note       string    `json:"note,omitempty"`
	Revision   uint64    `json:"revision"`
	Nonce      string    `json:"nonce"`
	CreatedAt  time.Time `json:"created_at"`
	UpdatedAt  time.Time `json:"updated_at"`
	CreatedBy  string    `json:"created_by,omitempty"`
	UpdatedBy  string    `json:"updated_by,omitempty"`

	Options         map[string]json.RawMessage            `json:"options,omitempty"`
	BaseEnvironment string                                `json:"base_environment,omitempty"`
	Environments    map[string]map[string]json.RawMessage `json:"environments,omitempty"`
	Moved           map[string]moved                      `json:"moved,omitempty"`

	Chain string `json:"chain,omitempty"`
	Key   string `json:"key,omitempty"`

	Access *accessV1 `json:"access,omitempty"`
}

type accessV1 struct {
	Prefix      string    `json:"prefix"`
	Hash        string    `json:"hash"`
	Role        string    `json:"role"`
	Collections []string  `json:"collections,omitempty"`
	AllTenants  bool      `json:"all_tenants,omitempty"`
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
}

// encodeEntry returns the plain stored form, which must be sealed before it goes anywhere.
func encodeEntry(e *entry) ([]byte, error) {
	out := entryV1{
		Version: entryVersion, Kind: string(e.Kind), ID: e.ID, Tenant: e.Tenant, Name: e.Name, Collection: e.Collection, Note: e.Note,
		Revision: e.Revision, Nonce: e.Nonce, CreatedAt: e.CreatedAt.UTC(), UpdatedAt: e.UpdatedAt.UTC(),
		CreatedBy: e.CreatedBy, UpdatedBy: e.UpdatedBy,
		Options: e.Options.reveal(), BaseEnvironment: e.BaseEnvironment, Moved: e.Moved, Chain: e.Chain, Key: e.Key.Reveal(), Access: (*accessV1)(e.Access),
	}
	for name, overrides := range e.Environments {
		if out.Environments == nil {
			out.Environments = make(map[string]map[string]json.RawMessage)
		}
		out.Environments[name] = overrides.reveal()
	}
	return json.Marshal(out)
}

// decodeEntry reads the plain stored form. Its errors never repeat what they read.
func decodeEntry(plain []byte) (*entry, error) {
	var in entryV1
	decoder := json.NewDecoder(bytes.NewReader(plain))
	if err := decoder.Decode(&in); err != nil {
		return nil, errors.New("decode the entry: it is not JSON, or a field has the wrong type")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("decode the entry: something follows it")
	}
	if in.Version != entryVersion {
		return nil, fmt.Errorf("decode the entry: version %d is unknown to this program, which knows %d; was it written by a newer one?",
			in.Version, entryVersion)
	}
	if in.Kind == "" || in.ID == "" || in.Name == "" {
		return nil, errors.New("decode the entry: it has no kind, ID or name")
	}
	e := &entry{
		Kind: entryKind(in.Kind), ID: in.ID, Tenant: in.Tenant, Name: in.Name, Collection: in.Collection, Note: in.Note,
		Revision: in.Revision, Nonce: in.Nonce, CreatedAt: in.CreatedAt, UpdatedAt: in.UpdatedAt, CreatedBy: in.CreatedBy, UpdatedBy: in.UpdatedBy,
		Options: newEntryOptions(in.Options), BaseEnvironment: in.BaseEnvironment, Moved: in.Moved, Chain: in.Chain, Key: secret.New(in.Key),
		Access: (*access)(in.Access),
	}
	if len(in.Environments) > 0 {
		e.Environments = make(map[string]entryOptions, len(in.Environments))
	}
	for name, overrides := range in.Environments {
		e.Environments[name] = newEntryOptions(overrides)
	}
	return e, nil
}
