package caddyoauth_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth"
)

// The operations that all surfaces share, on a running Caddy. What they return is kept among what clients saw, so that the search
// for secrets at the end of each test covers it.

var aliceDrive = caddyoauth.Ref{Connection: "drive", Subject: "alice", By: "operator"}

// noted keeps a result for the search.
func noted[T any](p *peopleSite, result T, err error) (T, error) {
	text, _ := json.Marshal(result)
	fmt.Fprintf(&p.seen, "%s %v\n", text, err)
	return result, err
}

func (p *peopleSite) view(ref caddyoauth.Ref) caddyoauth.TokenView {
	p.t.Helper()
	v, err := p.app().View(p.t.Context(), ref)
	if v, err = noted(p, v, err); err != nil {
		p.t.Fatal(err)
	}
	return v
}

func (p *peopleSite) history(ref caddyoauth.Ref) []caddyoauth.GenerationView {
	p.t.Helper()
	h, err := p.app().History(p.t.Context(), ref)
	if h, err = noted(p, h, err); err != nil {
		p.t.Fatal(err)
	}
	return h
}

// issued returns how many token sets the server gave.
func (a *authServer) tokens() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.issued
}

// TestOperationsJourney is the life of one token set, as those see it who run the site.
func TestOperationsJourney(t *testing.T) {
	p := runPeople(t, "scopes files.read")
	ctx := t.Context()
	if v := p.view(aliceDrive); v.Status != "authorization_required" || v.Generation != 0 || v.Renewable {
		t.Errorf("before anything: %+v", v)
	}
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	v := p.view(aliceDrive)
	switch {
	case v.Status != "active" || v.Generation != 1 || v.Reason != "authorized" || v.By != "alice" || !v.Renewable:
		t.Errorf("after connecting: %+v", v)
	case v.LastUsed != nil:
		t.Error("looking counts as a use")
	case v.ExpiresAt == nil || v.RefreshAt == nil || !v.RefreshAt.Before(*v.ExpiresAt):
		t.Errorf("when: %v %v", v.ExpiresAt, v.RefreshAt)
	case !slices.Equal(v.Granted, []string{"files.read"}):
		t.Errorf("scopes: %v", v.Granted)
	}
	v, err := noted2(p)(p.app().Refresh(ctx, aliceDrive))
	if err != nil || v.Generation != 2 || v.Reason != "forced" || v.By != "operator" || v.LastUsed != nil {
		t.Errorf("forced: %+v, %v", v, err)
	}
	alice.open("/").want(t, http.StatusOK, "GET")
	if got := p.up.last(t).header.Get("Authorization"); got != bearer(2) {
		t.Error("the request did not travel with the token that was forced")
	}
	if p.view(aliceDrive).LastUsed == nil {
		t.Error("a request does not count as a use")
	}
	alice.connect(toDrive).wantTo(t, doneDrive) // once more, as somebody else perhaps
	v, err = noted2(p)(p.app().RollBack(ctx, aliceDrive, 2))
	if err != nil || v.Generation != 4 || v.Reason != "rolled_back" || v.By != "operator" {
		t.Errorf("rolled back: %+v, %v", v, err)
	}
	alice.open("/").want(t, http.StatusOK, "GET")
	if got := p.up.last(t).header.Get("Authorization"); got != bearer(2) {
		t.Error("the request did not travel with the token that was brought back")
	}
	if v, err = p.app().Refresh(ctx, aliceDrive); err != nil || v.Generation != 5 {
		t.Errorf("what was brought back does not refresh: %+v, %v", v, err)
	}
	wantHistory(t, p.history(aliceDrive))
	told, err := p.app().Disconnect(ctx, aliceDrive)
	if err != nil || !told {
		t.Errorf("disconnected: %v, %v", told, err)
	}
	if v := p.view(aliceDrive); v.Status != "disconnected" || v.By != "operator" || v.Renewable {
		t.Errorf("after the end: %+v", v)
	}
	if h := p.history(aliceDrive); len(h) != 1 || h[0].Status != "disconnected" {
		t.Errorf("the history after the end: %+v", h)
	}
	if _, reuse := p.auth.counts(); reuse != 0 {
		t.Errorf("the server saw %d refresh tokens twice", reuse)
	}
}

// noted2 is noted for the results of a call.
func noted2(p *peopleSite) func(caddyoauth.TokenView, error) (caddyoauth.TokenView, error) {
	return func(v caddyoauth.TokenView, err error) (caddyoauth.TokenView, error) { return noted(p, v, err) }
}

func wantHistory(t *testing.T, h []caddyoauth.GenerationView) {
	t.Helper()
	want := []string{"5 forced operator", "4 rolled_back operator", "3 authorized alice", "2 forced operator", "1 authorized alice"}
	if len(h) != len(want) {
		t.Fatalf("the history has %d generations: %+v", len(h), h)
	}
	for i, g := range h {
		if got := fmt.Sprint(g.Generation, " ", g.Reason, " ", g.By); got != want[i] || g.Current != (i == 0) || g.Status != "active" || g.IssuedAt == nil {
			t.Errorf("got %q, want %q: %+v", got, want[i], g)
		}
	}
}

// TestOperationErrors: each has a kind that a program can tell.
func TestOperationErrors(t *testing.T) {
	p := runPeople(t, "")
	app, ctx := p.app(), t.Context()
	p.as("alice").connect(toDrive).wantTo(t, doneDrive)
	nobody := caddyoauth.Ref{Connection: "drive", Subject: "nobody"}
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"view of no connection":              {second(app.View(ctx, caddyoauth.Ref{Connection: "none"})), caddyoauth.ErrNotFound},
		"view without the subject":           {second(app.View(ctx, caddyoauth.Ref{Connection: "drive"})), caddyoauth.ErrNotFound},
		"view of a subject that is too long": {second(app.View(ctx, caddyoauth.Ref{Connection: "drive", Subject: strings.Repeat("a", 513)})), caddyoauth.ErrNotFound},
		"view with a subject of a machine":   {second(app.View(ctx, caddyoauth.Ref{Connection: "api", Subject: "alice"})), caddyoauth.ErrNotFound},
		"history of no connection":           {second(app.History(ctx, caddyoauth.Ref{Connection: "none"})), caddyoauth.ErrNotFound},
		"refresh of no connection":           {second(app.Refresh(ctx, caddyoauth.Ref{Connection: "none"})), caddyoauth.ErrNotFound},
		"subjects of no connection":          {second(app.Subjects(ctx, "none")), caddyoauth.ErrNotFound},
		"a machine rolled back":              {second(app.RollBack(ctx, caddyoauth.Ref{Connection: "api"}, 1)), caddyoauth.ErrNotPersonal},
		"a machine disconnected":             {second(app.Disconnect(ctx, caddyoauth.Ref{Connection: "api"})), caddyoauth.ErrNotPersonal},
		"no connection disconnected":         {second(app.Disconnect(ctx, caddyoauth.Ref{Connection: "none"})), caddyoauth.ErrNotFound},
		"rolled back to the current one":     {second(app.RollBack(ctx, aliceDrive, 1)), caddyoauth.ErrNoRollback},
		"rolled back to none":                {second(app.RollBack(ctx, aliceDrive, 7)), caddyoauth.ErrNoRollback},
		"nobody rolled back":                 {second(app.RollBack(ctx, nobody, 1)), caddyoauth.ErrNoRollback},
		"a view of nobody is no error":       {second(app.View(ctx, nobody)), nil},
		"nor is a history":                   {second(app.History(ctx, nobody)), nil},
		"a machine refreshed":                {second(app.Refresh(ctx, caddyoauth.Ref{Connection: "api"})), nil},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: got %v, want %v", name, c.err, c.want)
		}
	}
	p.damage()
	for name, err := range map[string]error{
		"view": second(app.View(ctx, aliceDrive)), "history": second(app.History(ctx, aliceDrive)), "refresh": second(app.Refresh(ctx, aliceDrive)),
		"roll back": second(app.RollBack(ctx, aliceDrive, 1)), "disconnect": second(app.Disconnect(ctx, aliceDrive)),
	} {
		if !errors.Is(err, caddyoauth.ErrStorage) {
			t.Errorf("%s of a damaged record: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// damage makes all current records unreadable.
func (p *peopleSite) damage() {
	p.t.Helper()
	for _, file := range p.files("current.json") {
		if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
}

// files returns the files of the storage with that name.
func (p *peopleSite) files(name string) []string {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir, "oauth2_inject", "tenants", "*", "connections", "*", "*", name))
	if err != nil {
		p.t.Fatal(err)
	}
	return files
}

// TestSubjects: they are named from what is stored, also after a restart, and what does not open is counted.
func TestSubjects(t *testing.T) {
	p := runPeople(t, "")
	empty, err := p.app().Subjects(t.Context(), "drive")
	if err != nil || len(empty.Subjects) != 0 {
		t.Fatalf("at first: %+v, %v", empty, err)
	}
	p.as("bob").connect(toDrive).wantTo(t, doneDrive)
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	alice.visit(http.MethodPost, endDrive).wantTo(t, doneDrive)
	list, err := p.app().Subjects(t.Context(), "drive")
	if list, err = noted(p, list, err); err != nil {
		t.Fatal(err)
	}
	if len(list.Subjects) != 2 || list.Subjects[0].Subject != "alice" || list.Subjects[0].Status != "disconnected" ||
		list.Subjects[1].Subject != "bob" || list.Subjects[1].Status != "active" || list.Unreadable != 0 {
		t.Errorf("got %+v", list)
	}
	if machine, err := p.app().Subjects(t.Context(), "api"); err != nil || len(machine.Subjects) != 0 {
		t.Errorf("a connection without subjects has %+v, %v", machine, err)
	}
	files := p.files("current.json") // one in the place of the other: it opens for neither
	if len(files) != 2 {
		t.Fatalf("there are %d records", len(files))
	}
	sealed, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[1], sealed, 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := p.app().Subjects(t.Context(), "drive"); err != nil || len(list.Subjects) != 1 || list.Unreadable != 1 {
		t.Errorf("with a record that was moved: %+v, %v", list, err)
	}
}

// TestListAsksNobody: whoever looks at the pages refreshes nothing, and a token that has lapsed is still a connection.
func TestListAsksNobody(t *testing.T) {
	p := runPeople(t, "")
	p.auth.change(func() { p.auth.lifetime = 1 })
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	eventually(t, "the end of the token", func() bool { return time.Now().After(*p.view(aliceDrive).ExpiresAt) })
	before := p.auth.tokens()
	for range 5 {
		alice.open("/connect").want(t, http.StatusOK, connected)
	}
	if got := p.auth.tokens(); got != before {
		t.Errorf("looking at the list got %d tokens", got-before)
	}
	if p.view(aliceDrive).LastUsed != nil {
		t.Error("looking at the list counts as a use")
	}
	p.damage()
	alice.open("/connect").want(t, http.StatusOK, "Interrupted")
}

// TestHistoryLength: `history` says how many generations are kept.
func TestHistoryLength(t *testing.T) {
	p := &peopleSite{auth: newAuthServer(t), up: newUpstream(t, nil)}
	p.site = run(t, setup{connections: p.auth.connection("drive", "") + "history 2\n", site: basicAuth + "oauth2_connect\n"})
	p.as("alice").connect(toDrive).wantTo(t, doneDrive)
	for range 5 {
		if _, err := p.app().Refresh(t.Context(), aliceDrive); err != nil {
			t.Fatal(err)
		}
	}
	if h := p.history(aliceDrive); len(h) != 3 || h[0].Generation != 6 || h[2].Generation != 4 {
		t.Errorf("the history is %+v", h)
	}
}

// edit reloads with a part of the configuration replaced.
func (p *peopleSite) edit(from, to string) {
	p.t.Helper()
	edited := strings.ReplaceAll(string(p.loaded), from, to)
	if edited == string(p.loaded) {
		p.t.Fatalf("the configuration has no %s", from)
	}
	p.loaded = []byte(edited)
	p.reload()
}

// TestScopesChangeOverAReload: what a person allowed stays; they are asked again only for what they did not allow.
func TestScopesChangeOverAReload(t *testing.T) {
	p := runPeople(t, "scopes files.read")
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	p.edit(`"scopes":["files.read"]`, `"scopes":["files.read","files.write"]`)
	alice.open("/").want(t, http.StatusForbidden, toDrive)
	alice.open("/connect").want(t, http.StatusOK, "This site asks for more than you allowed: files.write.")
	if v := p.view(aliceDrive); v.Status != "authorization_required" || v.Code != "scopes_missing" || !slices.Equal(v.Missing, []string{"files.write"}) || v.Generation != 1 {
		t.Errorf("got %+v", v)
	}
	if list, err := p.app().Subjects(t.Context(), "drive"); err != nil || len(list.Subjects) != 1 || list.Subjects[0].Code != "scopes_missing" {
		t.Errorf("the list of subjects says %+v, %v", list, err)
	}
	if _, err := p.app().Refresh(t.Context(), aliceDrive); err == nil || !strings.Contains(err.Error(), "files.write") {
		t.Errorf("a forced refresh: %v", err)
	}
	alice.connect(toDrive).wantTo(t, doneDrive)
	alice.open("/").want(t, http.StatusOK, "GET")
	p.edit(`"scopes":["files.read","files.write"]`, `"scopes":["files.write"]`)
	alice.open("/").want(t, http.StatusOK, "GET")
	if h := p.history(aliceDrive); len(h) != 2 || !slices.Equal(h[1].Granted, []string{"files.read"}) {
		t.Errorf("the history is %+v", h)
	}
	before := p.auth.tokens()
	p.edit(`"client_id":"caddy","client_secret":"`+clientSecret+`","subject"`, `"client_id":"other","client_secret":"`+clientSecret+`","subject"`)
	alice.open("/").want(t, http.StatusForbidden, toDrive)
	alice.open("/connect").want(t, http.StatusOK, "Needs you again")
	if v := p.view(aliceDrive); v.Code != "client_changed" {
		t.Errorf("with another client: %+v", v)
	}
	if told, err := p.app().Disconnect(t.Context(), aliceDrive); err != nil || told || len(p.auth.revoked) != 0 {
		t.Errorf("another client's token went to the revocation endpoint: %v, %v", told, err)
	}
	if got := p.auth.tokens(); got != before {
		t.Errorf("%d tokens were asked for", got-before)
	}
}
