package connection_test

import (
	"errors"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// doors has a token endpoint for each shop, with a breaker of its own.
type doors struct {
	servers  map[string]*server
	breakers map[string]*connection.Breaker
}

func twoShops() *doors {
	d := &doors{servers: make(map[string]*server), breakers: make(map[string]*connection.Breaker)}
	for _, shop := range []string{"a", "b"} {
		d.servers[shop], d.breakers[shop] = new(server), new(connection.Breaker)
	}
	return d
}

func (d *doors) open(consent *connection.Consent) (connection.Client, *connection.Breaker, error) {
	if consent == nil || d.servers[consent.Fields["shop"]] == nil {
		return nil, nil, errors.New("the shop is not known")
	}
	shop := consent.Fields["shop"]
	return d.servers[shop], d.breakers[shop], nil
}

// in returns a process whose account is at that shop.
func (d *doors) in(t *testing.T, shop string) *instance {
	i := newInstance(t, people, func(s *connection.Settings) { s.DoorOf, s.Client, s.Breaker = d.open, nil, nil })
	rec := record(-time.Minute)
	rec.Current.Consent = &connection.Consent{Fields: map[string]string{"shop": shop}}
	i.store.Put(rec)
	return i
}

// TestDoorOfTheConsent: a token is refreshed where it came from, and the outage of one shop is no other's.
func TestDoorOfTheConsent(t *testing.T) {
	virtual(t, func(t *testing.T) {
		d := twoShops()
		d.servers["a"].fail(oauth.RetryLater, "server_error")
		a, b := d.in(t, "a"), d.in(t, "b")
		open := false
		for range 100 {
			_, err := a.Token(t.Context(), a.set)
			var u *connection.Unavailable
			open = open || errors.As(err, &u) && u.Code == "endpoint_down"
			later(10 * time.Second)
		}
		is(t, "the breaker of the one was open", open, true)
		is(t, "the token of the other", b.token().TokenSet().RefreshToken.Reveal(), "refresh-1")
		is(t, "sent to the other", d.servers["b"].last().refresh, "refresh-0")
		is(t, "consent", b.store.Get(alice).Current.Consent.Fields["shop"], "b")
	})
}

// TestUnknownDoor: nothing is sent anywhere, nothing is lost, and it is not the person's fault.
func TestUnknownDoor(t *testing.T) {
	virtual(t, func(t *testing.T) {
		d := twoShops()
		i := d.in(t, "elsewhere")
		i.refused(connection.StatusMisconfigured, "incomplete_connection")
		is(t, "asked", d.servers["a"].calls()+d.servers["b"].calls(), 0)
		is(t, "kept", i.store.Get(alice).Current.RefreshToken.Reveal(), "refresh-0")
		is(t, "an open outcome", i.store.Get(alice).Intent, nil)
	})
}
