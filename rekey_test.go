package caddyoauth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

// The tests of this file run in virtual time, in which the pauses of a rotation pass at once.

// instance is one process among several on one storage.
type instance struct {
	*App
	storage *memoryStorage
	logs    *observer.ObservedLogs
}

// startInstance starts a process with key-encryption key number 1, or with those keys.
func startInstance(t *testing.T, files *memoryFiles, keks ...KeyEncryptionKey) *instance {
	t.Helper()
	if len(keks) == 0 {
		keks = []KeyEncryptionKey{storeKey(t, 1)}
	}
	core, logs := observer.New(zapcore.DebugLevel)
	logger := zap.New(core)
	storage := &memoryStorage{memoryFiles: files}
	store := &recordStore{storage: storage, history: defaultHistory, keys: newKeySource(keks, "", logger)}
	i := &instance{App: &App{store: store, logger: logger, announcer: newAnnouncer(), metrics: newMetrics(nil)}, storage: storage, logs: logs}
	i.keeper = newKeyKeeper(i.App, func() bool { return true })
	return i
}

// run lets the process look after its keys for that long.
func (i *instance) run(t *testing.T, d time.Duration) {
	t.Helper()
	i.keeper.start(func(context.Context) {})
	t.Cleanup(i.keeper.stop)
	time.Sleep(d)
	synctest.Wait()
}

func (i *instance) ring(t *testing.T) *envelope.KeyRing {
	t.Helper()
	ring, err := i.store.keys.ring(t.Context(), i.storage)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// fill stores records of every kind, and returns what is to be found under their keys for ever.
func (i *instance) fill(t *testing.T, n int) map[string]string {
	t.Helper()
	want := make(map[string]string)
	for number := range n {
		id := connection.ID{Tenant: fmt.Sprint("tenant-", number%2), Connection: fmt.Sprint("connection-", number)}
		keys := []string{recordKey(id), historyKey(id, 1), historyKey(id, 2), pendingKey(id.Tenant, fmt.Sprint(number)), storageRoot + "/others/" + keyPart(fmt.Sprint(number)) + recordsExt}
		for _, key := range keys {
			want[key] = "seeded-" + key
			if err := i.store.seal(t.Context(), key, []byte(want[key])); err != nil {
				t.Fatal(err)
			}
		}
	}
	return want
}

// wantAll checks that a process reads all records, and reports which data keys they are sealed with.
func (i *instance) wantAll(t *testing.T, want map[string]string) []uint32 {
	t.Helper()
	ids := make(map[uint32]bool)
	for _, key := range slices.Sorted(maps.Keys(want)) {
		plain, err := i.store.unseal(t.Context(), key)
		if err != nil || string(plain) != want[key] {
			t.Errorf("%s holds %q, %v", key, plain, err)
		}
		id, err := envelope.KeyOf(i.storage.snapshot()[key])
		if err != nil {
			t.Error(err)
		}
		ids[id] = true
	}
	return slices.Sorted(maps.Keys(ids))
}

func (i *instance) status(t *testing.T) KeyStatus {
	t.Helper()
	status, err := i.KeyStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// TestRekey follows a rotation from the first step to the last, as its instances and the status show it. Keepers look at random, less than
// 20 s after the last time; so it is promoted between 60 s and 80 s, known to all before 100 s, and the old key removed after 120 s, before 160 s.
// Who looks in between may be told by an instance that has not heard of it yet.
func TestRekey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		one, two := startInstance(t, files), startInstance(t, files)
		idle := startInstance(t, files) // looks at nothing by itself, and has to learn by what it cannot read
		want := one.fill(t, 4)
		idle.wantAll(t, want)
		one.run(t, time.Second)
		two.run(t, time.Second)
		first := one.ring(t).Primary()
		check := func(when, phase string, keys ...DataKeyStatus) {
			t.Helper()
			idle.wantAll(t, want)
			for _, i := range []*instance{one, two} {
				i.wantAll(t, want)
				status := i.status(t)
				for n := range status.DataKeys {
					status.DataKeys[n].Created = nil
				}
				if !slices.Equal(status.DataKeys, keys) || (status.Rekey == nil) != (phase == "") || phase != "" && status.Rekey.Phase != phase || status.Records != len(want) {
					t.Errorf("%s: %+v, %+v", when, status, status.Rekey)
				}
			}
		}
		check("before", "", DataKeyStatus{ID: first, State: "seals", Records: len(want)})
		began := time.Now()
		status, err := one.Rekey(t.Context())
		if err != nil || status.Rekey == nil || len(status.DataKeys) != 2 {
			t.Fatalf("%+v, %v", status, err)
		}
		second := status.DataKeys[1].ID
		if created := status.DataKeys[1].Created; created == nil || time.Since(*created).Abs() > time.Second {
			t.Errorf("the new key was made at %v", created)
		}
		time.Sleep(25 * time.Second)
		if again, err := two.Rekey(t.Context()); err != nil || len(again.DataKeys) != 2 {
			t.Errorf("begun twice, there are %d keys (%v)", len(again.DataKeys), err)
		}
		check("published", "publishing", DataKeyStatus{ID: first, State: "seals", Records: len(want)}, DataKeyStatus{ID: second, State: "next"})
		time.Sleep(time.Until(began.Add(59 * time.Second)))
		if one.ring(t).Primary() != first || two.ring(t).Primary() != first || !two.ring(t).Holds(second) {
			t.Error("the new key seals before all had a pause to learn it, or it was not learned")
		}
		time.Sleep(time.Until(began.Add(100 * time.Second)))
		check("promoted", "retiring", DataKeyStatus{ID: first, State: "old"}, DataKeyStatus{ID: second, State: "seals", Records: len(want)})
		time.Sleep(time.Until(began.Add(119 * time.Second)))
		if !one.ring(t).Holds(first) {
			t.Error("the old key was removed before all had a pause to learn of the new one")
		}
		time.Sleep(time.Until(began.Add(3 * time.Minute)))
		check("retired", "", DataKeyStatus{ID: second, State: "seals", Records: len(want)})
		for _, i := range []*instance{one, two} {
			if i.ring(t).Holds(first) {
				t.Error("the old key is still held")
			}
			if n := one.logged(signalKeyRotated.text) + two.logged(signalKeyRotated.text); n != 1 {
				t.Errorf("the rotation was told %d times", n)
			}
			for _, entry := range i.logs.FilterLevelExact(zapcore.ErrorLevel).All() {
				t.Errorf("an error was logged: %v", entry)
			}
		}
		if n := one.logs.FilterMessageSnippet("removed a data key").Len() + two.logs.FilterMessageSnippet("removed a data key").Len(); n != 1 {
			t.Errorf("%d instances say that they removed the key", n)
		}
		// The next process starts from what is stored.
		startInstance(t, files).wantAll(t, want)
	})
}

// TestRekeyKilledAnywhere kills the process that rotates at every one of its storage operations in turn, before the operation
// takes effect or right after. Whatever it leaves behind, another one reads every record and carries the rotation through.
func TestRekeyKilledAnywhere(t *testing.T) {
	t.Parallel()
	killed := 0
	for _, late := range []bool{false, true} {
		for n := 0; ; n++ {
			survived := false
			synctest.Test(t, func(t *testing.T) { survived = rekeyKilledAt(t, n, late) })
			if survived {
				break
			}
			killed++
		}
	}
	if killed < 100 {
		t.Errorf("only %d operations were tried", killed)
	}
}

func rekeyKilledAt(t *testing.T, n int, late bool) (survived bool) {
	t.Helper()
	files := newMemoryFiles()
	victim := startInstance(t, files)
	want := victim.fill(t, 1)
	first := victim.ring(t).Primary()
	var dead bool
	operations := 0
	kill := func(string, string) error {
		operations++
		if dead = dead || operations > n; dead {
			return errors.New("killed")
		}
		return nil
	}
	gone := func(string, string) error {
		if dead {
			return errors.New("killed")
		}
		return nil
	}
	victim.storage.before, victim.storage.after = kill, gone
	if late {
		victim.storage.before, victim.storage.after = gone, kill
	}
	_, _ = victim.Rekey(t.Context())
	victim.run(t, 4*time.Minute)
	victim.keeper.stop()
	files.abandonLocks()
	heir := startInstance(t, files)
	heir.wantAll(t, want)
	if _, err := heir.Rekey(t.Context()); err != nil {
		t.Fatal(err)
	}
	heir.run(t, 5*time.Minute)
	keys := heir.wantAll(t, want)
	if len(keys) != 1 || keys[0] == first || len(heir.ring(t).Keys()) != 1 {
		t.Errorf("killed at operation %d: records are sealed with %v, the keyset holds %v", n, keys, heir.ring(t).Keys())
	}
	return !dead
}

// TestResealNeverWritesOverNewer: whatever a writer does while its record is sealed anew, its word is the last.
func TestResealNeverWritesOverNewer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		held string        // the operation at which sealing anew is held up
		by   time.Duration // for how long
	}{
		"between reading and writing":          {"store", 3 * time.Second},
		"in reading":                           {"load", 3 * time.Second},
		"in reading, longer than writers wait": {"load", time.Minute},
	} {
		for what, change := range map[string]func(ctx context.Context, s *recordStore, key string) error{
			"write":  func(ctx context.Context, s *recordStore, key string) error { return s.seal(ctx, key, []byte("newer")) },
			"delete": func(ctx context.Context, s *recordStore, key string) error { return s.remove(ctx, key) },
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					files := newMemoryFiles()
					one, two := startInstance(t, files), startInstance(t, files)
					key := recordKey(connection.ID{Connection: "api"})
					if err := one.store.seal(t.Context(), key, []byte("older")); err != nil {
						t.Fatal(err)
					}
					ring, err := one.ring(t).Add(time.Now())
					if err == nil {
						ring, err = ring.Promote(ring.Next())
					}
					if err != nil {
						t.Fatal(err)
					}
					if _, err := one.store.keys.alter(t.Context(), one.storage, keysetChange{ring: func(*envelope.KeyRing) (*envelope.KeyRing, error) { return ring, nil }}); err != nil {
						t.Fatal(err)
					}
					held, locked := make(chan struct{}), false
					var once sync.Once
					hold := func(op, at string) error {
						locked = locked || op == "lock"
						if locked && op == test.held && at == key {
							once.Do(func() {
								close(held)
								time.Sleep(test.by)
							})
						}
						return nil
					}
					if test.held == "load" {
						one.storage.after = hold
					} else {
						one.storage.before = hold
					}
					done := make(chan struct{})
					go func() {
						defer close(done)
						_, _ = one.store.resealAll(t.Context(), ring)
					}()
					<-held
					if err := change(t.Context(), two.store, key); err != nil {
						t.Error(err)
					}
					<-done
					plain, err := two.store.unseal(t.Context(), key)
					if what == "write" && string(plain) != "newer" || what == "delete" && !errors.Is(err, connection.ErrNotFound) {
						t.Errorf("in the end there is %q, %v", plain, err)
					}
					// The next time it is not held up.
					found, err := one.store.resealAll(t.Context(), ring)
					if err != nil || found.byKey[ring.Primary()] != found.total {
						t.Errorf("%+v, %v", found, err)
					}
				})
			})
		}
	}
}

// TestWriterThatSleptThroughARotation: an instance is held up in the middle of a write for an hour, in which its data key was
// replaced and removed. What it writes must not be lost.
func TestWriterThatSleptThroughARotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		sleeper, other := startInstance(t, files), startInstance(t, files)
		key := recordKey(connection.ID{Connection: "api"})
		if err := sleeper.store.seal(t.Context(), key, []byte("older")); err != nil {
			t.Fatal(err)
		}
		first := sleeper.ring(t).Primary()
		sleeper.storage.before = func(op, at string) error {
			if op == "store" && at == key {
				sleeper.storage.before = nil
				time.Sleep(time.Hour)
			}
			return nil
		}
		written := make(chan error)
		go func() { written <- sleeper.store.seal(t.Context(), key, []byte("newer")) }()
		synctest.Wait()
		if _, err := other.Rekey(t.Context()); err != nil {
			t.Fatal(err)
		}
		other.run(t, 10*time.Minute)
		if other.ring(t).Holds(first) {
			t.Fatal("the rotation did not come to its end")
		}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		for _, i := range []*instance{sleeper, other, startInstance(t, files)} {
			if plain, err := i.store.unseal(t.Context(), key); err != nil || string(plain) != "newer" {
				t.Errorf("got %q, %v", plain, err)
			}
		}
		// The sleeper brought its key back, for it may have sealed more; the next look removes it again.
		time.Sleep(10 * time.Minute)
		if keys := other.ring(t).Keys(); len(keys) != 1 || keys[0].ID == first {
			t.Errorf("the keyset holds %v", keys)
		}
	})
}

// TestNothingIsSealedOutOfReach: what a rotation would not find cannot be written.
func TestNothingIsSealedOutOfReach(t *testing.T) {
	t.Parallel()
	one := startInstance(t, newMemoryFiles())
	for _, key := range []string{keysetKey, storageRoot + "/notes", storageRoot + "/notes.txt", "elsewhere/notes.json", storageRoot + "-notes.json", ""} {
		if err := one.store.seal(t.Context(), key, []byte("text")); err == nil {
			t.Errorf("%q was written", key)
		}
	}
	if files := one.storage.snapshot(); len(files) > 0 {
		t.Errorf("stored: %v", slices.Collect(maps.Keys(files)))
	}
}

// TestLockOfADeadProcess: the lock of a record that a killed process holds for ever holds up a writer once, and nobody after that.
func TestLockOfADeadProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		one := startInstance(t, files)
		key := recordKey(connection.ID{Connection: "api"})
		if err := one.store.seal(t.Context(), key, []byte("older")); err != nil {
			t.Fatal(err)
		}
		if _, err := one.Rekey(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := one.storage.Lock(t.Context(), recordLock(key, files.snapshot()[key])); err != nil {
			t.Fatal(err)
		}
		one.run(t, 10*time.Minute)
		if status := one.status(t); status.Rekey == nil || !slices.Equal(status.Rekey.Stuck, []string{key}) {
			t.Errorf("%+v", status.Rekey)
		}
		for i, longest := range []time.Duration{lockPatience, 0} {
			began := time.Now()
			if err := one.store.seal(t.Context(), key, []byte("newer")); err != nil || time.Since(began) > longest {
				t.Errorf("write %d: %v after %v", i, err, time.Since(began))
			}
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if plain, err := one.store.unseal(t.Context(), key); err != nil || string(plain) != "newer" || one.status(t).Rekey != nil {
			t.Errorf("%q, %v, %+v", plain, err, one.status(t).Rekey)
		}
	})
}

// TestRekeyIsStuck: a record that does not open keeps its data key, and the status says which it is.
func TestRekeyIsStuck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		one := startInstance(t, files)
		want := one.fill(t, 2)
		first := one.ring(t).Primary()
		key := recordKey(connection.ID{Connection: "moved"})
		files.set(key, files.snapshot()[recordKey(connection.ID{Tenant: "tenant-0", Connection: "connection-0"})])
		if _, err := one.Rekey(t.Context()); err != nil {
			t.Fatal(err)
		}
		one.run(t, 10*time.Minute)
		status := one.status(t)
		if status.Rekey == nil || !slices.Equal(status.Rekey.Stuck, []string{key}) || status.Rekey.Done != len(want) || !one.ring(t).Holds(first) {
			t.Errorf("%+v", status.Rekey)
		}
		if n := one.logs.FilterMessageSnippet("cannot be removed yet").Len(); n != 1 {
			t.Errorf("that was logged %d times", n)
		}
		files.set(key, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if one.ring(t).Holds(first) || one.status(t).Rekey != nil {
			t.Error("the rotation does not go on when the record is gone")
		}
		one.wantAll(t, want)
	})
}

// TestRekeyWithoutItsKey: who cannot open the keyset cannot change it.
func TestRekeyWithoutItsKey(t *testing.T) {
	t.Parallel()
	files := newMemoryFiles()
	startInstance(t, files).fill(t, 1)
	before := files.snapshot()
	wrong := startInstance(t, files, storeKey(t, 2))
	if _, err := wrong.Rekey(t.Context()); !errors.Is(err, envelope.ErrWrongKey) {
		t.Errorf("got %v", err)
	}
	status := wrong.status(t)
	if status.Open || status.Error != "wrong_key" || status.Hint == "" || len(status.EncryptionKeys) != 1 || status.EncryptionKeys[0].ID != storeKey(t, 2).ID() {
		t.Errorf("%+v", status)
	}
	if !sameFiles(before, files.snapshot()) {
		t.Error("something was written")
	}
	if text := fmt.Sprintf("%+v", status); strings.Contains(text, "seeded") {
		t.Error(text)
	}
}
