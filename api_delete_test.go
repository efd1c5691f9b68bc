package caddyoauth_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// records returns how many token sets are stored.
func (a *restSite) records() int {
	a.t.Helper()
	return (&peopleSite{site: a.site}).stored("current.json")
}

// cluster is the API on two instances that share the storage, and look at it that often.
func cluster(t *testing.T, poll, stored string) (one, other *restSite) {
	t.Helper()
	auth := newAuthServer(t)
	with := setup{
		connections: "stored_connections {\n endpoints 127.0.0.1\n poll_interval " + poll + "\n" + stored + "\n}\n",
		site:        strings.ReplaceAll(apiDirective, "tenant {http.request.header.X-Tenant}\n", "") + "respond nothing 404\n",
	}
	one = &restSite{site: run(t, with), auth: auth}
	return one, &restSite{site: one.instance(with), auth: auth}
}

// TestStaleDeleteEndsNothing: an instance that has not heard of a change is asked to remove what was there before. It must not end the
// tokens first and find out then.
func TestStaleDeleteEndsNothing(t *testing.T) {
	one, other := cluster(t, "10m", "")
	id := one.call("POST", "/v1/secrets/oauth2", one.machine("billing", "")).is(http.StatusCreated).get("id")
	other.call("POST", "/v1/collections", `{"name":"x"}`).is(http.StatusCreated) // who changes something looks at all
	other.call("GET", "/v1/secrets/"+id, "").is(http.StatusOK)
	one.call("PATCH", "/v1/secrets/"+id, `{"description":"changed"}`, `If-Match: "1"`).is(http.StatusOK)
	before := one.records()
	other.call("DELETE", "/v1/secrets/"+id, "", `If-Match: "1"`).failed(http.StatusPreconditionFailed, "precondition_failed")
	if after := one.records(); before != 1 || after != 1 {
		t.Errorf("there were %d token sets, and are %d", before, after)
	}
	other.call("DELETE", "/v1/secrets/"+id, "", `If-Match: "2"`).is(http.StatusOK)
	one.call("DELETE", "/v1/secrets/"+id, "", "If-Match: *").failed(http.StatusNotFound, "not_found")
	if after := one.records(); after != 0 {
		t.Errorf("%d token sets are left", after)
	}
}

// TestBoundsHoldOverInstances: each instance counts what the others have made, and looks at who uses what, in the moment of the change.
func TestBoundsHoldOverInstances(t *testing.T) {
	one, other := cluster(t, "10m", "max_connections 3")
	var all sync.WaitGroup
	var mu sync.Mutex
	codes := make(map[int]int)
	for i := range 4 {
		for _, a := range []*restSite{one, other} {
			body := a.machine(fmt.Sprintf("c%d-%s", i, a.addr[strings.LastIndex(a.addr, ":")+1:]), "")
			all.Go(func() {
				var got answer
				var err error
				for range 5 { // who waits too long for the storage's lock is told to come again
					req := a.request("POST", "/oauth2/v1/secrets/oauth2", strings.NewReader(body), "X-User: alice", "X-Groups: admins", "Content-Type: application/json")
					if got, err = a.try(req); err != nil || got.status != http.StatusServiceUnavailable {
						break
					}
				}
				mu.Lock()
				defer mu.Unlock()
				if codes[got.status]++; err != nil || got.status == http.StatusForbidden && !strings.Contains(got.body, "plan_limit") {
					t.Errorf("%d %s %v", got.status, got.body, err)
				}
			})
		}
	}
	all.Wait()
	if codes[http.StatusCreated] != 3 || codes[http.StatusForbidden] != 5 {
		t.Errorf("got %v", codes)
	}
	chain, key := selfSigned(t, "x")
	text, _ := json.Marshal(map[string]string{"secret_type": "certificate", "name": "signer", "certificate": chain, "private_key": key})
	certificate := one.call("POST", "/v1/secrets", string(text)).is(http.StatusCreated).get("id")
	shop := one.call("POST", "/v1/collections", `{"name":"shop"}`).is(http.StatusCreated).get("id")
	var ids []string
	for part := range strings.SplitSeq(one.call("GET", "/v1/secrets?provider=custom&name=c", "").is(http.StatusOK).body, `"id":"`) {
		ids = append(ids, part[:min(36, len(part))])
	}
	other.call("POST", "/v1/collections", `{"name":"other"}`).is(http.StatusCreated) // who changes something looks at all
	other.call("PATCH", "/v1/secrets/"+ids[1], `{"client_secret":null,"client_key":{"id":"`+certificate+`"},"collection_id":"`+shop+`"}`, "If-Match: *").is(http.StatusOK)
	one.call("DELETE", "/v1/secrets/"+certificate, "", "If-Match: *").failed(http.StatusConflict, "conflict")
	one.call("DELETE", "/v1/collections/"+shop, "", "If-Match: *").failed(http.StatusConflict, "conflict")
}

// TestNothingIsMadeOfWhatIsGone: what a new connection names may have been removed at another instance a moment ago.
func TestNothingIsMadeOfWhatIsGone(t *testing.T) {
	one, other := cluster(t, "10m", "")
	shop := one.call("POST", "/v1/collections", `{"name":"shop"}`).is(http.StatusCreated).get("id")
	other.call("POST", "/v1/collections", `{"name":"x"}`).is(http.StatusCreated)
	one.call("DELETE", "/v1/collections/"+shop, "", "If-Match: *").is(http.StatusOK)
	other.call("POST", "/v1/secrets/oauth2", other.machine("billing", `,"collection_id":"`+shop+`"`)).failed(http.StatusConflict, "conflict")
}

// TestRemovedEnvironmentLeavesNothing: its consents end, and whoever makes one of that name again begins with nothing.
func TestRemovedEnvironmentLeavesNothing(t *testing.T) {
	a := runAPI(t, "", "")
	staging := newIDP(t)
	made := a.call("POST", "/v1/secrets/oauth2", a.machine("billing", `,"environments":{"staging":{"token_url":"`+staging.URL+`/t"},"b":{"client_id":"b"}}`)).is(http.StatusCreated)
	one := "/v1/secrets/" + made.get("id")
	if got := a.records(); got != 3 {
		t.Fatalf("%d token sets", got)
	}
	a.call("PATCH", one, `{"environments":{"staging":null}}`, "If-Match: *").is(http.StatusOK)
	if got := a.records(); got != 2 {
		t.Errorf("%d token sets", got)
	}
	if got := a.call("PATCH", one, `{"environments":null}`, "If-Match: *").is(http.StatusOK); strings.Contains(got.body, "environments") {
		t.Errorf("got %s", got.body)
	}
	a.call("DELETE", one, "", "If-Match: *").is(http.StatusOK)
	if got := a.records(); got != 0 {
		t.Errorf("%d token sets are left", got)
	}
}

// TestRemovedSubjectsLeaveNothing: a connection that was each person's own becomes one for all. The consents of before end with it.
func TestRemovedSubjectsLeaveNothing(t *testing.T) {
	a, _, one := peopleAPI(t, "")
	a.call("PATCH", one, `{"subject":null}`, "If-Match: *").is(http.StatusOK)
	if got := a.call("DELETE", one, "", "If-Match: *").is(http.StatusOK); got.get("revoked") != "1" || !a.auth.wasRevoked(seed+"refresh-1") {
		t.Errorf("got %s", got.body)
	}
	if got := a.records(); got != 0 {
		t.Errorf("%d token sets are left", got)
	}
}

// TestUnusableConnectionIsRemovedWhole: the operator has forbidden its endpoints. Its provider cannot be told, and is said to be not; what
// is stored of it goes all the same.
func TestUnusableConnectionIsRemovedWhole(t *testing.T) {
	a, _, one := peopleAPI(t, "")
	var config map[string]any
	if err := json.Unmarshal(a.loaded, &config); err != nil {
		t.Fatal(err)
	}
	config["apps"].(map[string]any)["oauth2_inject"].(map[string]any)["stored_connections"].(map[string]any)["endpoints"] = []string{"elsewhere.test"}
	var err error
	if a.loaded, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	a.reload()
	a.client.CloseIdleConnections() // those of before the reload
	if got := a.call("DELETE", one, "", "If-Match: *").is(http.StatusOK); got.get("not_told") != "1" || got.get("deleted") != "true" {
		t.Errorf("got %s", got.body)
	}
	if got := a.records(); got != 0 {
		t.Errorf("%d token sets are left", got)
	}
}

// TestCertificateInUseStaysUseful: a change may renew it, and not take away what connections need of it. Its users are named to nobody:
// they may be in a collection that the caller does not see.
func TestCertificateInUseStaysUseful(t *testing.T) {
	a := runAPI(t, "", "")
	_, key := selfSigned(t, "x")
	text, _ := json.Marshal(map[string]string{"secret_type": "certificate", "name": "signer", "private_key": key})
	signer := "/v1/secrets/" + a.call("POST", "/v1/secrets", string(text)).is(http.StatusCreated).get("id")
	body := strings.Replace(a.machine("billing", ""), `"client_secret":"`+clientSecret+`"`, `"client_key":{"id":"`+strings.TrimPrefix(signer, "/v1/secrets/")+`","alg":"ES256"}`, 1)
	a.call("POST", "/v1/secrets/oauth2", body).is(http.StatusCreated)
	chain, _ := selfSigned(t, "y")
	text, _ = json.Marshal(map[string]any{"certificate": chain, "private_key": nil})
	a.call("PATCH", signer, string(text), "If-Match: *").failed(http.StatusBadRequest, "validation_error", "certificate")
	if got := a.call("DELETE", signer, "", "If-Match: *").failed(http.StatusConflict, "conflict"); strings.Contains(got.body, "billing") {
		t.Errorf("got %s", got.body)
	}
	_, next := selfSigned(t, "z")
	text, _ = json.Marshal(map[string]string{"private_key": next})
	a.call("PATCH", signer, string(text), "If-Match: *").is(http.StatusOK)
}
