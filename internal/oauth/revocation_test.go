package oauth

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// wish is a whole request as a server got it.
type wish struct{ method, query, kind, body, authorization, shopify, version string }

// wishes is an endpoint that keeps what it gets and answers with answer.
func wishes(t *testing.T, answer http.HandlerFunc) (string, <-chan wish) {
	t.Helper()
	got := make(chan wish, 8)
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- wish{
			r.Method, r.URL.RawQuery, r.Header.Get("Content-Type"), string(body),
			r.Header.Get("Authorization"), r.Header.Get("X-Shopify-Access-Token"), r.Header.Get("Notion-Version"),
		}
		answer(w, r)
	}), got
}

const (
	formKind = "application/x-www-form-urlencoded"
	jsonKind = "application/json"
)

// TestRevocationShapes: each shape of the table in the research, once.
func TestRevocationShapes(t *testing.T) {
	t.Parallel()
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("caddy:cs+1"))
	standard := wish{method: "POST", kind: formKind, authorization: basic, body: "token=to%2Fk&token_type_hint=refresh_token"}
	for name, tc := range map[string]struct {
		method Method
		shape  RevocationShape
		want   wish
	}{
		"rfc 7009": {"", RevocationShape{}, standard},
		"okta, in the body": {ClientSecretPost, RevocationShape{}, wish{
			method: "POST", kind: formKind, body: "client_id=caddy&client_secret=cs%2B1&token=to%2Fk&token_type_hint=refresh_token",
		}},
		"public": {None, RevocationShape{}, wish{
			method: "POST", kind: formKind, body: "client_id=caddy&token=to%2Fk&token_type_hint=refresh_token",
		}},
		"google": {ClientSecretPost, RevocationShape{Auth: RevokeWithout, Names: map[string]string{"token_type_hint": ""}}, wish{
			method: "POST", kind: formKind, body: "token=to%2Fk",
		}},
		"notion, quickbooks": {"", RevocationShape{Format: FormatJSON}, wish{
			method: "POST", kind: jsonKind, authorization: basic, body: `{"token":"to/k"}`,
		}},
		"github": {ClientSecretPost, RevocationShape{
			Method: "DELETE", Format: FormatJSON, Auth: RevokeWithBasic, Names: map[string]string{"token": "access_token"},
		}, wish{method: "DELETE", kind: jsonKind, authorization: basic, body: `{"access_token":"to/k"}`}},
		"slack, dropbox": {"", RevocationShape{Format: FormatNone, Auth: RevokeWithToken}, wish{
			method: "POST", authorization: "Bearer to/k",
		}},
		"zendesk, meta": {"", RevocationShape{Method: "DELETE", Format: FormatNone, Auth: RevokeWithToken}, wish{
			method: "DELETE", authorization: "Bearer to/k",
		}},
		"shopify": {ClientSecretPost, RevocationShape{
			Method: "DELETE", Format: FormatNone, Auth: RevokeWithToken, Header: "X-Shopify-Access-Token",
		}, wish{method: "DELETE", shopify: "to/k"}},
		"hubspot, box": {ClientSecretBasic, RevocationShape{Auth: RevokeWithPost, Names: map[string]string{"token_type_hint": ""}}, wish{
			method: "POST", kind: formKind, body: "client_id=caddy&client_secret=cs%2B1&token=to%2Fk",
		}},
		"square": {ClientSecretPost, RevocationShape{
			Format: FormatJSON, Auth: RevokeWithSecret, Scheme: "Client", Names: map[string]string{"token": "access_token"},
		}, wish{method: "POST", kind: jsonKind, authorization: "Client cs+1", body: `{"access_token":"to/k","client_id":"caddy"}`}},
		"stripe": {ClientSecretPost, RevocationShape{
			Auth: RevokeWithSecret, Params: map[string]string{"stripe_user_id": "acct_1"},
			Names: map[string]string{"token": "", "token_type_hint": ""},
		}, wish{method: "POST", kind: formKind, authorization: "Bearer cs+1", body: "client_id=caddy&stripe_user_id=acct_1"}},
		"miro": {ClientSecretPost, RevocationShape{Format: FormatJSON, Names: map[string]string{
			"token": "accessToken", "client_id": "clientId", "client_secret": "clientSecret",
		}}, wish{method: "POST", kind: jsonKind, body: `{"accessToken":"to/k","clientId":"caddy","clientSecret":"cs+1"}`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			endpoint, got := wishes(t, answer(200, jsonKind, `{}`))
			c := newTestClient(t, Config{
				TokenEndpoint: "https://idp.example/token", RevocationEndpoint: endpoint, Method: tc.method, Secret: fixed("cs+1"),
				Revocation: tc.shape, BasicRaw: true, Params: map[string]string{"not": "sent"},
				ExtraHeaders: map[string]string{"notion-version": "2026-03-11"},
			})
			if err := c.Revoke(t.Context(), secret.New("to/k"), "refresh_token"); err != nil {
				t.Fatal(err)
			}
			tc.want.version = "2026-03-11"
			if have := <-got; have != tc.want {
				t.Errorf("got  %+v\nwant %+v", have, tc.want)
			}
		})
	}
}

// TestRevocationAnswers: what counts as revoked.
func TestRevocationAnswers(t *testing.T) {
	t.Parallel()
	token := RevocationShape{Format: FormatNone, Auth: RevokeWithToken}
	github := RevocationShape{Method: "DELETE", Format: FormatJSON, Gone: []int{404, 422}}
	for _, tc := range []struct {
		shape  RevocationShape
		status int
		body   string
		class  Class // 0: revoked
		code   string
	}{
		{status: 200}, {status: 204}, {status: 200, body: "<html>"}, {status: 200, body: `{}`},
		{shape: token, status: 200, body: `{"ok":true,"revoked":true}`},
		{status: 400, body: `{"error":"invalid_token","error_description":"Token expired or revoked"}`}, // Google
		{shape: token, status: 200, body: `{"ok":false,"error":"token_revoked"}`},
		{shape: token, status: 200, body: `{"ok":false,"error":"invalid_auth"}`},
		{shape: token, status: 401},
		{shape: token, status: 401, body: `{"error":{".tag":"invalid_access_token"}}`},
		{shape: github, status: 404}, {shape: github, status: 422, body: `{"message":"x"}`},

		{status: 404, class: Unrecognized},
		{shape: token, status: 401, body: `{"error":{".tag":"expired_access_token"}}`, class: Unrecognized, code: "expired_access_token"}, // Dropbox
		{shape: token, status: 200, body: `{"ok":false,"error":"ratelimited"}`, class: RetryLater, code: "ratelimited"},
		{shape: token, status: 200, body: `{"ok":false,"error":"not_authed"}`, class: Unrecognized, code: "not_authed"},
		{status: 400, body: `{"error":"unsupported_token_type"}`, class: Misconfigured, code: "unsupported_token_type"},
		{status: 401, body: `{"error":"invalid_client"}`, class: Misconfigured, code: "invalid_client"},
		{status: 401, class: Misconfigured},
		{status: 400, body: `{"error":"invalid_grant"}`, class: Unrecognized, code: "invalid_grant"},
		{status: 400, body: `{"error":"invalid_request"}`, class: Unrecognized, code: "invalid_request"},
		{status: 503, class: RetryLater},
		{status: 500, body: `{"error":"invalid_token"}`, class: RetryLater, code: "invalid_token"},
		{status: 429, class: RetryLater},
		{status: 302, class: Misconfigured, code: "redirect"},
		{status: 400, body: `{"error":"Seeded0Refresh1"}`, class: Unrecognized, code: "unreadable_code"},
	} {
		c := newTestClient(t, Config{
			TokenEndpoint: "https://idp.example/token", RevocationEndpoint: serve(t, answer(tc.status, "text/plain", tc.body)),
			Revocation: tc.shape,
		})
		err := c.Revoke(t.Context(), secret.New("Seeded0Refresh1Token2"), "")
		if tc.class == 0 {
			if err != nil {
				t.Errorf("%d %s: %v", tc.status, tc.body, err)
			}
			continue
		}
		e := mustFail(t, nil, err)
		expect(t, e, tc.class, tc.code)
		if e.Status != tc.status || !strings.HasPrefix(e.Error(), "revocation endpoint ") || strings.Contains(e.Error(), "Seeded0") {
			t.Errorf("%d %s: %d, %v", tc.status, tc.body, e.Status, e)
		}
		if unsupported := tc.code == "unsupported_token_type"; errors.Is(err, ErrRevocationUnsupported) != unsupported {
			t.Errorf("%d %s: unsupported is %v", tc.status, tc.body, !unsupported)
		}
	}
}

// TestRevokeWithoutSending: what cannot be revoked reaches no server.
func TestRevokeWithoutSending(t *testing.T) {
	t.Parallel()
	err := newTestClient(t, Config{TokenEndpoint: "https://idp.example/token"}).Revoke(t.Context(), secret.New("t"), "")
	if expect(t, mustFail(t, nil, err), Misconfigured, "no_revocation_endpoint"); !errors.Is(err, ErrRevocationUnsupported) {
		t.Error("errors.Is does not find ErrRevocationUnsupported")
	}
	endpoint, got := wishes(t, answer(200, "", ""))
	c := newTestClient(t, Config{TokenEndpoint: endpoint, RevocationEndpoint: endpoint})
	for token, code := range map[string]string{"": "no_token", "a\r\nHost: evil": "invalid_token"} {
		expect(t, mustFail(t, nil, c.Revoke(t.Context(), secret.New(token), "")), Unrecognized, code)
	}
	c = newTestClient(t, Config{
		TokenEndpoint: endpoint, RevocationEndpoint: endpoint, Secret: fixed("a\nb"), Revocation: RevocationShape{Auth: RevokeWithSecret},
	})
	expect(t, mustFail(t, nil, c.Revoke(t.Context(), secret.New("t"), "")), Misconfigured, "invalid_secret")
	if len(got) != 0 {
		t.Error("a request was sent")
	}
}

// TestRevokeUnreachable: a provider that is down says so, and the call may be made again.
func TestRevokeUnreachable(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(nil)
	gone.Close()
	c := newTestClient(t, Config{TokenEndpoint: "https://idp.example/token", RevocationEndpoint: gone.URL})
	e := mustFail(t, nil, c.Revoke(t.Context(), secret.New("t"), ""))
	if e.Class != RetryLater || !strings.Contains(e.Error(), "revocation endpoint could not be asked") {
		t.Errorf("got %v %v", e.Class, e)
	}
}

// TestRevocationOverMutualTLS: the certificate is shown there as well (RFC 8705 section 2), and its lack is named.
func TestRevocationOverMutualTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	srv := ca.serveTLS(t, tls.VersionTLS13, answer(200, "", ""))
	cfg := Config{
		TokenEndpoint: srv.URL, RevocationEndpoint: srv.URL, RootCAs: ca.pool,
		Method: TLSClientAuth, Certificate: files(t, ca.valid(t, "c")),
	}
	if err := newTestClient(t, cfg).Revoke(t.Context(), secret.New("t"), ""); err != nil {
		t.Error(err)
	}
	cfg.Method, cfg.Certificate = None, nil
	e := mustFail(t, nil, newTestClient(t, cfg).Revoke(t.Context(), secret.New("t"), ""))
	if expect(t, e, Misconfigured, "certificate_refused"); !strings.HasPrefix(e.Error(), "revocation endpoint demands") {
		t.Errorf("got %v", e)
	}
}

// TestRevocationReadsSecretAgain: as at the token endpoint, once.
func TestRevocationReadsSecretAgain(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if _, password, _ := r.BasicAuth(); password != "new" {
			answer(401, jsonKind, `{"error":"invalid_client"}`)(w, r)
		}
	})
	readings := []string{"old", "new"}
	c := newTestClient(t, Config{TokenEndpoint: endpoint, RevocationEndpoint: endpoint, Secret: func() (secret.Text, error) {
		next := readings[0]
		if len(readings) > 1 {
			readings = readings[1:]
		}
		return secret.New(next), nil
	}})
	for range 2 {
		if err := c.Revoke(t.Context(), secret.New("t"), ""); err != nil {
			t.Fatal(err)
		}
	}
	if calls.Load() != 3 {
		t.Errorf("%d requests, want two for the first revocation and one for the second", calls.Load())
	}
}
