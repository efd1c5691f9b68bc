package oauth

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

const (
	oddID     = "cc:odd id"
	oddSecret = "p%41ss:w+rd ~/=&"
)

// seen is a request as a server got it.
type seen struct {
	form   url.Values
	header http.Header
	proto  string
}

// recorder is a token endpoint that keeps what it gets.
func recorder(t *testing.T) (string, <-chan seen) {
	t.Helper()
	got := make(chan seen, 8)
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		got <- seen{r.PostForm, r.Header.Clone(), r.Proto}
		answer(200, "application/json", goodToken)(w, r)
	}), got
}

// TestWireMatchesOracle compares what reaches a server with what golang.org/x/oauth2 sends for the same client.
func TestWireMatchesOracle(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		method Method
		style  oauth2.AuthStyle
	}{
		{ClientSecretBasic, oauth2.AuthStyleInHeader},
		{ClientSecretPost, oauth2.AuthStyleInParams},
	} {
		t.Run(string(tc.method), func(t *testing.T) {
			t.Parallel()
			endpoint, got := recorder(t)
			oracle := clientcredentials.Config{
				ClientID: oddID, ClientSecret: oddSecret, TokenURL: endpoint, Scopes: []string{"a", "b:c/d"},
				AuthStyle: tc.style, EndpointParams: url.Values{
					"audience": {"api é&"}, "resource": {"https://a.example/x?y=1", "urn:b"}, "extra": {"1 2"},
				},
			}
			if _, err := oracle.Token(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := <-got
			c := newTestClient(t, Config{
				TokenEndpoint: endpoint, ClientID: oddID, Method: tc.method, Secret: fixed(oddSecret),
				Scopes: []string{"a", "b:c/d"}, Audience: "api é&",
				Resources: []string{"https://a.example/x?y=1", "urn:b"}, Params: map[string]string{"extra": "1 2"},
			})
			accessToken(t, c)
			have := <-got
			if !maps.EqualFunc(have.form, want.form, slices.Equal) {
				t.Errorf("form %v, oracle %v", have.form, want.form)
			}
			for _, name := range []string{"Authorization", "Content-Type"} {
				if have.header.Get(name) != want.header.Get(name) {
					t.Errorf("%s %q, oracle %q", name, have.header.Get(name), want.header.Get(name))
				}
			}
		})
	}
}

// TestBasicEncoding pins RFC 6749 section 2.3.1 without an oracle: decode, split at the first colon, form-decode.
func TestBasicEncoding(t *testing.T) {
	t.Parallel()
	endpoint, got := recorder(t)
	accessToken(t, newTestClient(t, Config{TokenEndpoint: endpoint, ClientID: oddID, Secret: fixed(oddSecret)}))
	have := <-got
	r := &http.Request{Header: have.header}
	user, password, _ := r.BasicAuth()
	id, _ := url.QueryUnescape(user)
	pass, _ := url.QueryUnescape(password)
	if id != oddID || pass != oddSecret {
		t.Errorf("server reads id %q, secret %q", id, pass)
	}
	if user != "cc%3Aodd+id" || password != "p%2541ss%3Aw%2Brd+~%2F%3D%26" {
		t.Errorf("on the wire %q %q", user, password)
	}
	if have.form.Has("client_id") || have.form.Has("client_secret") {
		t.Error("the client authenticates twice: RFC 6749 section 2.3 allows one method per request")
	}
}

func TestRequestHeadersAndForms(t *testing.T) {
	t.Parallel()
	endpoint, got := recorder(t)
	c := newTestClient(t, Config{
		TokenEndpoint: endpoint, Method: None, Scopes: []string{"a", "b"}, Resources: []string{"urn:r"},
		Params: map[string]string{"expires_in": "600"},
	})
	accessToken(t, c)
	first := <-got
	for name, want := range map[string]string{"Accept": "application/json", "User-Agent": "caddyoauth", "Authorization": ""} {
		if have := first.header.Get(name); have != want {
			t.Errorf("%s: %q, want %q", name, have, want)
		}
	}
	if first.proto != "HTTP/1.1" {
		t.Errorf("spoke %s", first.proto)
	}
	want := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"caddy"}, "scope": {"a b"}, "resource": {"urn:r"},
		"expires_in": {"600"},
	}
	if !maps.EqualFunc(first.form, want, slices.Equal) {
		t.Errorf("client credentials form %v, want %v", first.form, want)
	}
	if _, err := c.Refresh(t.Context(), secret.New("rt 1&")); err != nil {
		t.Fatal(err)
	}
	want.Del("scope")
	want.Set("grant_type", "refresh_token")
	want.Set("refresh_token", "rt 1&")
	if second := <-got; !maps.EqualFunc(second.form, want, slices.Equal) {
		t.Errorf("refresh form %v, want %v", second.form, want)
	}
}

func TestRefreshWithoutTokenSendsNothing(t *testing.T) {
	t.Parallel()
	endpoint, got := recorder(t)
	token, err := newTestClient(t, Config{TokenEndpoint: endpoint}).Refresh(t.Context(), secret.Text{})
	expect(t, mustFail(t, token, err), Revoked, "no_refresh_token")
	if len(got) != 0 {
		t.Error("a request was sent")
	}
}

// TestSecretIsReadAgain: the file may have been replaced when the server refuses the client.
func TestSecretIsReadAgain(t *testing.T) {
	t.Parallel()
	refusals := map[string]http.HandlerFunc{
		"invalid_client": answer(400, "application/json", `{"error":"invalid_client"}`),
		"bare 401":       answer(401, "text/html", "<html>no</html>"),
		"GitHub's 200":   answer(200, "application/json", `{"error":"incorrect_client_credentials"}`),
	}
	for name, refuse := range refusals {
		for _, tc := range []struct {
			name    string
			secrets []string // what successive readings give; the last one stays
			calls   int32
			ok      bool
		}{
			{"unchanged", []string{"old"}, 1, false},
			{"replaced", []string{"old", "new"}, 2, true},
			{"replaced, still wrong", []string{"old", "other", "new"}, 2, false},
			{"unreadable now", []string{"old", ""}, 1, false},
		} {
			t.Run(name+"/"+tc.name, func(t *testing.T) {
				t.Parallel()
				var calls atomic.Int32
				endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
					calls.Add(1)
					if _, pass, _ := r.BasicAuth(); pass != "new" {
						refuse(w, r)
						return
					}
					answer(200, "application/json", goodToken)(w, r)
				})
				readings := 0
				c := newTestClient(t, Config{TokenEndpoint: endpoint, Secret: func() (secret.Text, error) {
					s := tc.secrets[min(readings, len(tc.secrets)-1)]
					readings++
					if s == "" {
						return secret.Text{}, errors.New("gone")
					}
					return secret.New(s), nil
				}})
				token, err := c.Refresh(t.Context(), secret.New("rt"))
				if tc.ok != (err == nil) {
					t.Errorf("error %v", err)
				}
				if !tc.ok {
					if e := mustFail(t, token, err); e.Class != Misconfigured {
						t.Errorf("class %v", e.Class)
					}
				}
				if calls.Load() != tc.calls {
					t.Errorf("%d requests, want %d", calls.Load(), tc.calls)
				}
			})
		}
	}
}

// TestOtherRefusalsAreNotRepeated: only a refused client is known to have had no effect.
func TestOtherRefusalsAreNotRepeated(t *testing.T) {
	t.Parallel()
	var calls, readings atomic.Int32
	endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		answer(400, "application/json", `{"error":"invalid_grant"}`)(w, r)
	})
	c := newTestClient(t, Config{TokenEndpoint: endpoint, Secret: func() (secret.Text, error) {
		return secret.New(strings.Repeat("s", int(readings.Add(1)))), nil
	}})
	token, err := c.Refresh(t.Context(), secret.New("rt"))
	expect(t, mustFail(t, token, err), Revoked, "invalid_grant")
	if calls.Load() != 1 || readings.Load() != 1 {
		t.Errorf("%d requests, %d readings of the secret; want one each", calls.Load(), readings.Load())
	}
}

func TestSecretTrouble(t *testing.T) {
	t.Parallel()
	endpoint, got := recorder(t)
	for name, read := range map[string]func() (secret.Text, error){
		"error": func() (secret.Text, error) { return secret.Text{}, errors.New("environment variable X is not set") },
		"empty": func() (secret.Text, error) { return secret.Text{}, nil },
	} {
		token, err := newTestClient(t, Config{TokenEndpoint: endpoint, Secret: read}).ClientCredentials(t.Context())
		e := mustFail(t, token, err)
		expect(t, e, Misconfigured, "secret_unreadable")
		if name == "error" && !strings.Contains(e.Error(), "variable X") {
			t.Errorf("the reason is missing: %v", e)
		}
	}
	if len(got) != 0 {
		t.Error("a request was sent without a secret")
	}
}

// TestConcurrentCallsDoNotWait: with one call stuck, others go through, and the secret's replacement is found by all.
func TestConcurrentCallsDoNotWait(t *testing.T) {
	t.Parallel()
	release, stuck := make(chan struct{}), make(chan struct{})
	var replaced atomic.Bool
	var once sync.Once // the stuck call comes again with the new secret
	endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		if r.PostForm.Get("refresh_token") == "stuck" {
			once.Do(func() { close(stuck) })
			<-release
		}
		if _, pass, _ := r.BasicAuth(); replaced.Load() && pass != "new" {
			answer(401, "application/json", `{"error":"invalid_client"}`)(w, r)
			return
		}
		answer(200, "application/json", goodToken)(w, r)
	})
	c := newTestClient(t, Config{TokenEndpoint: endpoint, Secret: func() (secret.Text, error) {
		if replaced.Load() {
			return secret.New("new"), nil
		}
		return secret.New("old"), nil
	}})
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := c.Refresh(t.Context(), secret.New("stuck")); err != nil {
			t.Error(err)
		}
	})
	<-stuck
	for range 3 {
		accessToken(t, c)
	}
	replaced.Store(true)
	var others sync.WaitGroup
	for range 20 {
		others.Go(func() {
			if _, err := c.ClientCredentials(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	others.Wait()
	close(release)
	all.Wait()
}

func TestNewClientRefuses(t *testing.T) {
	t.Parallel()
	const https = "https://idp.example/token"
	cert := &Certificate{}
	for name, cfg := range map[string]Config{
		"no endpoint":          {ClientID: "c", Method: None},
		"relative":             {TokenEndpoint: "/token", ClientID: "c", Method: None},
		"other scheme":         {TokenEndpoint: "ftp://idp.example/token", ClientID: "c", Method: None},
		"userinfo":             {TokenEndpoint: "https://u:p4ssw0rd@idp.example/token", ClientID: "c", Method: None},
		"fragment":             {TokenEndpoint: https + "#x", ClientID: "c", Method: None},
		"control character":    {TokenEndpoint: "https://idp.example/\x7fp4ssw0rd", ClientID: "c", Method: None},
		"no id":                {TokenEndpoint: https, Method: None},
		"default needs secret": {TokenEndpoint: https, ClientID: "c"},
		"post needs secret":    {TokenEndpoint: https, ClientID: "c", Method: ClientSecretPost},
		"mtls needs pair":      {TokenEndpoint: https, ClientID: "c", Method: TLSClientAuth},
		"self-signed too":      {TokenEndpoint: https, ClientID: "c", Method: SelfSignedTLSClientAuth},
		"mtls needs https":     {TokenEndpoint: "http://idp.example/", ClientID: "c", Method: TLSClientAuth, Certificate: cert},
		"unknown method":       {TokenEndpoint: https, ClientID: "c", Method: "tls"},
		"jwt needs a key":      {TokenEndpoint: https, ClientID: "c", Method: PrivateKeyJWT},
		"jwt needs a secret":   {TokenEndpoint: https, ClientID: "c", Method: ClientSecretJWT},
		"unknown algorithm":    {TokenEndpoint: https, ClientID: "c", Method: PrivateKeyJWT, Key: &ClientKey{Algorithm: "none"}},
		"negative timeout":     {TokenEndpoint: https, ClientID: "c", Method: None, Timeout: -time.Second},
		"user agent":           {TokenEndpoint: https, ClientID: "c", Method: None, UserAgent: "a\r\nb: c"},
		"param grant_type":     {TokenEndpoint: https, ClientID: "c", Method: None, Params: map[string]string{"grant_type": "x"}},
		"param client_secret":  {TokenEndpoint: https, ClientID: "c", Method: None, Params: map[string]string{"client_secret": "x"}},
		"param refresh_token":  {TokenEndpoint: https, ClientID: "c", Method: None, Params: map[string]string{"refresh_token": "x"}},
		"param scope":          {TokenEndpoint: https, ClientID: "c", Method: None, Params: map[string]string{"scope": "x"}},
		"param without name":   {TokenEndpoint: https, ClientID: "c", Method: None, Params: map[string]string{"": "x"}},
	} {
		if _, err := NewClient(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "p4ssw0rd") {
			t.Errorf("%s: the error repeats the URL: %v", name, err)
		}
	}
	if _, err := NewClient(Config{TokenEndpoint: https, ClientID: "c", Method: None}); err != nil {
		t.Errorf("the plain case is refused: %v", err)
	}
}
