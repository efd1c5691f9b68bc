package caddyoauth_test

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

// TestRefreshOn401: a token whose time is up is sent until the API refuses it, and the request that it refused is replayed.
func TestRefreshOn401(t *testing.T) {
	p := runPeople(t, "refresh on_401")
	p.auth.change(func() { p.auth.lifetime = 1 })
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	eventually(t, "the end of the token", func() bool { return time.Now().After(*p.view(aliceDrive).ExpiresAt) })
	alice.open("/").want(t, http.StatusOK, "GET")
	if v := p.view(aliceDrive); v.Generation != 1 || v.RefreshAt != nil {
		t.Errorf("after its end: %+v", v)
	}
	p.up.demand.Store(2)
	alice.open("/").want(t, http.StatusOK, "GET")
	if got := p.up.tokens(); !slices.Equal(got, []string{bearer(1), bearer(1), bearer(2)}) {
		t.Errorf("the API got %d requests, or other tokens", len(got))
	}
	if v := p.view(aliceDrive); v.Generation != 2 || v.Reason != "rejected" {
		t.Errorf("after the refusal: %+v", v)
	}
}

// TestRefreshForEveryRequest: no two requests in a row travel with the same token.
func TestRefreshForEveryRequest(t *testing.T) {
	p := runPeople(t, "refresh every_request")
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	for range 3 {
		alice.open("/").want(t, http.StatusOK, "GET")
	}
	if got := p.up.tokens(); !slices.Equal(got, []string{bearer(2), bearer(3), bearer(4)}) {
		t.Errorf("the API got %d requests, or other tokens", len(got))
	}
	if _, reuse := p.auth.counts(); reuse != 0 {
		t.Errorf("the server saw %d refresh tokens twice", reuse)
	}
}
