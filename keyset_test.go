package caddyoauth

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

// keyService stands for a key service: it can be down, and it counts what it is asked.
type keyService struct {
	KeyEncryptionKey
	mu    sync.Mutex
	down  error // guarded by mu
	calls int   // guarded by mu
}

var errServiceDown = errors.New("connection refused")

func newKeyService(t *testing.T, number byte) *keyService {
	return &keyService{KeyEncryptionKey: storeKey(t, number)}
}

func (s *keyService) ID() string { return "kms://" + s.KeyEncryptionKey.ID() }

func (s *keyService) set(down error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

func (s *keyService) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *keyService) call() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	return s.down
}

func (s *keyService) Wrap(ctx context.Context, plaintext, associatedData []byte) ([]byte, error) {
	if err := s.call(); err != nil {
		return nil, err
	}
	return s.KeyEncryptionKey.Wrap(ctx, plaintext, associatedData)
}

func (s *keyService) Unwrap(ctx context.Context, ciphertext, associatedData []byte) ([]byte, error) {
	if err := s.call(); err != nil {
		return nil, err
	}
	return s.KeyEncryptionKey.Unwrap(ctx, ciphertext, associatedData)
}

// rotate replaces the data key of an instance at once.
func (i *instance) rotate(t *testing.T) (before, after uint32) {
	t.Helper()
	before = i.ring(t).Primary()
	if _, err := i.Rekey(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.run(t, 5*time.Minute)
	if after = i.ring(t).Primary(); after == before || i.ring(t).Holds(before) {
		t.Fatal("the rotation did not come to its end")
	}
	return before, after
}

func (i *instance) logged(snippet string) int { return i.logs.FilterMessageSnippet(snippet).Len() }

// TestKeysetRestoredWhileRunning: an old keyset is put in the place of the stored one, alone or with old records. The instance that
// runs puts the two together, so that both what was sealed before and what was sealed since opens, here and after a restart.
func TestKeysetRestoredWhileRunning(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			files := newMemoryFiles()
			one := startInstance(t, files)
			old := one.fill(t, 2)
			backup := files.snapshot()
			first, second := one.rotate(t)
			key := recordKey(connection.ID{Connection: "since"})
			if err := one.store.seal(t.Context(), key, []byte("since")); err != nil {
				t.Fatal(err)
			}
			for name, value := range backup {
				if whole || name == keysetKey {
					files.set(name, value)
				}
			}
			time.Sleep(20 * time.Second)
			synctest.Wait()
			if !one.ring(t).Holds(first) || one.ring(t).Primary() != second || one.logged("Was a backup restored?") != 1 {
				t.Errorf("the keyset holds %v, and that was said %d times", one.ring(t).Keys(), one.logged("Was a backup restored?"))
			}
			late := startInstance(t, files)
			for _, i := range []*instance{one, late} {
				i.wantAll(t, old)
				if plain, err := i.store.unseal(t.Context(), key); err != nil || string(plain) != "since" {
					t.Errorf("what was sealed since: %q, %v", plain, err)
				}
			}
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			if keys := one.ring(t).Keys(); len(keys) != 1 || keys[0].ID != second {
				t.Errorf("the old key is not removed again: %v", keys)
			}
			one.wantAll(t, old)
		})
	}
}

// TestKeysetRestoredBeforeAStart: with an old keyset and nobody who knows the newer one, newer records do not open. They are left
// alone, the status names the missing key, and the newer keyset beside it brings them back.
func TestKeysetRestoredBeforeAStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		one := startInstance(t, files)
		want := one.fill(t, 2)
		old := files.snapshot()[keysetKey]
		first, second := one.rotate(t)
		one.keeper.stop()
		newer := files.snapshot()
		files.set(keysetKey, old)
		late := startInstance(t, files)
		late.run(t, time.Minute)
		for key := range want {
			if _, err := late.store.unseal(t.Context(), key); !errors.Is(err, envelope.ErrWrongKey) || !errors.Is(err, connection.ErrUnreadable) {
				t.Fatalf("got %v", err)
			}
		}
		status := late.status(t)
		if len(status.DataKeys) != 2 || status.DataKeys[1].ID != second || status.DataKeys[1].State != "missing" || status.DataKeys[1].Records != len(want) {
			t.Errorf("%+v", status.DataKeys)
		}
		key := recordKey(connection.ID{Connection: "since"})
		if err := late.store.seal(t.Context(), key, []byte("since")); err != nil {
			t.Fatal(err)
		}
		for key := range want {
			if !bytes.Equal(files.snapshot()[key], newer[key]) {
				t.Error("a record that does not open was written over")
			}
		}
		files.set(keysetKey, newer[keysetKey])
		late.wantAll(t, want)
		want[key] = "since"
		time.Sleep(time.Minute)
		synctest.Wait()
		if !late.ring(t).Holds(first) {
			t.Error("the key that sealed meanwhile was given up")
		}
		startInstance(t, files).wantAll(t, want)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if ids := late.wantAll(t, want); len(ids) != 1 || ids[0] != second {
			t.Errorf("sealed with %v", ids)
		}
	})
}

// TestKeysetDamagedWhileRunning: what is stored is left alone, the instance goes on, and when the damaged file is deleted it is
// stored again from memory.
func TestKeysetDamagedWhileRunning(t *testing.T) {
	t.Parallel()
	whole := func(file []byte) []byte { return file }
	for name, damage := range map[string]func([]byte) []byte{
		"cut short": func(file []byte) []byte { return file[:len(file)/2] },
		"empty":     func([]byte) []byte { return []byte{} },
		"changed": func(file []byte) []byte {
			return bytes.Replace(file, []byte(`"revision":1`), []byte(`"revision":7`), 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				files := newMemoryFiles()
				one := startInstance(t, files)
				want := one.fill(t, 1)
				one.run(t, time.Second)
				before := files.snapshot()[keysetKey]
				damaged := damage(whole(before))
				files.set(keysetKey, damaged)
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				key := recordKey(connection.ID{Connection: "since"})
				if err := one.store.seal(t.Context(), key, []byte("since")); err != nil {
					t.Errorf("cannot seal any more: %v", err)
				}
				want[key] = "since"
				one.wantAll(t, want)
				if n := one.logged("does not open here"); n != 1 || one.status(t).Error != "keyset_changed" {
					t.Errorf("that was said %d times, the status is %+v", n, one.status(t))
				}
				if _, err := one.Rekey(t.Context()); err == nil {
					t.Error("a damaged keyset was changed")
				}
				if !bytes.Equal(files.snapshot()[keysetKey], damaged) {
					t.Error("the damaged file was written over")
				}
				late := startInstance(t, files)
				if status := late.status(t); status.Open || status.Error != "damaged" {
					t.Errorf("a process that starts now says %+v", status)
				}
				files.set(keysetKey, nil)
				time.Sleep(30 * time.Second)
				synctest.Wait()
				if !bytes.Equal(files.snapshot()[keysetKey], before) {
					t.Error("the keyset was not stored again")
				}
				startInstance(t, files).wantAll(t, want)
				if status := one.status(t); status.Error != "" {
					t.Errorf("%+v", status)
				}
			})
		})
	}
}

// TestKeysetOfAnotherKey: an instance whose configuration lacks the key that another one has wrapped the keyset with goes on with
// what it has in memory, as long as the keyset still holds its data key.
func TestKeysetOfAnotherKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		behind := startInstance(t, files)
		want := behind.fill(t, 1)
		behind.run(t, time.Second)
		ahead := startInstance(t, files, storeKey(t, 2), storeKey(t, 1))
		ahead.wantAll(t, want)
		time.Sleep(time.Minute)
		synctest.Wait()
		key := recordKey(connection.ID{Connection: "since"})
		if err := behind.store.seal(t.Context(), key, []byte("since")); err != nil {
			t.Errorf("cannot seal any more: %v", err)
		}
		want[key] = "since"
		ahead.wantAll(t, want)
		ahead.rotate(t)
		if err := behind.store.seal(t.Context(), key, []byte("later")); !errors.Is(err, envelope.ErrWrongKey) {
			t.Errorf("sealed with a key that nobody else has any more: %v", err)
		}
		ahead.wantAll(t, want)
	})
}

// TestKeysInAnotherOrder: two instances with the same keys in another order do not wrap against each other.
func TestKeysInAnotherOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files, writes := newMemoryFiles(), 0
		count := func(op, key string) error {
			if op == "store" && key == keysetKey {
				writes++
			}
			return nil
		}
		for range 2 {
			one := startInstance(t, files, storeKey(t, 1), storeKey(t, 2))
			two := startInstance(t, files, storeKey(t, 2), storeKey(t, 1))
			one.storage.before, two.storage.before = count, count
			one.run(t, time.Second)
			two.run(t, time.Hour)
			one.keeper.stop()
			two.keeper.stop()
		}
		if writes > 4 {
			t.Errorf("the keyset was stored %d times", writes)
		}
	})
}

// TestKeyServiceIsDown: a list of keys of which one cannot be asked, in all orders that matter.
func TestKeyServiceIsDown(t *testing.T) {
	t.Parallel()
	local, service := storeKey(t, 1), newKeyService(t, 2)
	down := newKeyService(t, 2)
	down.set(errServiceDown)
	for name, test := range map[string]struct {
		wrapped, configured []KeyEncryptionKey
		want                error
		says                string
	}{
		"first, and not needed":      {[]KeyEncryptionKey{local}, []KeyEncryptionKey{down, local}, nil, "the previous key is still needed"},
		"last, and not needed":       {[]KeyEncryptionKey{local}, []KeyEncryptionKey{local, down}, nil, "-"},
		"first, and needed":          {[]KeyEncryptionKey{service}, []KeyEncryptionKey{down, local}, errServiceDown, "-"},
		"last, and needed":           {[]KeyEncryptionKey{service}, []KeyEncryptionKey{local, down}, errServiceDown, "-"},
		"alone, with nothing stored": {nil, []KeyEncryptionKey{down}, errServiceDown, "-"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := newMemoryFiles()
			want := map[string]string{}
			if test.wrapped != nil {
				want = startInstance(t, files, test.wrapped...).fill(t, 1)
			}
			before := files.snapshot()
			one := startInstance(t, files, test.configured...)
			_, err := one.store.keys.ring(t.Context(), one.storage)
			if !errors.Is(err, test.want) || test.want != nil && errors.Is(err, envelope.ErrWrongKey) {
				t.Fatalf("got %v", err)
			}
			if err == nil {
				one.wantAll(t, want)
			} else if status := one.status(t); status.Error != "unreachable" {
				t.Errorf("%+v", status)
			}
			if !sameFiles(before, files.snapshot()) || test.says != "-" && one.logged(test.says) != 1 {
				t.Errorf("something was written, or not said: %v", one.logs.All())
			}
		})
	}
}

// TestFirstKeyIsDownAtTheStart: the keyset is wrapped with the first key as soon as that can be asked.
func TestFirstKeyIsDownAtTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files, service := newMemoryFiles(), newKeyService(t, 2)
		want := startInstance(t, files).fill(t, 1)
		service.set(errServiceDown)
		one := startInstance(t, files, service, storeKey(t, 1))
		one.run(t, 10*time.Minute)
		one.wantAll(t, want)
		if status := one.status(t); !status.EncryptionKeys[1].Wraps || status.EncryptionKeys[1].Removable || one.logs.FilterLevelExact(zapcore.ErrorLevel).Len() > 2 {
			t.Errorf("%+v, logged %v", status, one.logs.All())
		}
		service.set(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if status := one.status(t); !status.EncryptionKeys[0].Wraps || !status.EncryptionKeys[1].Removable {
			t.Errorf("%+v", status)
		}
		startInstance(t, files, service).wantAll(t, want)
	})
}

// TestKeyServiceIsDownAtTheStart: the keys open by themselves when the service is back. Until then requests are told at once, and
// the service is not flooded.
func TestKeyServiceIsDownAtTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files, service := newMemoryFiles(), newKeyService(t, 2)
		want := startInstance(t, files, service).fill(t, 1)
		asked := service.asked()
		service.set(errServiceDown)
		one := startInstance(t, files, service)
		one.run(t, time.Second)
		for range 600 {
			began := time.Now()
			if _, err := one.store.Load(t.Context(), connection.ID{Connection: "api"}); err == nil || time.Since(began) > time.Second {
				t.Fatalf("%v after %v", err, time.Since(began))
			}
			if err := one.store.seal(t.Context(), recordKey(connection.ID{Connection: "api"}), nil); !errors.Is(err, errServiceDown) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := service.asked() - asked; n > 40 {
			t.Errorf("asked %d times in 10 minutes", n)
		}
		service.set(nil)
		time.Sleep(unreachableMax + 2*time.Second)
		synctest.Wait()
		if one.store.keys.opened.Load() == nil || one.logged("open now") != 1 {
			t.Error("the keys did not open by themselves")
		}
		one.wantAll(t, want)
	})
}

// TestKeyServiceIsDownWhileRunning: whoever has the keys open needs no key service: for hours, for reads and writes. Only a
// rotation waits.
func TestKeyServiceIsDownWhileRunning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files, service := newMemoryFiles(), newKeyService(t, 2)
		one := startInstance(t, files, service)
		want := one.fill(t, 1)
		one.run(t, time.Second)
		if _, err := one.Rekey(t.Context()); err != nil {
			t.Fatal(err)
		}
		first := one.ring(t).Primary()
		service.set(errServiceDown)
		asked := service.asked()
		time.Sleep(24 * time.Hour)
		key := recordKey(connection.ID{Connection: "since"})
		if err := one.store.seal(t.Context(), key, []byte("since")); err != nil {
			t.Error(err)
		}
		want[key] = "since"
		one.wantAll(t, want)
		if status := one.status(t); status.Rekey == nil || status.Rekey.Phase != "publishing" {
			t.Errorf("%+v", status)
		}
		if n := one.logs.FilterLevelExact(zapcore.ErrorLevel).Len(); n != 1 {
			t.Errorf("%d errors were logged", n)
		}
		t.Logf("asked %d times in a day", service.asked()-asked)
		service.set(nil)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if ids := one.wantAll(t, want); len(ids) != 1 || ids[0] == first {
			t.Errorf("the rotation did not go on: %v", ids)
		}
	})
}

// TestKeyServiceIsDownInAReload: a configuration with other keys, none of which can be asked, goes on with what the process has
// open, says so, and asks again.
func TestKeyServiceIsDownInAReload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &engine{keys: make(map[string]*keySource)}
		files, service := newMemoryFiles(), newKeyService(t, 2)
		reload := func(name string, storageID string, keks ...KeyEncryptionKey) *instance {
			i := startInstance(t, files, keks...)
			i.store.keys.storageID = storageID
			i.store.keys = e.keySource(name, func() *keySource { return i.store.keys })
			return i
		}
		one := reload("one", "storage", service)
		want := one.fill(t, 1)
		service.set(errServiceDown)
		asked := service.asked()
		if same := reload("one", "storage", service); same.store.keys != one.store.keys {
			t.Error("the same configuration opens its keys anew")
		}
		two := reload("two", "storage", newDown(t), service)
		two.wantAll(t, want)
		if status := two.status(t); !status.Open || status.Error != "unconfirmed" || two.logged("opened before") != 1 {
			t.Errorf("%+v", status)
		}
		if foreign := reload("three", "another storage", service); foreign.status(t).Open {
			t.Error("the keys of one storage are used for another")
		}
		two.run(t, time.Hour)
		if n := service.asked() - asked; n == 0 || n > 400 {
			t.Errorf("asked %d times in an hour", n)
		}
		service.set(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if status := two.status(t); status.Error != "" || !status.EncryptionKeys[1].Wraps {
			t.Errorf("%+v", status)
		}
		wrong := reload("four", "storage", storeKey(t, 9))
		if _, err := wrong.store.keys.ring(t.Context(), wrong.storage); !errors.Is(err, envelope.ErrWrongKey) {
			t.Errorf("a wrong key, which can be asked: %v", err)
		}
	})
}

func newDown(t *testing.T) *keyService {
	down := newKeyService(t, 3)
	down.set(errServiceDown)
	return down
}

// TestKeysetIsNotCreatedOverAFailure: only "there is none" leads to a new keyset.
func TestKeysetIsNotCreatedOverAFailure(t *testing.T) {
	t.Parallel()
	files := newMemoryFiles()
	startInstance(t, files).fill(t, 1)
	before := files.snapshot()
	one := startInstance(t, files)
	one.storage.before = func(op, key string) error {
		if op == "load" && key == keysetKey {
			return errors.New("storage is down")
		}
		return nil
	}
	if _, err := one.store.keys.ring(t.Context(), one.storage); err == nil || !strings.Contains(err.Error(), "storage is down") {
		t.Errorf("got %v", err)
	}
	if !sameFiles(before, files.snapshot()) {
		t.Error("something was written")
	}
}
