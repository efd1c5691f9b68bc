package caddyoauth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// faultyStorage is a storage whose faults a test chooses.
type faultyStorage struct {
	*memoryStorage
	lockless bool             // locks exclude nobody
	broken   map[string]error // what Store answers, by key

	loading sync.Mutex
	loads   []string
}

func newFaultyStorage() *faultyStorage {
	s := &faultyStorage{memoryStorage: &memoryStorage{memoryFiles: newMemoryFiles()}, broken: make(map[string]error)}
	s.before = func(op, key string) error {
		s.loading.Lock()
		defer s.loading.Unlock()
		switch op {
		case "load":
			s.loads = append(s.loads, key)
		case "store":
			return s.broken[key]
		}
		return nil
	}
	return s
}

func (s *faultyStorage) Lock(ctx context.Context, name string) error {
	if s.lockless {
		return nil
	}
	return s.memoryStorage.Lock(ctx, name)
}

func (s *faultyStorage) Unlock(ctx context.Context, name string) error {
	if s.lockless {
		return nil
	}
	return s.memoryStorage.Unlock(ctx, name)
}

// loaded returns what was loaded since it was asked last, but for the keyset.
func (s *faultyStorage) loaded() []string {
	s.loading.Lock()
	defer s.loading.Unlock()
	loads := slices.DeleteFunc(s.loads, func(key string) bool { return key == keysetKey })
	s.loads = nil
	return loads
}

// member is one process with its own catalog over a storage that it shares.
type member struct {
	*catalog
	t     testing.TB
	store *recordStore
}

func newMember(t testing.TB, storage certmagic.Storage) *member {
	t.Helper()
	return &member{t: t, catalog: newCatalog(), store: &recordStore{
		storage: storage, history: defaultHistory, keys: newKeySource([]KeyEncryptionKey{storeKey(t, 1)}, "", zap.NewNop()),
	}}
}

// make creates an entry, as the API does.
func (i *member) make(e *entry) (*entry, error) {
	return i.change(i.t.Context(), i.store, entryKey(e.Tenant, e.Kind.space(), e.Name), func(current *entry) (*entry, error) {
		if current != nil {
			return nil, errNameTaken
		}
		e.ID = newID()
		return e, nil
	})
}

func (i *member) must(e *entry, err error) *entry {
	i.t.Helper()
	if err != nil {
		i.t.Fatal(err)
	}
	return e
}

// names returns what the instance knows, after it has looked.
func (i *member) names() string {
	i.t.Helper()
	if err := i.sync(i.t.Context(), i.store); err != nil {
		i.t.Fatal(err)
	}
	all, _ := i.all()
	var names []string
	for _, e := range all {
		names = append(names, fmt.Sprintf("%s:%d", e.Name, e.Revision))
	}
	return strings.Join(names, " ")
}

func oauth2Entry(name string) *entry {
	return &entry{Kind: kindOAuth2, Name: name, BaseEnvironment: "production", Options: newEntryOptions(map[string]json.RawMessage{
		"client_id": json.RawMessage(`"caddy"`), "client_secret": json.RawMessage(`"seeded-secret"`),
	})}
}

// TestInstancesFollow: what one instance makes, changes and removes, the other one knows after its next look.
func TestInstancesFollow(t *testing.T) {
	t.Parallel()
	storage := newFaultyStorage()
	one, other := newMember(t, storage), newMember(t, storage)
	if got := other.names(); got != "" {
		t.Fatalf("there is %q in an empty storage", got)
	}
	drive := one.must(one.make(oauth2Entry("drive")))
	if got := other.names(); got != "drive:1" || one.names() != got {
		t.Fatalf("the other knows %q", got)
	}
	one.must(one.change(t.Context(), one.store, entryKey("", "secret", "drive"), func(current *entry) (*entry, error) {
		next := *current
		next.Note = "changed"
		return &next, nil
	}))
	one.must(one.make(oauth2Entry("mail")))
	if got := other.names(); !strings.Contains(got, "drive:2") || !strings.Contains(got, "mail:1") {
		t.Fatalf("the other knows %q", got)
	}
	all, version := other.all()
	if all[0].Name == "drive" && (all[0].ID != drive.ID || all[0].Note != "changed" || !all[0].CreatedAt.Equal(drive.CreatedAt)) {
		t.Errorf("got %+v", all[0])
	}
	storage.loaded()
	other.names()
	if loads := storage.loaded(); len(loads) != 1 || loads[0] != indexKey {
		t.Errorf("a look at what has not changed reads %v", loads)
	}
	if _, again := other.all(); again != version {
		t.Error("nothing has changed, and yet it has a new version")
	}
	one.must(one.change(t.Context(), one.store, entryKey("", "secret", "mail"), func(*entry) (*entry, error) { return nil, nil }))
	if got := other.names(); got != "drive:2" || one.names() != got {
		t.Errorf("the other knows %q", got)
	}
}

// TestNameIsTakenOnce: of many who take a name at once, on as many instances, one gets it.
func TestNameIsTakenOnce(t *testing.T) {
	t.Parallel()
	storage := newFaultyStorage()
	const racers = 8
	errs := make(chan error, racers)
	var all sync.WaitGroup
	for range racers {
		racer := newMember(t, storage)
		all.Go(func() {
			_, err := racer.make(oauth2Entry("drive"))
			errs <- err
		})
	}
	all.Wait()
	close(errs)
	won := 0
	for err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, errNameTaken) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d got the name", won)
	}
	if _, err := newMember(t, storage).make(&entry{Kind: kindCertificate, Name: "drive"}); !errors.Is(err, errNameTaken) {
		t.Errorf("a certificate of the same name: %v", err)
	}
	for _, e := range []*entry{{Kind: kindCollection, Name: "drive"}, {Kind: kindOAuth2, Name: "drive", Tenant: "acme"}, {Kind: kindOAuth2, Name: "Drive"}} {
		if _, err := newMember(t, storage).make(e); err != nil {
			t.Errorf("%+v: %v", e, err)
		}
	}
}

// TestLostLock: two write at once since the lock excludes nobody. Who lost is told so, and nobody believes in what is not stored.
func TestLostLock(t *testing.T) {
	t.Parallel()
	storage := newFaultyStorage()
	storage.lockless = true
	one, other := newMember(t, storage), newMember(t, storage)
	key := entryKey("", "secret", "drive")
	var winner *entry
	_, err := one.change(t.Context(), one.store, key, func(*entry) (*entry, error) {
		e := oauth2Entry("drive")
		e.ID = newID()
		return e, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// The other one loads revision 1, and before it stores revision 2 the first one stores its own.
	_, err = other.change(t.Context(), other.store, key, func(current *entry) (*entry, error) {
		winner = one.must(one.change(t.Context(), one.store, key, func(current *entry) (*entry, error) {
			next := *current
			next.Note = "first"
			return &next, nil
		}))
		next := *current
		next.Note = "second"
		return &next, nil
	})
	if err != nil {
		t.Fatal(err) // it wrote last: what is stored is its own
	}
	one.names()
	all, _ := one.all()
	if len(all) != 1 || all[0].Note != "second" || all[0].Nonce == winner.Nonce {
		t.Errorf("the first one goes on believing in %+v", all[0])
	}
}

// TestOverwrittenAfterStore: somebody else's write between ours and the look back means that ours is lost.
func TestOverwrittenAfterStore(t *testing.T) {
	t.Parallel()
	storage := newFaultyStorage()
	one := newMember(t, &overwriting{faultyStorage: storage, t: t})
	if _, err := one.make(oauth2Entry("drive")); !errors.Is(err, errRevision) {
		t.Errorf("got %v", err)
	}
	if all, _ := one.all(); len(all) != 0 {
		t.Errorf("it believes in %+v", all)
	}
}

// overwriting is a storage in which somebody else is faster.
type overwriting struct {
	*faultyStorage
	t    testing.TB
	done bool
}

func (s *overwriting) Store(ctx context.Context, key string, value []byte) error {
	if err := s.faultyStorage.Store(ctx, key, value); err != nil || s.done || !strings.HasPrefix(key, entryDir) {
		return err
	}
	s.done = true
	other := newMember(s.t, s.faultyStorage)
	s.lockless = true
	_, err := other.change(ctx, other.store, key, func(current *entry) (*entry, error) { next := *current; return &next, nil })
	return err
}

// TestIndexHeals: an index that lost a line, is damaged or is gone costs time, and nothing else.
func TestIndexHeals(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(s *faultyStorage, old []byte){
		"lost a line": func(s *faultyStorage, old []byte) { s.files[indexKey] = old },
		"damaged":     func(s *faultyStorage, _ []byte) { s.files[indexKey] = []byte("x") },
		"gone":        func(s *faultyStorage, _ []byte) { delete(s.files, indexKey) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := newFaultyStorage()
				one, other := newMember(t, storage), newMember(t, storage)
				one.must(one.make(oauth2Entry("drive")))
				other.names()
				old := bytes.Clone(storage.files[indexKey])
				one.must(one.make(oauth2Entry("mail")))
				spoil(storage, old)
				if got := newMember(t, storage).names(); strings.Count(got, ":1") != 2 {
					t.Errorf("who starts knows %q", got)
				}
				if got := one.names(); strings.Count(got, ":1") != 2 {
					t.Errorf("who made it knows %q", got)
				}
				time.Sleep(fullScan)
				if got := other.names(); strings.Count(got, ":1") != 2 {
					t.Errorf("after a full scan the other knows %q", got)
				}
				one.must(one.make(oauth2Entry("chat")))
				if got := other.names(); strings.Count(got, ":1") != 3 {
					t.Errorf("after the next change the other knows %q", got)
				}
			})
		})
	}
}

// TestIndexCannotBeWritten: the entry is stored, and that others learn of it later is said.
func TestIndexCannotBeWritten(t *testing.T) {
	t.Parallel()
	storage := newFaultyStorage()
	one := newMember(t, storage)
	one.must(one.make(oauth2Entry("drive")))
	storage.broken[indexKey] = errors.New("full")
	e, err := one.make(oauth2Entry("mail"))
	var late *indexError
	if e == nil || !errors.As(err, &late) {
		t.Fatalf("got %v, %v", e, err)
	}
	if got := one.names(); strings.Count(got, ":1") != 2 {
		t.Errorf("it knows %q", got)
	}
}

// TestEntriesAreSealed: storage holds no secret and no name, and an entry in another place does not open.
func TestEntriesAreSealed(t *testing.T) {
	t.Parallel()
	storage := newFaultyStorage()
	one := newMember(t, storage)
	e := oauth2Entry("seeded-name")
	e.Environments = map[string]entryOptions{"seeded-env": newEntryOptions(map[string]json.RawMessage{"client_secret": json.RawMessage(`"seeded-other"`)})}
	one.must(one.make(e))
	one.must(one.make(&entry{Kind: kindCertificate, Name: "seeded-cert", Chain: "seeded-chain", Key: secret.New("seeded-key")}))
	for key, value := range storage.files {
		if strings.Contains(key+string(value), "seeded") {
			t.Errorf("%s holds something that is not sealed", key)
		}
	}
	if text := fmt.Sprintf("%+v %#v", e, e); strings.Contains(text, "seeded-secret") || strings.Contains(text, "seeded-other") {
		t.Error("an entry prints a secret")
	}
	from, to := entryKey("", "secret", "seeded-name"), entryKey("acme", "secret", "seeded-name")
	storage.files[to] = storage.files[from]
	if _, err := one.store.entry(t.Context(), to); !errors.Is(err, connection.ErrUnreadable) {
		t.Errorf("moved to another tenant: %v", err)
	}
	plain, err := encodeEntry(e)
	if err != nil {
		t.Fatal(err)
	}
	if err := one.store.seal(t.Context(), to, plain); err != nil {
		t.Fatal(err)
	}
	if _, err := one.store.entry(t.Context(), to); !errors.Is(err, connection.ErrUnreadable) {
		t.Errorf("sealed for a place that is not its own: %v", err)
	}
	if err := newMember(t, storage).sync(t.Context(), one.store); err == nil {
		t.Error("a look says nothing of an entry that cannot be read")
	}
}

// TestUnreadableEntryHidesNoOther: one bad file must not take the others away.
func TestUnreadableEntryHidesNoOther(t *testing.T) {
	t.Parallel()
	storage := newFaultyStorage()
	one, other := newMember(t, storage), newMember(t, storage)
	one.must(one.make(oauth2Entry("drive")))
	other.names()
	one.must(one.make(oauth2Entry("mail")))
	storage.files[entryKey("", "secret", "drive")] = []byte("damaged")
	one.must(one.make(oauth2Entry("chat")))
	if err := other.sync(t.Context(), other.store); err != nil {
		t.Fatal(err) // the index says that it has not changed, so it is not read
	}
	if all, _ := other.all(); len(all) != 3 {
		t.Errorf("the other knows %d", len(all))
	}
	fresh := newMember(t, storage)
	if err := fresh.sync(t.Context(), fresh.store); !errors.Is(err, connection.ErrUnreadable) {
		t.Errorf("got %v", err)
	}
	if all, _ := fresh.all(); len(all) != 2 {
		t.Errorf("who starts knows %d", len(all))
	}
}

// TestBusyCatalog: a lock that cannot be had ends the wait.
func TestBusyCatalog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := newFaultyStorage()
		if err := storage.Lock(t.Context(), entryLock); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := newMember(t, storage).make(oauth2Entry("drive")); !errors.Is(err, ErrBusy) || time.Since(began) != changeTimeout {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
	})
}

// TestEntryGoldens reads what earlier versions stored. A file in testdata/entries is never changed or removed.
func TestEntryGoldens(t *testing.T) {
	t.Parallel()
	want := map[string]*entry{"v1-oauth2.json": fullEntry(), "v1-moved.json": movedEntry(), "v1-certificate.json": certificateEntry(), "v1-collection.json": collectionEntry(), "v1-api-key.json": keyEntry()}
	files, err := filepath.Glob("testdata/entries/*.json")
	if err != nil || len(files) != len(want) {
		t.Fatalf("found %d goldens, know %d (%v)", len(files), len(want), err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		e, err := decodeEntry(raw)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		again, err := encodeEntry(e)
		if err != nil || string(again) != string(bytes.TrimSpace(raw)) {
			t.Errorf("%s: is written differently today: %v\n%s", file, err, again)
		}
		other, _ := encodeEntry(want[filepath.Base(file)])
		if string(other) != string(again) || !reflect.DeepEqual(e.Access, want[filepath.Base(file)].Access) {
			t.Errorf("%s: decodes to something else:\n%s", file, other)
		}
	}
}

func fullEntry() *entry {
	return &entry{
		Kind: kindOAuth2, ID: "0d5b1b1e-6f0c-4b0e-9a53-0f1f6d3f2c11", Tenant: "acme", Name: "drive", Collection: "7c1cf0a6-2f3e-4d46-8f5a-8a3a5c2f9e01",
		Note: "for <reports> & é", Revision: 3, Nonce: "0123456789abcdef", CreatedAt: at2026(1), UpdatedAt: at2026(2), CreatedBy: "jane", UpdatedBy: "key oi_ab12",
		Options: newEntryOptions(map[string]json.RawMessage{
			"provider": json.RawMessage(`{"name":"google"}`), "client_id": json.RawMessage(`"caddy"`), "client_secret": json.RawMessage(`"hidden \"1\""`),
			"mtls_certificate_id": json.RawMessage(`"5f0c0f3a-9f5e-4f0a-8b8e-0b0a0c0d0e0f"`),
		}),
		BaseEnvironment: "production",
		Environments:    map[string]entryOptions{"staging": newEntryOptions(map[string]json.RawMessage{"client_secret": json.RawMessage(`"hidden 2"`)})},
	}
}

func movedEntry() *entry {
	e := fullEntry()
	e.Moved = map[string]moved{"production": {Times: 2, Replaced: true}}
	return e
}

func certificateEntry() *entry {
	return &entry{
		Kind: kindCertificate, ID: "5f0c0f3a-9f5e-4f0a-8b8e-0b0a0c0d0e0f", Tenant: "acme", Name: "mtls", Revision: 1, Nonce: "1", CreatedAt: at2026(1),
		UpdatedAt: at2026(1), Chain: "-----BEGIN CERTIFICATE-----\n", Key: secret.New("-----BEGIN PRIVATE KEY-----\n"),
	}
}

func collectionEntry() *entry {
	return &entry{Kind: kindCollection, ID: "7c1cf0a6-2f3e-4d46-8f5a-8a3a5c2f9e01", Name: "reports", Revision: 1, Nonce: "1", CreatedAt: at2026(1), UpdatedAt: at2026(1)}
}

func keyEntry() *entry {
	return &entry{
		Kind: kindAPIKey, ID: "9e6a2d2c-0d5e-4e8f-8f7a-1b2c3d4e5f60", Name: "ci", Revision: 1, Nonce: "1", CreatedAt: at2026(1), UpdatedAt: at2026(1),
		Access: &access{Prefix: "oi_ab12cd34", Hash: strings.Repeat("ab", 32), Role: "operator", Collections: []string{"7c1cf0a6-2f3e-4d46-8f5a-8a3a5c2f9e01"}, AllTenants: true, ExpiresAt: at2026(59)},
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for _, e := range []*entry{fullEntry(), movedEntry(), certificateEntry(), collectionEntry(), keyEntry()} {
		plain, err := encodeEntry(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := decodeEntry(raw)
		if err != nil {
			return
		}
		plain, err := encodeEntry(e)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := decodeEntry(plain); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}
