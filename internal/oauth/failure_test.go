package oauth

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// TestRefusals is the table of research into what servers answer. Columns: the class for a refresh, and for client
// credentials, where no refresh token can be dead.
func TestRefusals(t *testing.T) {
	t.Parallel()
	const html = "<html><body>Bad Gateway</body></html>"
	for _, tc := range []struct {
		status      int
		body        string
		code        string
		refresh, cc Class
	}{
		{400, `{"error":"invalid_grant","error_description":"x"}`, "invalid_grant", Revoked, Misconfigured},
		{403, `{"error":"invalid_grant"}`, "invalid_grant", Revoked, Misconfigured}, // Atlassian
		{401, `{"error":"invalid_grant"}`, "invalid_grant", Revoked, Misconfigured},
		{400, `{"error":"token_inactive"}`, "token_inactive", Revoked, Misconfigured},
		{200, `{"error":"bad_refresh_token"}`, "bad_refresh_token", Revoked, Misconfigured},               // GitHub
		{200, `error=bad_refresh_token&error_description=x`, "bad_refresh_token", Revoked, Misconfigured}, // GitHub
		{200, `{"ok":false,"error":"token_revoked"}`, "token_revoked", Revoked, Misconfigured},            // Slack
		{200, `{"ok":false,"error":"invalid_refresh_token"}`, "invalid_refresh_token", Revoked, Misconfigured},
		{200, `{"ok":false,"error":"account_inactive"}`, "account_inactive", Revoked, Misconfigured},
		{400, `{"status":"BAD_REFRESH_TOKEN","message":"x"}`, "BAD_REFRESH_TOKEN", Revoked, Misconfigured}, // HubSpot
		{200, `{"error":"invalid_code"}`, "invalid_code", Revoked, Misconfigured},                          // Zoho
		{400, `{"error":"interaction_required","suberror":"basic_action"}`, "interaction_required", Revoked, Misconfigured},
		{400, `{"error":"login_required"}`, "login_required", Revoked, Misconfigured},
		{400, `{"error":"consent_required"}`, "consent_required", Revoked, Misconfigured},

		{401, `{"error":"invalid_client"}`, "invalid_client", Misconfigured, Misconfigured},
		{400, "\xef\xbb\xbf" + `{"error":"invalid_client"}`, "invalid_client", Misconfigured, Misconfigured},
		{400, `{"errorCode":"invalid_client","errorSummary":"x"}`, "invalid_client", Misconfigured, Misconfigured}, // Okta
		{400, `{"error":"unauthorized_client"}`, "unauthorized_client", Misconfigured, Misconfigured},
		{400, `{"error":"unsupported_grant_type"}`, "unsupported_grant_type", Misconfigured, Misconfigured},
		{400, `{"error":"invalid_scope"}`, "invalid_scope", Misconfigured, Misconfigured},
		{400, `{"error":"invalid_target"}`, "invalid_target", Misconfigured, Misconfigured},
		{200, `{"error":"redirect_uri_mismatch"}`, "redirect_uri_mismatch", Misconfigured, Misconfigured},
		{200, `{"error":"incorrect_client_credentials"}`, "incorrect_client_credentials", Misconfigured, Misconfigured},
		{401, ``, "", Misconfigured, Misconfigured},
		{401, html, "", Misconfigured, Misconfigured},
		{401, `{"message":"no"}`, "", Misconfigured, Misconfigured},

		{503, `{"error":"temporarily_unavailable"}`, "temporarily_unavailable", RetryLater, RetryLater},
		{400, `{"error":"temporarily_unavailable"}`, "temporarily_unavailable", RetryLater, RetryLater},
		{400, `{"error":"slow_down"}`, "slow_down", RetryLater, RetryLater},
		{200, `{"ok":false,"error":"ratelimited"}`, "ratelimited", RetryLater, RetryLater},
		{200, `{"ok":false,"error":"internal_error"}`, "internal_error", RetryLater, RetryLater},
		{408, ``, "", RetryLater, RetryLater},
		{425, ``, "", RetryLater, RetryLater},
		{429, `{"message":"slow"}`, "", RetryLater, RetryLater},
		{500, `{"error":"invalid_grant"}`, "invalid_grant", RetryLater, RetryLater}, // a failing server revokes nothing
		{502, html, "", RetryLater, RetryLater},
		{504, ``, "", RetryLater, RetryLater},
		{403, html, "", RetryLater, RetryLater}, // a gateway's page

		{400, `{"error":"invalid_request"}`, "invalid_request", Unrecognized, Misconfigured},
		{403, `{"error":"access_denied"}`, "access_denied", Unrecognized, Misconfigured}, // Auth0: audience
		{200, `{"error":"bad_verification_code"}`, "bad_verification_code", Unrecognized, Unrecognized},
		{400, `{"error":"never_heard_of"}`, "never_heard_of", Unrecognized, Unrecognized},
		{400, `{"error":"Your refresh token is dead"}`, "unreadable_code", Unrecognized, Unrecognized},
		{400, `{"error":{"type":"OAuthException","code":190}}`, "OAuthException", Unrecognized, Unrecognized}, // Meta
		{400, `{"errors":[{"code":"UNAUTHORIZED","detail":"x"}]}`, "UNAUTHORIZED", Unrecognized, Unrecognized},
		{200, `{"success":false}`, "", Unrecognized, Unrecognized},
		{200, `{"success":false,"code":"expired"}`, "expired", Unrecognized, Unrecognized},
		{200, `{"ok":false,"access_token":"at"}`, "", Unrecognized, Unrecognized},
		{200, `{"error":"x_y","access_token":"at"}`, "x_y", Unrecognized, Unrecognized},
		{200, `{"error":true,"access_token":"at"}`, "", Unrecognized, Unrecognized},
		{400, `{"status":400,"message":"Invalid refresh token"}`, "", Unrecognized, Unrecognized}, // Twitch
		{400, `{"access_token":"at"}`, "", Unrecognized, Unrecognized},
		{404, `not found`, "", Unrecognized, Unrecognized},

		{200, ``, "unreadable_response", UnknownOutcome, UnknownOutcome},
		{200, html, "unreadable_response", UnknownOutcome, UnknownOutcome},
		{200, `{"access_token":"at","refresh_tok`, "unreadable_response", UnknownOutcome, UnknownOutcome},
		{200, `{"access_token":"at"}{}`, "unreadable_response", UnknownOutcome, UnknownOutcome},
		{200, `[{"access_token":"at"}]`, "unreadable_response", UnknownOutcome, UnknownOutcome},
		{200, `a=b&c=d`, "unreadable_response", UnknownOutcome, UnknownOutcome},
		{204, ``, "unreadable_response", UnknownOutcome, UnknownOutcome},
		{200, `{}`, "no_access_token", UnknownOutcome, UnknownOutcome},
		{200, `{"access_token":""}`, "no_access_token", UnknownOutcome, UnknownOutcome},
		{200, `{"access_token":["at"]}`, "no_access_token", UnknownOutcome, UnknownOutcome},
		{200, `{"access_token":"a\r\nX: y"}`, "invalid_access_token", UnknownOutcome, UnknownOutcome},
		{200, `{"access_token":"caf\u00e9"}`, "invalid_access_token", UnknownOutcome, UnknownOutcome},

		{302, ``, "redirect", Misconfigured, Misconfigured},
		{304, goodToken, "redirect", Misconfigured, Misconfigured},
	} {
		for grant, want := range map[string]Class{GrantRefreshToken: tc.refresh, GrantClientCredentials: tc.cc} {
			token, err := judged(grant, &reply{status: tc.status, body: []byte(tc.body)})
			e := mustFail(t, token, err)
			if e.Class != want || e.Code != tc.code || e.Status != tc.status {
				t.Errorf("%s, %d %s: got %v %q %d, want %v %q",
					grant, tc.status, tc.body, e.Class, e.Code, e.Status, want, tc.code)
			}
		}
	}
}

// TestOwnCodes: what a server's own words mean counts before what they mean elsewhere, but not before its health.
func TestOwnCodes(t *testing.T) {
	t.Parallel()
	var code string
	var status int
	endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) { answer(status, jsonKind, `{"error":"`+code+`"}`)(w, r) })
	c := newTestClient(t, Config{TokenEndpoint: endpoint, Secret: fixed("cs+1"), Codes: Codes{
		Revoked: []string{"Account_Closed", "unauthorized_client"}, Misconfigured: []string{"app_disabled"}, RetryLater: []string{"invalid_grant"},
	}})
	for _, tc := range []struct {
		status   int
		code     string
		refresh  Class
		machines Class
	}{
		{400, "ACCOUNT_CLOSED", Revoked, Unrecognized},
		{400, "unauthorized_client", Revoked, Misconfigured},
		{400, "app_disabled", Misconfigured, Misconfigured},
		{400, "invalid_grant", RetryLater, RetryLater},
		{400, "bad_refresh_token", Revoked, Misconfigured}, // the general list still counts
		{503, "account_closed", RetryLater, RetryLater},
	} {
		code, status = tc.code, tc.status
		token, err := c.Refresh(t.Context(), secret.New("r-1"))
		expect(t, mustFail(t, token, err), tc.refresh, tc.code)
		token, err = c.ClientCredentials(t.Context())
		expect(t, mustFail(t, token, err), tc.machines, tc.code)
	}
}

func TestErrorTexts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		grant  string
		status int
		body   string
		want   string
	}{
		{
			GrantClientCredentials, 401, `{"error":"invalid_client"}`,
			"token endpoint refused the client: invalid_client (401); check client_id, the secret and client_auth",
		},
		{GrantClientCredentials, 400, `{"error":"invalid_scope"}`, "token endpoint refused the client: invalid_scope (400); check scopes"},
		{
			GrantRefreshToken, 400, `{"error":"invalid_grant"}`,
			"token endpoint refused the refresh token: invalid_grant (400); authorize the connection again",
		},
		{GrantRefreshToken, 502, "<html>", "token endpoint cannot answer now: HTTP 502; it is asked again later"},
	} {
		_, err := judged(tc.grant, &reply{status: tc.status, body: []byte(tc.body)})
		if err.Error() != tc.want {
			t.Errorf("got  %s\nwant %s", err, tc.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	date := time.Date(2020, 1, 1, 12, 0, 0, 0, time.UTC) // far from our clock: only the difference counts
	stamp := func(d time.Duration) string { return date.Add(d).Format(http.TimeFormat) }
	soon := time.Now().Add(90 * time.Second)
	for _, tc := range []struct {
		name   string
		status int
		header map[string]string
		body   string
		want   time.Duration
	}{
		{"seconds", 429, map[string]string{"Retry-After": "120"}, "", 2 * time.Minute},
		{"fraction", 429, map[string]string{"Retry-After": "1.5"}, "", 1500 * time.Millisecond},
		{"date", 503, map[string]string{"Retry-After": stamp(time.Minute), "Date": stamp(0)}, "", time.Minute},
		{"date gone by", 503, map[string]string{"Retry-After": stamp(-time.Minute), "Date": stamp(0)}, "", 0},
		{"date, ours", 503, map[string]string{"Retry-After": soon.UTC().Format(http.TimeFormat)}, "", 90 * time.Second},
		{"capped", 429, map[string]string{"Retry-After": "86400"}, "", time.Hour},
		{"absurd", 429, map[string]string{"Retry-After": "1e999"}, "", time.Hour},
		{"negative", 429, map[string]string{"Retry-After": "-5"}, "", 0},
		{"words", 429, map[string]string{"Retry-After": "later"}, "", 0},
		{"on a 400", 400, map[string]string{"Retry-After": "7"}, `{"error":"x_y"}`, 7 * time.Second},
		{"body", 429, nil, `{"message":"x","retry_after":64.57}`, 64570 * time.Millisecond}, // Discord
		{"header before body", 429, map[string]string{"Retry-After": "3"}, `{"retry_after":64}`, 3 * time.Second},
		{"delta", 429, map[string]string{"RateLimit-Reset": "30"}, "", 30 * time.Second},
		{"unix", 429, map[string]string{"X-RateLimit-Reset": strconv.FormatInt(soon.Unix(), 10)}, "", 90 * time.Second},
		{"unix ms", 429, map[string]string{"x-rate-limit-reset": strconv.FormatInt(soon.UnixMilli(), 10)}, "", 90 * time.Second},
		{"limiter headers of an ordinary refusal", 400, map[string]string{"X-RateLimit-Reset": "30"}, `{"error":"invalid_grant"}`, 0},
		{"limiter headers of a failing server", 500, map[string]string{"X-RateLimit-Reset": "30"}, "", 0},
		{"none", 503, nil, "", 0},
	} {
		r := &reply{status: tc.status, header: http.Header{}, body: []byte(tc.body)}
		for name, value := range tc.header {
			r.header.Set(name, value)
		}
		token, err := judged(GrantRefreshToken, r)
		e := mustFail(t, token, err)
		if diff := (e.RetryAfter - tc.want).Abs(); diff > 3*time.Second || tc.want == 0 && diff != 0 || tc.want <= time.Minute && diff > time.Second {
			t.Errorf("%s: %v, want %v", tc.name, e.RetryAfter, tc.want)
		}
	}
}

func TestShowable(t *testing.T) {
	t.Parallel()
	const client, token = "client-SECRET-0123456789", "abc"
	for code, want := range map[string]string{
		"":                             "",
		"invalid_grant":                "invalid_grant",
		"some_new.code-2":              "some_new.code-2",
		strings.Repeat("a", 40):        strings.Repeat("a", 40),
		strings.Repeat("a", 41):        "unreadable_code",
		"2fast":                        "unreadable_code",
		"a b":                          "unreadable_code",
		"a\nb":                         "unreadable_code",
		"caf\u00e9":                    "unreadable_code",
		client:                         "unreadable_code",
		"x-secret-0123456":             "unreadable_code", // a piece, in another case
		"bad_ABC_here":                 "unreadable_code", // a short secret as a whole
		"secret-":                      "secret-",         // seven bytes are no piece
		"client_secret_basic_required": "client_secret_basic_required",
	} {
		if have := showable(code, []string{client, token, ""}); have != want {
			t.Errorf("%q: shown as %q, want %q", code, have, want)
		}
	}
}

func TestClassNames(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for class := RetryLater; class <= Unrecognized; class++ {
		names[class.String()] = true
	}
	if len(names) != 5 || names["class_1"] || Class(9).String() != "class_9" {
		t.Errorf("names %v", names)
	}
}

// TestKnownCodeIsShownBesideLookalikeSecret: a code we know comes from our list, whatever the secret is.
func TestKnownCodeIsShownBesideLookalikeSecret(t *testing.T) {
	t.Parallel()
	endpoint := serve(t, answer(400, "application/json", `{"error":"invalid_grant"}`))
	c := newTestClient(t, Config{TokenEndpoint: endpoint, Secret: fixed("invalid_grant")})
	token, err := c.Refresh(t.Context(), secret.New("grant"))
	expect(t, mustFail(t, token, err), Revoked, "invalid_grant")
}
