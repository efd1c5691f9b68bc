package caddyoauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// The stored form of a record is its own type with a version, apart from the form that the program works with: fields here
// may only be added. Older versions are upgraded in decodeRecord and nowhere else. testdata/records keeps samples that must
// be readable for ever.

const recordVersion = 1

type recordV1 struct {
	Version     int         `json:"version"`
	Tenant      string      `json:"tenant,omitempty"`
	Connection  string      `json:"connection"`
	Subject     string      `json:"subject,omitempty"`
	Fingerprint string      `json:"fingerprint"`
	Status      string      `json:"status"`
	Current     *tokenSetV1 `json:"current,omitempty"`
	Intent      *intentV1   `json:"intent,omitempty"`
	Failure     *failureV1  `json:"failure,omitempty"`
	UpdatedAt   time.Time   `json:"updated_at"`
}

type tokenSetV1 struct {
	Generation   uint64          `json:"generation"`
	AccessToken  string          `json:"access_token"`
	RefreshToken string          `json:"refresh_token,omitempty"`
	TokenType    string          `json:"token_type,omitempty"`
	Scope        string          `json:"scope,omitempty"`
	IssuedAt     time.Time       `json:"issued_at"`
	ExpiresAt    time.Time       `json:"expires_at"`
	RefreshEnds  *time.Time      `json:"refresh_expires_at,omitempty"`
	RefreshSince *time.Time      `json:"refresh_issued_at,omitempty"`
	Reason       string          `json:"reason,omitempty"`
	Nonce        string          `json:"nonce,omitempty"`
	By           string          `json:"by,omitempty"`
	Root         uint64          `json:"root,omitempty"`
	AuthorizedAt *time.Time      `json:"authorized_at,omitempty"`
	Response     json.RawMessage `json:"response,omitempty"`
	Consent      *consentV1      `json:"consent,omitempty"`
}

type consentV1 struct {
	Requested []string          `json:"requested,omitempty"`
	Fields    map[string]string `json:"fields,omitempty"`
	Callback  map[string]string `json:"callback,omitempty"`
	AccountID string            `json:"account_id,omitempty"`
	Label     string            `json:"label,omitempty"`
	Found     map[string]string `json:"found,omitempty"`
	Origin    string            `json:"origin,omitempty"`
}

type intentV1 struct {
	Generation    uint64    `json:"generation"`
	RefreshDigest string    `json:"refresh_digest,omitempty"`
	Nonce         string    `json:"nonce"`
	At            time.Time `json:"at"`
	Repeated      bool      `json:"repeated,omitempty"`
}

type failureV1 struct {
	Code     string    `json:"code"`
	At       time.Time `json:"at"`
	Attempts int       `json:"attempts"`
}

// encodeRecord returns the plain stored form, which must be sealed before it goes anywhere.
func encodeRecord(rec connection.Record) ([]byte, error) {
	if !utf8.ValidString(rec.ID.Tenant + rec.ID.Connection + rec.ID.Subject) {
		return nil, errors.New("tenant, connection and subject must be UTF-8") // JSON would change them: such a record could never be loaded
	}
	out := recordV1{
		Version: recordVersion,
		Tenant:  rec.ID.Tenant, Connection: rec.ID.Connection, Subject: rec.ID.Subject,
		Fingerprint: rec.Fingerprint, Status: string(rec.Status), UpdatedAt: rec.UpdatedAt.UTC(),
	}
	if rec.Current.Generation > 0 {
		out.Current = encodeTokenSet(rec.Current)
	}
	if rec.Intent != nil {
		in := intentV1(*rec.Intent)
		in.At = in.At.UTC()
		out.Intent = &in
	}
	if rec.Failure != nil {
		failure := failureV1(*rec.Failure)
		failure.At = failure.At.UTC()
		out.Failure = &failure
	}
	return json.Marshal(out)
}

func encodeTokenSet(set connection.TokenSet) *tokenSetV1 {
	out := &tokenSetV1{
		Generation: set.Generation, AccessToken: set.AccessToken.Reveal(), RefreshToken: set.RefreshToken.Reveal(),
		TokenType: set.TokenType, Scope: set.Scope, IssuedAt: set.IssuedAt.UTC(), ExpiresAt: set.ExpiresAt.UTC(),
		Reason: string(set.Reason), Nonce: set.Nonce, By: set.By, Response: json.RawMessage(set.Response.Reveal()),
		Root: set.Root, Consent: (*consentV1)(set.Consent),
	}
	out.RefreshEnds, out.RefreshSince, out.AuthorizedAt = known(set.RefreshExpiresAt), known(set.RefreshIssuedAt), known(set.AuthorizedAt)
	return out
}

// decodeRecord reads the plain stored form. Its errors never repeat what they read.
func decodeRecord(plain []byte) (connection.Record, error) {
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(plain, &version); err != nil {
		return connection.Record{}, errors.New("decode the record: it is not JSON")
	}
	if version.Version != recordVersion {
		return connection.Record{}, fmt.Errorf("decode the record: version %d is unknown to this program, which knows %d; was it written by a newer one?",
			version.Version, recordVersion)
	}
	var in recordV1
	decoder := json.NewDecoder(bytes.NewReader(plain))
	if err := decoder.Decode(&in); err != nil {
		return connection.Record{}, errors.New("decode the record: a field has the wrong type")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return connection.Record{}, errors.New("decode the record: something follows it")
	}
	if in.Connection == "" {
		return connection.Record{}, errors.New("decode the record: it names no connection")
	}
	rec := connection.Record{
		ID:          connection.ID{Tenant: in.Tenant, Connection: in.Connection, Subject: in.Subject},
		Fingerprint: in.Fingerprint, Status: connection.Status(in.Status), UpdatedAt: in.UpdatedAt,
	}
	if in.Current != nil {
		rec.Current = decodeTokenSet(*in.Current)
	}
	if in.Intent != nil {
		intent := connection.Intent(*in.Intent)
		rec.Intent = &intent
	}
	if in.Failure != nil {
		failure := connection.Failure(*in.Failure)
		rec.Failure = &failure
	}
	return rec, nil
}

func decodeTokenSet(in tokenSetV1) connection.TokenSet {
	out := connection.TokenSet{
		Generation: in.Generation, AccessToken: secret.New(in.AccessToken), RefreshToken: secret.New(in.RefreshToken),
		TokenType: in.TokenType, Scope: in.Scope, IssuedAt: in.IssuedAt, ExpiresAt: in.ExpiresAt,
		Reason: connection.Reason(in.Reason), Nonce: in.Nonce, By: in.By, Response: secret.New(string(in.Response)),
		Root: in.Root, Consent: (*connection.Consent)(in.Consent),
	}
	for to, from := range map[*time.Time]*time.Time{
		&out.RefreshExpiresAt: in.RefreshEnds, &out.RefreshIssuedAt: in.RefreshSince, &out.AuthorizedAt: in.AuthorizedAt,
	} {
		if from != nil {
			*to = *from
		}
	}
	return out
}
