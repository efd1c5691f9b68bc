package caddyoauth_test

import (
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth"
	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/provider"
	"github.com/caddyoauth/caddyoauth/test/providersim"
)

// stormy are providers of every rotation class; of E and F also those where a refresh ends the old access token.
var stormy = map[string]provider.RotationClass{
	"google": provider.RotationStatic, "microsoft": provider.RotationOverlapping, "shopify": provider.RotationRecoverable,
	"atlassian": provider.RotationGrace, "box": provider.RotationSingleUse, "github": provider.RotationSingleUse,
	"okta": provider.RotationPunished, "airtable": provider.RotationPunished,
}

// storms starts a Caddy with the stormy providers, whose access tokens live for so long, and has alice connect them all.
func storms(t *testing.T, lifetime time.Duration) (map[string]*journey, setup) {
	t.Helper()
	all := make(map[string]providersim.Options)
	for name := range stormy {
		options := wants(name)
		options.Lifetime = lifetime
		all[name] = options
	}
	journeys, with := simulateWith(t, all, nil)
	classes := make(map[provider.RotationClass]bool)
	for name, j := range journeys {
		if classes[stormy[name]] = true; j.sim.Row.Rotation != stormy[name] {
			t.Errorf("%s is of class %s", name, j.sim.Row.Rotation)
		}
		j.authorize()
	}
	if len(classes) != 6 {
		t.Errorf("only %d classes", len(classes))
	}
	return journeys, with
}

// weather is what the clients of a storm saw: how often each status.
type weather struct {
	mu       sync.Mutex
	statuses map[string]map[int]int // by provider
}

// blow sends requests to an instance for every provider, from some clients at once, until stop is closed.
func (w *weather) blow(at *site, names []string, clients int, stop <-chan struct{}, all *sync.WaitGroup) {
	for _, name := range names {
		for range clients {
			all.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					req := at.request(http.MethodGet, "/"+name+"/v1/things", nil, "User-Agent: ")
					req.SetBasicAuth("alice", "open sesame")
					a, err := at.try(req)
					if err != nil {
						at.t.Errorf("%s: %v", name, err)
						return
					}
					w.mu.Lock()
					if w.statuses[name] == nil {
						w.statuses[name] = make(map[int]int)
					}
					w.statuses[name][a.status]++
					w.mu.Unlock()
					time.Sleep(5 * time.Millisecond) // two cores serve eight providers
				}
			})
		}
	}
}

// survived: the consent lives, no used-up token came again, and each refresh that the provider granted is a generation here.
func (j *journey) survived(t *testing.T, seen map[int]int) {
	t.Helper()
	var view caddyoauth.TokenView
	var counts providersim.Counts
	var err error
	eventually(t, j.name+": a generation for each refresh", func() bool { // the background goes on refreshing
		counts = j.sim.Counts()
		view, err = j.app().View(t.Context(), caddyoauth.Ref{Connection: j.name, Subject: "alice"})
		return err != nil || view.Generation == uint64(counts.Refreshes)+1
	})
	t.Logf("%-10s class %s: %v, generation %d, %+v", j.name, j.sim.Row.Rotation, seen, view.Generation, counts)
	if err != nil || view.Status != string(connection.StatusActive) || j.sim.Living() != 1 || counts.Codes != 1 {
		t.Errorf("%s: %q, %v: the consent was lost", j.name, view.Status, err)
	}
	if counts.Replays > 0 || counts.Refusals > 0 {
		t.Errorf("%s: refresh tokens came twice: %+v", j.name, counts)
	}
	if len(seen) != 1 || seen[http.StatusOK] == 0 {
		t.Errorf("%s: the clients saw %v", j.name, seen)
	}
}

// TestLostAnswers: the provider grants a refresh, and the answer never arrives. Where its class forgives, nobody notices; where it does
// not, the person is asked again, and the loss is told apart from a withdrawn consent.
func TestLostAnswers(t *testing.T) {
	journeys, _ := storms(t, time.Hour)
	forgives := map[string]bool{"google": true, "microsoft": true, "shopify": true, "atlassian": true, "okta": true}
	atOnce(t, journeys, func(j *journey) {
		j.sim.Lose(1)
		j.sim.Expire()
		j.call().want(j.t, http.StatusUnauthorized, "") // the API's own word: there is nothing better to say yet
		if forgives[j.name] {
			eventually(j.t, "the second attempt", func() bool { return j.call().status == http.StatusOK })
			j.works()
			if counts := j.sim.Counts(); counts.Codes != 1 || counts.Refusals != 0 {
				j.t.Errorf("the consent was lost: %+v", counts)
			}
			return
		}
		j.asks()
		j.is(connection.StatusLostRotation)
		j.authorize()
		j.works()
	})
}

// TestStorm: many clients, tokens that live for three seconds, and all tokens refused at once in between. One instance, then two on
// one storage: no class of refresh tokens loses its consent, and nobody is refused.
func TestStorm(t *testing.T) {
	for name, instances := range map[string]int{"one instance": 1, "two instances": 2} {
		t.Run(name, func(t *testing.T) {
			journeys, with := storms(t, 3*time.Second)
			names := slices.Sorted(maps.Keys(journeys))
			sites := []*site{journeys[names[0]].site}
			for len(sites) < instances {
				sites = append(sites, sites[0].instance(with))
			}
			seen := &weather{statuses: make(map[string]map[int]int)}
			stop := make(chan struct{})
			var clients sync.WaitGroup
			for _, at := range sites {
				seen.blow(at, names, 4, stop, &clients)
			}
			for _, j := range journeys {
				// Where a refresh ends the old access token, the other instance is refused by that alone. After a refresh for a refusal
				// it looks into the storage once a second only, which is rare where tokens live for three.
				if instances == 1 || !j.sim.Row.KillsOldAccessToken {
					j.sim.Expire()
				}
			}
			eventually(t, "three refreshes of each", func() bool {
				for _, j := range journeys {
					if j.sim.Counts().Refreshes < 3 {
						return false
					}
				}
				return true
			})
			close(stop)
			clients.Wait()
			for _, name := range names {
				journeys[name].survived(t, seen.statuses[name])
			}
		})
	}
}
