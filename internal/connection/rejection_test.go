package connection_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

func TestRejected(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		p := i.generation(1)
		next := i.Rejected(t.Context(), i.set, p)
		if next == nil || next.Generation() != 2 {
			t.Fatal("a 401 did not lead to a new token set")
		}
		is(t, "reason", next.TokenSet().Reason, connection.ReasonRejected)
		is(t, "published token set", i.token(), next)
		i.called(2)
		is(t, "replay with what is there already", i.Rejected(t.Context(), i.set, p), next)
		i.called(2)
	})
}

// rejectedBy reports 401 from many requests at once and returns how many got a token set to replay with.
func rejectedBy(i *instance, n int, p *connection.Published) int64 {
	var wg sync.WaitGroup
	var replays atomic.Int64
	for range n {
		wg.Go(func() {
			if next := i.Rejected(i.t.Context(), i.set, p); next != nil && next.Generation() > p.Generation() {
				replays.Add(1)
			}
		})
	}
	wg.Wait()
	return replays.Load()
}

func TestManyRejectionsOneRefresh(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		p := i.generation(1)
		i.server.delay = time.Second
		is(t, "replays", rejectedBy(i, 1000, p), 1000)
		i.called(2)
	})
}

func TestRejectionCooldown(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		p := i.Rejected(t.Context(), i.set, i.generation(1))
		later(connection.DefaultRejectionCooldown - time.Millisecond)
		is(t, "replays within the cool-down", rejectedBy(i, 1000, p), 0)
		i.Suspect(i.set, p)
		is(t, "token after a refusal that stands", i.token(), p)
		i.called(2)
		later(time.Millisecond)
		i.server.delay = time.Second
		is(t, "replays after the cool-down", rejectedBy(i, 1000, p), 1000)
		i.called(3)
		is(t, "replays within the next cool-down", rejectedBy(i, 1000, i.Current()), 0)
		i.called(3)
	})
}

// A wrong audience must not turn traffic into refreshes.
func TestRejectedForEver(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		for end := time.Now().Add(time.Hour); time.Now().Before(end); later(time.Second) {
			i.Rejected(t.Context(), i.set, i.token())
		}
		if calls := i.server.calls(); calls > 122 {
			t.Fatalf("an hour of refusals cost %d token requests, want one for each cool-down of 30 s", calls)
		}
	})
}

// A server that ends the old access token at a refresh refuses what another instance has adopted as soon as the first one refreshes
// again: that instance looks into the storage, cool-down or not, and asks nobody.
func TestRejectedAfterAdoption(t *testing.T) {
	virtual(t, func(t *testing.T) {
		first := newInstance(t)
		second := first.another()
		p := second.generation(1)
		for _, late := range []time.Duration{5 * time.Second, 0} {
			first.Rejected(t.Context(), first.set, first.token())
			later(late)
			got := second.Rejected(t.Context(), second.set, p)
			if got == nil || got.Generation() != p.Generation()+1 {
				t.Fatalf("after generation %d: got %v", p.Generation(), got)
			}
			p = got
			later(connection.DefaultRejectionCooldown - late) // over for the first one, which had asked; not for what the second one adopted
		}
		first.called(3)
	})
}

// While a refusal stands nobody is asked, but what is on its way is what the resource server may want.
func TestRefusalThatStandsWaitsForWhatIsOnItsWay(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.life = 20 * time.Second
		p := i.Rejected(t.Context(), i.set, i.generation(1))
		i.server.change(func(s *server) { s.delay = 2 * time.Second })
		later(time.Until(i.Snapshot().RefreshAt) + time.Millisecond)
		i.token()
		synctest.Wait()
		is(t, "replays with what is on its way", rejectedBy(i, 100, p), 100)
		i.called(3)
	})
}

// Likewise what another instance has stored.
func TestRefusalThatStandsLooksIntoTheStorage(t *testing.T) {
	virtual(t, func(t *testing.T) {
		first := newInstance(t)
		second := first.another()
		second.Rejected(t.Context(), second.set, second.generation(1))
		is(t, "what the first one asks for", first.Rejected(t.Context(), first.set, first.token()).Generation(), 3)
		is(t, "replays with what the first one has stored", rejectedBy(second, 100, second.Current()), 100)
		is(t, "replays when nothing is new", rejectedBy(second, 100, second.Current()), 0)
		first.called(3)
	})
}

// The consent turned out to be gone in the background, and the token set went on being served; once the resource server refuses it as
// well, it is served to nobody.
func TestRejectedAfterTheConsentIsGone(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour)
		p := i.token()
		i.server.fail(oauth.Revoked, "invalid_grant")
		later(time.Until(i.Snapshot().RefreshAt) + time.Second)
		i.token()
		later(3 * time.Second)
		is(t, "status", i.Snapshot().Status, connection.StatusRevoked)
		is(t, "token while nobody has refused it", i.token().Generation(), p.Generation())
		if next := i.Rejected(t.Context(), i.set, i.Current()); next != nil {
			t.Fatalf("got %v to replay with", next)
		}
		if _, err := i.Token(t.Context(), i.set); err == nil {
			t.Fatal("a token that is refused, of a consent that is gone, is still served")
		}
	})
}

// A wrong audience costs each instance of a cluster a refresh for each cool-down, whatever the traffic.
func TestRejectedForEverInACluster(t *testing.T) {
	virtual(t, func(t *testing.T) {
		first := newInstance(t)
		second := first.another()
		for end := time.Now().Add(time.Hour); time.Now().Before(end); later(time.Second) {
			first.Rejected(t.Context(), first.set, first.token())
			second.Rejected(t.Context(), second.set, second.token())
		}
		if calls := first.server.calls(); calls > 2*122 {
			t.Fatalf("an hour of refusals cost two instances %d token requests, want one each for each cool-down of 30 s", calls)
		}
	})
}

// sameToken makes the server give its first token again and again until that expires.
func sameToken(i *instance) {
	var first *oauth.TokenResponse
	i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
		if first == nil || !first.ExpiresAt.After(time.Now()) {
			first = i.server.token(n, x)
		}
		again := *first
		again.SentAt = x.at
		return &again, nil
	}
}

// One refresh for all who were refused, those included who come back when it has given the same token again.
func TestRejectedAndTheSameTokenAgain(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		sameToken(i)
		p := i.generation(1)
		i.server.delay = time.Second
		is(t, "replays with the same token", rejectedBy(i, 1000, p), 0)
		i.called(2)
		is(t, "replays of latecomers", rejectedBy(i, 1000, p), 0)
		i.called(2)
		i.generation(1)
		later(connection.DefaultRejectionCooldown)
		is(t, "replays after the cool-down", rejectedBy(i, 1000, p), 0)
		i.called(3)
	})
}

func TestRejectedWhenRefreshingFails(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		p := i.generation(1)
		i.server.fail(oauth.RetryLater, "server_error")
		is(t, "replays", rejectedBy(i, 1000, p), 0)
		i.called(2)
		is(t, "the token is still served", i.token().Generation(), 1)
		is(t, "replays during the pause", rejectedBy(i, 1000, p), 0)
		i.called(2)
	})
}

func TestRejectedUsesWhatAnotherInstanceStored(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour)
		p := i.generation(1)
		i.store.Put(theirs(2, time.Now()))
		is(t, "replays", rejectedBy(i, 10, p), 10)
		i.called(0)
	})
}

// A 401 that arrives while the background refresh is under way waits for that one.
func TestRejectedDuringBackgroundRefresh(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		p := i.generation(1)
		i.server.change(func(s *server) { s.delay = 5 * time.Second })
		later(time.Until(i.Snapshot().RefreshAt) + time.Second)
		i.token()
		synctest.Wait()
		is(t, "replays", rejectedBy(i, 100, p), 100)
		i.called(2)
	})
}

// A newer generation is used at once, whatever else is under way.
func TestRejectedDoesNotWaitForMoreThanItNeeds(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		p := i.generation(1)
		later(2 * time.Hour)
		next := i.generation(2)
		i.server.change(func(s *server) { s.delay = 10 * time.Second })
		later(time.Until(i.Snapshot().RefreshAt) + time.Second)
		i.token()
		synctest.Wait()
		i.called(3) // generation 3 is on its way
		began := time.Now()
		is(t, "replay", i.Rejected(t.Context(), i.set, p), next)
		is(t, "time that the replay waited", time.Since(began), 0)
	})
}

func TestRejectedWaiterMayLeave(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		p := i.generation(1)
		i.server.delay = 10 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		is(t, "replay of a request that has left", i.Rejected(ctx, i.set, p), nil)
		later(9 * time.Second)
		i.generation(2)
		i.called(2)
	})
}

func TestSuspect(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		p := i.generation(1)
		i.Suspect(i.set, p)
		i.called(1)
		next := i.generation(2)
		i.Suspect(i.set, p) // an old one proves nothing
		is(t, "token after an old refusal", i.token(), next)
		i.Suspect(i.set, next)
		is(t, "token within the cool-down", i.token(), next)
		i.called(2)
	})
}

func TestSuspectTokenIsUsedWhenNoOtherIsToBeHad(t *testing.T) {
	for name, spoil := range map[string]func(i *instance){
		"endpoint down": func(i *instance) { i.server.fail(oauth.RetryLater, "server_error") },
		"storage down": func(i *instance) {
			i.store.Change(func(f *storetest.Faults) { f.Load = &storetest.Fault{Err: errDown} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t)
				p := i.generation(1)
				spoil(i)
				i.Suspect(i.set, p)
				for range 100 {
					i.generation(1)
				}
				if calls := i.server.calls(); calls > 2 {
					t.Fatalf("100 requests with a suspect token cost %d token requests", calls-1)
				}
				later(2 * time.Hour)
				if _, err := i.Token(t.Context(), i.set); err == nil {
					t.Fatal("an expired token was given out")
				}
			})
		})
	}
}

func TestSuspectAndTheSameTokenAgain(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		sameToken(i)
		i.Suspect(i.set, i.generation(1))
		for range 100 {
			i.generation(1)
		}
		i.called(2)
	})
}

// TestRejectedAndRevoked: a token that the resource server refuses and whose refresh token is dead is served to nobody any more.
func TestRejectedAndRevoked(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, 30*time.Minute)
		p := i.generation(1)
		i.server.fail(oauth.Revoked, "invalid_grant")
		is(t, "replay", i.Rejected(t.Context(), i.set, p), nil)
		i.refused(connection.StatusRevoked, "invalid_grant")
		later(10 * time.Minute)
		i.refused(connection.StatusRevoked, "revoked")
		i.called(1)
	})
}
