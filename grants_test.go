package caddyoauth_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// accountPassword is that of the one account that the authorization server knows by its password.
const accountPassword = seed + "account-password"

// runAccount starts a site whose connection "mail" is one of the account jane. Its password stands in the file that is returned.
func runAccount(t *testing.T, password string) (s *site, auth *authServer, up *upstream, file string) {
	t.Helper()
	auth, up = newAuthServer(t), newUpstream(t, nil)
	file = filepath.Join(t.TempDir(), "password")
	writeSecret(t, file, password)
	s = run(t, setup{
		connections: fmt.Sprintf("connection mail {\n token_endpoint %s/token\n client_id caddy\n client_secret %s\n grant password\n username jane\n password {file.%s}\n}\n",
			auth.URL, clientSecret, file),
		site: "oauth2_connect\noauth2_inject mail {\n reverse_proxy " + up.url + "\n}\n",
	})
	return s, auth, up, file
}

func writeSecret(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// signedIn returns how often the password was sent, and how many refresh tokens came twice.
func (a *authServer) signedIn() (signIns, reuse int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.signIns, a.reuse
}

// TestPasswordGrant: the password is sent when the first request comes; after that refresh tokens rotate, and one that is dead
// costs nobody a request.
func TestPasswordGrant(t *testing.T) {
	s, auth, up, _ := runAccount(t, accountPassword)
	if n, _ := auth.signedIn(); n != 0 {
		t.Error("the password was sent before anybody needed a token")
	}
	if warnings := s.app().Status().Warnings; !strings.Contains(logged.String(), `uses the grant password`) || !strings.Contains(fmt.Sprint(warnings), "RFC 9700") {
		t.Errorf("no warning at load: %v", warnings)
	}
	auth.change(func() { auth.lifetime = 2 })
	until := func(token int64, signIns int) {
		t.Helper()
		eventually(t, fmt.Sprint("token ", token), func() bool {
			s.get("/").want(t, http.StatusOK, "GET")
			return up.last(t).header.Get("Authorization") == bearer(token)
		})
		if n, reuse := auth.signedIn(); n != signIns || reuse != 0 {
			t.Errorf("the password was sent %d times, want %d; %d refresh tokens came twice", n, signIns, reuse)
		}
	}
	until(1, 1)
	until(2, 1) // by the refresh token
	auth.endAll()
	until(3, 2)                                                                              // by the password
	s.reload()                                                                               // which the token set outlives
	until(4, 2)                                                                              // by the new refresh token
	s.as("").open("/connect/authorize/mail").want(t, http.StatusForbidden, "Please sign in") // it is nobody's to connect
}

// TestWrongPassword is the operator's fault, asked once; a corrected file counts without a reload.
func TestWrongPassword(t *testing.T) {
	s, auth, up, file := runAccount(t, seed+"wrong")
	for range 5 {
		s.get("/").want(t, http.StatusBadGateway, "client-refused")
	}
	s.reload() // who reloads wants to know at once
	for range 5 {
		s.get("/").want(t, http.StatusBadGateway, "client-refused")
	}
	untouched(t, up)
	if n, _ := auth.signedIn(); n != 2 {
		t.Errorf("the wrong password was sent %d times", n)
	}
	if !strings.Contains(logged.String(), "refused the user name and password") {
		t.Error("the log does not say what is wrong")
	}
	writeSecret(t, file, accountPassword)
	s.reload() // ends the pause after the refusal
	s.get("/").want(t, http.StatusOK, "GET")
}
