package caddyoauth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	_ "github.com/caddyserver/caddy/v2/modules/caddyevents/eventsconfig"
	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

func init() { caddy.RegisterModule(eventRecorder{}) }

// eventRecorder is a handler of Caddy's events. It keeps ours.
type eventRecorder struct{ Name string }

// recorded are the events that were handled, and what holds handlers up.
var recorded struct {
	sync.Mutex
	events []recordedEvent
	hold   chan struct{} // nil = nothing
}

type recordedEvent struct {
	by, name string
	data     map[string]any
}

func (eventRecorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.record", New: func() caddy.Module { return new(eventRecorder) }}
}

func (r *eventRecorder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.Args(&r.Name)
	return nil
}

func (r *eventRecorder) Handle(_ context.Context, e caddy.Event) error {
	name, ours := strings.CutPrefix(e.Name(), eventPrefix)
	if !ours {
		return nil
	}
	recorded.Lock()
	hold := recorded.hold
	recorded.Unlock()
	if hold != nil {
		<-hold
	}
	recorded.Lock()
	defer recorded.Unlock()
	recorded.events = append(recorded.events, recordedEvent{r.Name, name, e.Data})
	return nil
}

var _ caddyevents.Handler = (*eventRecorder)(nil)

// forgetEvents begins anew.
func forgetEvents(t *testing.T) {
	t.Helper()
	recorded.Lock()
	defer recorded.Unlock()
	recorded.events, recorded.hold = nil, nil
}

// events returns what was recorded, waiting for as many as are wanted.
func (c *liveCaddy) events(want ...string) []recordedEvent {
	c.t.Helper()
	names := func() (all []string) {
		recorded.Lock()
		defer recorded.Unlock()
		for _, e := range recorded.events {
			all = append(all, e.name)
		}
		return all
	}
	for deadline := time.Now().Add(10 * time.Second); len(names()) < len(want) && time.Now().Before(deadline); {
		<-time.After(2 * time.Millisecond)
	}
	if got := names(); !slices.Equal(got, want) {
		c.t.Fatalf("got the events %v, want %v\n%s", got, want, c.log())
	}
	recorded.Lock()
	defer recorded.Unlock()
	events := recorded.events
	recorded.events = nil
	for _, e := range events {
		if text := fmt.Sprint(e.data); strings.Contains(text, "seeded-") {
			c.t.Errorf("the event %s holds a secret or a subject", e.name)
		}
		if e.data["connection"] != "api" {
			c.t.Errorf("the event %s is of the connection %v", e.name, e.data["connection"])
		}
	}
	return events
}

// says has the token endpoint answer an error, or tokens again for the code "".
func (i *liveIDP) says(status int, code string) {
	if code == "" {
		i.refusal.Store(nil)
		return
	}
	refusal := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error":%q,"error_description":"seeded-description"}`, code)
	})
	i.refusal.Store(&refusal)
}

const recordAll = "events {\n\t\ton * record %s\n\t}"

func TestEventsOfAMachine(t *testing.T) {
	forgetEvents(t)
	c := newLiveCaddy(t)
	config := c.config(fmt.Sprintf(recordAll, "one"), "client_secret seeded-secret")
	c.mustLoad(config)
	c.idp.says(http.StatusUnauthorized, "invalid_client")
	c.want(c.get(), "502 Bad Gateway")
	c.want(c.get(), "502 Bad Gateway") // from memory: nothing new
	events := c.events("refresh_failed", "misconfigured")
	for _, e := range events {
		if e.data["code"] != "invalid_client" || e.data["status"] != "misconfigured" || e.data["previous_status"] != "pending" || e.data["reason"] != "first" || e.data["retry_at"] == nil {
			t.Errorf("%s has %v", e.name, e.data)
		}
	}
	c.mustLoad(config) // who corrects the configuration does not wait for the end of the pause
	c.want(c.get(), "502 Bad Gateway")
	c.events("refresh_failed") // it was misconfigured already
	c.idp.says(0, "")
	c.mustLoad(config)
	c.want(c.get(), "Bearer token-1")
	last := c.events("recovered", "refreshed")[1]
	if last.data["generation"] != uint64(1) || last.data["status"] != "active" || last.data["previous_status"] != "misconfigured" || last.data["expires_at"] == nil || last.data["error"] != nil {
		t.Errorf("%v", last.data)
	}
	if seconds, ok := last.data["took_seconds"].(float64); !ok || seconds <= 0 || seconds > 10 {
		t.Errorf("took %v", last.data["took_seconds"])
	}
}

// personalOptions make the connection one of people, with a subject that must not be seen.
const personalOptions = "client_secret seeded-secret\nauthorization_endpoint https://idp.example/authorize\nsubject seeded-jane"

// consentOf is a token response, as a person's authorization brings it.
func consentOf(lifetime time.Duration, refresh string) *oauth.TokenResponse {
	resp := &oauth.TokenResponse{AccessToken: secret.New("seeded-access"), TokenType: "Bearer", SentAt: time.Now(), ExpiresAt: time.Now().Add(lifetime)}
	if refresh != "" {
		resp.RefreshToken = secret.New(refresh)
	}
	return resp
}

// source returns the one subject's source.
func (c *liveCaddy) source() (*connection.Source, *connection.Settings) {
	c.t.Helper()
	active, _ := c.app().active.get("api")
	source, err := active.forSubject(caddy.NewReplacer())
	if err != nil {
		c.t.Fatal(err)
	}
	return source, active.settings
}

// connectBriefly authorizes with a token that has run out when it returns.
func (c *liveCaddy) connectBriefly(refresh string) {
	c.t.Helper()
	c.connect(time.Second, refresh)
	source, _ := c.source()
	c.soon("the token runs out", func() bool { return !source.Current().Usable(time.Now()) })
}

// connect authorizes with a token that lives so long.
func (c *liveCaddy) connect(lifetime time.Duration, refresh string) {
	c.t.Helper()
	c.authorize(consentOf(lifetime, refresh))
}

func (c *liveCaddy) authorize(resp *oauth.TokenResponse) {
	c.t.Helper()
	source, settings := c.source()
	if _, err := source.Apply(c.t.Context(), settings, connection.Authorized(resp, nil, settings, "seeded-jane")); err != nil {
		c.t.Fatal(err)
	}
}

func TestEventsOfAPerson(t *testing.T) {
	forgetEvents(t)
	c := newLiveCaddy(t)
	config := c.config(fmt.Sprintf(recordAll, "one"), personalOptions)
	c.mustLoad(config)
	c.want(c.get(), "403 Forbidden")
	c.want(c.get(), "403 Forbidden")
	c.events("authorization_required")
	c.connect(time.Hour, "seeded-refresh")
	first := c.events("recovered", "connected")[1]
	if len(fmt.Sprint(first.data["subject"])) != 8 || first.data["generation"] != uint64(1) || first.data["previous_status"] != "authorization_required" {
		t.Errorf("connected has %v", first.data)
	}
	c.connect(time.Hour, "seeded-refresh-2")
	jane := Ref{Connection: "api", Subject: "seeded-jane", By: "seeded-operator"}
	if _, err := c.app().RollBack(t.Context(), jane, 1); err != nil {
		t.Fatal(err)
	}
	c.events("connected", "rolled_back")
	// Its refresh token is dead.
	c.connectBriefly("seeded-refresh-3")
	c.idp.says(http.StatusBadRequest, "invalid_grant")
	c.want(c.get(), "403 Forbidden")
	events := c.events("connected", "refresh_failed", "revoked")
	if e := events[2]; e.data["code"] != "invalid_grant" || e.data["status"] != "revoked" || e.data["previous_status"] != "active" || e.data["subject"] != first.data["subject"] {
		t.Errorf("revoked has %v", e.data)
	}
	if _, err := c.app().Disconnect(t.Context(), jane); err != nil {
		t.Fatal(err)
	}
	c.events("disconnected")
	if log := c.log(); strings.Contains(log, `"msg":"could not get a new token","connection":"api","subject":"seeded`) {
		t.Error("a subject was logged")
	}
}

// TestLostRotationIsTold: a dead refresh token after an exchange whose outcome was never known.
func TestLostRotationIsTold(t *testing.T) {
	forgetEvents(t)
	c := newLiveCaddy(t)
	c.mustLoad(c.config(fmt.Sprintf(recordAll, "one"), personalOptions))
	c.connectBriefly("seeded-refresh")
	app := c.app()
	source, _ := c.source()
	rec, err := app.store.Load(t.Context(), source.ID())
	if err != nil {
		t.Fatal(err)
	}
	rec.Intent = &connection.Intent{Generation: rec.Current.Generation, RefreshDigest: rec.Current.RefreshToken.Digest(), Nonce: "dead", At: time.Now().Add(-time.Hour)}
	if err := app.store.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	c.idp.says(http.StatusBadRequest, "invalid_grant")
	c.want(c.get(), "403 Forbidden")
	c.events("connected", "repeated", "refresh_failed", "lost_rotation")
}

// TestEventsGoOnOverReloads: what an old configuration observes is handled by the running one's handlers.
func TestEventsGoOnOverReloads(t *testing.T) {
	forgetEvents(t)
	c := newLiveCaddy(t)
	c.mustLoad(c.config(fmt.Sprintf(recordAll, "old"), ""))
	old := c.app()
	c.mustLoad(c.config(fmt.Sprintf(recordAll, "new"), ""))
	old.observe(connection.Event{Kind: connection.KindRefreshed, ID: connection.ID{Connection: "api"}, Status: connection.StatusActive})
	if e := c.events("refreshed")[0]; e.by != "new" {
		t.Errorf("handled by the configuration %q", e.by)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	old.observe(connection.Event{Kind: connection.KindRefreshed, ID: connection.ID{Connection: "api"}}) // to nobody, and without a panic
}

// TestSlowEventHandler: handlers run one after the other, and nobody waits for them but the end of the program, for a while.
func TestSlowEventHandler(t *testing.T) {
	forgetEvents(t)
	c := newLiveCaddy(t)
	c.mustLoad(c.config(fmt.Sprintf(recordAll, "slow"), ""))
	release := holdHandlers(t)
	c.want(c.get(), "Bearer token-1")
	app := c.app()
	for range 2 * eventBacklog {
		app.observe(connection.Event{Kind: connection.KindAdopted, ID: connection.ID{Connection: "api"}})
	}
	if dropped := strings.Count(c.log(), "an event was dropped"); dropped < eventBacklog/2 || dropped > eventBacklog+1 {
		t.Errorf("%d of %d events were dropped", dropped, 2*eventBacklog+1)
	}
	began := time.Now()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < eventGrace || took > 3*eventGrace {
		t.Errorf("the end took %v", took)
	}
	if !regexp.MustCompile(`"msg":"events were dropped, [^"]*","events":102[34]\b`).MatchString(c.log()) { // whether one was taken out before it was full
		t.Error("the log does not say how many events were lost")
	}
	release()
	app.announcer.stop() // or the last event would be one of the next test
}

// handled returns by whose handlers events were handled, once there are as many.
func (c *liveCaddy) handled(want int) map[string]int {
	c.t.Helper()
	by := make(map[string]int)
	c.soon(fmt.Sprint(want, " handled events"), func() bool {
		recorded.Lock()
		defer recorded.Unlock()
		clear(by)
		for _, e := range recorded.events {
			by[e.by]++
		}
		return len(recorded.events) >= want
	})
	return by
}

// holdHandlers makes handlers of events slow until the returned function is called.
func holdHandlers(t *testing.T) (release func()) {
	t.Helper()
	hold := make(chan struct{})
	recorded.Lock()
	recorded.hold = hold
	recorded.Unlock()
	release = sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	return release
}

// adoptedEvent is one that is easily made.
var adoptedEvent = connection.Event{Kind: connection.KindAdopted, ID: connection.ID{Connection: "api"}}

// TestEventsBeforeTheEndAreHandled: Stop returns when the handlers are through.
func TestEventsBeforeTheEndAreHandled(t *testing.T) {
	forgetEvents(t)
	c := newLiveCaddy(t)
	c.mustLoad(c.config(fmt.Sprintf(recordAll, "one"), ""))
	for range 500 {
		c.app().observe(adoptedEvent)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	recorded.Lock()
	defer recorded.Unlock()
	if n := len(recorded.events); n != 500 {
		t.Errorf("%d of 500 events were handled", n)
	}
}

// TestSlowEventHandlersOverAReload: what the old configuration's handlers do not get to is handled by the new one's, each event once.
func TestSlowEventHandlersOverAReload(t *testing.T) {
	forgetEvents(t)
	c := newLiveCaddy(t)
	c.mustLoad(c.config(fmt.Sprintf(recordAll, "old"), ""))
	release := holdHandlers(t)
	for range 50 {
		c.app().observe(adoptedEvent)
	}
	c.mustLoad(c.config(fmt.Sprintf(recordAll, "new"), ""))
	release()
	if by := c.handled(50); by["old"] != 1 || by["new"] != 49 {
		t.Errorf("handled by %v", by)
	}
	if strings.Contains(c.log(), "dropped") {
		t.Error("events were dropped")
	}
}

// TestEventsDuringAReload: of what happens while one configuration gives way to another, nothing falls between them.
func TestEventsDuringAReload(t *testing.T) {
	forgetEvents(t)
	c := newLiveCaddy(t)
	c.mustLoad(c.config(fmt.Sprintf(recordAll, "0"), ""))
	told := 0
	for n := 1; n <= 5; n++ {
		old, stop, begun, done := c.app(), make(chan struct{}), make(chan struct{}), make(chan int)
		go func() {
			count := 0
			defer func() { done <- count }()
			for tick := time.NewTicker(20 * time.Microsecond); ; <-tick.C {
				select {
				case <-stop:
					return
				default:
				}
				recorded.Lock()
				waiting := told + count - len(recorded.events)
				recorded.Unlock()
				if waiting > eventBacklog/2 {
					continue // handlers that are too slow are another test's
				}
				if old.observe(adoptedEvent); count == 0 {
					close(begun)
				}
				count++
			}
		}()
		<-begun
		c.mustLoad(c.config(fmt.Sprintf(recordAll, fmt.Sprint(n)), ""))
		close(stop)
		told += <-done
	}
	c.handled(told)
	if dropped := strings.Count(c.log(), "dropped"); dropped > 0 {
		t.Errorf("%d of %d events were dropped", dropped, told)
	}
}

// handlerFunc makes a handler of events of a function.
type handlerFunc func(caddy.Event)

func (f handlerFunc) Handle(_ context.Context, e caddy.Event) error {
	f(e)
	return nil
}

// TestEventsWaitForTheStart: Caddy starts apps in any order, and its events app subscribes handlers as it starts, without a lock. Nothing is
// emitted meanwhile, which would be missed, or end the program by a map that is read while it is written to.
func TestEventsWaitForTheStart(t *testing.T) {
	t.Parallel()
	for name, begins := range map[string]func(*caddyevents.App, caddy.Context){
		"Caddy says that it has started": func(events *caddyevents.App, ctx caddy.Context) { events.Emit(ctx, "started", nil) },
		"Caddy says nothing":             func(*caddyevents.App, caddy.Context) { time.Sleep(eventHold) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
				defer cancel()
				events := new(caddyevents.App)
				if err := events.Provision(ctx); err != nil {
					t.Fatal(err)
				}
				a := &App{ctx: ctx, engine: new(engine), announcer: newAnnouncer(), logger: zap.NewNop(), metrics: newMetrics(nil), active: new(activeSet)}
				if err := a.followEvents(events); err != nil {
					t.Fatal(err)
				}
				var handled atomic.Int32
				if err := events.On("oauth2_adopted", handlerFunc(func(caddy.Event) { handled.Add(1) })); err != nil {
					t.Fatal(err)
				}
				a.announcer.start(a.announceAll)
				defer a.announcer.stop()
				a.announce(signalAdopted, "api", nil)
				synctest.Wait()
				if handled.Load() != 0 {
					t.Error("a handler runs while others may be on their way")
				}
				begins(events, ctx)
				synctest.Wait()
				if n := handled.Load(); n != 1 {
					t.Errorf("the event was handled %d times", n)
				}
			})
		})
	}
}

// TestEventsOfAFailedStart: a configuration that is given up while it starts has told of something, which nobody tells again that day. The
// running one's handlers get it: with the context over its own would not be run.
func TestEventsOfAFailedStart(t *testing.T) {
	t.Parallel()
	e := new(engine)
	app := func() *App {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		cancel()
		a := &App{ctx: ctx, engine: e, announcer: newAnnouncer(), logger: zap.NewNop(), metrics: newMetrics(nil), active: new(activeSet), started: new(atomic.Bool), storage: new(meteredStorage)}
		a.started.Store(true)
		a.announcer.events = new(caddyevents.App)
		e.apps = append(e.apps, a)
		return a
	}
	running, started, unstarted := app(), app(), app()
	for n := range 10 {
		started.announce(signalAdopted, "api", map[string]any{"number": n})
		unstarted.announce(signalAdopted, "api", map[string]any{"number": 10 + n})
	}
	unstarted.stopAnnouncing()
	started.announcer.start(started.announceAll)
	started.stopAnnouncing()
	got := make(map[any]bool)
	running.eachQueued(func(next announcement) { got[next.data["number"]] = true })
	if len(got) != 20 {
		t.Errorf("%d of 20 events were handed on", len(got))
	}
	running.stopAnnouncing()
	running.announce(signalAdopted, "api", nil) // to nobody
}

func TestKeyRotatedIsTold(t *testing.T) {
	forgetEvents(t)
	c := newLiveCaddy(t)
	c.mustLoad(c.config(fmt.Sprintf(recordAll, "one"), ""))
	c.app().keyRotated("key-2")
	c.soon("the event", func() bool {
		recorded.Lock()
		defer recorded.Unlock()
		return len(recorded.events) == 1 && recorded.events[0].name == "key_rotated" && recorded.events[0].data["key"] == "key-2"
	})
}

// clientCertificate writes a certificate that began and ends so far from now, and its key.
func clientCertificate(t *testing.T, dir string, began, ends time.Duration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(began), NotAfter: time.Now().Add(ends)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "client.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, filepath.Join(dir, "client.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}

// TestCertificateExpiring: told when the configuration starts, once a day, and of a renewed pair not at all.
func TestCertificateExpiring(t *testing.T) {
	forgetEvents(t)
	c := newLiveCaddy(t)
	const day = 24 * time.Hour
	clientCertificate(t, c.dir, -340*day, 25*day)
	config := c.config(fmt.Sprintf(recordAll, "one"), "client_certificate "+c.dir+"/client.crt "+c.dir+"/client.key")
	config = strings.ReplaceAll(config, c.idp.URL, "https://idp.example")
	c.mustLoad(config)
	e := c.events("certificate_expiring")[0]
	if left, ok := e.data["seconds_left"].(float64); !ok || left < 24*86400 || left > 25*86400 {
		t.Errorf("%v", e.data)
	}
	app := c.app()
	app.watch(time.Now().Add(time.Hour)) // told already
	c.mustLoad(config)
	c.app().watch(time.Now().Add(2 * time.Hour))
	c.events()
	c.app().watch(time.Now().Add(25 * time.Hour))
	c.events("certificate_expiring")
	clientCertificate(t, c.dir, -day, 364*day)
	c.app().watch(time.Now().Add(50 * time.Hour))
	c.events()
	if active, _ := c.app().active.get("api"); time.Until(time.Unix(active.certificateEnds.Load(), 0)) < 360*day {
		t.Error("the new end is not known")
	}
	if err := os.Remove(filepath.Join(c.dir, "client.crt")); err != nil {
		t.Fatal(err)
	}
	c.app().watch(time.Now().Add(100 * time.Hour)) // the exchange will tell
	c.events()
}

// TestExpiringIsTold: a token that nothing can refresh, near its end, once.
func TestExpiringIsTold(t *testing.T) {
	forgetEvents(t)
	c := newLiveCaddy(t)
	c.mustLoad(c.config(fmt.Sprintf(recordAll, "one"), personalOptions))
	c.connect(100*24*time.Hour, "")
	c.events("connected")
	for _, step := range []struct {
		days int
		want []string
	}{{10, nil}, {92, nil}, {94, []string{"expiring"}}, {95, nil}, {101, nil}} {
		c.app().watch(time.Now().Add(time.Duration(step.days) * 24 * time.Hour))
		c.events(step.want...)
	}
	c.connect(100*24*time.Hour, "seeded-refresh")
	c.app().watch(time.Now().Add(99 * 24 * time.Hour)) // it can be refreshed
	c.events("connected")
}

// TestSignalsOf: what each event means. A failure is told once as a failure, and a status once when it begins.
func TestSignalsOf(t *testing.T) {
	t.Parallel()
	failed := func(was, status connection.Status, asked bool) connection.Event {
		return connection.Event{Kind: connection.KindFailed, Was: was, Status: status, Asked: asked, Err: errors.New("x")}
	}
	for _, tt := range []struct {
		event connection.Event
		want  string
	}{
		{failed("active", "failing", true), "[refresh_failed]"},
		{failed("failing", "failing", false), "[refresh_failed]"}, // storage, or the breaker
		{failed("active", "misconfigured", true), "[refresh_failed misconfigured]"},
		{failed("misconfigured", "misconfigured", true), "[refresh_failed]"},
		{failed("active", "revoked", true), "[refresh_failed revoked]"},
		{failed("active", "lost_rotation", true), "[refresh_failed lost_rotation]"},
		{failed("pending", "revoked", false), "[revoked]"}, // another instance found out
		{failed("revoked", "revoked", false), "[]"},
		{failed("pending", "authorization_required", false), "[authorization_required]"},
		{failed("disconnected", "disconnected", false), "[]"},
		{connection.Event{Kind: connection.KindChanged, Status: "active", Reason: connection.ReasonAuthorized}, "[connected]"},
		{connection.Event{Kind: connection.KindChanged, Status: "active", Reason: connection.ReasonRolledBack}, "[rolled_back]"},
		{connection.Event{Kind: connection.KindChanged, Status: "disconnected", Reason: connection.ReasonDisconnected}, "[disconnected]"},
		{connection.Event{Kind: connection.KindUnsaved}, "[unsaved]"},
	} {
		names := []string{}
		for _, s := range signalsOf(tt.event) {
			names = append(names, s.name)
		}
		if got := fmt.Sprint(names); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.event, got, tt.want)
		}
	}
}

// signalNames are the names in observer.go.
func signalNames(t *testing.T) []string {
	t.Helper()
	source, err := os.ReadFile("observer.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, match := range regexp.MustCompile(`= signal\{"([a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
		names = append(names, match[1])
	}
	if len(names) < 20 {
		t.Fatalf("found only %v", names)
	}
	return names
}

// TestEventsAreDocumented compares the table of docs/alerts.md with the code, both ways.
func TestEventsAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, match := range regexp.MustCompile("(?m)^\\| `oauth2_([a-z_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, match[1])
	}
	names := signalNames(t)
	slices.Sort(names)
	slices.Sort(documented)
	if !slices.Equal(names, documented) {
		t.Errorf("documented are\n%v, told are\n%v", documented, names)
	}
	data, err := json.Marshal(eventData(connection.Event{
		ID: connection.ID{Tenant: "t", Connection: "c", Subject: "s"}, Was: "a", Status: "b", Reason: "r", Generation: 1, ExpiresAt: time.Now(), RetryAt: time.Now(),
		Err: &connection.Unavailable{Code: "c"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`"([a-z_]+)":`).FindAllStringSubmatch(string(data), -1) {
		if !strings.Contains(string(text), "| `"+match[1]+"` |") {
			t.Errorf("the field %s is not documented", match[1])
		}
	}
}
