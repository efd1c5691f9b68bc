package envelope_test

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// update writes golden files that do not exist yet. It never writes over one: they stand for the files in the storages of
// users, and a change that cannot read them any more is the change that is wrong.
var update = flag.Bool("update", false, "write missing golden files")

// The keys of the golden files. They protect nothing.
const (
	goldenKey        = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	goldenPassphrase = "golden words, fixed for ever"
)

func goldenKEKs(t testing.TB) (key, words envelope.KeyEncryptionKey) {
	t.Helper()
	key, err := envelope.NewKey(secret.New(goldenKey))
	if err != nil {
		t.Fatal(err)
	}
	words, err = envelope.NewPassphrase(secret.New(goldenPassphrase), envelope.MinIterations)
	if err != nil {
		t.Fatal(err)
	}
	return key, words
}

func readGolden(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "v1", name))
	if err != nil {
		t.Fatalf("read golden file (a new version gets its files with -update): %v", err)
	}
	return data
}

func writeGolden(t testing.TB, name string, data []byte) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join("testdata", "v1", name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// createGoldens makes one keyset, wraps it twice and seals one record.
func createGoldens(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join("testdata", "v1"), 0o755); err != nil {
		t.Fatal(err)
	}
	key, words := goldenKEKs(t)
	ring, wrapped := newRing(t, key)
	writeGolden(t, "keyset-key.json", wrapped)
	wrapped, err := ring.Rewrap(t.Context(), words)
	if err != nil {
		t.Fatal(err)
	}
	writeGolden(t, "keyset-passphrase.json", wrapped)
	writeGolden(t, "sealed.json", seal(t, ring))
	ring = rotated(t, ring)
	if wrapped, err = ring.Rewrap(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	writeGolden(t, "keyset-catalog.json", wrapped)
	writeGolden(t, "sealed-catalog.json", seal(t, ring))
}

// TestGolden: what version 1 wrote opens for ever.
func TestGolden(t *testing.T) {
	t.Parallel()
	if *update {
		createGoldens(t)
	}
	key, words := goldenKEKs(t)
	for name, kek := range map[string]envelope.KeyEncryptionKey{"keyset-key.json": key, "keyset-passphrase.json": words} {
		ring, primary, err := openRing(t.Context(), readGolden(t, name), []envelope.KeyEncryptionKey{kek})
		if err != nil || !primary {
			t.Fatalf("%s: got primary %v, %v", name, primary, err)
		}
		if opened, err := ring.Open(readGolden(t, "sealed.json"), place); err != nil || !bytes.Equal(opened, record) {
			t.Errorf("%s: the golden record does not open: %v", name, err)
		}
	}
	checkCatalogGolden(t, key)
}

// checkCatalogGolden: a keyset that says what is inside it stays readable as well.
func checkCatalogGolden(t *testing.T, key envelope.KeyEncryptionKey) {
	t.Helper()
	ring, _, err := openRing(t.Context(), readGolden(t, "keyset-catalog.json"), []envelope.KeyEncryptionKey{key})
	if err != nil {
		t.Fatal(err)
	}
	keys := ring.Keys()
	if len(keys) != 2 || !keys[0].Primary || !keys[0].Created.Equal(day(2)) || keys[1].Primary || !keys[1].Created.Equal(day(3)) || ring.Revision() != 5 {
		t.Errorf("got %v, revision %d", keys, ring.Revision())
	}
	if opened, err := ring.Open(readGolden(t, "sealed-catalog.json"), place); err != nil || !bytes.Equal(opened, record) {
		t.Errorf("the golden record does not open: %v", err)
	}
}
