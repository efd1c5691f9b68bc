package caddyoauth

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// What nobody uses for weeks is not in memory, and its refresh token may die of that. The sweep reads what is stored of people's
// connections a few times a day, has refresh tokens used before they die, and tells of those whose end nothing can put off. All
// instances sweep; whoever comes first to a record refreshes it under its lock, and the others take over what it got.

const (
	sweepEvery = 6 * time.Hour
	sweepLeast = time.Minute      // where `keep_alive` asks for more
	sweepFirst = 10 * time.Minute // the first one of a process comes within this time
	sweepPause = time.Second      // between two refreshes, at most
)

// sweeps remembers over configurations when the next sweep is due, and which ends somebody was told of. The zero value is ready.
type sweeps struct {
	mu   sync.Mutex // guards the fields below
	next time.Time
	told map[connection.ID]time.Time
}

// wait returns how long it is until the next sweep.
func (s *sweeps) wait(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next.IsZero() {
		s.next = now.Add(rand.N(sweepFirst))
	}
	return max(s.next.Sub(now), 0)
}

// done settles when the next sweep is, so that instances which were started at once drift apart.
func (s *sweeps) done(now time.Time, every time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = now.Add(every - rand.N(every/5))
}

// firstNotice reports whether nobody was told yet of that end, and remembers it as told.
func (s *sweeps) firstNotice(id connection.ID, end time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.told[id]; ok && end.Sub(at).Abs() < time.Hour {
		return false
	}
	if s.told == nil {
		s.told = make(map[connection.ID]time.Time)
	}
	for other, at := range s.told {
		if time.Since(at) > time.Hour {
			delete(s.told, other)
		}
	}
	s.told[id] = end
	return true
}

// keepAlive is the work of the app's sweeper.
func (a *App) keepAlive(ctx context.Context) {
	engine, every := a.engine, a.sweepInterval()
	for {
		if !sleep(ctx, engine.sweeps.wait(time.Now())) {
			return
		}
		for _, c := range a.active.all() {
			if c.needsPerson() && ctx.Err() == nil {
				a.sweep(ctx, c, every)
			}
		}
		if ctx.Err() != nil {
			return // cut short by a reload: the next configuration begins anew
		}
		engine.sweeps.done(time.Now(), every)
	}
}

// sweepInterval is short enough for the connection that wants to be kept alive most often.
func (a *App) sweepInterval() time.Duration {
	every := sweepEvery
	for _, c := range a.active.all() {
		if wish := c.settings.Policy.KeepAlive; wish > 0 {
			every = min(every, max(wish/4, sweepLeast))
		}
	}
	return every
}

// sweep goes through what is stored of one connection, one record after the other.
func (a *App) sweep(ctx context.Context, c *activeConnection, every time.Duration) {
	_, err := a.store.each(ctx, c.key.id, func(rec connection.Record) error {
		key := c.key
		key.id = rec.ID
		source := a.engine.glance(key)
		if end, soon := source.Ending(c.settings, rec); soon {
			a.tellEnd(source, rec.Current.Generation, end)
		}
		due, err := source.KeepAlive(ctx, c.settings, rec, every)
		var unavailable *connection.Unavailable
		switch {
		case !due:
			return nil
		case errors.As(err, &unavailable) && hopeless(unavailable):
			return err
		}
		sleep(ctx, rand.N(sweepPause)) // a provider counts requests
		return ctx.Err()
	})
	if err != nil && ctx.Err() == nil {
		a.logger.Warn("idle accounts could not be kept alive; it is tried again later", zap.String("connection", c.name), zap.Error(err))
	}
}

// hopeless reports whether what kept one token set from being refreshed will keep all of that connection from it.
func hopeless(u *connection.Unavailable) bool {
	return u.Status == connection.StatusMisconfigured || u.Code == "endpoint_down" || u.Code == "storage"
}

// tellEnd tells, once, that only a person can go on soon.
func (a *App) tellEnd(source *connection.Source, generation uint64, end time.Time) {
	if !a.engine.sweeps.firstNotice(source.ID(), end) {
		return
	}
	a.observe(connection.Event{
		Kind: connection.KindExpiring, ID: source.ID(), Status: connection.StatusExpiring, Was: connection.StatusActive, Generation: generation, ExpiresAt: end,
	})
}
