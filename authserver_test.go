package caddyoauth_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
)

// authServer is an authorization server for people: everybody who comes consents at once, codes work once and for whom they were
// asked, refresh tokens rotate, and a replay is counted and ends the grant.
type authServer struct {
	*httptest.Server

	mu        sync.Mutex
	codes     map[string]url.Values // code -> the authorization request
	refreshes map[string]int        // refresh token -> grant; gone when used
	used      map[string]int
	access    map[string]int // access token -> grant
	ended     map[int]bool   // grants
	asked     []url.Values   // authorization requests
	exchanges int            // requests with a code
	signIns   int            // requests with a password
	reuse     int            // refresh tokens that came twice
	revoked   []string       // tokens that came to the revocation endpoint
	lastPath  string         // of the last request to a token or revocation endpoint
	lastForm  url.Values
	redeemed  url.Values // the last request with a code that was good
	issued    int64
	lifetime  int // of access tokens, in seconds

	metadata map[string]any // what it says of itself; nil = nothing
	read     int            // how often that was read

	// How it behaves.
	says    url.Values // instead of a code, or with "code" overwritten
	issuer  string     // sent as iss
	tenants bool       // send the tenant's own iss
	down    bool       // the revocation endpoint
	reply   string     // instead of tokens
	more    string     // members of the token response besides the tokens
	signer  string     // the secret that the way back is signed with
}

func newAuthServer(t *testing.T) *authServer {
	t.Helper()
	a := &authServer{
		codes: make(map[string]url.Values), refreshes: make(map[string]int), used: make(map[string]int),
		access: make(map[string]int), ended: make(map[int]bool), lifetime: 3600,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /authorize", a.authorize)
	mux.HandleFunc("POST /token", a.token)
	mux.HandleFunc("POST /revoke", a.revoke)
	mux.HandleFunc("GET /.well-known/openid-configuration", a.describe)
	mux.HandleFunc("GET /common/v2.0/.well-known/openid-configuration", a.describe)
	mux.HandleFunc("GET /t/{tenant}/authorize", a.authorize)
	mux.HandleFunc("POST /t/{tenant}/token", a.token)
	mux.HandleFunc("POST /t/{tenant}/revoke", a.revoke)
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

// describe shows the server's metadata.
func (a *authServer) describe(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.read++
	if a.metadata == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	_ = json.NewEncoder(w).Encode(a.metadata)
}

// describes has the server show metadata, with more members than the necessary ones.
func (a *authServer) describes(more map[string]any) {
	a.change(func() {
		a.metadata = map[string]any{
			"issuer": a.URL, "token_endpoint": a.URL + "/token", "authorization_endpoint": a.URL + "/authorize", "revocation_endpoint": a.URL + "/revoke",
		}
		maps.Copy(a.metadata, more)
	})
}

// reads returns how often the metadata were read.
func (a *authServer) reads() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.read
}

// change changes how the server behaves.
func (a *authServer) change(how func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	how()
}

// counts returns how many codes were tried, and how many refresh tokens came twice.
func (a *authServer) counts() (exchanges, reuse int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.exchanges, a.reuse
}

// lastAsked returns the newest authorization request.
func (a *authServer) lastAsked(t *testing.T) url.Values {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.asked) == 0 {
		t.Fatal("nobody came to the authorization endpoint")
	}
	return a.asked[len(a.asked)-1]
}

func (a *authServer) authorize(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := r.URL.Query()
	a.asked = append(a.asked, asked)
	back := url.Values{"state": {asked.Get("state")}}
	sign := "?"
	if asked.Get("response_type") == "token" {
		sign = "#"
	}
	switch {
	case a.says.Get("error") != "":
	case sign == "#":
		a.issued++
		a.access[token(a.issued)] = 0
		back.Set("access_token", token(a.issued))
		back.Set("token_type", "bearer")
		back.Set("expires_in", fmt.Sprint(a.lifetime))
		back.Set("refresh_token", seed+"forbidden") // by RFC 6749 section 4.2.2
	default:
		code := fmt.Sprintf("%scode-%d", seed, len(a.asked))
		a.codes[code] = asked
		back.Set("code", code)
	}
	if tenant := r.PathValue("tenant"); a.tenants && tenant != "" {
		back.Set("iss", a.URL+"/t/"+tenant)
	}
	if a.issuer != "" {
		back.Set("iss", a.issuer)
	}
	for name, values := range a.says {
		back[name] = values
	}
	if a.signer != "" {
		mac := hmac.New(sha256.New, []byte(a.signer))
		mac.Write([]byte(back.Encode()))
		back.Set("hmac", hex.EncodeToString(mac.Sum(nil)))
	}
	http.Redirect(w, r, asked.Get("redirect_uri")+sign+back.Encode(), http.StatusFound)
}

func (a *authServer) token(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = r.ParseForm()
	a.lastPath, a.lastForm = r.URL.Path, r.PostForm
	w.Header().Set("Content-Type", "application/json")
	id, secret, _ := r.BasicAuth()
	if id != "caddy" || secret != clientSecret {
		oauthError(w, http.StatusUnauthorized, "invalid_client")
		return
	}
	grant := 0
	switch r.FormValue("grant_type") {
	case "authorization_code":
		grant = a.redeem(r)
	case "refresh_token":
		grant = a.rotate(r.FormValue("refresh_token"))
	case "password":
		grant = a.signIn(r.FormValue("username"), r.FormValue("password"))
	}
	switch {
	case grant == 0 || a.ended[grant]:
		oauthError(w, http.StatusBadRequest, "invalid_grant")
	case a.reply != "":
		fmt.Fprint(w, a.reply)
	default:
		a.issue(w, grant)
	}
}

// redeem returns the grant of a code, 0 for one that is not to be had.
func (a *authServer) redeem(r *http.Request) int {
	a.exchanges++
	asked, known := a.codes[r.FormValue("code")]
	delete(a.codes, r.FormValue("code"))
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	challenge := asked.Get("code_challenge")
	if !known || asked.Get("client_id") != "caddy" || asked.Get("redirect_uri") != r.FormValue("redirect_uri") ||
		challenge != "" && challenge != base64.RawURLEncoding.EncodeToString(sum[:]) {
		return 0
	}
	a.redeemed = r.PostForm
	return a.exchanges
}

// signIn returns the grant of an account, 0 for a wrong password.
func (a *authServer) signIn(user, password string) int {
	a.signIns++
	if user != "jane" || password != accountPassword {
		return 0
	}
	return 1000 + a.signIns
}

// rotate returns the grant of a refresh token, which is used up by it.
func (a *authServer) rotate(refresh string) int {
	if grant, twice := a.used[refresh]; twice {
		a.reuse++
		a.ended[grant] = true
		return 0
	}
	grant := a.refreshes[refresh]
	delete(a.refreshes, refresh)
	a.used[refresh] = grant
	return grant
}

func (a *authServer) issue(w http.ResponseWriter, grant int) {
	a.issued++
	access, refresh := token(a.issued), fmt.Sprintf("%srefresh-%d", seed, a.issued)
	a.access[access], a.refreshes[refresh] = grant, grant
	answer := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": a.lifetime, "refresh_token": refresh}
	_ = json.Unmarshal([]byte("{"+a.more+"}"), &answer) // adds to what is there
	_ = json.NewEncoder(w).Encode(answer)
}

func (a *authServer) revoke(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lastPath = r.URL.Path
	if a.down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	token := r.FormValue("token")
	a.revoked = append(a.revoked, token)
	a.ended[a.refreshes[token]] = true
}

// endAll is everybody withdrawing their consent at the server.
func (a *authServer) endAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, grant := range a.refreshes {
		a.ended[grant] = true
	}
}

// wasRevoked reports whether the revocation endpoint was given that token.
func (a *authServer) wasRevoked(token string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.revoked, token)
}

func oauthError(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":%q}`, code)
}
