package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxBody bounds a request's body. A certificate chain is the largest thing that there is.
const maxBody = 256 << 10

// Draft is what a client says of a secret. What it says of a connection is checked by who makes it.
type Draft struct {
	SecretType string                     // oauth2 or certificate; "" in a change
	Tenant     string                     // of a new one
	Collection *string                    // ID; "" = in none; nil = not said
	Fields     map[string]json.RawMessage // everything that was said but for the above, null included
	Faults     []Fault                    // what is wrong with the above; it is refused together with what is wrong with the fields
}

// CollectionDraft is what a client says of a collection; nil = not said.
type CollectionDraft struct {
	Tenant      string
	Name        *string
	Description *string
	Faults      []Fault // as those of a Draft
}

// KeyDraft is what a client says of an API key.
type KeyDraft struct {
	Name        string
	Role        Role
	Collections []string
	Tenant      string
	AllTenants  bool
	ExpiresAt   time.Time
	Faults      []Fault // as those of a Draft
}

// The bodies as the OpenAPI document describes them.
type (
	secretBody struct {
		Name              string                     `json:"name,omitempty" doc:"Required. Letters, digits, dots, dashes and underscores; spaces become underscores. It cannot be changed."`
		SecretType        string                     `json:"secret_type,omitempty" enum:"oauth2,certificate" doc:"Required at /v1/secrets."`
		Description       string                     `json:"description,omitempty" nullable:"true"`
		CollectionID      *string                    `json:"collection_id,omitempty" format:"uuid"`
		Tenant            string                     `json:"tenant,omitempty" doc:"For callers that may act for several tenants."`
		Provider          string                     `json:"provider,omitempty" doc:"Required for a connection: google, github, salesforce, microsoft, slack, another preset, or custom."`
		ProviderParams    map[string]string          `json:"provider_params,omitempty" nullable:"true" doc:"Parameters of the preset, such as the tenant of microsoft."`
		ClientID          string                     `json:"client_id,omitempty" doc:"Required for a connection."`
		ClientSecret      string                     `json:"client_secret,omitempty" nullable:"true" doc:"Required unless mtls_certificate_id or client_key is given, grant_type is implicit, or client_auth is none." writeOnly:"true"`
		GrantType         string                     `json:"grant_type,omitempty" nullable:"true" enum:"authorization_code,client_credentials,password,implicit" doc:"Default: authorization_code."`
		Scopes            []string                   `json:"scopes,omitempty" nullable:"true" doc:"Default: what the preset recommends."`
		AuthURL           string                     `json:"auth_url,omitempty" nullable:"true" format:"uri" doc:"Required for custom, where the grant sends people there."`
		TokenURL          string                     `json:"token_url,omitempty" nullable:"true" format:"uri" doc:"Required for custom."`
		Username          string                     `json:"username,omitempty" nullable:"true" doc:"For the password grant."`
		Password          string                     `json:"password,omitempty" nullable:"true" doc:"For the password grant." writeOnly:"true"`
		MTLSCertificateID *string                    `json:"mtls_certificate_id,omitempty" format:"uuid" doc:"A certificate with a key, shown to the token endpoint (RFC 8705)."`
		CACertificateID   *string                    `json:"ca_certificate_id,omitempty" format:"uuid" doc:"A certificate to trust as the token endpoint, instead of the public authorities."`
		BaseEnvironment   string                     `json:"base_environment,omitempty" doc:"Which environment the fields are for. Default: production."`
		Environments      map[string]json.RawMessage `json:"environments,omitempty" nullable:"true" doc:"Overriding fields, by environment: client, endpoints, account, scopes and hosts."`
		Certificate       string                     `json:"certificate,omitempty" nullable:"true" doc:"Of a certificate: its PEM chain. Leave it out for a key that only signs."`
		PrivateKey        string                     `json:"private_key,omitempty" nullable:"true" doc:"Of a certificate: its PEM key. Leave it out for one that is only trusted. A key alone may be a JSON Web Key." writeOnly:"true"`
	}
	collectionBody struct {
		Name        string `json:"name,omitempty"`
		Description string `json:"description,omitempty" nullable:"true"`
		Tenant      string `json:"tenant,omitempty" doc:"For callers that may act for several tenants."`
	}
	keyBody struct {
		Name        string     `json:"name"`
		Role        string     `json:"role" enum:"viewer,operator,admin"`
		Collections []string   `json:"collections,omitempty" doc:"IDs. Default: everything in the tenant."`
		Tenant      string     `json:"tenant,omitempty" doc:"For callers that may act for several tenants."`
		AllTenants  bool       `json:"all_tenants,omitempty" doc:"Only callers that may act for all tenants can give it."`
		ExpiresAt   *time.Time `json:"expires_at,omitempty" nullable:"true" doc:"Default: never."`
	}
)

// readBody reads and checks the body as far as it is the same for all routes.
func (c *call) readBody() error {
	if c.route.method == http.MethodGet {
		return nil // it means nothing there (RFC 9110 section 9.3.1)
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &Error{Status: http.StatusRequestEntityTooLarge, Type: typeTooLarge, Message: fmt.Sprintf("a body has at most %d bytes", maxBody)}
	case err != nil:
		return malformed("the body broke off")
	}
	c.body = bytes.TrimSpace(body)
	if len(c.body) == 0 {
		return nil
	}
	kind, params, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	charset := params["charset"]
	coding := c.r.Header.Get("Content-Encoding")
	switch {
	case err != nil, !slices.Contains(c.route.kinds(), kind), charset != "" && !strings.EqualFold(charset, "utf-8"):
		return &Error{Status: http.StatusUnsupportedMediaType, Type: typeMedia, Message: "send application/json"}
	case coding != "" && !strings.EqualFold(coding, "identity"):
		return &Error{Status: http.StatusUnsupportedMediaType, Type: typeMedia, Message: "send the body without a Content-Encoding"}
	case !utf8.Valid(c.body): // the decoder would put another character in its place, in a password too
		return malformed("the body is not UTF-8")
	}
	if c.route.body == nil && string(c.body) != "{}" {
		return malformed("this takes no body")
	}
	return nil
}

// reader returns the members of the JSON object in the body.
func (c *call) reader() (*reader, error) {
	decoder := json.NewDecoder(bytes.NewReader(c.body))
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return nil, malformed("send a JSON object")
	}
	r := &reader{fields: make(map[string]json.RawMessage)}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, malformed("the body is not JSON")
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, malformed("the body is not JSON")
		}
		r.fields[name.(string)] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, malformed("the body is not JSON")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed("something follows the JSON object")
	}
	for _, field := range twice(c.body) {
		r.fault(field, "stands twice")
	}
	return r, nil
}

// reader takes fields out of a body and collects what is wrong.
type reader struct {
	fields map[string]json.RawMessage
	faults []Fault
}

func (r *reader) fault(field, message string) {
	r.faults = append(r.faults, Fault{field, message})
}

// take reads a field into a value and removes it; it reports whether it was there.
func (r *reader) take(field string, into any, kind string) bool {
	raw, ok := r.fields[field]
	delete(r.fields, field)
	if !ok {
		return false
	}
	if err := json.Unmarshal(raw, into); err != nil {
		r.fault(field, "must be "+kind)
	}
	return true
}

// text takes a string; "" if it is not there.
func (r *reader) text(field string) string {
	var value string
	r.take(field, &value, "a string")
	return value
}

// nullable takes a string or null; nil if it is not there.
func (r *reader) nullable(field string) *string {
	var value *string
	if !r.take(field, &value, "a string or null") {
		return nil
	}
	if value == nil {
		return new(string)
	}
	return value
}

// rest refuses what was not taken.
func (r *reader) rest() {
	for _, field := range sortedKeys(r.fields) {
		r.fault(field, "there is no such field")
	}
}

func (r *reader) err() error {
	if len(r.faults) == 0 {
		return nil
	}
	return Invalid(r.faults...)
}

// readQuery reads the query, in which unknown parameters are faults: a misspelt filter would show everything.
func (c *call) readQuery() (url.Values, error) {
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, malformed("the query is not properly encoded")
	}
	r := &reader{}
	for _, name := range sortedKeys(query) {
		i := slices.IndexFunc(c.route.params, func(p param) bool { return p.name == name })
		switch values := query[name]; {
		case i < 0:
			r.fault(name, "there is no such parameter")
		case len(values) > 1:
			r.fault(name, "stands twice")
		case c.route.params[i].number:
			if n, err := strconv.Atoi(values[0]); err != nil || n < 1 || name == "per_page" && n > 200 {
				r.fault(name, "must be a number in range")
			}
		case len(c.route.params[i].enum) > 0 && !slices.Contains(c.route.params[i].enum, values[0]):
			r.fault(name, "must be one of "+strings.Join(c.route.params[i].enum, ", "))
		}
	}
	return query, r.err()
}

// number returns a parameter of the query, which was checked.
func (c *call) number(name string, otherwise int) int {
	n, err := strconv.Atoi(c.query.Get(name))
	if err != nil {
		return otherwise
	}
	return n
}
