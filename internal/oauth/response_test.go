package oauth

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

var testClient = &Client{cfg: Config{ClientID: "caddy", Method: ClientSecretBasic}}

// judged puts a body in front of the judge without a network.
func judged(grant string, r *reply) (*TokenResponse, error) {
	if r.header == nil {
		r.header = http.Header{}
	}
	return testClient.judge(&exchange{grant: grant}, secret.New("s3cret-of-the-client"), r)
}

func granted(t *testing.T, body string, sentAt time.Time) *TokenResponse {
	t.Helper()
	token, err := judged(GrantRefreshToken, &reply{status: 200, body: []byte(body), sentAt: sentAt})
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return token
}

func jwt(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(claims)) + ".sig"
}

// TestExpiry: what servers put where, and when the token is then taken to die. The value lifeless
// means unknown.
func TestExpiry(t *testing.T) {
	t.Parallel()
	const lifeless = time.Duration(-1 << 62)
	sentAt := time.Now().Truncate(time.Second)
	in := func(d time.Duration) int64 { return sentAt.Add(d).Unix() }
	year := 365 * 24 * time.Hour
	for _, tc := range []struct {
		fields string
		want   time.Duration
	}{
		{`"expires_in":3600`, 3599 * time.Second},
		{`"expires_in":"3600"`, 3599 * time.Second}, // PayPal, Microsoft v1
		{`"expires_in":" 3600 "`, 3599 * time.Second},
		{`"expires_in":3600.0`, 3599 * time.Second},
		{`"expires_in":3.6e3`, 3599 * time.Second},
		{`"expires_in":"3600.9"`, 3599900 * time.Millisecond},
		{`"expires_in":5`, 4 * time.Second},
		{`"expires_in":2`, time.Second},
		{`"expires_in":1`, 500 * time.Millisecond},
		{`"expires_in":0.5`, 250 * time.Millisecond},
		{`"expires_in":0`, lifeless}, // Mailchimp
		{`"expires_in":"0"`, lifeless},
		{`"expires_in":-1`, 0},
		{`"expires_in":"-3600"`, 0},
		{`"expires_in":-1e400`, 0},
		{`"expires_in":1000000000000`, year - time.Second},
		{`"expires_in":9223372036854775807`, year - time.Second},
		{`"expires_in":1e400`, year - time.Second},
		{`"expires_in":"NaN"`, lifeless},
		{`"expires_in":"Infinity"`, lifeless},
		{`"expires_in":"0x10"`, lifeless},
		{`"expires_in":"soon"`, lifeless},
		{`"expires_in":""`, lifeless},
		{`"expires_in":null`, lifeless},
		{`"expires_in":true`, lifeless},
		{`"expires_in":[3600]`, lifeless},
		{`"x":1`, lifeless},

		{fmt.Sprintf(`"expires_at":%d`, in(time.Hour)), time.Hour}, // Strava
		{fmt.Sprintf(`"expires_at":"%d"`, in(time.Hour)), time.Hour},
		{fmt.Sprintf(`"expires_on":"%d"`, in(time.Hour)), time.Hour}, // Microsoft v1
		{fmt.Sprintf(`"exp":%d`, in(time.Hour)), time.Hour},
		{fmt.Sprintf(`"expires_at":%d`, in(time.Hour)*1000), time.Hour},
		{fmt.Sprintf(`"expires_at":%q`, sentAt.Add(time.Hour).UTC().Format(time.RFC3339)), time.Hour}, // Square
		{fmt.Sprintf(`"expires_at":%q`, sentAt.Add(time.Hour).In(time.FixedZone("", 7200)).Format(time.RFC3339Nano)), time.Hour},
		{fmt.Sprintf(`"expires_at":%d`, in(-time.Hour)), 0},
		{`"expires_at":"1999-01-01T00:00:00Z"`, 0},
		{`"expires_at":"9999-12-31T23:59:59Z"`, year},
		{`"expires_at":1e300`, year},
		{`"expires_at":0`, lifeless},
		{`"expires_at":-5`, lifeless},
		{`"expires_at":"next week"`, lifeless},

		{fmt.Sprintf(`"expires_in":60,"expires_at":%d`, in(time.Hour)), 59 * time.Second},
		{fmt.Sprintf(`"expires_in":7200,"expires_at":%d`, in(time.Hour)), time.Hour},
		{fmt.Sprintf(`"expires_in":0,"expires_at":%d`, in(time.Hour)), time.Hour},
		{fmt.Sprintf(`"expires_in":-1,"expires_at":%d`, in(time.Hour)), 0},
		{fmt.Sprintf(`"expires_at":%d,"expires_on":%d`, in(2*time.Hour), in(time.Hour)), time.Hour},
	} {
		token := granted(t, `{"access_token":"at",`+tc.fields+`}`, sentAt)
		life := token.ExpiresAt.Sub(sentAt)
		if token.ExpiresAt.IsZero() {
			life = lifeless
		}
		if diff := life - tc.want; diff > time.Millisecond || diff < -time.Millisecond {
			t.Errorf("%s: expires after %v, want %v (%v means unknown)", tc.fields, life, tc.want, lifeless)
		}
	}
}

// TestExpiryOfJWT: the claim counts only if the answer says nothing.
func TestExpiryOfJWT(t *testing.T) {
	t.Parallel()
	sentAt := time.Now().Truncate(time.Second)
	at := sentAt.Add(time.Hour).Unix()
	for _, tc := range []struct {
		name, token, fields string
		want                time.Duration // 0: unknown
	}{
		{"claim", jwt(fmt.Sprintf(`{"exp":%d}`, at)), ``, time.Hour},
		{"fraction", jwt(fmt.Sprintf(`{"exp":%d.0}`, at)), ``, time.Hour},
		{"expires_in wins", jwt(fmt.Sprintf(`{"exp":%d}`, at)), `,"expires_in":601`, 10 * time.Minute},
		{"expires_in unknown", jwt(fmt.Sprintf(`{"exp":%d}`, at)), `,"expires_in":0`, time.Hour},
		{"no claim", jwt(`{"sub":"x"}`), ``, 0},
		{"word", jwt(`{"exp":"soon"}`), ``, 0},
		{"not an object", jwt(`[1]`), ``, 0},
		{"not base64", "a.!!.c", ``, 0},
		{"two parts", "a.b", ``, 0},
		{"five parts: JWE", jwt(fmt.Sprintf(`{"exp":%d}`, at)) + ".x.y", ``, 0},
		{"opaque", "opaque", ``, 0},
	} {
		token := granted(t, fmt.Sprintf(`{"access_token":%q%s}`, tc.token, tc.fields), sentAt)
		switch {
		case tc.want == 0 && !token.ExpiresAt.IsZero():
			t.Errorf("%s: expires at %v, want unknown", tc.name, token.ExpiresAt)
		case tc.want != 0 && !token.ExpiresAt.Equal(sentAt.Add(tc.want)):
			t.Errorf("%s: expires after %v, want %v", tc.name, token.ExpiresAt.Sub(sentAt), tc.want)
		}
	}
}

// TestGrantedAnswers: odd but good answers.
func TestGrantedAnswers(t *testing.T) {
	t.Parallel()
	type want struct{ access, refresh, kind, scope, rest string }
	for name, tc := range map[string]struct {
		body string
		want want
	}{
		"plain": {
			`{"access_token":"at","refresh_token":"rt","token_type":"Bearer","scope":"a b"}`,
			want{"at", "rt", "Bearer", "a b", `{"scope":"a b","token_type":"Bearer"}`},
		},
		"odd-case type": {`{"access_token":"at","token_type":"bEARER"}`, want{"at", "", "bEARER", "", `{"token_type":"bEARER"}`}},
		"BOM and space": {"\xef\xbb\xbf \r\n{\"access_token\":\"at\"}\n", want{"at", "", "", "", `{}`}},
		"scope array":   {`{"access_token":"at","scope":["a","","b",7]}`, want{"at", "", "", "a b", `{"scope":["a","","b",7]}`}},
		"form-encoded": {
			"access_token=at&refresh_token=r%2Bt&scope=a%2Cb&token_type=bearer&expires_in=5",
			want{"at", "r+t", "bearer", "a,b", `{"expires_in":"5","scope":"a,b","token_type":"bearer"}`},
		},
		"empty refresh token": {`{"access_token":"at","refresh_token":""}`, want{"at", "", "", "", `{}`}},
		"markers that are none": {
			`{"access_token":"at","error":null,"errors":[],"ok":true,"success":true,"message":"hi","status":"ok"}`,
			want{"at", "", "", "", `{"error":null,"errors":[],"message":"hi","ok":true,"status":"ok","success":true}`},
		},
		"numbers and markup stay": {
			`{"z":1.50,"big":12345678901234567890,"access_token":"at","a":{"h":"<&>"}}`,
			want{"at", "", "", "", `{"a":{"h":"<&>"},"big":12345678901234567890,"z":1.50}`},
		},
		"nested tokens stay": {
			`{"access_token":"at","authed_user":{"access_token":"xoxp"}}`,
			want{"at", "", "", "", `{"authed_user":{"access_token":"xoxp"}}`},
		},
		"long answer is not kept": {`{"access_token":"at","x":"` + strings.Repeat("x", maxResponse) + `"}`, want{"at", "", "", "", ""}},
	} {
		token := granted(t, tc.body, time.Now())
		have := want{token.AccessToken.Reveal(), token.RefreshToken.Reveal(), token.TokenType, token.Scope, token.Response.Reveal()}
		if have != tc.want {
			t.Errorf("%s: got %+v, want %+v", name, have, tc.want)
		}
	}
}

// TestContentTypeDoesNotMatter: JSON arrives as text/plain, text/html and what not.
func TestContentTypeDoesNotMatter(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"text/plain", "text/html; charset=utf-8", "application/x-www-form-urlencoded", "x"} {
		if got := accessToken(t, newTestClient(t, Config{TokenEndpoint: serve(t, answer(201, kind, goodToken))})); got != "at-1" {
			t.Errorf("%s: token %q", kind, got)
		}
	}
}

// TestSentAtIsBeforeTheRequest: the life is counted from before the server could stamp it, on the monotonic clock.
func TestSentAtIsBeforeTheRequest(t *testing.T) {
	t.Parallel()
	var served time.Time
	endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
		served = time.Now()
		answer(200, "application/json", goodToken)(w, r)
	})
	c := newTestClient(t, Config{TokenEndpoint: endpoint})
	before := time.Now()
	token, err := c.ClientCredentials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if token.SentAt.Before(before) || token.SentAt.After(served) {
		t.Errorf("sent at %v, called at %v, served at %v", token.SentAt, before, served)
	}
	for name, at := range map[string]time.Time{"SentAt": token.SentAt, "ExpiresAt": token.ExpiresAt} {
		if !strings.Contains(at.String(), "m=") {
			t.Errorf("%s has no monotonic reading", name)
		}
	}
}

// FuzzTokenResponse: whatever arrives is a token that can be used, or an error that can be shown.
func FuzzTokenResponse(f *testing.F) {
	for _, body := range []string{
		goodToken, `{"error":"invalid_grant"}`, `{"error":{"type":"x","code":1}}`, `{"errors":[{"code":"x"}]}`,
		`{"ok":false,"error":"token_revoked"}`, `{"access_token":"` + jwt(`{"exp":1}`) + `","expires_at":"2026-01-01T00:00:00Z"}`,
		"access_token=a&expires_in=1", "error=bad_refresh_token", "\xef\xbb\xbf{}", "<html>", `{"access_token":"a\r\nb"}`,
		`{"access_token":"a","expires_in":1e400}`, `{"status":"BAD_REFRESH_TOKEN","message":"m"}`, `[`, `{"error":"s3cret-of-the-client"}`,
	} {
		for _, status := range []int{200, 302, 400, 401, 503} {
			f.Add(status, []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		sentAt := time.Now()
		for _, grant := range []string{GrantClientCredentials, GrantRefreshToken} {
			token, err := judged(grant, &reply{status: status, body: body, sentAt: sentAt})
			if err != nil {
				checkShown(t, grant, token, err)
				continue
			}
			checkGranted(t, status, token)
		}
	})
}

func checkShown(t *testing.T, grant string, token *TokenResponse, err error) {
	var e *Error
	switch {
	case !errors.As(err, &e) || token != nil:
		t.Fatalf("got %v, %v", token, err)
	case e.Class < RetryLater || e.Class > Unrecognized || e.RetryAfter < 0 || e.RetryAfter > maxRetryAfter:
		t.Fatalf("odd error %+v", e)
	case e.Class == Revoked && grant == GrantClientCredentials:
		t.Fatal("client credentials cannot be revoked")
	case e.Code != "" && !plainCode(e.Code), strings.Contains(e.Code, "s3cret-o"):
		t.Fatalf("code %q is not fit to show", e.Code)
	}
}

func checkGranted(t *testing.T, status int, token *TokenResponse) {
	access := token.AccessToken.Reveal()
	switch {
	case status < 200 || status > 299:
		t.Fatalf("a token under status %d", status)
	case access == "" || !sendable(access):
		t.Fatalf("unusable token %q", access)
	case !token.ExpiresAt.IsZero() && (token.ExpiresAt.Before(token.SentAt) || token.ExpiresAt.Sub(token.SentAt) > maxLife):
		t.Fatalf("expires %v after it was sent", token.ExpiresAt.Sub(token.SentAt))
	}
	if token.Response.IsZero() {
		return
	}
	var kept map[string]json.RawMessage
	if err := json.Unmarshal([]byte(token.Response.Reveal()), &kept); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"access_token", "refresh_token"} {
		if _, ok := kept[name]; ok {
			t.Fatalf("%s was kept", name)
		}
	}
}
