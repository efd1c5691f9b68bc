package caddyoauth

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

// filesBelow reads all files of a directory, but for lock files.
func filesBelow(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Base(filepath.Dir(file)) == "locks" {
			return err
		}
		files[file], err = os.ReadFile(file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func sameFiles(a, b map[string][]byte) bool { return maps.EqualFunc(a, b, bytes.Equal) }

// generatedSource returns a key source without configured keys, and what it logs.
func generatedSource(file string) (*keySource, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	return newKeySource(nil, file, zap.New(core)), logs
}

func TestGeneratedKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	storage, file := &certmagic.FileStorage{Path: filepath.Join(dir, "storage")}, filepath.Join(dir, "data", "oauth2_inject", "encryption.key")
	keys, logs := generatedSource(file)
	ring, err := keys.ring(t.Context(), storage)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file has mode %v, %v", info.Mode(), err)
	}
	if parent, err := os.Stat(filepath.Dir(file)); err != nil || parent.Mode().Perm()&0o077 != 0 {
		t.Errorf("its directory has mode %v, %v", parent.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(entries) != 1 {
		t.Errorf("something is left beside the key file: %v, %v", entries, err)
	}
	if warned := logs.FilterLevelExact(zapcore.WarnLevel).FilterField(zap.String("key_file", file)); warned.Len() != 1 {
		t.Errorf("the warning was given %d times", warned.Len())
	}
	before := filesBelow(t, dir)
	for file, raw := range before {
		if strings.HasSuffix(file, "encryption.key") {
			for _, entry := range logs.All() {
				if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, strings.TrimSpace(string(raw))) {
					t.Error("the key was logged")
				}
			}
		}
	}
	// The next process uses the same key, and writes nothing.
	again, _ := generatedSource(file)
	reopened, err := again.ring(t.Context(), storage)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := ring.Seal([]byte("text"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := reopened.Open(sealed, nil); err != nil || string(plain) != "text" {
		t.Errorf("the second process cannot open what the first sealed: %v", err)
	}
	if !sameFiles(before, filesBelow(t, dir)) {
		t.Error("the second process changed something")
	}
}

// TestGeneratedKeyIsLost: with a keyset but no key file, a new key would look like a start without tokens. Nothing is made.
func TestGeneratedKeyIsLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	storage, file := &certmagic.FileStorage{Path: filepath.Join(dir, "storage")}, filepath.Join(dir, "data", "encryption.key")
	first, _ := generatedSource(file)
	if _, err := first.ring(t.Context(), storage); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	before := filesBelow(t, dir)
	second, _ := generatedSource(file)
	_, err := second.ring(t.Context(), storage)
	if !errors.Is(err, envelope.ErrWrongKey) || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
	if hint := unreadableHint(err); !strings.Contains(hint, "`encryption`") {
		t.Errorf("the hint is %q", hint)
	}
	// Another key in its place is another wrong key.
	if err := createKeyFile(file); err != nil {
		t.Fatal(err)
	}
	if _, err := newKeySource(nil, file, zap.NewNop()).ring(t.Context(), storage); !errors.Is(err, envelope.ErrWrongKey) {
		t.Errorf("another key: %v", err)
	}
	if err := os.Remove(file); err != nil || !sameFiles(before, filesBelow(t, dir)) {
		t.Errorf("something was written (%v)", err)
	}
}

// TestKeyFileIsSpoilt: an unreadable key is not replaced by a new one either.
func TestKeyFileIsSpoilt(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "encryption.key")
	for _, text := range []string{"", "seeded-nonsense"} {
		writeFile(t, file, text)
		keys, _ := generatedSource(file)
		_, err := keys.ring(t.Context(), &certmagic.FileStorage{Path: t.TempDir()})
		if err == nil || strings.Contains(err.Error(), "seeded") {
			t.Errorf("%q: %v", text, err)
		}
		if raw, _ := os.ReadFile(file); string(raw) != text {
			t.Error("the key file was overwritten")
		}
	}
}

// TestKeysetIsCreatedOnce starts two instances at the same moment, with a key of their own each or a generated one for both.
func TestKeysetIsCreatedOnce(t *testing.T) {
	t.Parallel()
	for round := range 24 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var keks []KeyEncryptionKey
			if round%2 == 0 {
				keks = []KeyEncryptionKey{storeKey(t, 1)}
			}
			const instances = 3
			var rings [instances]*envelope.KeyRing
			var errs [instances]error
			start := make(chan struct{})
			var wait sync.WaitGroup
			for i := range instances {
				wait.Go(func() {
					keys := newKeySource(keks, filepath.Join(dir, "encryption.key"), zap.NewNop())
					<-start
					rings[i], errs[i] = keys.ring(t.Context(), &certmagic.FileStorage{Path: dir})
				})
			}
			close(start)
			wait.Wait()
			if err := errors.Join(errs[:]...); err != nil {
				t.Fatal(err)
			}
			sealed, err := rings[0].Seal([]byte("text"), nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, ring := range rings {
				if _, err := ring.Open(sealed, nil); err != nil {
					t.Errorf("instance %d has another keyset: %v", i, err)
				}
			}
		})
	}
}

// TestKeyFileIsCreatedOnce: the key that is in the file stays, whoever comes second.
func TestKeyFileIsCreatedOnce(t *testing.T) {
	t.Parallel()
	for range 50 {
		file := filepath.Join(t.TempDir(), "deep", "encryption.key")
		var wait sync.WaitGroup
		start := make(chan struct{})
		var read [4]string
		for i := range read {
			wait.Go(func() {
				<-start
				if err := createKeyFile(file); err != nil {
					t.Error(err)
				}
				raw, err := os.ReadFile(file)
				if err != nil {
					t.Error(err)
				}
				read[i] = string(raw)
			})
		}
		close(start)
		wait.Wait()
		for _, text := range read {
			if text == "" || text != read[0] {
				t.Fatal("the key changed after somebody had read it")
			}
		}
	}
}

// TestKeyChange goes from one key to the next as an operator would.
func TestKeyChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	storage := &certmagic.FileStorage{Path: dir}
	withKeys := func(numbers ...byte) (*recordStore, *observer.ObservedLogs) {
		core, logs := observer.New(zapcore.DebugLevel)
		var keks []KeyEncryptionKey
		for _, number := range numbers {
			keks = append(keks, storeKey(t, number))
		}
		return &recordStore{storage: storage, history: defaultHistory, keys: newKeySource(keks, "", zap.New(core))}, logs
	}
	id := connection.ID{Connection: "api"}
	first, _ := withKeys(1)
	if err := first.Save(t.Context(), storedRecord(id, 1)); err != nil {
		t.Fatal(err)
	}
	before := filesBelow(t, dir)
	wrong, _ := withKeys(2)
	if _, err := wrong.Load(t.Context(), id); !errors.Is(err, envelope.ErrWrongKey) || unreadableHint(err) == "" {
		t.Errorf("with another key: %v", err)
	}
	if err := wrong.Save(t.Context(), storedRecord(id, 2)); !errors.Is(err, envelope.ErrWrongKey) {
		t.Errorf("saved with another key: %v", err)
	}
	if !sameFiles(before, filesBelow(t, dir)) {
		t.Fatal("a program with another key wrote something")
	}
	both, logs := withKeys(2, 1)
	if rec, err := both.Load(t.Context(), id); err != nil || rec.Current.Generation != 1 {
		t.Fatalf("with the previous key second: %v", err)
	}
	if logs.FilterMessageSnippet("no longer needed").Len() != 1 {
		t.Error("the operator was not told that the previous key can go")
	}
	second, logs := withKeys(2)
	if rec, err := second.Load(t.Context(), id); err != nil || rec.Current.Generation != 1 || logs.Len() > 0 {
		t.Errorf("with the new key alone: %v, %d log lines", err, logs.Len())
	}
	if old, _ := withKeys(1); true {
		if _, err := old.Load(t.Context(), id); !errors.Is(err, envelope.ErrWrongKey) {
			t.Errorf("with the old key alone: %v", err)
		}
	}
}

// TestWrongKeyInARunningCaddy: a clear state, and neither a crash nor an overwrite.
func TestWrongKeyInARunningCaddy(t *testing.T) {
	c := newLiveCaddy(t)
	key := func(digit string) string { return "encryption key " + strings.Repeat(digit, 32) }
	restart := func(encryption string) {
		t.Helper()
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
		c.mustLoad(c.config("", encryption+"\n\n"))
	}
	restart(key("0a"))
	c.want(c.get(), "Bearer token-1")
	before := filesBelow(t, filepath.Join(c.dir, "storage"))
	restart(key("0b"))
	c.want(c.get(), "503 Service Unavailable")
	c.soon("the hint", func() bool {
		return strings.Contains(c.log(), "tokens can be neither read nor stored") && strings.Contains(c.log(), "add the key that it was sealed with")
	})
	wantStatus(t, c, func(r StatusReport) bool {
		return r.Connections[0].Status == "failing" && r.Connections[0].Error == "storage"
	})
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if !sameFiles(before, filesBelow(t, filepath.Join(c.dir, "storage"))) {
		t.Fatal("a Caddy with the wrong key changed the storage")
	}
	c.wantAsked(1)
	// The correction is a reload, not a restart.
	c.mustLoad(c.config("", key("0b")+"\n\n"))
	c.want(c.get(), "503 Service Unavailable")
	c.mustLoad(c.config("", key("0b")+"\n"+key("0a")+"\n\n"))
	c.soon("the token is back", func() bool { return c.get() == "Bearer token-1" })
	restart(key("0b"))
	c.want(c.get(), "Bearer token-1")
	c.wantAsked(1)
}

// TestPassphraseFromFile: {file.*} trims one line break, so an editor's newline does not make another passphrase.
func TestPassphraseFromFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "passphrase")
	ringWith := func(text string, storage certmagic.Storage) error {
		writeFile(t, file, text)
		module := &KeyPassphrase{Passphrase: "{file." + file + "}", Iterations: envelope.MinIterations}
		if err := module.Provision(caddy.Context{}); err != nil {
			return err
		}
		_, err := newKeySource([]KeyEncryptionKey{module.KeyEncryptionKey()}, "", zap.NewNop()).ring(t.Context(), storage)
		return err
	}
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	for _, text := range []string{"correct horse battery", "correct horse battery\n"} {
		if err := ringWith(text, storage); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := ringWith("correct horse battery\n\n", storage); !errors.Is(err, envelope.ErrWrongKey) {
		t.Errorf("two line breaks are part of the passphrase: %v", err)
	}
	for _, text := range []string{"", "\n", "short"} {
		if err := ringWith(text, storage); err == nil || strings.Contains(err.Error(), "short\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestKeyModulesRefuse what is no key, without repeating it.
func TestKeyModulesRefuse(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"", "seeded", "{env.TEST_KEYS_UNSET}", strings.Repeat("0", 63), "{http.request.host}"} {
		key, passphrase := &KeyLiteral{Key: raw}, &KeyPassphrase{Passphrase: raw}
		if len(raw) == 63 {
			passphrase.Iterations = 1
		}
		for _, err := range []error{key.Provision(caddy.Context{}), passphrase.Provision(caddy.Context{})} {
			if err == nil || strings.Contains(err.Error(), "seeded") || !strings.Contains(err.Error(), "encryption") {
				t.Errorf("%q: %v", raw, err)
			}
		}
	}
}

// TestOtherStorageNeedsAKey: a key file on one machine would be no use to the others that share the storage.
func TestOtherStorageNeedsAKey(t *testing.T) {
	t.Parallel()
	for encryption, works := range map[string]bool{`[]`: false, `[{"source":"key","key":"` + strings.Repeat("0a", 32) + `"}]`: true} {
		err := validate(fmt.Appendf(nil, `{"storage":{"module":"closing","path":"/nowhere"},"apps":{"oauth2_inject":{"encryption":%s}}}`, encryption))
		if (err == nil) != works || !works && !strings.Contains(err.Error(), "with a storage other than files a key is needed") {
			t.Errorf("encryption %s: %v", encryption, err)
		}
	}
	err := validate([]byte(`{"apps":{"oauth2_inject":{"encryption":[{"source":"none"}]}}}`))
	if err == nil || !strings.Contains(err.Error(), "load the encryption keys") {
		t.Errorf("an unknown source: %v", err)
	}
}
