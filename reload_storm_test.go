package caddyoauth

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/goleak"
)

// A storm is everything at once: requests at full speed, people on the pages, the API, the dashboard, metrics and admin endpoints, with a
// token endpoint that is slow or down and an API that refuses tokens, while the configuration is replaced over and over again. What must
// hold is little: nobody panics, nobody gets a token of somebody else's, and nothing is left at the end.

// weatherServer is an authorization server whose tokens say whose they are: `seeded-CLIENT.SUBJECT.NUMBER`. Refresh tokens work once.
type weatherServer struct {
	*httptest.Server

	mu        sync.Mutex
	requests  int
	numbers   map[string]int    // owner -> tokens so far
	codes     map[string]string // code -> owner
	refreshes map[string]string // refresh token -> owner; "" once it was used
	reused    int
	calm      bool // answers everybody, at once
}

func newWeatherServer(t *testing.T) *weatherServer {
	t.Helper()
	w := &weatherServer{numbers: make(map[string]int), codes: make(map[string]string), refreshes: make(map[string]string)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /authorize", w.authorize)
	mux.HandleFunc("POST /token", w.token)
	mux.HandleFunc("POST /revoke", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /alert", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	w.Server = httptest.NewServer(mux)
	t.Cleanup(w.Close)
	return w
}

// authorize lets everybody consent who says who they are.
func (w *weatherServer) authorize(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	asked := r.URL.Query()
	code := fmt.Sprintf("seeded-code-%d", len(w.codes))
	w.codes[code] = asked.Get("client_id") + "." + r.Header.Get("X-Person")
	back := url.Values{"code": {code}, "state": asked["state"]}
	http.Redirect(rw, r, asked.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

func (w *weatherServer) token(rw http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	w.mu.Lock()
	w.requests++
	slow, down := w.requests%3 == 0 && !w.calm, w.requests%8 == 0 && !w.calm && r.FormValue("grant_type") != "authorization_code"
	w.mu.Unlock()
	if slow {
		time.Sleep(100 * time.Millisecond) // a slow server is what it is
	}
	if down {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	client, _, _ := r.BasicAuth()
	w.mu.Lock()
	defer w.mu.Unlock()
	owner := client + "."
	switch r.FormValue("grant_type") {
	case "authorization_code":
		owner = w.codes[r.FormValue("code")]
	case "refresh_token":
		used := r.FormValue("refresh_token")
		if owner = w.refreshes[used]; owner == "" {
			w.reused++
		}
		w.refreshes[used] = ""
	}
	rw.Header().Set("Content-Type", "application/json")
	if !strings.HasPrefix(owner, client+".") {
		rw.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(rw, `{"error":"invalid_grant"}`)
		return
	}
	w.numbers[owner]++
	token := fmt.Sprintf("%s.%d", owner, w.numbers[owner])
	answer := map[string]any{"access_token": "seeded-" + token, "token_type": "Bearer", "expires_in": 2}
	if r.FormValue("grant_type") != "client_credentials" {
		w.refreshes["seeded-refresh-"+token] = owner
		answer["refresh_token"] = "seeded-refresh-" + token
	}
	_ = json.NewEncoder(rw).Encode(answer)
}

// refusing is an API that tells whose token it got, and refuses every seventh of each owner.
func refusing(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer seeded-")
	number := token[strings.LastIndex(token, ".")+1:]
	if strings.HasSuffix(number, "7") {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, "refused")
		return
	}
	fmt.Fprint(w, strings.TrimSuffix(token, "."+number))
}

// reloadStorm is a Caddy in a storm.
type reloadStorm struct {
	*liveCaddy
	server *weatherServer
	api    *httptest.Server
	over   chan struct{}
	crew   sync.WaitGroup

	answers   [600]atomic.Int64 // by status; 0 = the connection was lost
	finished  atomic.Int64      // consents
	elsewhere atomic.Bool       // the storage was another one for a while: what is made at run time may be there or not
	secrets   [3]atomic.Int64   // how often each stored connection was made anew
}

// What is special about some of the configurations.
const (
	reloads      = 40
	wrongKeys    = 20 // nothing that is stored can be read
	otherStorage = 35
)

// variant writes the Caddyfile in one of its forms.
func (s *reloadStorm) variant(number int) string {
	encryption, storage, more := "encryption key "+strings.Repeat("0a", 32)+"\nencryption key "+strings.Repeat("0b", 32), "one", ""
	second := fmt.Sprintf("connection m2 {\n token_endpoint %s/token\n client_id m2\n client_secret seeded-secret\n}\n", s.server.URL)
	scopes := "a"
	switch number % 5 {
	case 1:
		second = "connection m3 {\n issuer " + s.server.URL + "\n client_id m3\n}\n"
	case 2:
		encryption = "encryption key " + strings.Repeat("0b", 32) + "\nencryption key " + strings.Repeat("0a", 32)
	case 3:
		more, scopes = "subjects_in_memory 100\nhistory 3\nrekey_pause 1s\nenvironment production\n", "a b"
	case 4:
		more = fmt.Sprintf("alert {\n after %dms\n webhook %s/alert\n}\n", 50+number, s.server.URL)
	}
	switch number {
	case wrongKeys:
		encryption = "encryption key " + strings.Repeat("0c", 32)
	case otherStorage:
		storage = "two"
	}
	return fmt.Sprintf(`{
	auto_https off
	grace_period 2s
	admin unix/%[1]s/adminSOCKET
	storage closing %[1]s/%[2]s
	metrics
	events {
		on * record storm
	}
	log default {
		output file %[1]s/log {
			roll_disabled
		}
		level INFO
	}
	oauth2_inject {
		%[3]s
		%[4]s
		stored_connections {
			poll_interval 100ms
			endpoints 127.0.0.1
		}
		connection m1 {
			token_endpoint %[5]s/token
			client_id m1
			client_secret seeded-secret
			scopes %[6]s
		}
		connection drive {
			token_endpoint %[5]s/token
			authorization_endpoint %[5]s/authorize
			revocation_endpoint %[5]s/revoke
			client_id drive
			client_secret seeded-secret
			subject {http.request.header.X-Person}
			timeout 5s
		}
		%[7]s
	}
}
http://localhost {
	bind unix/%[1]s/siteSOCKET
	oauth2_connect {
		identity {http.request.header.X-Person}
		connections drive
	}
	oauth2_api {
		identity {http.request.header.X-Person}
		role admin *
		rate_limit off
	}
	oauth2_dashboard {
		identity {http.request.header.X-Person}
		role admin *
		rate_limit off
	}
	route /m1 {
		oauth2_inject m1 {
			reverse_proxy %[8]s
		}
	}
	route /flat {
		oauth2_inject m1
		reverse_proxy %[8]s
	}
	route /drive {
		oauth2_inject drive {
			reverse_proxy %[8]s
		}
	}
	route /with/* {
		oauth2_inject {http.request.uri.path.1} {
			reverse_proxy %[8]s
		}
	}
}`, s.dir, storage, encryption, more, s.server.URL, scopes, second, s.api.URL)
}

// until runs work again and again until the storm is over.
func (s *reloadStorm) until(work func(round int)) {
	s.crew.Go(func() {
		for round := 0; ; round++ {
			select {
			case <-s.over:
				return
			default:
				work(round)
			}
		}
	})
}

// ask sends one request of a person to the site, and returns status and body; 0 is no answer, since Caddy cuts what outlives its grace.
func (s *reloadStorm) ask(method, path, person, body string, cookies ...*http.Cookie) (int, string, *http.Response) {
	return s.send(s.site, method, path, person, body, cookies...)
}

func (s *reloadStorm) send(client *http.Client, method, path, person, body string, cookies ...*http.Cookie) (int, string, *http.Response) {
	target := path
	if strings.HasPrefix(path, "/") {
		target = "http://localhost" + path
	}
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		s.t.Error(err)
		return 0, "", nil
	}
	req.Header.Set("X-Person", person)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("If-Match", "*")
	for _, cookie := range cookies {
		req.AddCookie(cookie)
	}
	resp, err := client.Do(req)
	if err != nil { // between two sockets
		s.answers[0].Add(1)
		time.Sleep(time.Millisecond)
		return 0, "", nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.answers[0].Add(1)
		return 0, "", nil
	}
	s.answers[resp.StatusCode].Add(1)
	if strings.Contains(string(text), "seeded-") && client != nil && path[0] == '/' {
		s.t.Errorf("%s shows a secret", path)
	}
	return resp.StatusCode, string(text), resp
}

// wantOwn asks for something with a token, and wants that of the owner or an honest answer that there is none.
func (s *reloadStorm) wantOwn(path, person, owner string, others ...int) {
	status, body, resp := s.ask(http.MethodGet, path, person, "")
	switch {
	case status == http.StatusOK && body == owner, status == 0:
		return
	case status == http.StatusUnauthorized && body == "refused": // and there was no other token to be had
		return
	case status == http.StatusServiceUnavailable || status == http.StatusBadGateway:
		if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
			return
		}
	}
	if slices.Contains(others, status) || s.elsewhere.Load() && strings.HasPrefix(path, "/with/s") {
		return
	}
	s.t.Errorf("%s for %q: got %d %q, want the token of %q", path, person, status, body, owner)
}

// connect has a person connect their account, and reports whether that went through.
func (s *reloadStorm) connect(person string) bool {
	status, _, resp := s.ask(http.MethodGet, "/connect/authorize/drive", person, "")
	if status != http.StatusSeeOther {
		return false
	}
	cookies := resp.Cookies()
	_, _, resp = s.send(&http.Client{CheckRedirect: noRedirect}, http.MethodGet, resp.Header.Get("Location"), person, "")
	if resp == nil {
		return false
	}
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		s.t.Error(err)
		return false
	}
	status, body, _ := s.ask(http.MethodGet, back.RequestURI(), person, "", cookies...)
	if status == http.StatusSeeOther {
		s.finished.Add(1)
	} else if status >= 500 && status != http.StatusServiceUnavailable && status != http.StatusBadGateway {
		s.t.Errorf("the way back: %d %s", status, body)
	}
	return status == http.StatusSeeOther
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// manage makes a connection at run time, uses it, changes it and deletes it.
func (s *reloadStorm) manage(i int) {
	name := fmt.Sprintf("s%d", i)
	described := func(client int64) string {
		return fmt.Sprintf(`{"name":%q,"provider":"custom","grant_type":"client_credentials","client_id":"%s-%d","client_secret":"seeded-secret","token_url":"%s/token"}`,
			name, name, client, s.server.URL)
	}
	status, body, _ := s.ask(http.MethodPost, "/oauth2/v1/secrets/oauth2", "alice", described(s.secrets[i].Add(1)))
	var made struct{ Data struct{ ID string } }
	if status == http.StatusConflict {
		s.forget(name)
		return
	}
	if status != http.StatusCreated || json.Unmarshal([]byte(body), &made) != nil {
		if status >= 500 && status != http.StatusServiceUnavailable {
			s.t.Errorf("make a connection: %d %s", status, body)
		}
		return
	}
	one := "/oauth2/v1/secrets/" + made.Data.ID
	s.wantMade(i)
	s.ask(http.MethodGet, one, "alice", "")
	if status, _, _ := s.ask(http.MethodPatch, one, "alice", fmt.Sprintf(`{"client_id":"%s-%d"}`, name, s.secrets[i].Add(1))); status == http.StatusOK {
		s.wantMade(i)
	}
	if status, _, _ := s.ask(http.MethodDelete, one, "alice", ""); status == http.StatusOK {
		if status, body, _ := s.ask(http.MethodGet, "/with/"+name, "bob", ""); status == http.StatusOK && !s.elsewhere.Load() {
			s.t.Errorf("%s was deleted, and still there is a token: %s", name, body)
		}
	}
}

// wantMade wants a token of a connection as it was made last. A configuration with other keys knows it within seconds, as another
// instance would.
func (s *reloadStorm) wantMade(i int) {
	path := fmt.Sprintf("/with/s%d", i)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, body, _ := s.ask(http.MethodGet, path, "bob", ""); !strings.Contains(body, "unknown-connection") {
			break
		}
	}
	s.wantOwn(path, "bob", fmt.Sprintf("s%d-%d.", i, s.secrets[i].Load()))
}

// forget deletes a connection that is still there, since the answer to its deletion was lost.
func (s *reloadStorm) forget(name string) {
	_, body, _ := s.ask(http.MethodGet, "/oauth2/v1/secrets", "alice", "")
	var all struct{ Data []struct{ ID, Name string } }
	_ = json.Unmarshal([]byte(body), &all)
	for _, one := range all.Data {
		if one.Name == name {
			s.ask(http.MethodDelete, "/oauth2/v1/secrets/"+one.ID, "alice", "")
		}
	}
}

// blow begins the storm.
func (s *reloadStorm) blow() {
	people := []string{"p0", "p1", "p2", "p3", "p4"}
	for range 3 {
		s.until(func(round int) {
			person := people[rand.N(len(people))]
			s.wantOwn("/drive", person, "drive."+person)
			s.wantOwn("/m1", "", "m1.")
			s.wantOwn("/flat", "", "m1.")
			s.wantOwn("/with/m2", "", "m2.", http.StatusForbidden)
		})
	}
	s.until(func(round int) { // somebody comes, connects, uses, and leaves
		person := fmt.Sprintf("v%d", round)
		s.ask(http.MethodGet, "/connect", person, "")
		s.connect(person)
		s.wantOwn("/drive", person, "drive."+person, http.StatusForbidden)
		s.ask(http.MethodPost, "/connect/disconnect/drive", person, "")
	})
	for i := range s.secrets {
		s.until(func(int) { s.manage(i) })
	}
	s.until(func(int) { s.ask(http.MethodGet, "/dashboard/news", "alice", "") })
	s.until(func(int) {
		s.ask(http.MethodGet, "/dashboard", "alice", "")
		time.Sleep(20 * time.Millisecond) // an operator is no machine
	})
	s.until(func(round int) {
		for _, path := range []string{"/metrics", "/oauth2_inject/connections", "/oauth2_inject/health", "/oauth2_inject/keys"} {
			s.send(s.admin, http.MethodGet, path, "", "")
		}
		if round%10 == 0 {
			s.send(s.admin, http.MethodPost, "/oauth2_inject/rekey", "", "")
		}
		time.Sleep(20 * time.Millisecond)
	})
}

// TestReloadStorm replaces the configuration some fifty times in a storm, with broken ones in between, and stops in the middle of it.
func TestReloadStorm(t *testing.T) {
	s := &reloadStorm{liveCaddy: newLiveCaddy(t), server: newWeatherServer(t), over: make(chan struct{})}
	s.api = httptest.NewServer(http.HandlerFunc(refusing))
	t.Cleanup(s.api.Close)
	s.site.CheckRedirect = noRedirect
	s.server.calm = true
	for _, number := range []int{otherStorage, 0} { // everybody has an account in both storages
		s.mustLoad(s.variant(number))
		for person := range 5 {
			if !s.connect(fmt.Sprintf("p%d", person)) {
				t.Fatalf("p%d is not connected\n%s", person, s.log())
			}
		}
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	s.api.CloseClientConnections()
	before := goleak.IgnoreCurrent()
	s.mustLoad(s.variant(0))
	s.server.mu.Lock()
	s.server.calm = false
	s.server.mu.Unlock()
	s.blow()
	for number := 1; number <= reloads; number++ {
		switch number % 8 {
		case 2, 6:
			if err := s.load(s.variant(number), map[int]string{2: "provision", 6: "start"}[number%8]); err == nil || !strings.Contains(err.Error(), "failing as told") {
				t.Fatal(err)
			}
		case 4:
			if err := s.load(strings.Replace(s.variant(number), "connections drive", "connections m1", 1), ""); err == nil || !strings.Contains(err.Error(), "people authorize") {
				t.Fatal(err)
			}
		}
		if number == otherStorage {
			s.elsewhere.Store(true)
			s.wantOpen()
		}
		text := s.variant(number)
		if number == reloads { // the last admin endpoint would stay
			text = strings.Replace(text, "admin unix/"+s.dir+"/adminSOCKET", "admin off", 1)
		}
		if err := s.load(text, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.N(80)) * time.Millisecond) // the storm goes on
	}
	if err := caddy.Stop(); err != nil {
		t.Error(err)
	}
	// In a process that goes on, Caddy does not wait for its requests, and nobody has the storage any more.
	defer func() { usedAfterClose.operations = nil }()
	close(s.over)
	s.crew.Wait()
	s.settled(before)
}

// seen counts the answers by status.
func (s *reloadStorm) seen() map[int]int64 {
	seen := make(map[int]int64)
	for status := range s.answers {
		if count := s.answers[status].Load(); count > 0 {
			seen[status] = count
		}
	}
	return seen
}

// wantOpen: no configuration has used a storage that was closed, although requests outlive theirs.
func (s *reloadStorm) wantOpen() {
	usedAfterClose.Lock()
	defer usedAfterClose.Unlock()
	if len(usedAfterClose.operations) > 0 {
		s.t.Errorf("a closed storage was used: %v", usedAfterClose.operations)
	}
}

// settled: nobody panicked, no refresh token came twice, and nothing is left of what ran.
func (s *reloadStorm) settled(before goleak.Option) {
	t := s.t
	seen := s.seen()
	t.Logf("answers %v, %d consents, %d token requests", seen, s.finished.Load(), s.server.requests)
	if seen[http.StatusOK] < 200 || s.finished.Load() < 15 || s.secrets[0].Load() < 4 {
		t.Error("the storm was a breeze")
	}
	if seen[http.StatusInternalServerError] > 0 {
		t.Error("somebody got an internal error")
	}
	if log := s.log(); strings.Contains(log, "panic") || strings.Contains(log, "goroutine ") {
		t.Errorf("somebody panicked:\n%s", log)
	}
	if s.server.reused > 0 {
		t.Errorf("%d refresh tokens came twice", s.server.reused)
	}
	if _, loaded := engines.References(engineKey); loaded || running.Load() != nil {
		t.Error("the engine is still referenced")
	}
	s.site.CloseIdleConnections()
	s.admin.CloseIdleConnections()
	s.api.CloseClientConnections()
	s.server.CloseClientConnections()
	var leak error
	for deadline := time.Now().Add(8 * time.Second); time.Now().Before(deadline); {
		// certmagic's lock file keeper sleeps up to five seconds after the lock was released.
		if leak = goleak.Find(before, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh")); leak == nil {
			break
		}
	}
	if leak != nil {
		t.Error(leak)
	}
	for _, storage := range []string{"one", "two"} {
		err := filepath.WalkDir(filepath.Join(s.dir, storage), func(path string, _ fs.DirEntry, err error) error {
			if ext := filepath.Ext(path); err == nil && ext != "" && ext != recordsExt {
				t.Errorf("%s is left", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}
