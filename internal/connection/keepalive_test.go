package connection_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// TestKeepAliveOnce: instances that find the same record due at the same moment make one exchange, and nobody has used the token.
func TestKeepAliveOnce(t *testing.T) {
	virtual(t, func(t *testing.T) {
		keep := func(s *connection.Settings) { s.Policy.KeepAlive = time.Hour }
		a := authorized(t, -2*time.Hour, keep)
		b := a.another()
		a.server.change(func(s *server) { s.delay = time.Second })
		rec := a.store.Get(alice)
		var all sync.WaitGroup
		for _, i := range []*instance{a, b} {
			all.Go(func() {
				if due, err := i.KeepAlive(context.Background(), i.set, rec, 0); !due || err != nil {
					t.Errorf("due %v, %v", due, err)
				}
			})
		}
		all.Wait()
		a.called(1)
		stored := a.store.Get(alice)
		is(t, "generation", stored.Current.Generation, 2)
		is(t, "reason", stored.Current.Reason, connection.ReasonIdle)
		is(t, "used", a.Snapshot().LastUsed.IsZero() && b.Snapshot().LastUsed.IsZero(), true)
		for within, want := range map[time.Duration]bool{53 * time.Minute: false, 61 * time.Minute: true} {
			if due, err := a.KeepAlive(t.Context(), a.set, stored, within); due != want || err != nil {
				t.Errorf("within %v: due is %v, %v", within, due, err)
			}
		}
	})
}
