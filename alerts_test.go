package caddyoauth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/alert"
)

// hookKey is the key of the signing secret that these tests use, and hookSecret the secret.
var (
	hookKey    = []byte("seeded-hook-key-0123456789abcdef")
	hookSecret = "whsec_" + base64.StdEncoding.EncodeToString(hookKey)
)

// hmacSHA256 is RFC 2104 by hand, so that the signature is checked by something else than what made it.
func hmacSHA256(key, message []byte) []byte {
	block := make([]byte, 64)
	copy(block, key)
	inner, outer := make([]byte, 64), make([]byte, 64)
	for i := range block {
		inner[i], outer[i] = block[i]^0x36, block[i]^0x5c
	}
	first := sha256.Sum256(slices.Concat(inner, message))
	second := sha256.Sum256(slices.Concat(outer, first[:]))
	return second[:]
}

// hookReceiver is a receiver of webhooks that checks what it gets.
type hookReceiver struct {
	*httptest.Server
	t   *testing.T
	key []byte // nil = the message must not be signed

	mu      sync.Mutex
	answers []int // to give, then 204
	header  http.Header
	got     []hookMessage
}

type hookMessage struct {
	id   string
	body []byte
	alert.Generic
}

func newHookReceiver(t *testing.T, key []byte) *hookReceiver {
	t.Helper()
	h := &hookReceiver{t: t, key: key}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *hookReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	id, stamp := r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
	seconds, stampErr := strconv.ParseInt(stamp, 10, 64)
	age := time.Since(time.Unix(seconds, 0))
	if err != nil || stampErr != nil || id == "" || age < -time.Second || age > time.Minute || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
		h.t.Errorf("%s with %v: %v, %v", r.Method, r.Header, err, stampErr)
	}
	signature := ""
	if h.key != nil {
		signature = "v1," + base64.StdEncoding.EncodeToString(hmacSHA256(h.key, []byte(id+"."+stamp+"."+string(body))))
	}
	if got := r.Header.Get("webhook-signature"); got != signature {
		h.t.Errorf("signed with %q, want %q", got, signature)
	}
	message := hookMessage{id: id, body: body}
	_ = json.Unmarshal(body, &message.Generic)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.header, h.got = r.Header, append(h.got, message)
	status := http.StatusNoContent
	if len(h.answers) > 0 {
		status, h.answers = h.answers[0], h.answers[1:]
	}
	if status == http.StatusFound {
		w.Header().Set("Location", h.URL+"/elsewhere")
	}
	w.WriteHeader(status)
}

// messages waits for that many messages and returns them.
func (h *hookReceiver) messages(c *liveCaddy, want ...string) []hookMessage {
	h.t.Helper()
	var got []hookMessage
	c.soon(fmt.Sprintf("the messages %v", want), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		got = slices.Clone(h.got)
		return len(got) >= len(want)
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.got = nil
	var statuses []string
	for _, message := range got {
		statuses = append(statuses, message.Data.Connection+" "+message.Data.Status)
		if strings.Contains(string(message.body), "seeded-") {
			h.t.Errorf("the message holds a secret or a subject")
		}
	}
	if !slices.Equal(statuses, want) {
		h.t.Fatalf("told is %v, want %v\n%s", statuses, want, c.log())
	}
	return got
}

// alerting returns the configuration with an alert.
func (c *liveCaddy) alerting(alert, options string) string {
	config := c.config("", options)
	return strings.Replace(config, "\toauth2_inject {\n", "\toauth2_inject {\n\t\talert {\n\t\t\tafter 1ms\n"+alert+"\n\t\t}\n", 1)
}

// TestAlertOfTroubleAndRecovery, over reloads, one of which fails: each is told once, signed, and with nothing that is secret.
func TestAlertOfTroubleAndRecovery(t *testing.T) {
	c := newLiveCaddy(t)
	hook := newHookReceiver(t, hookKey)
	t.Setenv("TEST_ALERT_SECRET", hookSecret)
	t.Setenv("TEST_ALERT_URL", hook.URL+"/seeded-path")
	t.Setenv("TEST_ALERT_HEADER", "seeded-header")
	config := c.alerting("webhook {env.TEST_ALERT_URL} {\nsecret {env.TEST_ALERT_SECRET}\nheader X-Key {env.TEST_ALERT_HEADER}\n}", "client_secret seeded-secret")
	if adapted := string(mustAdapt(t, config)); strings.Contains(adapted, "seeded-header") || strings.Contains(adapted, hookSecret) {
		t.Error("the configuration holds what a placeholder stands for")
	}
	c.mustLoad(config)
	c.idp.says(http.StatusUnauthorized, "invalid_client")
	c.want(c.get(), "502 Bad Gateway")
	trouble := hook.messages(c, "api misconfigured")[0]
	if d := trouble.Data; trouble.Type != "oauth2_inject.alert" || d.Code != "invalid_client" || d.Since == nil || d.Affected != 1 || d.Instance == "" || d.Summary == "" {
		t.Errorf("%s", trouble.body)
	}
	if got := hook.header.Get("X-Key"); got != "seeded-header" {
		t.Errorf("the header is %q", got)
	}
	for _, failing := range []string{"", "provision", "start", ""} {
		if err := c.load(config, failing); (err != nil) != (failing != "") {
			t.Fatal(err)
		}
		c.want(c.get(), "502 Bad Gateway")
	}
	c.idp.says(0, "")
	c.mustLoad(config)
	c.want(c.get(), "Bearer token-1")
	well := hook.messages(c, "api well")[0]
	if well.Type != "oauth2_inject.recovery" || well.Data.PreviousStatus != "misconfigured" || well.id == trouble.id {
		t.Errorf("%s", well.body)
	}
	c.wantMetrics(map[string]float64{
		`alert_deliveries_total{receiver="webhook",result="delivered"}`: 2, `alert_deliveries_total{receiver="webhook",result="failed"}`: 0,
	})
}

// TestAlertOfPast: trouble that was told of before a restart is over after it.
func TestAlertOfPast(t *testing.T) {
	c := newLiveCaddy(t)
	hook := newHookReceiver(t, nil)
	config := c.alerting("webhook "+hook.URL, "client_secret seeded-secret")
	c.mustLoad(config)
	c.idp.says(http.StatusUnauthorized, "invalid_client")
	c.want(c.get(), "502 Bad Gateway")
	hook.messages(c, "api misconfigured")
	for range 2 {
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
		c.mustLoad(config)
		c.want(c.get(), "502 Bad Gateway") // told already
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	c.idp.says(0, "")
	c.mustLoad(config)
	c.want(c.get(), "Bearer token-1")
	if well := hook.messages(c, "api well")[0]; well.Data.PreviousStatus != "misconfigured" || well.Data.Since == nil {
		t.Errorf("%s", well.body)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	c.mustLoad(config)
	c.want(c.get(), "Bearer token-1")
	c.wantMetrics(map[string]float64{`alert_deliveries_total{receiver="webhook",result="delivered"}`: 0})
}

// TestAlertIsTriedAgain: with the same ID, and redirects are not followed.
func TestAlertIsTriedAgain(t *testing.T) {
	c := newLiveCaddy(t)
	hook := newHookReceiver(t, nil)
	hook.answers = []int{http.StatusFound, http.StatusInternalServerError}
	c.mustLoad(c.alerting("webhook "+hook.URL+"/seeded-path", "client_secret seeded-secret"))
	c.idp.says(http.StatusUnauthorized, "invalid_client")
	c.want(c.get(), "502 Bad Gateway")
	got := hook.messages(c, "api misconfigured", "api misconfigured", "api misconfigured")
	if got[0].id != got[1].id || got[1].id != got[2].id {
		t.Errorf("IDs %s, %s and %s", got[0].id, got[1].id, got[2].id)
	}
	c.wantMetrics(map[string]float64{
		`alert_deliveries_total{receiver="webhook",result="delivered"}`: 1, `alert_deliveries_total{receiver="webhook",result="failed"}`: 2,
	})
	for _, text := range []string{"the webhook answered 302", "the webhook answered 500"} {
		if !strings.Contains(c.log(), text) {
			t.Errorf("the log does not say %q", text)
		}
	}
}

// TestAlertIsGone: who wants to hear no more is left alone for an hour, and the log says what to do.
func TestAlertIsGone(t *testing.T) {
	t.Parallel()
	hook := newHookReceiver(t, nil)
	hook.answers = []int{http.StatusGone}
	to := (&AlertWebhook{URL: hook.URL}).build(&resolver{repl: caddy.NewReplacer()}, "caddy-1")
	if wait, err := to.send(t.Context(), alert.News{ID: "msg_1", Connection: "c"}); wait != time.Hour || err == nil || !strings.Contains(err.Error(), "take it out") {
		t.Errorf("%v, %v", wait, err)
	}
}

// TestAlertForSlack: the other form of the body.
func TestAlertForSlack(t *testing.T) {
	c := newLiveCaddy(t)
	hook := newHookReceiver(t, nil)
	c.mustLoad(c.alerting("webhook "+hook.URL+" {\nformat slack\n}", ""))
	c.idp.says(http.StatusUnauthorized, "invalid_client")
	c.want(c.get(), "502 Bad Gateway")
	var slack map[string]string
	if err := json.Unmarshal(hook.messages(c, " ")[0].body, &slack); err != nil || len(slack) != 1 || !strings.Contains(slack["text"], `"api" is misconfigured`) {
		t.Errorf("%v, %v", slack, err)
	}
}

// TestAlertOfCertificate: it ends soon, whether tokens can be had or not, until it is renewed.
func TestAlertOfCertificate(t *testing.T) {
	c := newLiveCaddy(t)
	hook := newHookReceiver(t, nil)
	const day = 24 * time.Hour
	clientCertificate(t, c.dir, -340*day, 25*day)
	config := c.alerting("webhook "+hook.URL, "client_certificate "+c.dir+"/client.crt "+c.dir+"/client.key")
	c.mustLoad(strings.ReplaceAll(config, c.idp.URL, "https://idp.example"))
	hook.messages(c, "api certificate_expiring")
	c.app().watch(time.Now()) // nothing new
	clientCertificate(t, c.dir, -day, 364*day)
	c.app().watch(time.Now())
	hook.messages(c, "api well")
}

// TestAlertOfUnreachableReceiver: neither the log nor anything else shows the URL, and nobody waits.
func TestAlertOfUnreachableReceiver(t *testing.T) {
	c := newLiveCaddy(t)
	dead := httptest.NewServer(nil)
	dead.Close()
	c.mustLoad(c.alerting("webhook "+dead.URL+"/seeded-path?seeded-query", ""))
	c.idp.says(http.StatusUnauthorized, "invalid_client")
	c.want(c.get(), "502 Bad Gateway")
	c.soon("the failure is logged", func() bool { return strings.Contains(c.log(), "an alert could not be delivered") })
	if !strings.Contains(c.log(), `"receiver":"127.0.0.1"`) {
		t.Error("the log does not name the receiver")
	}
}

// TestAttackHangingReceiver: a receiver that never answers holds up neither requests nor refreshes, and the end only for a while.
func TestAttackHangingReceiver(t *testing.T) {
	c := newLiveCaddy(t)
	asked := make(chan struct{})
	once := sync.OnceFunc(func() { close(asked) })
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { once(); <-release }))
	t.Cleanup(func() { close(release); hanging.Close() })
	config := c.alerting("webhook "+hanging.URL, "client_secret seeded-secret")
	c.mustLoad(config)
	c.idp.says(http.StatusUnauthorized, "invalid_client")
	c.want(c.get(), "502 Bad Gateway")
	<-asked
	c.idp.says(0, "")
	began := time.Now()
	if _, err := c.app().Refresh(t.Context(), Ref{Connection: "api"}); err != nil {
		t.Fatal(err)
	}
	c.want(c.get(), "Bearer token-1")
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("refresh and request took %v", took)
	}
	began = time.Now()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < alertGrace-time.Second || took > alertGrace+3*time.Second {
		t.Errorf("the end took %v", took)
	}
}

// TestAlertUnderWayAtTheEnd: what a configuration could not deliver is delivered by the next one, as the same message; and after the end of
// the program, the trouble that nobody was told of is told when it is met again.
func TestAlertUnderWayAtTheEnd(t *testing.T) {
	c := newLiveCaddy(t)
	ids, hang := make(chan string, 10), make(chan struct{})
	var hangs atomic.Bool
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ids <- r.Header.Get("webhook-id")
		if hangs.Load() {
			<-hang
		}
	}))
	t.Cleanup(func() { close(hang); hook.Close() })
	next := func(what string) string {
		select {
		case id := <-ids:
			return id
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: nothing is told\n%s", what, c.log())
		}
		return ""
	}
	config := c.alerting("webhook "+hook.URL, "client_secret seeded-secret")
	c.mustLoad(config)
	c.idp.says(http.StatusUnauthorized, "invalid_client")
	hangs.Store(true)
	c.want(c.get(), "502 Bad Gateway")
	first := next("the trouble")
	c.mustLoad(config)
	if again := next("after a reload"); again != first {
		t.Errorf("the message %s is told as %s after a reload", first, again)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	hangs.Store(false)
	c.mustLoad(config)
	c.want(c.get(), "502 Bad Gateway")
	next("after a restart")
}

// TestAlertByCommand runs a real script: what it reads, what it is told by its arguments, and what it does not know.
func TestAlertByCommand(t *testing.T) {
	c := newLiveCaddy(t)
	t.Setenv("SEEDED_SECRET", "seeded-env")
	t.Setenv("TEST_ALERT_ARGUMENT", "from the environment")
	out := filepath.Join(c.dir, "out")
	script := filepath.Join(c.dir, "tell me.sh")
	writeFile(t, script, "#!/bin/sh\n[ -e "+out+".failed ] || { touch "+out+".failed; exit 3; }\nenv >>"+out+".env\ncat >>"+out+"\nprintf '\\n%s|' \"$@\" >>"+out+"\n")
	if err := os.Chmod(script, 0o700); err != nil {
		t.Fatal(err)
	}
	marker := filepath.Join(c.dir, "shell")
	c.mustLoad(c.alerting(fmt.Sprintf("exec %q \"$(touch %s); touch %s\" {env.TEST_ALERT_ARGUMENT}", script, marker, marker), "client_secret seeded-secret"))
	c.idp.says(http.StatusUnauthorized, "invalid_client")
	c.want(c.get(), "502 Bad Gateway")
	var text []byte
	c.soon("the script has run", func() bool {
		text, _ = os.ReadFile(out)
		return bytes.Count(text, []byte("|")) == 2
	})
	body, arguments, _ := strings.Cut(string(text), "\n")
	var message alert.Generic
	if err := json.Unmarshal([]byte(body), &message); err != nil || message.Data.Connection != "api" || message.Data.Status != "misconfigured" {
		t.Errorf("%s: %v", body, err)
	}
	if want := fmt.Sprintf("$(touch %s); touch %s|\nfrom the environment|", marker, marker); arguments != want {
		t.Errorf("the arguments are %q, want %q", arguments, want)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("a shell was at work")
	}
	env, err := os.ReadFile(out + ".env")
	if err != nil || strings.Contains(string(env), "seeded-") || !strings.Contains(string(env), "PATH=") {
		t.Errorf("the script's environment: %v", err)
	}
	if !strings.Contains(c.log(), "exit status 3") {
		t.Error("the log does not say how the first attempt ended")
	}
}

// TestAlertOfMissingCommand: it is a failure like any other.
func TestAlertOfMissingCommand(t *testing.T) {
	t.Parallel()
	if _, err := (&command{args: []string{"/nonexistent/seeded"}}).send(t.Context(), alert.News{}); err == nil {
		t.Error("a command that is not there ended well")
	}
}

// alertInstance is one process of a cluster with one receiver.
type alertInstance struct {
	*instance
	receiver *receiver
	told     []string
	fails    bool
}

func startAlertInstance(t *testing.T, files *memoryFiles, rule alert.Rule) *alertInstance {
	t.Helper()
	i := &alertInstance{instance: startInstance(t, files)}
	i.active = &activeSet{byName: map[string]*activeConnection{"drive": {name: "drive"}}}
	i.startedAt = time.Now()
	ids := 0
	one := &standing{alert.NewTracker(rule, func() string { ids++; return fmt.Sprint(ids) }), make(chan struct{}, 1)}
	one.turn <- struct{}{}
	i.receiver = &receiver{standing: one, name: "receiver", kind: "webhook", digest: "rule", rule: rule, hard: t.Context()}
	i.receiver.send = func(_ context.Context, n alert.News) (time.Duration, error) {
		if i.fails {
			return 0, errBroken
		}
		i.told = append(i.told, n.Status)
		return 0, nil
	}
	return i
}

// is notes the status of the connection, and does what is due.
func (i *alertInstance) is(t *testing.T, status string, want ...string) {
	t.Helper()
	i.receiver.tracker.Observe(alert.Sighting{Connection: "drive", Status: status}, time.Now())
	i.looks(t, want...)
}

// looks does what is due, and expects that this is told.
func (i *alertInstance) looks(t *testing.T, want ...string) {
	t.Helper()
	i.told = nil
	i.tell(t.Context(), i.receiver)
	if fmt.Sprint(i.told) != fmt.Sprint(want) {
		t.Fatalf("told is %v, want %v", i.told, want)
	}
}

// TestAlertsOfACluster: two instances on one storage tell each thing once.
func TestAlertsOfACluster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		a, b := startAlertInstance(t, files, alert.Rule{}), startAlertInstance(t, files, alert.Rule{})
		a.is(t, "active")
		b.is(t, "active")
		a.is(t, "failing", "failing")
		b.is(t, "failing") // a has told
		time.Sleep(time.Minute)
		b.is(t, "revoked", "revoked")
		a.is(t, "revoked")
		// A person has connected the account again; each instance learns of it when it is next asked.
		a.is(t, "active", "")
		b.is(t, "active")
		// One instance alone is in trouble, and the other knows nothing of it.
		time.Sleep(settleForTest)
		a.is(t, "failing", "failing")
		b.is(t, "active")
		b.is(t, "failing")
		b.is(t, "active", "") // the first recovery counts,
		a.looks(t)
		time.Sleep(11 * time.Minute)
		a.looks(t, "failing") // and who is still in trouble says so
		a.is(t, "active", "")
		// A new process finds what was told.
		time.Sleep(settleForTest)
		b.is(t, "failing", "failing")
		c := startAlertInstance(t, files, alert.Rule{})
		c.is(t, "failing")
		d := startAlertInstance(t, files, alert.Rule{})
		d.is(t, "active", "")
		for key := range files.snapshot() {
			if strings.Contains(key, "alerts") {
				t.Errorf("%s is left", key)
			}
		}
	})
}

// settleForTest is longer than new trouble waits after trouble that was told.
const settleForTest = 6 * time.Minute

// TestAlertWithoutStorage: twice is better than never.
func TestAlertWithoutStorage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := startAlertInstance(t, newMemoryFiles(), alert.Rule{})
		a.is(t, "active")
		a.store.storage = brokenStorage{}
		a.is(t, "failing", "failing")
		a.is(t, "active", "")
		b := startAlertInstance(t, newMemoryFiles(), alert.Rule{})
		b.store.storage = brokenStorage{}
		b.is(t, "active") // it is not known that there was trouble
		b.looks(t)
	})
}

// TestAlertForgetsWhatIsGone: a connection that is not configured any more is in no trouble.
func TestAlertForgetsWhatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := startAlertInstance(t, newMemoryFiles(), alert.Rule{})
		a.is(t, "active")
		a.is(t, "failing", "failing")
		a.active.byName = nil
		a.looks(t) // not at once: connections may still be on their way
		time.Sleep(keepAfter)
		a.looks(t, "")
	})
}

// TestAlertMarks: sealed, readable for ever, and unreadable ones are no reason to be silent.
func TestAlertMarks(t *testing.T) {
	t.Parallel()
	golden, err := os.ReadFile("testdata/alerts/v1.json")
	if err != nil {
		t.Fatal(err)
	}
	mark, err := decodeMark(golden)
	if err != nil || mark.Status != "failing" || mark.Affected != 3 || mark.At.Hour() != 10 || mark.Since.Hour() != 9 {
		t.Errorf("%+v, %v", mark, err)
	}
	if again, err := encodeMark(mark); err != nil || string(again) != strings.TrimSpace(string(golden)) {
		t.Errorf("%s, %v", again, err)
	}
	for _, bad := range []string{"", "{", `{"version":2}`} {
		if _, err := decodeMark([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	store := storeIn(t, t.TempDir())
	key := alertKey("receiver", "seeded-connection")
	if err := store.saveMark(t.Context(), key, mark); err != nil {
		t.Fatal(err)
	}
	if got, err := store.loadMark(t.Context(), key); err != nil || got != mark {
		t.Errorf("%+v, %v", got, err)
	}
	if raw, err := store.storage.Load(t.Context(), key); err != nil || strings.Contains(string(raw), "failing") || strings.Contains(key, "seeded") {
		t.Errorf("it is not sealed: %v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "30": 30 * time.Second, " 5 ": 5 * time.Second, "-1": 0, "soon": 0, "999999999999": longestWait, "99999999999999999999999": 0,
		"Wed, 25 Nov 2026 10:01:00 GMT": time.Minute, "Wed, 25 Nov 2026 09:00:00 GMT": 0, "Wed, 25 Nov 2026 23:00:00 GMT": longestWait,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

// FuzzRetryAfter: whatever a receiver says, nobody waits longer than is bearable, or in the past.
func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"", "30", "-1", "1e9", "Wed, 25 Nov 2026 10:01:00 GMT", "\x00"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if wait := retryAfter(value, time.Now()); wait < 0 || wait > longestWait {
			t.Errorf("%q: %v", value, wait)
		}
	})
}

// FuzzMark: a mark that was changed in storage is read or refused, never more.
func FuzzMark(f *testing.F) {
	f.Add([]byte(`{"version":1,"mark":{"status":"failing","affected":3,"at":"2026-11-25T10:00:00Z","since":"2026-11-25T09:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		if mark, err := decodeMark(plain); err == nil {
			mark.Covers(alert.News{Status: "failing", Affected: 1}, time.Hour, time.Now())
			if _, err := encodeMark(mark); err != nil {
				t.Errorf("%+v was read and cannot be written: %v", mark, err)
			}
		}
	})
}

// alertArguments says for every option of an alert what may follow it. WEBHOOK lines are inside of a webhook.
var alertArguments = map[string]struct {
	good string
	bad  []string
}{
	"on":      {"failing revoked certificate_expiring", []string{"", "broken", "failing active"}},
	"after":   {"5m", []string{"", "5", "0s", "-1s", "5m 5m"}},
	"repeat":  {"1d", []string{"", "never", "1h 1h"}},
	"exec":    {"/usr/local/bin/tell --loud", []string{"", `""`}},
	"webhook": {"https://hooks.example/x", []string{"", "https://a.example b", "http://hooks.example/x", "ftp://hooks.example", "https://u:p@hooks.example/", "hooks.example"}},

	"WEBHOOK header":        {"Authorization {env.X}", []string{"", "X-A", "X-A b c", "Host x", "Content-Type x", "webhook-id x", "\"X A\" x"}},
	"WEBHOOK secret":        {"{env.A} {env.B}", []string{""}},
	"WEBHOOK format":        {"slack", []string{"", "teams", "slack slack"}},
	"WEBHOOK insecure_http": {"", []string{"true"}},
}

// TestAlertOptions tries every option: right, given twice, and wrong. The error names the line.
func TestAlertOptions(t *testing.T) {
	t.Parallel()
	adaptAlert := func(name, line string) error {
		option, inside := strings.CutPrefix(name, "WEBHOOK ")
		block := strings.ReplaceAll(line, name, option)
		switch {
		case inside:
			block = "webhook https://hooks.example {\n" + block + "\n}"
		case name != "webhook" && name != "exec":
			block += "\nexec x"
		}
		_, err := adaptText("{\n\toauth2_inject {\n\t\talert {\n" + block + "\n}\n}\n}\n")
		return err
	}
	for name, args := range alertArguments {
		good := name + " " + args.good
		if err := adaptAlert(name, good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
		second := good
		if strings.HasSuffix(name, "header") {
			second = good // the same name twice
		}
		if err := adaptAlert(name, good+"\n"+second); err == nil || !strings.Contains(err.Error(), "twice") || !strings.Contains(err.Error(), "Caddyfile:") {
			t.Errorf("%s twice: %v", name, err)
		}
		for _, bad := range args.bad {
			if err := adaptAlert(name, name+" "+bad); err == nil || !strings.Contains(err.Error(), "Caddyfile:") {
				t.Errorf("%s %s: %v", name, bad, err)
			}
		}
	}
	for block, want := range map[string]string{
		"": "needs a webhook, an exec, or both", "on failing": "needs a webhook", "volume 11": `unknown option "volume" of alert`,
		"webhook https://x.example {\nloud\n}": `unknown option "loud" of webhook`,
	} {
		if _, err := adaptText("{\n\toauth2_inject {\n\t\talert {\n" + block + "\n}\n}\n}\n"); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Caddyfile:") {
			t.Errorf("%q: %v", block, err)
		}
	}
}

// TestAlertFaults has what only JSON can say, and what is only known when it is resolved. No error holds a secret.
func TestAlertFaults(t *testing.T) {
	t.Setenv("TEST_ALERT_BAD", "seeded-not-a-secret")
	t.Setenv("TEST_ALERT_HTTP", "http://hooks.example/seeded-path")
	for want, text := range map[string]string{
		`on: "broken" is not a status`:            `"on":["broken"],"exec":["x"]`,
		`needs a webhook, an exec, or both`:       ``,
		`format: "teams" is neither`:              `"webhook":{"url":"https://a.example","format":"teams"}`,
		`secret: must be whsec_`:                  `"webhook":{"url":"https://a.example","secrets":["{env.TEST_ALERT_BAD}"]}`,
		`webhook: http:// to hooks.example`:       `"webhook":{"url":"{env.TEST_ALERT_HTTP}"}`,
		`webhook: is required`:                    `"webhook":{"url":""}`,
		`header: "Host" cannot be set`:            `"webhook":{"url":"https://a.example","headers":{"Host":"x"}}`,
		`header X-A: the value holds characters`:  `"webhook":{"url":"https://a.example","headers":{"X-A":"a\nb"}}`,
		`header X-A: `:                            `"webhook":{"url":"https://a.example","headers":{"X-A":"{env.TEST_ALERT_UNSET}"}}`,
		`exec: `:                                  `"exec":["{env.TEST_ALERT_UNSET}"]`,
		`after: durations are above zero`:         `"after":-1,"exec":["x"]`,
		`json: unknown field "url"`:               `"url":"x"`,
		`exec: names no command`:                  `"exec":[""]`,
		`alert 1: secret: must be whsec_ and 24 `: `"webhook":{"url":"https://a.example","secrets":["whsec_AAAA"]}`,
	} {
		err := validate(fmt.Appendf(nil, `{"apps":{"oauth2_inject":{"alerts":[{%s}]}}}`, text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		} else if strings.Contains(err.Error(), "seeded-") {
			t.Errorf("the error holds a secret: %v", err)
		}
	}
}
