package caddyoauth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// What people and programs do to token sets, besides sending requests with them. Every surface calls these methods, and no result
// of them holds a secret. Looking does not count as a use, and asks no provider.

// Ref names a token set, and who acts on it.
type Ref struct {
	Connection string
	Subject    string // whose; "" for a connection with one token set for all
	By         string // who acts, kept with what the operation changes
}

// What an operation may end with, besides *connection.Unavailable, which says why there is no token, and the context's own error.
var (
	// ErrNotFound: there is no such connection, subject or generation.
	ErrNotFound = errors.New("not found")
	// ErrNotPersonal: the connection is not one that people authorize.
	ErrNotPersonal = errors.New("the connection is not one that people authorize")
	// ErrNoRollback: that generation cannot be brought back; the text says why.
	ErrNoRollback = connection.ErrNoRollback
	// ErrBusy: the token set is being changed at this moment; trying again helps.
	ErrBusy = connection.ErrBusy
	// ErrStorage: the storage cannot be read or written at the moment.
	ErrStorage = connection.ErrStorage
)

// TokenView is what may be shown of a token set.
type TokenView struct {
	Connection string `json:"connection"`
	Subject    string `json:"subject,omitempty"`
	Status     string `json:"status"`
	Code       string `json:"code,omitempty"` // of the last failed attempt
	Generation uint64 `json:"generation,omitempty"`
	Reason     string `json:"reason,omitempty"` // why the generation was obtained
	By         string `json:"by,omitempty"`

	IssuedAt         *time.Time `json:"issued_at,omitempty"`
	ExpiresAt        *time.Time `json:"expires_at,omitempty"`
	RefreshAt        *time.Time `json:"refresh_at,omitempty"` // when it is in use
	RefreshExpiresAt *time.Time `json:"refresh_expires_at,omitempty"`
	EndsAt           *time.Time `json:"ends_at,omitempty"`   // only a person can go on then
	LastUsed         *time.Time `json:"last_used,omitempty"` // by this instance, since it started
	Uses             int64      `json:"uses,omitempty"`      // likewise: requests that asked for the token
	NextAttempt      *time.Time `json:"next_attempt,omitempty"`
	Attempts         int        `json:"attempts,omitempty"` // that failed in a row

	Renewable bool `json:"renewable"`         // there is something to refresh with
	Unsaved   bool `json:"unsaved,omitempty"` // in memory only, because storage fails
	Busy      bool `json:"busy,omitempty"`    // a refresh or a change is under way

	Granted   []string `json:"scopes_granted,omitempty"` // as far as the server says
	Missing   []string `json:"scopes_missing,omitempty"` // that the configuration asks for and nobody consented to
	AccountID string   `json:"account_id,omitempty"`
	Label     string   `json:"label,omitempty"`
	Also      []Owner  `json:"also_connected_as,omitempty"`  // who else holds the account; of one token set alone, not in lists
	SameToken bool     `json:"same_refresh_token,omitempty"` // one of them by the same refresh token, so that they end each other
}

// GenerationView is what may be shown of one generation in the history.
type GenerationView struct {
	Generation uint64     `json:"generation"`
	Current    bool       `json:"current,omitempty"`
	Status     string     `json:"status,omitempty"` // how it ended, or how the current one is
	Reason     string     `json:"reason,omitempty"`
	By         string     `json:"by,omitempty"`
	IssuedAt   *time.Time `json:"issued_at,omitempty"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
	Granted    []string   `json:"scopes_granted,omitempty"`
	AccountID  string     `json:"account_id,omitempty"`
	Label      string     `json:"label,omitempty"`

	CanRollBack bool `json:"can_roll_back,omitempty"` // as things are now
}

// SubjectList is what is stored of a connection that has a token set for each subject.
type SubjectList struct {
	Subjects   []TokenView `json:"subjects"`             // sorted by subject
	Unreadable int         `json:"unreadable,omitempty"` // records that do not open
}

// resolve finds what a Ref names.
func (a *App) resolve(ref Ref) (*activeConnection, sourceKey, error) {
	c, ok := a.active.get(ref.Connection)
	if !ok {
		return nil, sourceKey{}, fmt.Errorf("connection %q: %w", ref.Connection, ErrNotFound)
	}
	key, err := c.keyOf(ref.Subject)
	if err != nil {
		return nil, sourceKey{}, fmt.Errorf("connection %q: subject: %w: %w", ref.Connection, ErrNotFound, err)
	}
	return c, key, nil
}

// personal is resolve for what only a connection of people has.
func (a *App) personal(ref Ref) (*activeConnection, sourceKey, error) {
	c, key, err := a.resolve(ref)
	if err == nil && !c.needsPerson() {
		err = fmt.Errorf("connection %q: %w", ref.Connection, ErrNotPersonal)
	}
	return c, key, err
}

// View returns the state of a token set, as it is stored and as this instance knows it. When the storage cannot be read the error
// says so, and the view is what this instance knows.
func (a *App) View(ctx context.Context, ref Ref) (TokenView, error) {
	c, key, err := a.resolve(ref)
	if err != nil {
		return TokenView{}, err
	}
	state, err := a.engine.glance(key).Peek(ctx, c.settings)
	view := viewOf(state)
	if err != nil || state.Status.NeedsPerson() {
		return view, err
	}
	if found, err := a.others(ctx, c, key.id, state.Consent); err == nil { // a note that cannot be read is no reason to see nothing
		view.Also, view.SameToken = found.owners, found.sameToken
	}
	return view, nil
}

// Refresh replaces a token set now, and returns the state after it.
func (a *App) Refresh(ctx context.Context, ref Ref) (TokenView, error) {
	c, key, err := a.resolve(ref)
	if err != nil {
		return TokenView{}, err
	}
	if _, err := a.engine.source(key).Refresh(ctx, c.settings, ref.By); err != nil {
		return TokenView{}, asOperation(err)
	}
	return a.View(ctx, ref)
}

// asOperation has an error of a flight say what it is to the caller of an operation.
func asOperation(err error) error {
	var unavailable *connection.Unavailable
	if errors.As(err, &unavailable) && unavailable.Busy() {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}

// History returns every generation that is kept, the newest first.
func (a *App) History(ctx context.Context, ref Ref) ([]GenerationView, error) {
	c, key, err := a.resolve(ref)
	if err != nil {
		return nil, err
	}
	records, err := a.store.records(ctx, key.id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStorage, err)
	}
	views, source := make([]GenerationView, 0, len(records)), a.engine.glance(key)
	for i, rec := range slices.Backward(records) {
		if rec.Current.Generation == 0 {
			continue // nothing but a failure is stored
		}
		set := rec.Current
		view := GenerationView{
			Generation: set.Generation, Current: i == len(records)-1, Status: string(rec.Status), Reason: string(set.Reason), By: set.By,
			IssuedAt: known(set.IssuedAt), ExpiresAt: known(set.ExpiresAt), Granted: granted(set.Scope, set.Consent),
			CanRollBack: c.needsPerson() && source.CanRollBack(records, set.Generation, c.settings),
		}
		if set.Consent != nil {
			view.AccountID, view.Label = set.Consent.AccountID, set.Consent.Label
		}
		views = append(views, view)
	}
	return views, nil
}

// RollBack brings an earlier generation back as a new one, and returns the state after it.
func (a *App) RollBack(ctx context.Context, ref Ref, generation uint64) (TokenView, error) {
	c, key, err := a.personal(ref)
	if err != nil {
		return TokenView{}, err
	}
	records, err := a.store.records(ctx, key.id)
	if err != nil {
		return TokenView{}, fmt.Errorf("%w: %w", ErrStorage, err)
	}
	source := a.engine.source(key)
	before, _ := source.Peek(ctx, c.settings)
	if _, err := source.Apply(ctx, c.settings, connection.RolledBack(records, generation, c.settings, ref.By)); err != nil {
		return TokenView{}, err
	}
	a.settleOwners(ctx, c, source, before.Consent) // it may be of another account
	return a.View(ctx, ref)
}

// Disconnect ends a connection: the provider is told, if it can be, and what is stored is removed. A provider that is down does not
// keep the connection alive here; told says whether it knows.
func (a *App) Disconnect(ctx context.Context, ref Ref) (told bool, err error) {
	c, key, err := a.personal(ref)
	if err != nil {
		return false, err
	}
	return a.end(ctx, c, a.engine.source(key), ref.By)
}

func (a *App) end(ctx context.Context, c *activeConnection, source *connection.Source, by string) (told bool, err error) {
	ctx = context.WithoutCancel(ctx) // a closed tab must not leave the history behind
	if c.consent.revocable && c.consent.revokeAccess {
		_, _ = source.Token(ctx, c.settings) // an access token that has run out would not be accepted; a failure shows below
	}
	before, _ := source.Peek(ctx, c.settings)
	untold := errOtherClient
	err = source.End(ctx, c.settings, by, func(ctx context.Context, set connection.TokenSet) { untold = c.tell(ctx, set) })
	if told = c.consent.revocable && untold == nil; !told && c.consent.revocable {
		a.logger.Warn("the provider could not be told that a connection has ended; withdraw the consent in its own settings",
			zap.String("connection", c.name), zap.String("subject", source.ID().Digest()), zap.Error(untold))
	}
	if err != nil {
		return told, err
	}
	a.settleOwners(ctx, c, source, before.Consent)
	if err := a.store.forgetHistory(ctx, source.ID()); err != nil {
		return told, fmt.Errorf("%w: %w", ErrStorage, err)
	}
	return told, nil
}

// errOtherClient means that the provider was not told, since the tokens are not of the client that would tell it.
var errOtherClient = errors.New("the account was connected under another client id or elsewhere")

// tell tells the provider that a connection ends, at the place that belongs to the consent, by the token that it wants to hear of.
func (c *activeConnection) tell(ctx context.Context, set connection.TokenSet) error {
	token, kind := set.RefreshToken, "refresh_token"
	if c.consent.revokeAccess || token.IsZero() {
		token, kind = set.AccessToken, "access_token"
	}
	if !c.consent.revocable || token.IsZero() {
		return nil
	}
	server, err := c.counterpart(set.Consent)
	if err != nil {
		return err
	}
	return server.client.Revoke(ctx, token, kind)
}

// Subjects returns the subjects of a connection of which something is stored. It opens every record of the connection.
func (a *App) Subjects(ctx context.Context, name string) (SubjectList, error) {
	c, ok := a.active.get(name)
	if !ok {
		return SubjectList{}, fmt.Errorf("connection %q: %w", name, ErrNotFound)
	}
	source := a.engine.glance(c.key)
	list := SubjectList{Subjects: []TokenView{}}
	var err error
	list.Unreadable, err = a.store.each(ctx, c.key.id, func(rec connection.Record) error {
		if rec.ID.Subject != "" {
			list.Subjects = append(list.Subjects, viewOf(source.Describe(rec, c.settings)))
		}
		return nil
	})
	if err != nil {
		return SubjectList{}, fmt.Errorf("%w: %w", ErrStorage, err)
	}
	slices.SortFunc(list.Subjects, func(a, b TokenView) int { return cmp.Compare(a.Subject, b.Subject) })
	return list, nil
}

// viewOf turns a state into what is shown of it.
func viewOf(state connection.State) TokenView {
	view := TokenView{
		Connection: state.ID.Connection, Subject: state.ID.Subject, Status: string(state.Status), Generation: state.Generation,
		Reason: string(state.Reason), By: state.By,
		IssuedAt: known(state.IssuedAt), ExpiresAt: known(state.ExpiresAt), RefreshAt: known(state.RefreshAt),
		RefreshExpiresAt: known(state.RefreshExpiresAt), EndsAt: known(state.EndsAt), LastUsed: known(state.LastUsed), Uses: state.Uses,
		NextAttempt: known(state.NextAttempt),
		Renewable:   state.Renewable, Unsaved: state.Unsaved, Busy: state.Busy, Granted: granted(state.Scope, state.Consent),
		Missing: state.Missing,
	}
	if state.Failure != nil {
		view.Code, view.Attempts = state.Failure.Code, state.Failure.Attempts
	}
	if state.Consent != nil {
		view.AccountID, view.Label = state.Consent.AccountID, state.Consent.Label
	}
	return view
}

// granted lists the scopes that were granted: as the server says, or as requested where it says nothing (RFC 6749 section 5.1).
func granted(scope string, consent *connection.Consent) []string {
	if scope == "" && consent != nil {
		return consent.Requested
	}
	return connection.SplitScopes(scope)
}
