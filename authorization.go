package caddyoauth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// pendingLifetime is how long an authorization may take, from the way to the provider to the way back.
const pendingLifetime = 15 * time.Minute

// maxPending bounds how many authorizations may be under way in one tenant, since anyone who may connect can begin one.
const maxPending = 1000

// visitor is who authorizes, and in which browser.
type visitor struct {
	identity string // who the site's authentication says it is; never empty
	browser  string // the value of this browser's cookie; never empty
}

// pendingV1 is the stored form of an authorization under way. Any instance can finish what another one began.
type pendingV1 struct {
	Version     int       `json:"version"`
	Tenant      string    `json:"tenant,omitempty"`
	Connection  string    `json:"connection"`
	Subject     string    `json:"subject,omitempty"`
	Fingerprint string    `json:"fingerprint"`
	Identity    string    `json:"identity"`
	Browser     string    `json:"browser"` // digest of the cookie
	Verifier    string    `json:"verifier,omitempty"`
	Nonce       string    `json:"nonce,omitempty"`
	Issuer      string    `json:"issuer,omitempty"`           // who was asked, as far as it is known
	IssuerNamed bool      `json:"issuer_announced,omitempty"` // the server said that it names itself on the way back
	Implicit    bool      `json:"implicit,omitempty"`         // a token was asked for, not a code
	RedirectURI string    `json:"redirect_uri"`
	ReturnTo    string    `json:"return_to,omitempty"`
	ExpiresAt   time.Time `json:"expires_at"`

	Fields map[string]string `json:"fields,omitempty"` // what the person has answered
}

// Why an authorization cannot be finished, beyond what the provider says. The person has to begin again.
var (
	errPendingUnknown = errors.New("finish the authorization: it was not begun here, took too long, or was finished before")
	errPendingForeign = errors.New("finish the authorization: it was begun by somebody else, or in another browser")
	errPendingFull    = errors.New("begin the authorization: too many are under way")
	errPendingMany    = errors.New("begin the authorization: this person has begun too many")
	errOtherAnswer    = errors.New("finish the authorization: the answer is about something else than was asked for")
)

// beginAuthorization stores what the way back needs and returns where to send the person.
func (a *App) beginAuthorization(ctx context.Context, c *activeConnection, source *connection.Source, p pendingV1) (string, error) {
	if !a.engine.brake.admits(beginner{source.ID().Tenant, p.Identity}, time.Now()) {
		return "", errPendingMany
	}
	server, err := c.counterpart(&connection.Consent{Fields: p.Fields})
	if err != nil {
		return "", err
	}
	state := oauth.RandomState()
	request := oauth.AuthorizationRequest{RedirectURI: p.RedirectURI, State: state, Params: server.authParams}
	if p.Implicit = c.consent.implicit; p.Implicit {
		request.ResponseType = oauth.ResponseTypeToken
	}
	if c.consent.pkce {
		pkce := oauth.NewPKCE()
		request.Challenge, p.Verifier = pkce.Challenge, pkce.Verifier.Reveal()
	}
	if c.consent.openID {
		request.Nonce = oauth.RandomState()
		p.Nonce = request.Nonce
	}
	client, metadata, err := server.client.At(ctx)
	if err != nil {
		return "", err
	}
	url, err := client.AuthorizationURL(request)
	if err != nil {
		return "", err
	}
	if p.Issuer = server.issuer; metadata != nil { // kept, so that whoever finishes compares with who was asked, whatever they know of the server
		p.Issuer, p.IssuerNamed = metadata.Issuer, metadata.AuthorizationResponseIssParameterSupported
	}
	id := source.ID()
	p.Version, p.Tenant, p.Connection, p.Subject, p.Fingerprint = 1, id.Tenant, id.Connection, id.Subject, c.key.fingerprint
	p.ExpiresAt = time.Now().Add(pendingLifetime).UTC()
	return url, a.store.putPending(ctx, state, p)
}

// outcome is how an authorization ended.
type outcome struct {
	conn     *activeConnection // nil when it is not known which one it was for
	returnTo string            // where the person wanted to go
	test     *TestResult       // nil when there was no test call
}

// wayBack is what came back with a person.
type wayBack struct {
	answer   *oauth.AuthorizationResponse
	raw      string               // what it was read from
	implicit bool                 // it stood behind the #
	token    *oauth.TokenResponse // nil where there is a code to exchange, or an error
}

// finishAuthorization exchanges the code that came back, once, for whoever began, and tries the token out.
func (a *App) finishAuthorization(ctx context.Context, rawQuery string, who visitor) (outcome, error) {
	answer, err := oauth.ParseAuthorizationResponse(rawQuery)
	if err != nil {
		return outcome{}, err
	}
	return a.finish(ctx, wayBack{answer: answer, raw: rawQuery}, who)
}

// finish makes the outcome of a way back the next generation of whoever began.
func (a *App) finish(ctx context.Context, back wayBack, who visitor) (outcome, error) {
	answer := back.answer
	p, err := a.takePending(ctx, answer.State, who)
	if err != nil {
		return outcome{}, err
	}
	c, ok := a.active.get(p.Connection)
	if !ok || c.key.fingerprint != p.Fingerprint || c.key.id.Tenant != p.Tenant {
		return outcome{}, errPendingUnknown // the configuration has changed meanwhile
	}
	out := outcome{conn: c, returnTo: p.ReturnTo}
	given := &connection.Consent{Requested: c.consent.scopes, Fields: p.Fields, Callback: picked(answer.Extra, c.consent.keeping.callback)}
	server, err := c.counterpart(given)
	if err == nil {
		err = c.believe(server, back, p)
	}
	if err != nil {
		return out, err
	}
	if answer.Error != "" {
		return out, &deniedError{code: answer.Error}
	}
	ctx = context.WithoutCancel(ctx) // a code works once: from here on a closed tab must not cost the consent; the client has time-outs
	resp := back.token
	if !p.Implicit {
		resp, err = server.redeem(ctx, answer.Code, p)
	}
	if err == nil {
		err = identify(given, c.consent.clientID, resp, p)
	}
	if err != nil {
		return out, err
	}
	given.Found, given.Origin = c.consent.keeping.told(resp), resp.RefreshToken.Digest()
	key := c.key
	key.id.Subject = p.Subject
	source := a.engine.source(key)
	before, _ := source.Peek(ctx, c.settings) // what cannot be read is no reason to lose a consent
	token, err := source.Apply(ctx, c.settings, connection.Authorized(resp, given, c.settings, who.identity))
	if err != nil || token == nil {
		return out, err
	}
	if c.call != nil {
		result := a.test(ctx, c, source, token) // whatever it says, the consent stays
		out.test = &result
	}
	a.settleOwners(ctx, c, source, before.Consent)
	return out, nil
}

// redeem exchanges the code.
func (s *counterpart) redeem(ctx context.Context, code secret.Text, p *pendingV1) (*oauth.TokenResponse, error) {
	return s.client.ExchangeCode(ctx, oauth.CodeExchange{Code: code, Verifier: secret.New(p.Verifier), RedirectURI: p.RedirectURI})
}

// believe checks that a way back comes from the authorization server that was asked, and is about what it was asked for.
func (c *activeConnection) believe(server *counterpart, back wayBack, asked *pendingV1) error {
	answer := back.answer
	if back.implicit != asked.Implicit && answer.Error == "" { // a token where a code was asked for could be anybody's
		return fmt.Errorf("%w: it is of another grant", errOtherAnswer)
	}
	if c.consent.signed {
		if err := server.client.CheckSignature(back.raw); err != nil {
			return err
		}
	}
	for name, want := range server.confirms {
		if answer.Error == "" && answer.Extra[name] != want {
			return fmt.Errorf("%w: %s is not the one that was asked", errOtherAnswer, name)
		}
	}
	return answer.CheckIssuer(asked.Issuer, asked.IssuerNamed)
}

// picked returns those parameters of the way back that are kept.
func picked(extra map[string]string, names []string) map[string]string {
	kept := maps.Clone(extra)
	maps.DeleteFunc(kept, func(name, _ string) bool { return !slices.Contains(names, name) })
	return kept
}

// deniedError is the provider's word that it does not authorize.
type deniedError struct{ code string }

func (e *deniedError) Error() string { return "authorize: the provider answered " + e.code }

// identify compares an ID token, if one came, with what was asked for (OpenID Connect Core section 3.1.3.7), and takes from it whose
// account it is. A test call knows better.
func identify(given *connection.Consent, clientID string, resp *oauth.TokenResponse, asked *pendingV1) error {
	if resp.IDToken.IsZero() {
		return nil
	}
	claims, err := oauth.ParseIDToken(resp.IDToken)
	if err != nil {
		return err
	}
	given.AccountID, given.Label = claims.Subject, cmp.Or(claims.Email, claims.PreferredUsername, claims.Name)
	return claims.Check(asked.Issuer, clientID, asked.Nonce, time.Now())
}

// putPending stores an authorization under way, after removing those that took too long.
func (s *recordStore) putPending(ctx context.Context, state string, p pendingV1) error {
	if err := s.sweepPending(ctx, p.Tenant); err != nil {
		return err
	}
	plain, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return s.seal(ctx, pendingKey(p.Tenant, state), plain)
}

// sweepPending removes what is too old to be finished, by the storage's own time, and refuses when too much is left.
func (s *recordStore) sweepPending(ctx context.Context, tenant string) error {
	keys, err := s.list(ctx, pendingDir(tenant), false)
	if err != nil {
		return err
	}
	left := 0
	for _, key := range keys {
		if path.Ext(key) != recordsExt {
			continue
		}
		info, err := s.storage.Stat(ctx, key)
		if err == nil && time.Since(info.Modified) > pendingLifetime {
			err = s.remove(ctx, key)
		} else if err == nil {
			left++
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if left >= maxPending {
		return errPendingFull
	}
	return nil
}

// takePending returns the authorization under way that belongs to the state, if this visitor began it, and removes it: nobody
// can finish it a second time. Whoever did not begin it cannot end it either.
func (a *App) takePending(ctx context.Context, state string, who visitor) (*pendingV1, error) {
	tried := make(map[string]bool)
	for _, c := range a.active.all() {
		tenant := c.key.id.Tenant
		if tried[tenant] {
			continue
		}
		tried[tenant] = true
		p, err := a.store.takePendingAt(ctx, pendingKey(tenant, state), who)
		if !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
	}
	return nil, errPendingUnknown
}

func (s *recordStore) takePendingAt(ctx context.Context, key string, who visitor) (*pendingV1, error) {
	if _, err := s.storage.Stat(ctx, key); err != nil {
		return nil, err // most callbacks that are made up end here, without a lock
	}
	lockCtx, cancel := context.WithTimeout(ctx, unlockTimeout)
	defer cancel()
	lock := pendingLock(key)
	if err := s.storage.Lock(lockCtx, lock); err != nil {
		return nil, err
	}
	defer func() { _ = s.storage.Unlock(context.WithoutCancel(ctx), lock) }()
	p, err := s.loadPending(ctx, key)
	switch {
	case err != nil:
		return nil, err
	case p.Identity != who.identity || p.Browser != browserDigest(who.browser):
		return nil, errPendingForeign
	}
	if err := s.remove(ctx, key); err != nil {
		return nil, err
	}
	if time.Now().After(p.ExpiresAt) {
		return nil, errPendingUnknown
	}
	return p, nil
}

func (s *recordStore) loadPending(ctx context.Context, key string) (*pendingV1, error) {
	plain, err := s.unseal(ctx, key)
	if errors.Is(err, connection.ErrNotFound) {
		return nil, errPendingUnknown // somebody was faster
	}
	if err != nil {
		return nil, err
	}
	p := new(pendingV1)
	if err := json.Unmarshal(plain, p); err != nil || p.Version != 1 {
		return nil, fmt.Errorf("%w: it is not of a known form", connection.ErrUnreadable)
	}
	return p, nil
}

// browserDigest is what is stored of a browser's cookie.
func browserDigest(cookie string) string {
	sum := sha256.Sum256([]byte(cookie))
	return hex.EncodeToString(sum[:])
}
