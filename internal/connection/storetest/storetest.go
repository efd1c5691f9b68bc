// Package storetest holds the contract that every connection.Store must pass, and a [Memory] store that does and that can be
// made to fail in the ways that real storages fail.
//
// It is imported by tests only. It imports the standard library, internal/connection and internal/secret.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

const (
	short = 100 * time.Millisecond // for what must not happen
	long  = 30 * time.Second       // for what must happen
)

// Historian is implemented by stores that can show which generations their history holds, oldest first.
type Historian interface {
	History(ctx context.Context, id connection.ID) ([]uint64, error)
}

// Run puts a store through the contract. open returns an empty store that ends with the test it is given.
func Run(t *testing.T, open func(t *testing.T) connection.Store) {
	for name, test := range map[string]func(*testing.T, connection.Store){
		"nothing is found in an empty store":          notFound,
		"a record comes back whole":                   roundTrip,
		"a record without a token set comes back":     bareRecord,
		"a save replaces the whole record":            overwrite,
		"IDs do not mix":                              separateIDs,
		"readers see whole records":                   wholeRecords,
		"an ended context ends every operation":       endedContext,
		"the history is kept apart and bounded":       history,
		"a lock excludes until it is released":        lockExcludes,
		"locks of other IDs and generations are free": lockNames,
		"one holder at a time":                        lockContention,
		"unlock works after the context has ended":    lateUnlock,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

var someone = connection.ID{Tenant: "acme", Connection: "drive", Subject: "alice"}

// at returns a time with nanoseconds, another zone and a monotonic reading: what a process has, not what a file holds.
func at(d time.Duration) time.Time {
	return time.Now().Add(d + 123456789*time.Nanosecond).In(time.FixedZone("far", 5*3600+1800))
}

func sampleSet(generation uint64) connection.TokenSet {
	return connection.TokenSet{
		Generation:  generation,
		AccessToken: secret.New(fmt.Sprintf("access-%d \x00\"\u2028é", generation)), RefreshToken: secret.New(fmt.Sprintf("refresh-%d", generation)),
		TokenType: "bEaReR", Scope: "read:all write", IssuedAt: at(-time.Minute), ExpiresAt: at(time.Hour),
		RefreshExpiresAt: at(24 * time.Hour), Root: 2, By: "jane",
		Reason: connection.ReasonAhead, Nonce: "process-1", Response: secret.New(`{"expires_in":3600,"instance_url":"https://eu.example"}`),
		Consent: &connection.Consent{
			Requested: []string{"read:all"}, Fields: map[string]string{"shop": "é\u2028"}, Callback: map[string]string{"realmId": "1"},
			AccountID: "17", Label: "Jane's \"Drive\"", Found: map[string]string{"tenant": "t"},
		},
	}
}

func sample(id connection.ID, generation uint64) connection.Record {
	return connection.Record{
		ID: id, Fingerprint: "fingerprint", Status: connection.StatusFailing, Current: sampleSet(generation), UpdatedAt: at(0),
		Intent:  &connection.Intent{Generation: generation, RefreshDigest: "digest", Nonce: "process-2", At: at(-time.Second), Repeated: true},
		Failure: &connection.Failure{Code: "server_error", At: at(-time.Second), Attempts: 3},
	}
}

func notFound(t *testing.T, s connection.Store) {
	rec, err := s.Load(t.Context(), someone)
	if !errors.Is(err, connection.ErrNotFound) || rec != (connection.Record{}) {
		t.Fatalf("load from an empty store: want ErrNotFound and nothing else, got %v", err)
	}
	if h, ok := s.(Historian); ok {
		if generations, err := h.History(t.Context(), someone); err != nil || len(generations) > 0 {
			t.Fatalf("history of an empty store: got %v, %v", generations, err)
		}
	}
}

func roundTrip(t *testing.T, s connection.Store) {
	want := sample(someone, 7)
	save(t, s, want)
	same(t, load(t, s, someone), want)
}

func bareRecord(t *testing.T, s connection.Store) {
	want := connection.Record{
		ID: connection.ID{Connection: "machine"}, Fingerprint: "f", Status: connection.StatusPending, UpdatedAt: at(0),
		Intent: &connection.Intent{Nonce: "p", At: at(0)},
	}
	save(t, s, want)
	same(t, load(t, s, want.ID), want)
}

func overwrite(t *testing.T, s connection.Store) {
	save(t, s, sample(someone, 1))
	want := sample(someone, 2)
	want.Intent, want.Failure, want.Current.RefreshToken, want.Current.Scope = nil, nil, secret.Text{}, ""
	save(t, s, want)
	same(t, load(t, s, someone), want)
}

func separateIDs(t *testing.T, s connection.Store) {
	ids := []connection.ID{
		{Connection: "a"}, {Connection: "a", Subject: "b"}, {Connection: "ab"}, {Connection: "b", Subject: "a"},
		{Tenant: "a", Connection: "b"}, {Tenant: "t", Connection: "a"}, {Connection: "A"}, {Connection: "a", Subject: "B"},
		{Connection: "a/b"}, {Connection: "a", Subject: "../b"}, {Connection: "a", Subject: "b "}, {Connection: "a", Subject: "ü\x00"},
	}
	for i, id := range ids {
		save(t, s, sample(id, uint64(i)+1))
	}
	for i, id := range ids {
		if rec := load(t, s, id); rec.Current.Generation != uint64(i)+1 || rec.ID != id {
			t.Errorf("load %+v: got generation %d of %+v, want generation %d", id, rec.Current.Generation, rec.ID, i+1)
		}
	}
}

// wholeRecords: a reader without the lock must never see half of one record and half of another.
func wholeRecords(t *testing.T, s connection.Store) {
	save(t, s, sample(someone, 1))
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		for generation := range uint64(20) {
			if err := s.Save(t.Context(), sample(someone, generation+2)); err != nil {
				t.Errorf("save: %v", err)
			}
		}
	})
	for {
		rec := load(t, s, someone)
		if want := sampleSet(rec.Current.Generation); !rec.Current.AccessToken.Equal(want.AccessToken) || rec.Intent.Generation != want.Generation {
			t.Errorf("generation %d was read with parts of another", rec.Current.Generation)
		}
		select {
		case <-done:
			wg.Wait()
			return
		default:
		}
	}
}

// endedContext: an operation may still succeed, but it must come back.
func endedContext(t *testing.T, s connection.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = s.Load(ctx, someone)
		_ = s.Save(ctx, sample(someone, 1))
		_ = s.Archive(ctx, sample(someone, 1))
		if unlock, err := s.Lock(ctx, someone, 1); err == nil {
			_ = unlock()
		}
	}()
	select {
	case <-ended:
	case <-time.After(long):
		t.Fatal("an operation goes on although its context has ended")
	}
}

func history(t *testing.T, s connection.Store) {
	const archived = 25
	other := connection.ID{Connection: "other"}
	current := sample(someone, archived+1)
	save(t, s, current)
	for generation := range uint64(archived) {
		if err := s.Archive(t.Context(), sample(someone, generation+1)); err != nil {
			t.Fatalf("archive: %v", err)
		}
	}
	for range 2 { // the same generation twice is one
		if err := s.Archive(t.Context(), sample(other, 3)); err != nil {
			t.Fatalf("archive: %v", err)
		}
	}
	same(t, load(t, s, someone), current)
	h, ok := s.(Historian)
	if !ok {
		return
	}
	generations, err := h.History(t.Context(), someone)
	if err != nil || len(generations) == 0 || len(generations) >= archived {
		t.Fatalf("history after %d token sets: got %v, %v; want some but not all", archived, generations, err)
	}
	for i, generation := range generations {
		if want := uint64(archived - len(generations) + i + 1); generation != want {
			t.Fatalf("history: got %v, want the newest, oldest first", generations)
		}
	}
	if generations, err := h.History(t.Context(), other); err != nil || len(generations) != 1 || generations[0] != 3 {
		t.Fatalf("history of another ID: got %v, %v", generations, err)
	}
}

func save(t *testing.T, s connection.Store, rec connection.Record) {
	t.Helper()
	if err := s.Save(t.Context(), rec); err != nil {
		t.Fatalf("save: %v", err)
	}
}

func load(t *testing.T, s connection.Store, id connection.ID) connection.Record {
	t.Helper()
	rec, err := s.Load(t.Context(), id)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return rec
}
