package oauth

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestAuthorizationResponse(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]AuthorizationResponse{
		"code=c-1&state=s-1":                                {State: "s-1"},
		"code=c-1&state=s-1&iss=https%3A%2F%2Fidp%2F":       {State: "s-1", Issuer: "https://idp/"},
		"error=access_denied&state=s":                       {State: "s", Error: "access_denied"},
		"error=&state=s":                                    {State: "s", Error: "unreadable_code"},
		"error=<script>&state=s":                            {State: "s", Error: "unreadable_code"},
		"error=no+good&state=s":                             {State: "s", Error: "unreadable_code"},
		"error=x_" + goodState[:20] + "&state=" + goodState: {State: goodState, Error: "unreadable_code"},
	} {
		got, err := ParseAuthorizationResponse(query)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if got.State != want.State || got.Issuer != want.Issuer || got.Error != want.Error ||
			got.Code.IsZero() == (want.Error == "") || len(got.Extra) != 0 {
			t.Errorf("%s: got %+v, want %+v", query, got, want)
		}
	}
}

// TestCallbackExtras: what QuickBooks, Zoho, Shopify and Strava send along is kept, what cannot be kept safely is not.
func TestCallbackExtras(t *testing.T) {
	t.Parallel()
	got, err := ParseAuthorizationResponse("code=c&state=s&realmId=123&accounts-server=https%3A%2F%2Faccounts.zoho.eu" +
		"&shop=a.myshopify.com&scope=read%2Cwrite&session_state=x.y&error_description=" + url.QueryEscape("<b>no</b>") +
		"&long=" + strings.Repeat("a", maxExtraValue+1) + "&control=a%0d%0ab&twice=1&twice=2&%3Cb%3E=1&Code=2&%C3%A9=1&html=%C3%A9")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"realmId": "123", "accounts-server": "https://accounts.zoho.eu", "shop": "a.myshopify.com", "scope": "read,write",
		"session_state": "x.y",
	}
	if len(got.Extra) != len(want) {
		t.Errorf("kept %v", got.Extra)
	}
	for name, value := range want {
		if got.Extra[name] != value {
			t.Errorf("%s is %q, want %q", name, got.Extra[name], value)
		}
	}
	query := "code=c&state=s"
	for i := range 500 {
		query += "&p" + strconv.Itoa(i) + "=1"
	}
	if got, err = ParseAuthorizationResponse(query); err != nil || len(got.Extra) != maxExtra {
		t.Errorf("of 500 further parameters %d were kept, error %v", len(got.Extra), err)
	}
}

// TestAttackHostileCallback: whatever a browser is made to send, nothing of it is in the error.
func TestAttackHostileCallback(t *testing.T) {
	t.Parallel()
	const seed = "Seeded0Callback1"
	long := strings.Repeat(seed, 2000)
	for query, code := range map[string]string{
		"":                                  "callback_incomplete",
		"code=" + seed:                      "callback_incomplete",
		"state=" + seed:                     "callback_incomplete",
		"code=&state=" + seed:               "callback_incomplete",
		"code=c&state=":                     "callback_incomplete",
		"code=c&error=" + seed + "&state=s": "callback_ambiguous",
		"code=" + seed + "&code=b&state=s":  "callback_duplicate",
		"code=" + seed + "&state=s&state=" + seed:      "callback_duplicate",
		"error=a&error=" + seed + "&state=s":           "callback_duplicate",
		"code=c&state=s&iss=a&iss=" + seed:             "callback_duplicate",
		"code=c&state=s&access_token=a&access_token=b": "callback_duplicate",
		"code=c&state=" + seed + "%0d%0aSet-Cookie:x":  "callback_malformed",
		"code=c&state=<b>" + seed:                      "callback_malformed",
		"code=c&state=" + seed + "%00":                 "callback_malformed",
		"code=c&state=../../" + seed:                   "callback_malformed",
		"code=c&state=" + long[:maxState+1]:            "callback_malformed",
		"code=" + seed + "%0a&state=s":                 "callback_malformed",
		"code=%C3%A9" + seed + "&state=s":              "callback_malformed",
		"code=" + long[:maxCode+1] + "&state=s":        "callback_malformed",
		"code=c&state=s&iss=%0a" + seed:                "callback_malformed",
		"code=c&state=s&iss=" + long[:maxURL+1]:        "callback_malformed",
		"code=%zz" + seed + "&state=s":                 "callback_malformed",
		"code=a;state=" + seed:                         "callback_malformed",
		"code=c&state=s&x=" + long[:maxCallback]:       "callback_too_large",
	} {
		got, err := ParseAuthorizationResponse(query)
		var e *Error
		if got != nil || !errors.As(err, &e) {
			t.Errorf("%.60s: got %v, %v", query, got, err)
			continue
		}
		expect(t, e, Unrecognized, code)
		if strings.Contains(err.Error(), "Seeded") {
			t.Errorf("%.60s: the error repeats it: %v", query, err)
		}
	}
}

// TestAttackMixUp: RFC 9207 section 2.4.
func TestAttackMixUp(t *testing.T) {
	t.Parallel()
	const honest, attacker = "https://honest.example", "https://attacker.example"
	for _, tc := range []struct {
		got, want string
		announced bool
		code      string
	}{
		{honest, honest, true, ""},
		{honest, honest, false, ""},
		{"", honest, false, ""},
		{honest, "", false, ""},
		{"", honest, true, "issuer_missing"},
		{"", "", true, "issuer_missing"},
		{attacker, honest, true, "issuer_mismatch"},
		{attacker, honest, false, "issuer_mismatch"},
		{honest + "/", honest, true, "issuer_mismatch"},
		{"HTTPS://honest.example", honest, true, "issuer_mismatch"},
	} {
		err := (&AuthorizationResponse{Issuer: tc.got}).CheckIssuer(tc.want, tc.announced)
		if tc.code == "" {
			if err != nil {
				t.Errorf("%q for %q: %v", tc.got, tc.want, err)
			}
			continue
		}
		e := mustFail(t, nil, err)
		expect(t, e, Unrecognized, tc.code)
		if strings.Contains(e.Error(), "attacker") {
			t.Errorf("the error repeats foreign text: %v", e)
		}
	}
}

func TestImplicitResponse(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r, token, err := ParseImplicitResponse(
		"access_token=at-1&token_type=bearer&expires_in=3600&scope=a+b&state=s-1&instance_url=https%3A%2F%2Fx&refresh_token=rt", now)
	if err != nil {
		t.Fatal(err)
	}
	if r.State != "s-1" || token.AccessToken.Reveal() != "at-1" || token.Scope != "a b" || token.ExpiresAt.Sub(now) != 3599*time.Second ||
		!token.RefreshToken.IsZero() || !strings.Contains(token.Response.Reveal(), `"instance_url":"https://x"`) {
		t.Errorf("got %+v, %+v, %s", r, token, token.Response.Reveal())
	}
	if r, token, err = ParseImplicitResponse("error=access_denied&state=s", now); err != nil || token != nil || r.Error != "access_denied" {
		t.Errorf("got %+v, %+v, %v", r, token, err)
	}
	for query, code := range map[string]string{
		"state=s":                               "callback_incomplete",
		"access_token=a":                        "callback_incomplete",
		"access_token=a&error=b&state=s":        "callback_ambiguous",
		"access_token=a%0ab&state=s":            "callback_malformed",
		"access_token=a&access_token=b&state=s": "callback_duplicate",
	} {
		_, token, err := ParseImplicitResponse(query, now)
		expect(t, mustFail(t, token, err), Unrecognized, code)
	}
}

// FuzzCallback: whatever comes through a browser is usable, or an error that can be shown.
func FuzzCallback(f *testing.F) {
	for _, query := range []string{
		"code=c&state=s", "error=access_denied&state=s&error_description=%3Cb%3E", "code=a&code=b&state=s", "%zz", "a;b", "=",
		"access_token=a&state=s&expires_in=1e400", "code=c&state=s&iss=https://x&realmId=1", "code=%00&state=%0a",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r, err := ParseAuthorizationResponse(query)
		checkCallback(t, r, err)
		if err == nil && r.Code.IsZero() == (r.Error == "") {
			t.Fatal("neither or both of code and error")
		}
		r, token, err := ParseImplicitResponse(query, time.Now())
		checkCallback(t, r, err)
		if token != nil {
			checkGranted(t, 200, token)
		}
	})
}

func checkCallback(t *testing.T, r *AuthorizationResponse, err error) {
	t.Helper()
	if err != nil {
		var e *Error
		if !errors.As(err, &e) || r != nil || !plainCode(e.Code) || !sendable(e.Error()) || len(e.Error()) > 200 {
			t.Fatalf("got %v, %v", r, err)
		}
		return
	}
	if !isState(r.State) || !sendable(r.Code.Reveal()) || !sendable(r.Issuer) || (r.Error != "" && !plainCode(r.Error)) || len(r.Extra) > maxExtra {
		t.Fatalf("unfit response %+v", r)
	}
	for name, value := range r.Extra {
		if !plainCode(name) || !sendable(value) || len(value) > maxExtraValue {
			t.Fatalf("unfit parameter %q=%q", name, value)
		}
	}
}
