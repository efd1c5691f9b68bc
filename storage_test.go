package caddyoauth

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/envelope"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// storeKey returns a key-encryption key that is the same for the same number.
func storeKey(t testing.TB, number byte) KeyEncryptionKey {
	t.Helper()
	kek, err := envelope.NewKey(secret.New(hex.EncodeToString(slices.Repeat([]byte{number}, 32))))
	if err != nil {
		t.Fatal(err)
	}
	return kek
}

// storeIn returns a store over a directory, sealed with key number 1.
func storeIn(t testing.TB, dir string) *recordStore {
	t.Helper()
	return &recordStore{
		storage: &certmagic.FileStorage{Path: dir}, history: defaultHistory,
		keys: newKeySource([]KeyEncryptionKey{storeKey(t, 1)}, filepath.Join(dir, "unused.key"), zap.NewNop()),
	}
}

// storedSet is a token set with secrets that a search can find.
func storedSet(generation uint64) connection.TokenSet {
	set := fullRecord().Current
	set.Generation = generation
	set.AccessToken = secret.New(fmt.Sprintf("seeded-access-%d", generation))
	set.RefreshToken = secret.New(fmt.Sprintf("seeded-refresh-%d", generation))
	set.Response = secret.New(`{"id_token":"seeded-id"}`)
	return set
}

func storedRecord(id connection.ID, generation uint64) connection.Record {
	return connection.Record{ID: id, Fingerprint: "f", Status: connection.StatusActive, Current: storedSet(generation), UpdatedAt: at2026(0)}
}

func TestStoreKeepsHostileIDsApart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := storeIn(t, filepath.Join(dir, "storage"))
	var ids []connection.ID
	for _, text := range hostileTexts {
		if !utf8.ValidString(text) { // JSON would turn it into another text, whose record could never be loaded
			if err := store.Save(t.Context(), storedRecord(connection.ID{Connection: "api", Subject: text}, 1)); err == nil {
				t.Errorf("%+q was stored", text)
			}
			continue
		}
		ids = append(ids, connection.ID{Connection: "api", Subject: text})
		if text != "" {
			ids = append(ids, connection.ID{Connection: text}, connection.ID{Tenant: text, Connection: "api"})
		}
	}
	for i, id := range ids {
		if err := store.Save(t.Context(), storedRecord(id, uint64(i+1))); err != nil {
			t.Fatalf("save %+q: %v", id, err)
		}
	}
	for i, id := range ids {
		rec, err := store.Load(t.Context(), id)
		if err != nil || rec.ID != id || rec.Current.Generation != uint64(i+1) {
			t.Errorf("load %+q: generation %d, %v", id, rec.Current.Generation, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("something was written beside the storage: %v %v", entries, err)
	}
}

func TestMovedRecordDoesNotOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := storeIn(t, dir)
	own := connection.ID{Tenant: "acme", Connection: "drive", Subject: "alice"}
	if err := store.Save(t.Context(), storedRecord(own, 2)); err != nil {
		t.Fatal(err)
	}
	if err := store.Archive(t.Context(), storedRecord(own, 1)); err != nil {
		t.Fatal(err)
	}
	copyTo := func(from, to string) {
		sealed, err := store.storage.Load(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.storage.Store(t.Context(), to, sealed); err != nil {
			t.Fatal(err)
		}
	}
	for name, other := range map[string]connection.ID{
		"subject": {Tenant: "acme", Connection: "drive", Subject: "mallory"}, "connection": {Tenant: "acme", Connection: "mail", Subject: "alice"},
		"tenant": {Tenant: "evil", Connection: "drive", Subject: "alice"},
	} {
		copyTo(recordKey(own), recordKey(other))
		if _, err := store.Load(t.Context(), other); !errors.Is(err, connection.ErrUnreadable) || !errors.Is(err, envelope.ErrTampered) {
			t.Errorf("moved to another %s: %v", name, err)
		}
	}
	// An old token set must not come back as the current one.
	copyTo(historyKey(own, 1), recordKey(own))
	if _, err := store.Load(t.Context(), own); !errors.Is(err, connection.ErrUnreadable) {
		t.Errorf("history put in the place of the current record: %v", err)
	}
}

// TestRecordOfAnotherIDIsRefused seals a record whose own word differs from its place, as a faulty program would.
func TestRecordOfAnotherIDIsRefused(t *testing.T) {
	t.Parallel()
	store := storeIn(t, t.TempDir())
	alice, mallory := connection.ID{Connection: "api", Subject: "alice"}, connection.ID{Connection: "api", Subject: "mallory"}
	if err := store.save(t.Context(), recordKey(mallory), storedRecord(alice, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Load(t.Context(), mallory); !errors.Is(err, connection.ErrUnreadable) {
		t.Errorf("got %v", err)
	}
}

func TestNothingReadableOnDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := storeIn(t, dir)
	id := connection.ID{Tenant: "seeded-tenant", Connection: "seeded-connection", Subject: "seeded-subject"}
	for generation := uint64(1); generation <= 3; generation++ {
		if err := store.Save(t.Context(), storedRecord(id, generation)); err != nil {
			t.Fatal(err)
		}
		if err := store.Archive(t.Context(), storedRecord(id, generation)); err != nil {
			t.Fatal(err)
		}
	}
	files := 0
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.Contains(file[len(dir):], "seeded") {
			t.Errorf("%s has user text in its name", file)
		}
		if entry.IsDir() {
			return nil
		}
		files++
		if info, err := entry.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v, %v", file, info.Mode(), err)
		}
		raw, err := os.ReadFile(file)
		if secretIn(string(raw), "seeded-") {
			t.Errorf("%s holds a secret that can be read", file)
		}
		return err
	})
	if err != nil || files != 5 { // keyset, current, three in the history
		t.Errorf("looked at %d files, %v", files, err)
	}
	if !secretIn(base64.StdEncoding.EncodeToString([]byte("xxseeded-access")), "seeded-") {
		t.Error("the search does not find what it looks for")
	}
}

// secretIn looks for a text as it is, in hex, and in base64 at all three offsets.
func secretIn(haystack, needle string) bool {
	forms := []string{needle, hex.EncodeToString([]byte(needle))}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for offset := range 3 {
			encoded := encoding.EncodeToString([]byte(strings.Repeat("x", offset) + needle))
			forms = append(forms, encoded[(offset*8+5)/6:len(encoded)-1])
		}
	}
	return slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(haystack, form) })
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := storeIn(t, dir)
	id := connection.ID{Connection: "api"}
	history := filepath.Join(dir, filepath.FromSlash(historyDir(id)))
	if generations, err := store.generations(t.Context(), id); err != nil || len(generations) > 0 {
		t.Fatalf("an empty history: %v, %v", generations, err)
	}
	for generation := uint64(1); generation <= 25; generation++ {
		if err := store.Archive(t.Context(), storedRecord(id, generation)); err != nil {
			t.Fatal(err)
		}
		if generation == 3 { // what a crash of FileStorage and a curious operator leave behind
			for _, name := range []string{"7.json.tmp", "tmp123456", "note.json", ".json", "-1.json", "1e3.json"} {
				if err := os.WriteFile(filepath.Join(history, name), []byte("left over"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(filepath.Join(history, "backup"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	generations, err := store.generations(t.Context(), id)
	if want := []uint64{16, 17, 18, 19, 20, 21, 22, 23, 24, 25}; err != nil || !slices.Equal(generations, want) {
		t.Errorf("the history holds %v (%v), want %v", generations, err, want)
	}
	rec, err := store.load(t.Context(), historyKey(id, 25), id)
	if want := storedSet(25); err != nil || !rec.Current.AccessToken.Equal(want.AccessToken) || !rec.Current.RefreshToken.Equal(want.RefreshToken) {
		t.Errorf("the newest entry does not read back: %v", err)
	}
	if _, err := os.Stat(filepath.Join(history, "note.json")); err != nil {
		t.Errorf("a file that is none of ours was touched: %v", err)
	}
}

// TestHistoryIsWholeDuringARefresh: whenever another instance stores a new token set and archives the one before, who reads everything
// meanwhile misses none and sees none twice.
func TestHistoryIsWholeDuringARefresh(t *testing.T) {
	t.Parallel()
	id := connection.ID{Connection: "api"}
	for n := 0; ; n++ { // the operation of the reader before which a part of the refresh happens
		reached := false
		for _, part := range []string{"saved", "saved and archived", "archived"} {
			synctest.Test(t, func(t *testing.T) {
				files := newMemoryFiles()
				writer, reader := startInstance(t, files).store, startInstance(t, files)
				save := func(s *recordStore, generation uint64) {
					rec := storedRecord(id, generation)
					rec.UpdatedAt = time.Now()
					if err := s.Save(t.Context(), rec); err != nil {
						t.Error(err)
					}
				}
				archive := func() {
					if err := writer.Archive(t.Context(), storedRecord(id, 3)); err != nil {
						t.Error(err)
					}
				}
				for generation := uint64(1); generation <= 2; generation++ {
					if err := writer.Archive(t.Context(), storedRecord(id, generation)); err != nil {
						t.Fatal(err)
					}
				}
				if save(writer, 3); part == "archived" {
					save(writer, 4)
				}
				operations, last := 0, time.Now().Add((archiveLooks-1)*archivePause)
				happened := false // before the last look
				reader.storage.before = func(string, string) error {
					if operations++; operations != n+1 {
						return nil
					}
					reached, happened = true, time.Now().Before(last)
					if part != "archived" {
						save(writer, 4)
					}
					if part == "saved" {
						time.AfterFunc(archivePause/2, archive)
					} else {
						archive()
					}
					return nil
				}
				records, err := reader.store.records(t.Context(), id)
				var got []uint64
				for _, rec := range records {
					got = append(got, rec.Current.Generation)
				}
				if before, after := []uint64{1, 2, 3}, []uint64{1, 2, 3, 4}; err != nil || happened && !slices.Equal(got, after) && (part == "archived" || !slices.Equal(got, before)) {
					t.Errorf("%s before operation %d: read the generations %v, %v", part, n+1, got, err)
				}
				time.Sleep(time.Second)
			})
		}
		if !reached {
			break
		}
	}
	// A gap that stays is not waited for, but for a moment after a change.
	synctest.Test(t, func(t *testing.T) {
		store := startInstance(t, newMemoryFiles()).store
		rec := storedRecord(id, 5)
		for _, tt := range []struct{ old, wait time.Duration }{{0, (archiveLooks - 1) * archivePause}, {archiveWithin + time.Second, 0}} {
			rec.UpdatedAt = time.Now().Add(-tt.old)
			if err := store.Save(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if records, err := store.records(t.Context(), id); err != nil || len(records) != 1 || time.Since(began) != tt.wait {
				t.Errorf("%d records after %v, %v", len(records), time.Since(began), err)
			}
		}
	})
}

// TestUnreadableIsNotFoundNorOverwritten: whoever takes "unreadable" for "not there" writes over the only copy.
func TestUnreadableIsNotFoundNorOverwritten(t *testing.T) {
	t.Parallel()
	id := connection.ID{Connection: "api"}
	for name, damage := range map[string]func([]byte) []byte{
		"truncated": func(b []byte) []byte { return b[:len(b)/2] },
		"flipped":   func(b []byte) []byte { b[len(b)-8] ^= 1; return b },
		"empty":     func([]byte) []byte { return nil },
		"foreign":   func([]byte) []byte { return []byte(`{"access_token":"seeded"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			store := storeIn(t, dir)
			if err := store.Save(t.Context(), storedRecord(id, 1)); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, filepath.FromSlash(recordKey(id)))
			sealed, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, damage(slices.Clone(sealed)), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = store.Load(t.Context(), id)
			if !errors.Is(err, connection.ErrUnreadable) || errors.Is(err, connection.ErrNotFound) || unreadableHint(err) == "" {
				t.Errorf("got %v, hint %q", err, unreadableHint(err))
			}
			if err != nil && strings.Contains(err.Error(), "seeded") {
				t.Error("the error repeats what was stored")
			}
		})
	}
}

// TestLockHeedsItsContext: a lock that another holds must be given up at the deadline, and a release must work after it.
func TestLockHeedsItsContext(t *testing.T) {
	t.Parallel()
	store := storeIn(t, t.TempDir())
	id := connection.ID{Connection: "api"}
	ctx, cancel := context.WithCancel(t.Context())
	unlock, err := store.Lock(ctx, id, 1)
	if err != nil {
		t.Fatal(err)
	}
	next, err := store.Lock(ctx, id, 2) // another generation is another lock
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := store.Lock(ended, id, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a held lock gave %v", err)
	}
	cancel()
	if err := errors.Join(unlock(), next()); err != nil {
		t.Errorf("release after the context's end: %v", err)
	}
	if err := unlock(); err == nil {
		t.Error("a lost lock was not reported")
	}
}

// contractStore is a store as the contract's test wants to see it.
type contractStore struct {
	*recordStore
}

// History shows which generations the history holds.
func (s contractStore) History(ctx context.Context, id connection.ID) ([]uint64, error) {
	return s.generations(ctx, id)
}

// TestStoreContract: what package connection relies on.
func TestStoreContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) connection.Store {
		t.Helper()
		return contractStore{storeIn(t, t.TempDir())}
	})
}

// TestListingWhileWriting: file storage fails to walk a directory in which a file vanishes, as the temporary file of every write does.
// What is there does not seem to be gone meanwhile.
func TestListingWhileWriting(t *testing.T) {
	t.Parallel()
	s := storeIn(t, t.TempDir())
	id := connection.ID{Connection: "api"}
	old := connection.Record{ID: id, Current: connection.TokenSet{Generation: 1, AccessToken: secret.New("old")}}
	if err := s.Archive(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.storage.Store(context.Background(), historyKey(id, 2), []byte("{}")); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 500 {
		if generations, err := s.generations(t.Context(), id); err != nil || len(generations) == 0 {
			t.Errorf("the history holds %v, %v", generations, err)
			break
		}
	}
	close(stop)
	writers.Wait()
}
