package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake does nothing of what the API is asked for, and remembers what reached it.
type fake struct {
	mu      sync.Mutex
	reached []string
	events  []AuditEvent
	err     error // what every operation answers
	unready bool
}

// What there is: one secret, one collection and one key in each of two tenants, and one secret in no collection.
const (
	ours, ourShop, ourKey       = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002", "00000000-0000-4000-8000-000000000003"
	theirs, theirShop, theirKey = "00000000-0000-4000-8000-000000000011", "00000000-0000-4000-8000-000000000012", "00000000-0000-4000-8000-000000000013"
	loose, nowhere              = "00000000-0000-4000-8000-000000000021", "00000000-0000-4000-8000-000000000099"
)

func (f *fake) reach(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reached = append(f.reached, what)
	return f.err
}

// took returns what was reached since it was asked last.
func (f *fake) took() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := strings.Join(f.reached, " ")
	f.reached = nil
	return all
}

func text(s string) *string { return &s }

func secretOf(id, name, tenant, collection string) Secret {
	s := Secret{ID: id, Name: name, SecretType: "oauth2", Provider: text("google"), ConnectionStatus: text("connected"), BaseEnvironment: text("production"), Tenant: tenant, Revision: 1}
	if collection != "" {
		s.CollectionID = &collection
	}
	return s
}

// standingOf is a secret of ours with all that there is to know of it.
func standingOf(id string) Secret {
	s := secretOf(id, "x", "acme", ourShop)
	s.Token = &Token{Status: "active", Actions: []string{"authorize", "refresh", "test", "revoke"}}
	s.Standing = &Standing{Personal: true, LastDay: []Hour{{Succeeded: 1, AverageMS: 1}}, SubjectCounts: map[string]int{"active": 1}}
	return s
}

type (
	fakeSecrets     struct{ *fake }
	fakeTokens      struct{ *fake }
	fakeCollections struct{ *fake }
	fakeKeys        struct{ *fake }
)

func (f fakeSecrets) List(context.Context, bool) ([]Secret, error) {
	return []Secret{secretOf(ours, "ours", "acme", ourShop), secretOf(theirs, "theirs", "evil", theirShop), secretOf(loose, "loose", "acme", "")}, nil
}

func (f fakeSecrets) Describe(_ context.Context, id string) (SecretDetail, error) {
	now := time.Unix(1, 0).UTC()
	return SecretDetail{
		Secret: standingOf(id), Description: "x", CreatedAt: &now, UpdatedAt: &now, CreatedBy: "x", UpdatedBy: "x",
		Options: map[string]json.RawMessage{"client_id": json.RawMessage(`"x"`)}, SecretOptions: []string{"client_secret"},
		Environments: map[string]Environment{"staging": {Options: map[string]json.RawMessage{}, SecretOptions: []string{}, ConnectionStatus: "connected"}},
		Certificate:  &Certificate{},
	}, f.reach("describe")
}

func (f fakeSecrets) Create(_ context.Context, _ string, draft Draft) (Secret, error) {
	if len(draft.Faults) > 0 {
		return Secret{}, Invalid(draft.Faults...)
	}
	return secretOf(nowhere, "new", draft.Tenant, ""), f.reach("create")
}

func (f fakeSecrets) Update(ctx context.Context, at Target, _ Draft) (SecretDetail, error) {
	detail, _ := f.Describe(ctx, at.ID)
	return detail, f.reach("update")
}

func (f fakeSecrets) Delete(_ context.Context, at Target) (Ended, error) {
	return Ended{ID: at.ID, Deleted: true}, f.reach("delete")
}

func (f fakeTokens) View(context.Context, Ref) (Token, error) {
	return Token{Status: "active"}, f.reach("view")
}
func (f fakeTokens) Refresh(context.Context, Ref) (Token, error) {
	return Token{Status: "active"}, f.reach("refresh")
}
func (f fakeTokens) Test(context.Context, Ref) (TestResult, error) {
	return TestResult{OK: true}, f.reach("test")
}
func (f fakeTokens) Revoke(_ context.Context, ref Ref) (Ended, error) {
	return Ended{ID: ref.ID}, f.reach("revoke")
}
func (f fakeTokens) Authorize(context.Context, Ref) (Link, error) {
	return Link{AuthorizeURL: "/connect"}, f.reach("authorize")
}
func (f fakeTokens) History(context.Context, Ref) ([]Version, error) {
	return []Version{{Version: 1, CanRollBack: true}}, f.reach("history")
}
func (f fakeTokens) RollBack(context.Context, Ref, uint64) (Token, error) {
	return Token{Status: "active"}, f.reach("rollback")
}
func (f fakeTokens) Subjects(context.Context, Ref) ([]Token, error) {
	return []Token{{Subject: "jane", Status: "active"}, {Subject: "kim", Status: "active"}, {Subject: "zoe", Status: "revoked"}}, f.reach("subjects")
}

func (f fakeCollections) List(context.Context) ([]Collection, error) {
	return []Collection{{ID: ourShop, Name: "shop", Tenant: "acme", Revision: 1}, {ID: theirShop, Name: "their shop", Tenant: "evil", Revision: 1}}, nil
}
func (f fakeCollections) Create(_ context.Context, _ string, draft CollectionDraft) (Collection, error) {
	if len(draft.Faults) > 0 {
		return Collection{}, Invalid(draft.Faults...)
	}
	return Collection{ID: nowhere, Name: deref(draft.Name), Revision: 1}, f.reach("create")
}
func (f fakeCollections) Update(_ context.Context, at Target, draft CollectionDraft) (Collection, error) {
	if len(draft.Faults) > 0 {
		return Collection{}, Invalid(draft.Faults...)
	}
	return Collection{ID: at.ID, Revision: 2}, f.reach("update")
}
func (f fakeCollections) Delete(context.Context, Target) error { return f.reach("delete") }

func (f fakeKeys) List(context.Context) ([]Key, error) {
	return []Key{{ID: ourKey, Name: "ours", Role: "viewer", Tenant: "acme"}, {ID: theirKey, Name: "theirs", Role: "admin", Tenant: "evil"}, {ID: nowhere, Name: "all", Role: "admin", Tenant: "acme", AllTenants: true}}, nil
}
func (f fakeKeys) Create(_ context.Context, _ string, draft KeyDraft) (Key, error) {
	if len(draft.Faults) > 0 {
		return Key{}, Invalid(draft.Faults...)
	}
	return Key{ID: nowhere, Name: draft.Name, Role: draft.Role.String(), Key: "oi_secret"}, f.reach("create")
}
func (f fakeKeys) Delete(context.Context, Target) error { return f.reach("delete") }

type fakeSealing struct{ *fake }

func (f fakeSealing) Status(context.Context) (SealingKeys, error) {
	return SealingKeys{Open: true, EncryptionKeys: []EncryptionKey{{ID: "k"}}, DataKeys: []DataKey{{ID: 1, State: "seals"}}, Rekey: &RekeyProgress{Phase: "sealing"}}, nil
}
func (f fakeSealing) Rekey(ctx context.Context) (SealingKeys, error) {
	keys, _ := f.Status(ctx)
	return keys, f.reach("rekey")
}

// newFake returns an API that does nothing.
func newFake() (*API, *fake) {
	f := &fake{}
	return New(Service{
		Secrets: fakeSecrets{f}, Tokens: fakeTokens{f}, Versions: fakeTokens{f}, Collections: fakeCollections{f}, Keys: fakeKeys{f}, Sealing: fakeSealing{f},
		Health: func(context.Context) Health {
			if f.unready {
				return Health{Status: "unready"}
			}
			return Health{Status: "ok", Checks: []HealthCheck{{Name: "storage", OK: true}}}
		},
		Trail: func(context.Context) AuditTrail {
			return AuditTrail{Events: []AuditEvent{
				{Action: "x", Outcome: "done", Tenant: "acme", Target: "1", Writer: "w", Number: 9},
				{Action: "x", Outcome: "done", Tenant: "evil", Target: "2", Writer: "w", Number: 700},
				{Action: "y", Outcome: "done", Tenant: "acme", Target: "2", Writer: "w", Number: 5},
				{Action: "z", Outcome: "done", Tenant: "acme", Target: "2", Writer: "v", Number: 1},
			}}
		},
		Record: func(e AuditEvent) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.events = append(f.events, e)
		},
	}), f
}

// ask sends a request as that caller; nil = nobody knows who.
func ask(t testing.TB, a *API, caller *Caller, r *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	path := r.URL.EscapedPath()
	a.Serve(w, r, path, Access{
		Address: func(*http.Request) string { return "192.0.2.1" },
		Identify: func(*http.Request) (Caller, error) {
			switch {
			case caller == nil:
				return Caller{}, Unauthorized()
			case caller.Name == "too many":
				return Caller{}, &Error{Status: http.StatusTooManyRequests, Type: typeRate, RetryAfter: 1}
			case caller.Name == "broken":
				return Caller{}, errors.New("words that are nobody's business")
			case caller.Name == "unavailable":
				return Caller{}, Unavailable(0, "later")
			}
			return *caller, nil
		},
	})
	return w
}
