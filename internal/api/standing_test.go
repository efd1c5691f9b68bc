package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// many are secrets of acme besides those that there always are.
type many struct {
	fakeSecrets
	all []Secret
}

func (m many) List(context.Context, bool) ([]Secret, error) { return m.all, nil }

// fleet is what an API answers from that has those secrets.
func fleet(all ...Secret) *API {
	a, f := newFake()
	a.Secrets = many{fakeSecrets{f}, all}
	return a
}

// standing makes a connection of acme in that state.
func standing(name, status string, more func(*Secret)) Secret {
	s := secretOf(strings.Repeat("0", 36-len(name))+name, name, "acme", "")
	s.ConnectionStatus, s.Token, s.Standing = &status, &Token{Status: status, Actions: []string{"authorize", "refresh", "test", "revoke"}}, new(Standing)
	if more != nil {
		more(&s)
	}
	return s
}

func acme(role Role) *Caller {
	return &Caller{Name: "jane", Tenant: "acme", Grants: []Grant{{Role: role}}}
}

// listed asks for a list and decodes it.
func listed[T any](t *testing.T, a *API, caller *Caller, path string) (rows []T, m meta) {
	t.Helper()
	got := ask(t, a, caller, httptest.NewRequest(http.MethodGet, path, nil))
	body := struct {
		Data *[]T
		Meta *meta
	}{&rows, &m}
	if err := json.Unmarshal(got.Body.Bytes(), &body); err != nil || got.Code != http.StatusOK {
		t.Fatalf("%s: %d %s, %v", path, got.Code, got.Body, err)
	}
	return rows, m
}

// TestAttention: what needs somebody comes first, on whatever page it would be, and all of it is counted on each.
func TestAttention(t *testing.T) {
	t.Parallel()
	perSubject := func(counts map[string]int) func(*Secret) {
		return func(s *Secret) { s.Token, s.Standing.SubjectCounts = nil, counts }
	}
	all := []Secret{
		standing("resting", "active", nil), standing("ready", "pending", func(s *Secret) { s.ConnectionStatus = text("not_connected") }),
		standing("nobody", "authorization_required", func(s *Secret) { s.ConnectionStatus = text("not_connected") }),
		standing("ended", "disconnected", nil), standing("soon", "expiring", nil), standing("down", "failing", nil), standing("gone", "revoked", nil),
		standing("lost", "lost_rotation", nil), standing("wrong", "misconfigured", nil),
		standing("team", "per_subject", perSubject(map[string]int{"active": 7, "revoked": 1})),
		standing("crew", "per_subject", perSubject(map[string]int{"active": 7, "authorization_required": 2, "disconnected": 1})),
		standing("blind", "not_connected", func(s *Secret) { s.Token, s.ConnectionError = nil, "storage" }),
	}
	for i := range 200 {
		all = append(all, standing(fmt.Sprintf("a%03d", i), "active", nil))
	}
	a := fleet(all...)
	rows, _ := listed[Secret](t, a, acme(Viewer), "/v1/secrets?expand=standing&sort=attention&per_page=200")
	var needy []string
	for _, row := range rows {
		if row.Standing.NeedsAttention {
			needy = append(needy, row.Name)
		}
	}
	if want := []string{"wrong", "lost", "gone", "team", "blind", "down", "soon", "nobody"}; !slices.Equal(needy, want) || rows[len(want)].Name != "ended" || rows[len(want)+1].Name != "ready" || rows[len(want)+2].Name != "a000" {
		t.Errorf("first come %v, want %v", needy, want)
	}
	for _, path := range []string{"/v1/secrets?sort=attention", "/v1/secrets?page=2&per_page=200", "/v1/secrets?sort=-attention&per_page=1"} {
		_, other := listed[Secret](t, a, acme(Viewer), path)
		if *other.NeedsAttention != 8 || *other.Total != len(all) || other.Statuses["revoked"] != 1 || other.Statuses["active"] != 201 || other.Statuses["per_subject"] != 2 {
			t.Errorf("%s: %d of %d, %v", path, *other.NeedsAttention, *other.Total, other.Statuses)
		}
	}
	if _, m := listed[Secret](t, a, acme(Viewer), "/v1/secrets?name=gone"); *m.NeedsAttention != 1 || *m.Total != 1 {
		t.Errorf("of those that were asked for, %d of %d", *m.NeedsAttention, *m.Total)
	}
	if rows, _ := listed[Secret](t, a, acme(Viewer), "/v1/secrets"); rows[0].Token != nil || rows[0].Standing != nil {
		t.Errorf("without expand there is %+v", rows[0])
	}
}

// TestActionsByRole: nobody is offered what would be refused.
func TestActionsByRole(t *testing.T) {
	t.Parallel()
	for role, want := range map[Role][]string{Viewer: nil, Operator: {"authorize", "refresh", "test"}, Admin: {"authorize", "refresh", "test", "revoke"}} {
		a := fleet(standing("x", "active", nil), secretOf(ours, "ours", "acme", ourShop))
		rows, _ := listed[Secret](t, a, acme(role), "/v1/secrets?expand=standing&name=x")
		var detail struct{ Data SecretDetail }
		got := ask(t, a, acme(role), httptest.NewRequest(http.MethodGet, "/v1/secrets/"+ours, nil))
		if err := json.Unmarshal(got.Body.Bytes(), &detail); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(rows[0].Token.Actions, want) || !slices.Equal(detail.Data.Token.Actions, want) {
			t.Errorf("%s is offered %v in the list and %v alone, want %v", role, rows[0].Token.Actions, detail.Data.Token.Actions, want)
		}
		versions, _ := listed[Version](t, a, acme(role), "/v1/secrets/"+ours+"/versions")
		if versions[0].CanRollBack != (role == Admin) {
			t.Errorf("%s may roll back: %v", role, versions[0].CanRollBack)
		}
	}
}

// TestSubjectsInOrder: those in trouble first, and all of them counted, whatever page is asked for.
func TestSubjectsInOrder(t *testing.T) {
	t.Parallel()
	a, _ := newFake()
	rows, m := listed[Token](t, a, acme(Viewer), "/v1/secrets/"+ours+"/subjects?sort=attention&per_page=2")
	if rows[0].Subject != "zoe" || rows[1].Subject != "jane" || *m.Total != 3 || *m.NeedsAttention != 1 || m.Statuses["active"] != 2 {
		t.Errorf("got %+v of %d, %v", rows, *m.Total, m)
	}
	if rows, _ = listed[Token](t, a, acme(Viewer), "/v1/secrets/"+ours+"/subjects?sort=-subject"); rows[0].Subject != "zoe" || rows[2].Subject != "jane" {
		t.Errorf("turned round: %+v", rows)
	}
}

// TestAuditOfOne: the log can be asked for what was about one thing, or one person.
func TestAuditOfOne(t *testing.T) {
	t.Parallel()
	a, _ := newFake()
	a.Trail = func(context.Context) AuditTrail {
		return AuditTrail{Events: []AuditEvent{{Action: "a", Tenant: "acme", Target: ours}, {Action: "b", Tenant: "acme", Target: ours, Subject: "jane"}, {Action: "c", Tenant: "acme", Target: loose}, {Action: "d", Tenant: "evil", Target: ours}}}
	}
	for query, want := range map[string]string{"": "abc", "?target=" + ours: "ab", "?target=" + ours + "&subject=jane": "b", "?subject=": "ac", "?target=x": ""} {
		events, _ := listed[AuditEvent](t, a, acme(Admin), "/v1/audit"+query)
		got := ""
		for _, e := range events {
			got += e.Action
		}
		if got != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
}
