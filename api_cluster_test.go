package caddyoauth_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestRevokedKeyIsUselessEverywhere: a key that was revoked at one instance, or is out of time, opens nothing at the other.
func TestRevokedKeyIsUselessEverywhere(t *testing.T) {
	one, other := cluster(t, "100ms", "")
	statusAt := func(a *restSite, key string) int {
		return a.call("GET", "/v1/secrets", "", "X-User: ", "X-Groups: ", "Authorization: Bearer "+key).status
	}
	status := func(key string) int { return statusAt(other, key) }
	made := one.call("POST", "/v1/api-keys", `{"name":"ci","role":"viewer"}`).is(http.StatusCreated)
	eventually(t, "the other instance knows the key", func() bool { return status(made.get("key")) == http.StatusOK })
	brief := one.call("POST", "/v1/api-keys", fmt.Sprintf(`{"name":"brief","role":"viewer","expires_at":%q}`, time.Now().Add(5*time.Second).Format(time.RFC3339Nano))).is(http.StatusCreated)
	if got := statusAt(one, brief.get("key")); got != http.StatusOK {
		t.Errorf("before its time is over: %d", got)
	}
	shown := one.call("GET", "/v1/api-keys/"+made.get("id"), "").is(http.StatusOK)
	if shown.get("prefix") != made.get("prefix") || strings.Contains(shown.body, made.get("key")[12:]) || made.header.Get("Location") != "/oauth2/v1/api-keys/"+made.get("id") {
		t.Errorf("got %s at %s", shown.body, made.header.Get("Location"))
	}
	eventually(t, "the key is out of time", func() bool { return statusAt(one, brief.get("key")) == http.StatusUnauthorized })
	if got := status(brief.get("key")); got != http.StatusUnauthorized {
		t.Errorf("at the other instance: %d", got)
	}
	one.call("DELETE", "/v1/api-keys/"+made.get("id"), "").is(http.StatusOK)
	eventually(t, "the key is revoked", func() bool { return status(made.get("key")) == http.StatusUnauthorized })
	one.call("GET", "/v1/secrets", "", "X-User: ", "X-Groups: ", "Authorization: Bearer "+made.get("key")).is(http.StatusUnauthorized)
}

// TestIdempotencyOverInstances: a repetition may reach another instance, or the same one after a reload. What was made since, and who asks,
// are told apart there too.
func TestIdempotencyOverInstances(t *testing.T) {
	one, other := cluster(t, "10m", "")
	body, key := one.machine("billing", ""), "Idempotency-Key: k"
	first := one.call("POST", "/v1/secrets/oauth2", body, key).is(http.StatusCreated)
	again := other.call("POST", "/v1/secrets/oauth2", body, key).is(http.StatusCreated)
	if string(first.Data) != string(again.Data) || again.header.Get("Idempotent-Replayed") != "true" || again.header.Get("Location") != first.header.Get("Location") {
		t.Errorf("got %s\nand %s", first.body, again.body)
	}
	other.call("POST", "/v1/secrets/oauth2", other.machine("another", ""), key).failed(http.StatusConflict, "conflict")
	other.call("POST", "/v1/secrets/oauth2", body, key, "X-User: bob").failed(http.StatusConflict, "conflict") // the name, not the answer
	if got := other.call("POST", "/v1/collections", `{"name":"x"}`, key).failed(http.StatusConflict, "conflict"); !strings.Contains(got.body, "another request") {
		t.Errorf("got %s", got.body)
	}
	one.reload()
	one.client.CloseIdleConnections()
	if got := one.call("POST", "/v1/secrets/oauth2", body, key).is(http.StatusCreated); got.get("id") != first.get("id") {
		t.Errorf("got %s", got.body)
	}
	if got := one.idp.asked.Load(); got != 1 {
		t.Errorf("the token endpoint was asked %d times", got)
	}
}

// TestRemovalWhileRequestsTravel: a connection is removed and made again under traffic. Each request travels with its token or is told
// that there is no such connection; nothing else happens, and nothing is left behind.
func TestRemovalWhileRequestsTravel(t *testing.T) {
	a := runAPI(t, "", "")
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := a.try(a.request("GET", "/with/billing/x", nil))
				if err != nil || got.status != http.StatusOK && (got.status != http.StatusForbidden || !strings.Contains(got.body, "unknown-connection")) {
					t.Errorf("got %d %s %v", got.status, got.body, err)
					return
				}
			}
		})
	}
	for range 10 {
		id := a.call("POST", "/v1/secrets/oauth2", a.machine("billing", "")).is(http.StatusCreated).get("id")
		a.call("POST", "/v1/secrets/"+id+"/refresh", "").is(http.StatusOK)
		a.call("DELETE", "/v1/secrets/"+id, "", "If-Match: *").is(http.StatusOK)
	}
	close(stop)
	all.Wait()
	if got := a.records(); got != 0 {
		t.Errorf("%d token sets are left", got)
	}
}

// TestConfiguredNameTakesTheRequests: a name that is stored as well as configured is the configured one, also where a request says it; and
// the stored one's token goes nowhere.
func TestConfiguredNameTakesTheRequests(t *testing.T) {
	a, elsewhere := runAPI(t, "", ""), newIDP(t)
	elsewhere.issued.Store(100)
	made := a.call("POST", "/v1/secrets/oauth2", strings.Replace(a.machine("api", ""), a.idp.URL, elsewhere.URL, 1)).is(http.StatusCreated)
	if made.get("connection_error") != "shadowed_by_configuration" {
		t.Errorf("got %s", made.body)
	}
	for range 2 {
		a.get("/with/api/x").want(t, http.StatusOK, "GET")
		if got := a.up.last(t).header.Get("Authorization"); got != bearer(1) {
			t.Error("the request travelled with another token")
		}
		a.reload() // what is stored is known already then
	}
	if got := elsewhere.asked.Load(); got != 0 {
		t.Errorf("the stored one's server was asked %d times", got)
	}
}
