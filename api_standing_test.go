package caddyoauth_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// standingOf returns what the API says of a connection, alone; in the list it must say the same.
func (a *restSite) standingOf(name string) api.SecretDetail {
	a.t.Helper()
	var rows []api.Secret
	if err := json.Unmarshal(a.call("GET", "/v1/secrets?expand=standing&name="+name, "").is(http.StatusOK).Data, &rows); err != nil || len(rows) != 1 {
		a.t.Fatalf("%s: %v, %v", name, rows, err)
	}
	var one api.SecretDetail
	if err := json.Unmarshal(a.call("GET", "/v1/secrets/"+rows[0].ID, "").is(http.StatusOK).Data, &one); err != nil {
		a.t.Fatal(err)
	}
	if !slices.Equal(one.Token.Actions, rows[0].Token.Actions) || one.Token.Status != rows[0].Token.Status || one.Standing.NeedsAttention != rows[0].Standing.NeedsAttention {
		a.t.Errorf("%s: alone %+v %+v, in the list %+v %+v", name, one.Token, one.Standing, rows[0].Token, rows[0].Standing)
	}
	return one
}

// TestOfferedActions walks connections through their states: what the API offers is not refused, and what is always refused is not
// offered.
func TestOfferedActions(t *testing.T) {
	me := newMe(t, jane)
	auth := newAuthServer(t)
	account := func(name string) string {
		return strings.Replace(auth.connection(name, me.calls("")), "subject {http.auth.user.id}", "", 1)
	}
	a := &restSite{auth: auth}
	a.site = run(t, setup{
		connections: account("drive") + account("lone"),
		site: strings.ReplaceAll(apiDirective, "tenant {http.request.header.X-Tenant}\n", "") +
			"route /connect* {\n" + basicAuth + "oauth2_connect {\n connections drive\n}\n}\nrespond 404\n",
	})
	step := func(name, state, want string, refused ...string) {
		t.Helper()
		one := a.standingOf(name)
		if got := strings.Join(one.Token.Actions, " "); got != want {
			t.Errorf("%s, %s: offers %q, want %q", name, state, got, want)
		}
		for _, action := range refused {
			a.call("POST", "/v1/secrets/"+one.ID+"/"+action, "").failed(http.StatusConflict, "conflict")
		}
		for _, action := range one.Token.Actions {
			if got := a.call("POST", "/v1/secrets/"+one.ID+"/"+action, ""); action != "revoke" && got.status == http.StatusConflict {
				t.Errorf("%s, %s: %s is offered, and refused: %s", name, state, action, got.body)
			}
		}
	}
	step("api", "fresh", "refresh", "authorize", "test", "revoke")
	step("lone", "no site to connect at", "", "authorize", "refresh", "test")
	if lone, drive := a.standingOf("lone").Standing, a.standingOf("drive").Standing; !lone.Unserved || drive.Unserved || !lone.Personal || !lone.NeedsAttention {
		t.Errorf("%+v and %+v", lone, drive)
	}
	if machine := a.standingOf("api").Standing; machine.Personal || machine.Unserved || machine.NeedsAttention {
		t.Errorf("a machine: %+v", machine)
	}
	step("drive", "never connected", "authorize", "refresh", "test")
	a.as("alice").connect(toDrive).wantTo(t, doneDrive)
	step("drive", "connected", "authorize refresh test revoke")
	step("drive", "disconnected", "authorize", "refresh", "test")
	a.as("alice").connect(toDrive).wantTo(t, doneDrive)
	auth.endAll()
	id := a.standingOf("drive").ID
	a.call("POST", "/v1/secrets/"+id+"/refresh", "").is(http.StatusConflict) // which finds out
	step("drive", "revoked", "authorize revoke", "refresh")
}

// TestOfferedRollback: a version is offered to be brought back if, and only if, it can be.
func TestOfferedRollback(t *testing.T) {
	auth := newAuthServer(t)
	a := &restSite{auth: auth}
	a.site = run(t, setup{
		connections: strings.Replace(auth.connection("drive", ""), "subject {http.auth.user.id}", "", 1),
		site:        strings.ReplaceAll(apiDirective, "tenant {http.request.header.X-Tenant}\n", "") + "route /connect* {\n" + basicAuth + "oauth2_connect\n}\nrespond 404\n",
	})
	id := a.standingOf("drive").ID
	alice := a.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	a.call("POST", "/v1/secrets/"+id+"/revoke", "").is(http.StatusOK) // generation 2, of which nothing can come back
	alice.connect(toDrive).wantTo(t, doneDrive)
	a.call("POST", "/v1/secrets/"+id+"/refresh", "").is(http.StatusOK)
	var versions []api.Version
	if err := json.Unmarshal(a.call("GET", "/v1/secrets/"+id+"/versions", "").is(http.StatusOK).Data, &versions); err != nil || len(versions) < 2 {
		t.Fatalf("%+v, %v", versions, err)
	}
	rollBack := func(version uint64) *reply {
		return a.call("POST", fmt.Sprintf("/v1/secrets/%s/versions/%d/rollback", id, version), "")
	}
	var offered []uint64
	for _, one := range versions {
		if one.CanRollBack {
			offered = append(offered, one.Version)
		} else if got := rollBack(one.Version); got.status != http.StatusConflict {
			t.Errorf("version %d is not offered: %d %s", one.Version, got.status, got.body)
		}
	}
	if !slices.Equal(offered, []uint64{3}) {
		t.Fatalf("offered are %v of %+v", offered, versions)
	}
	rollBack(3).is(http.StatusOK)
	machine := a.standingOf("api").ID
	a.call("POST", "/v1/secrets/"+machine+"/refresh", "").is(http.StatusOK)
	a.call("POST", "/v1/secrets/"+machine+"/refresh", "").is(http.StatusOK)
	if got := a.call("GET", "/v1/secrets/"+machine+"/versions", "").is(http.StatusOK); strings.Contains(got.body, "can_roll_back") || !strings.Contains(got.body, `"version":1`) {
		t.Errorf("of a machine: %s", got.body)
	}
}
