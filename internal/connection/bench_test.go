package connection_test

import (
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

func benchmarked(b *testing.B) (*connection.Source, *connection.Settings) {
	set := connection.Settings{Store: new(storetest.Memory), Client: new(server), Grant: oauth.GrantClientCredentials}.Complete()
	source := connection.NewSource(alice, fingerprint, func() *connection.Settings { return set })
	if _, err := source.Token(b.Context(), set); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	return source, set
}

// BenchmarkToken is the fast path: a usable token is at hand.
func BenchmarkToken(b *testing.B) {
	b.Run("serial", func(b *testing.B) {
		source, set := benchmarked(b)
		ctx := b.Context()
		for b.Loop() {
			if _, err := source.Token(ctx, set); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		source, set := benchmarked(b)
		ctx := b.Context()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := source.Token(ctx, set); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
