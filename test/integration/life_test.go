//go:build integration

package integration

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// load keeps asking from several clients at once until it is stopped.
type load struct {
	requests atomic.Int64
	failures sync.Map // text of a failure -> *atomic.Int64
	stopped  chan struct{}
	clients  sync.WaitGroup
}

// apply starts the clients; each asks the addresses in turn.
func apply(c *lab.Caddy, clients int, addresses ...string) *load {
	l := &load{stopped: make(chan struct{})}
	for range clients {
		l.clients.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-l.stopped:
					return
				default:
				}
				l.requests.Add(1)
				if _, err := c.Get("http://" + addresses[i%len(addresses)] + "/"); err != nil {
					count, _ := l.failures.LoadOrStore(err.Error(), new(atomic.Int64))
					count.(*atomic.Int64).Add(1)
				}
			}
		})
	}
	return l
}

// stop ends the load and returns how many requests there were, and each kind of failure with its number.
func (l *load) stop() (requests int64, failures map[string]int64) {
	close(l.stopped)
	l.clients.Wait()
	failures = make(map[string]int64)
	l.failures.Range(func(text, count any) bool {
		failures[text.(string)] = count.(*atomic.Int64).Load()
		return true
	})
	return l.requests.Load(), failures
}

func basic(op *lab.OP, more ...string) []string {
	return append([]string{"token_endpoint " + op.TokenEndpoint(), "client_id " + lab.ClientBasic, "client_secret " + lab.Secret}, more...)
}

// TestManyExpiriesUnderLoad: tokens of three seconds, told by their own `exp`, under constant load. No request fails, no expired
// token is seen, and the server is asked once for each token.
func TestManyExpiriesUnderLoad(t *testing.T) {
	t.Parallel()
	const lifetime, duration = 3 * time.Second, 25 * time.Second
	op, api, dir := lab.StartOP(t, lab.Options{}), startUpstream(t), t.TempDir()
	address := freeAddress(t)
	caddy := start(t, dir, global(connection("api", basic(op, fmt.Sprintf("resource https://api.lab/?ttl=%d", int(lifetime/time.Second)))...)),
		site(address, "api", api.address()))
	l := apply(caddy, 8, address)
	time.Sleep(duration) // the length of the trial
	requests, failures := l.stop()
	expired, missing := api.harm()
	tokens := len(api.distinct())
	asked := op.Stats(t).TokenRequests()
	t.Logf("%d requests, %d distinct tokens, %d token requests", requests, tokens, asked)
	if len(failures) > 0 || expired > 0 || missing > 0 {
		t.Errorf("failures %v, expired tokens %d, missing tokens %d; want none", failures, expired, missing)
	}
	if asked < tokens || asked > tokens+1 {
		t.Errorf("%d token requests for %d tokens; want as many, or one more that was about to be used", asked, tokens)
	}
	// A token serves for at least half of its lifetime: three seconds are told as two for sure, of which a fifth is margin.
	if low, high := int(duration/lifetime), int(duration/(lifetime/2))+1; tokens < low || tokens > high {
		t.Errorf("%d tokens in %s; want between %d and %d", tokens, duration, low, high)
	}
	caddy.Stop(t)
	caddy.KeepsSecrets(t, append(api.distinct(), lab.Secret)...)
}

// TestTokenSurvivesRestartAndCrash: a stored token is used by the next process, whatever became of the one before.
func TestTokenSurvivesRestartAndCrash(t *testing.T) {
	t.Parallel()
	op, api, dir := lab.StartOP(t, lab.Options{AccessTokenTTL: time.Hour}), startUpstream(t), t.TempDir()
	address := freeAddress(t)
	config := global(connection("api", basic(op)...))
	for _, end := range []string{"stop", "kill", "stop"} {
		caddy := start(t, dir, config, site(address, "api", api.address()))
		if _, err := caddy.Get("http://" + address + "/"); err != nil {
			t.Fatal(err)
		}
		if end == "stop" {
			caddy.Stop(t)
		} else {
			caddy.Kill()
		}
	}
	if tokens, asked := len(api.distinct()), op.Stats(t).TokenRequests(); tokens != 1 || asked != 1 {
		t.Errorf("three processes used %d tokens with %d token requests; want one", tokens, asked)
	}
}

// TestCrashWhileAsking: the process dies while the token endpoint is at work. The next one finds the intent, says so, and asks.
func TestCrashWhileAsking(t *testing.T) {
	t.Parallel()
	op, api, dir := lab.StartOP(t, lab.Options{AccessTokenTTL: time.Hour}), startUpstream(t), t.TempDir()
	address := freeAddress(t)
	// The crashed holder's lock looks alive for ten seconds; the intent's lease is twice the time-out.
	config := global(connection("api", basic(op, "timeout 3s")...))
	op.SetFaults(t, lab.Fault{Times: 1, DelayAfter: 20 * time.Second})
	caddy := start(t, dir, config, site(address, "api", api.address()))
	go func() { _, _ = caddy.Get("http://" + address + "/") }()
	eventually(t, "the request for a token arrives", func() error {
		if op.Stats(t).TokenRequests() == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	caddy.Kill()
	caddy = start(t, dir, config, site(address, "api", api.address()))
	eventually(t, "the next process obtains a token", func() error {
		_, err := caddy.Get("http://" + address + "/")
		return err
	})
	if !strings.Contains(caddy.Log(t), "ended without a known outcome") {
		t.Error("the log does not tell of the open intent")
	}
}

// TestTwoInstancesShareOneRefresh: two processes on one storage, both under load. The server is asked once for each generation.
func TestTwoInstancesShareOneRefresh(t *testing.T) {
	t.Parallel()
	op, api, dir := lab.StartOP(t, lab.Options{}), startUpstream(t), t.TempDir()
	config := global(connection("api", basic(op, "resource https://api.lab/?ttl=8")...))
	addresses := []string{freeAddress(t), freeAddress(t)}
	first := start(t, dir, config, site(addresses[0], "api", api.address()))
	second := start(t, dir, config, site(addresses[1], "api", api.address()))
	l := apply(first, 4, addresses...)
	time.Sleep(25 * time.Second) // the length of the trial
	_, failures := l.stop()
	expired, missing := api.harm()
	tokens, asked := len(api.distinct()), op.Stats(t).TokenRequests()
	t.Logf("%d distinct tokens, %d token requests", tokens, asked)
	if len(failures) > 0 || expired > 0 || missing > 0 {
		t.Errorf("failures %v, expired tokens %d, missing tokens %d; want none", failures, expired, missing)
	}
	if tokens < 3 || asked < tokens || asked > tokens+1 {
		t.Errorf("%d token requests for %d tokens; want as many, or one more that was about to be used", asked, tokens)
	}
	for _, caddy := range []*lab.Caddy{first, second} {
		if lost := caddy.Status(t, "api").Counters.LocksLost; lost > 0 {
			t.Errorf("%d locks were lost", lost)
		}
		caddy.Stop(t)
	}
}

// TestReloadUnderLoad reloads again and again, with a slow token endpoint, while tokens expire. No request fails.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	op, api, dir := lab.StartOP(t, lab.Options{}), startUpstream(t), t.TempDir()
	op.SetFaults(t, lab.Fault{DelayBefore: 150 * time.Millisecond})
	address := freeAddress(t)
	config := func(i int) (string, string) {
		return global(connection("api", basic(op, "resource https://api.lab/?ttl=5")...)),
			site(address, "api", api.address()) + fmt.Sprintf("http://localhost:0 {\n\trespond %d\n}\n", 200+i)
	}
	g, s := config(0)
	caddy := start(t, dir, g, s)
	l := apply(caddy, 4, address)
	deadline := time.Now().Add(15 * time.Second)
	reloads := 0
	for ; time.Now().Before(deadline); reloads++ {
		g, s = config(reloads + 1)
		caddy.Reload(t, g, s)
		time.Sleep(200 * time.Millisecond) // between two reloads some requests should pass
	}
	requests, failures := l.stop()
	expired, missing := api.harm()
	tokens, asked := len(api.distinct()), op.Stats(t).TokenRequests()
	t.Logf("%d reloads, %d requests, %d distinct tokens, %d token requests; failures %v", reloads, requests, tokens, asked, failures)
	refused, broken := int64(0), int64(0)
	for text, count := range failures {
		if strings.HasPrefix(text, "status") {
			refused += count
		} else {
			broken += count
		}
	}
	// Caddy closes its listeners and kept-alive connections in a reload, with or without this plugin; a client may be in between.
	if refused > 0 || broken > requests/100 || expired > 0 || missing > 0 {
		t.Errorf("refused %d, broken connections %d, expired tokens %d, missing tokens %d; want none but few broken connections",
			refused, broken, expired, missing)
	}
	if asked < tokens || asked > tokens+1 {
		t.Errorf("%d token requests for %d tokens; want as many, or one more that was about to be used", asked, tokens)
	}
}

// TestTroubleAtTheTokenEndpoint: what each kind of trouble looks like from outside, and that it ends by itself.
func TestTroubleAtTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	troubles := map[string]lab.Fault{
		"503":               {Status: 503, Headers: map[string]string{"Retry-After": "1"}},
		"html":              {Status: 502, Headers: map[string]string{"Content-Type": "text/html"}, Body: "<html><h1>Bad gateway</h1></html>"},
		"dropped before":    {DropBefore: true},
		"answer lost":       {DropAfter: true},
		"answer cut short":  {Truncate: true},
		"no access token":   {Remove: []string{"access_token"}},
		"error with 200":    {Patch: map[string]any{"error": "server_error"}},
		"not a number":      {Patch: map[string]any{"access_token": ""}},
		"no answer in time": {DelayBefore: 3 * time.Second},
	}
	for name, fault := range troubles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			op, api, dir := lab.StartOP(t, lab.Options{AccessTokenTTL: time.Hour}), startUpstream(t), t.TempDir()
			address := freeAddress(t)
			op.SetFaults(t, fault)
			caddy := start(t, dir, global(connection("api", basic(op, "timeout 1s")...)), site(address, "api", api.address()))
			_, err := caddy.Get("http://" + address + "/")
			if statusOf(err) != http.StatusServiceUnavailable {
				t.Fatalf("got %v, want 503", err)
			}
			var answer *lab.StatusError
			if !errors.As(err, &answer) || answer.Header.Get("Retry-After") == "" {
				t.Error("the answer has no Retry-After")
			}
			if _, missing := api.harm(); missing > 0 || len(api.distinct()) > 0 {
				t.Error("the upstream was called")
			}
			asked := op.Stats(t).TokenRequests()
			for range 50 {
				_, _ = caddy.Get("http://" + address + "/")
			}
			if more := op.Stats(t).TokenRequests() - asked; more > 3 {
				t.Errorf("50 requests cost %d token requests", more)
			}
			op.Reset(t)
			eventually(t, "it recovers", func() error {
				_, err := caddy.Get("http://" + address + "/")
				return err
			})
			caddy.Stop(t)
			caddy.KeepsSecrets(t, append(api.distinct(), lab.Secret)...)
		})
	}
}

// TestOutageShorterThanTheToken: while the token lasts nobody notices that the token endpoint is down.
func TestOutageShorterThanTheToken(t *testing.T) {
	t.Parallel()
	op, api, dir := lab.StartOP(t, lab.Options{}), startUpstream(t), t.TempDir()
	address := freeAddress(t)
	caddy := start(t, dir, global(connection("api", basic(op, "resource https://api.lab/?ttl=10")...)), site(address, "api", api.address()))
	l := apply(caddy, 2, address)
	eventually(t, "the first token is in use", func() error {
		if len(api.distinct()) == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	op.SetFaults(t, lab.Fault{Status: 503, Times: 1}) // the first background refresh fails
	eventually(t, "a second token is in use", func() error {
		if len(api.distinct()) < 2 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	_, failures := l.stop()
	if expired, _ := api.harm(); len(failures) > 0 || expired > 0 {
		t.Errorf("failures %v, expired tokens %d; want none", failures, expired)
	}
	if log := caddy.Log(t); !strings.Contains(log, "could not get a new token") || !strings.Contains(log, "refreshing works again") {
		t.Error("the log tells of neither the failure nor the recovery")
	}
}
