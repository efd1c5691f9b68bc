package oauth

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// TestPasswordMatchesOracle does so for the password grant; our own parameters win over configured ones.
func TestPasswordMatchesOracle(t *testing.T) {
	t.Parallel()
	endpoint, got := recorder(t)
	oracle := oauth2.Config{
		ClientID: oddID, ClientSecret: oddSecret, Scopes: []string{"a", "b"},
		Endpoint: oauth2.Endpoint{TokenURL: endpoint, AuthStyle: oauth2.AuthStyleInHeader},
	}
	if _, err := oracle.PasswordCredentialsToken(t.Context(), "jané", "p w&%"); err != nil {
		t.Fatal(err)
	}
	want := <-got
	c := newTestClient(t, Config{
		TokenEndpoint: endpoint, ClientID: oddID, Secret: fixed(oddSecret), Scopes: oracle.Scopes,
		Username: "jané", Password: fixed("p w&%"), Params: map[string]string{"username": "other", "password": "other"},
	})
	if _, err := c.Password(t.Context()); err != nil {
		t.Fatal(err)
	}
	have := <-got
	if !maps.EqualFunc(have.form, want.form, slices.Equal) || have.header.Get("Authorization") != want.header.Get("Authorization") {
		t.Errorf("form %v, oracle %v", have.form, want.form)
	}
}

// TestNoPasswordToSend: what cannot succeed does not reach the server.
func TestNoPasswordToSend(t *testing.T) {
	t.Parallel()
	endpoint, got := recorder(t)
	broken := func() (secret.Text, error) { return secret.Text{}, errors.New("no such file") }
	for _, tc := range []struct {
		cfg  Config
		code string
	}{
		{Config{}, "no_password"},
		{Config{Password: fixed("x")}, "no_password"},
		{Config{Username: "jane"}, "no_password"},
		{Config{Username: "jane", Password: fixed("")}, "password_unreadable"},
		{Config{Username: "jane", Password: broken}, "password_unreadable"},
	} {
		tc.cfg.TokenEndpoint = endpoint
		token, err := newTestClient(t, tc.cfg).Password(t.Context())
		expect(t, mustFail(t, token, err), Misconfigured, tc.code)
	}
	if len(got) != 0 {
		t.Error("a request was sent")
	}
}

// TestAttackAccountLockout: a password that was refused is not sent again and again, a new one at once; and other failures do
// not count as a refusal of it.
func TestAttackAccountLockout(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	var reply, password atomic.Value
	endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.PostFormValue("password") == "right" {
			answer(200, "application/json", goodToken)(w, r)
			return
		}
		answer(400, "application/json", reply.Load().(string))(w, r)
	})
	c := newTestClient(t, Config{TokenEndpoint: endpoint, Username: "jane", Password: func() (secret.Text, error) {
		return secret.New(password.Load().(string)), nil
	}})
	ask := func(requests int64, code string) {
		t.Helper()
		asked.Store(0)
		token, err := c.Password(t.Context())
		switch e := new(Error); {
		case code == "" && err != nil:
			t.Error(err)
		case code != "" && (!errors.As(err, &e) || e.Code != code || token != nil):
			t.Errorf("got %v, want %s", err, code)
		case asked.Load() != requests:
			t.Errorf("%d requests, want %d", asked.Load(), requests)
		}
	}
	password.Store("wrong")
	for _, unrelated := range []string{"temporarily_unavailable", "invalid_client", "invalid_scope"} {
		reply.Store(`{"error":"` + unrelated + `"}`)
		ask(1, unrelated)
		ask(1, unrelated)
	}
	reply.Store(`{"error":"invalid_grant"}`)
	ask(1, "invalid_grant")
	for range 10 {
		ask(0, "invalid_grant")
	}
	password.Store("wrong as well")
	ask(1, "invalid_grant")
	c.mu.Lock()
	if left := time.Until(c.refused.until); left < lockoutPause-time.Minute || left > lockoutPause {
		t.Errorf("the pause is %s", left)
	}
	c.refused.until = time.Now()
	c.mu.Unlock()
	ask(1, "invalid_grant") // the account may be unlocked by now
	password.Store("right")
	ask(1, "")
}
