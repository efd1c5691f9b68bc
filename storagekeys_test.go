package caddyoauth

import (
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// hostileTexts are names and subjects that some storage or file system would take for something else.
var hostileTexts = []string{
	"", ".", "..", "../..", "/", "//", "a/b", "a", "A", "a/", "/a", "a b", "a\x00b", "a\\b", "C:", "con", "aux.json", "current.json",
	"keyset.json", "history", "%2e%2e", "é", "e\u0301", "ß", "SS", "İ", "i\u0307", "🔑", "\xff\xfe", strings.Repeat("x", 300), "1:a", "1:a1:b",
	"user@example.com", "{http.auth.user.id}", "a\nb", "~", "*", "CON", "nul.", "a.", "a ",
}

// storageKeyPattern is what every storage key looks like: nothing of it comes from a user.
var storageKeyPattern = regexp.MustCompile(`^oauth2_inject/tenants/[0-9a-f]{32}/connections/[0-9a-f]{32}/[0-9a-f]{32}/(current|history/[1-9][0-9]*)\.json$`)

var lockNamePattern = regexp.MustCompile(`^oauth2_inject-[0-9a-f]{32}$`)

// TestStorageKeysAreInjective combines the hostile texts in all places of an ID.
func TestStorageKeysAreInjective(t *testing.T) {
	t.Parallel()
	owner := make(map[string]connection.ID)
	claim := func(key string, id connection.ID) {
		// Some file systems do not tell upper from lower case.
		folded := strings.ToLower(key)
		if other, taken := owner[folded]; taken && other != id {
			t.Errorf("%+q and %+q share the key %s", other, id, key)
		}
		owner[folded] = id
	}
	for _, first := range hostileTexts {
		for _, second := range hostileTexts {
			for _, id := range []connection.ID{
				{Connection: first, Subject: second}, {Tenant: first, Connection: second}, {Tenant: first, Connection: "c", Subject: second},
			} {
				checkKeyShape(t, id, 7)
				claim(recordDir(id), id)
				claim(lockName(id, 7), id)
			}
		}
	}
	if len(owner) < 3*len(hostileTexts)*len(hostileTexts) {
		t.Errorf("only %d keys were compared", len(owner))
	}
}

// TestLockNamesDifferByGeneration keeps a dead holder's lock from blocking the next generation.
func TestLockNamesDifferByGeneration(t *testing.T) {
	t.Parallel()
	id := connection.ID{Connection: "api"}
	if lockName(id, 1) == lockName(id, 2) || lockName(id, 1) == keysetLock(1) || keysetLock(1) == keysetLock(2) {
		t.Error("two locks share a name")
	}
	if lockName(connection.ID{Connection: "api", Subject: "1"}, 1) == lockName(connection.ID{Connection: "api"}, 11) {
		t.Error("subject and generation run into each other")
	}
}

const (
	goldenRecordKey = "oauth2_inject/tenants/36d98a8df2288ad02f845118d0ee6ee3/connections/b39600ca780777ebb221e7db9d10c3ae/ae945841e25e2758f26aba76f3614b1e/current.json"
	goldenPlainKey  = "oauth2_inject/tenants/6a74c324dacb812335400d295a0e14b5/connections/ba5fcf4eeda78c24211d9bf1088e1428/4ee7d1e8754510a84ac2cd925202d2e5/current.json"
)

// TestKeysStayWhereTheyAre: another way to make them would orphan every stored token.
func TestKeysStayWhereTheyAre(t *testing.T) {
	t.Parallel()
	id := connection.ID{Tenant: "acme", Connection: "drive", Subject: "user@example.com"}
	for got, want := range map[string]string{
		recordKey(id):      goldenRecordKey,
		historyKey(id, 12): strings.Replace(goldenRecordKey, "current", "history/12", 1),
		recordKey(connection.ID{Connection: "api"}): goldenPlainKey,
		keysetKey: "oauth2_inject/keyset.json",
	} {
		if got != want {
			t.Errorf("the key is %s, it was %s", got, want)
		}
	}
}

func checkKeyShape(t *testing.T, id connection.ID, generation uint64) {
	t.Helper()
	for _, key := range []string{recordKey(id), historyKey(id, generation)} {
		if !storageKeyPattern.MatchString(key) || path.Clean(key) != key || !filepath.IsLocal(filepath.FromSlash(key)) {
			t.Errorf("%+q gives the storage key %q", id, key)
		}
	}
	if name := lockName(id, generation); !lockNamePattern.MatchString(name) || certmagic.StorageKeys.Safe(name) != name {
		t.Errorf("%+q gives the lock name %q", id, name)
	}
	if path.Dir(recordKey(id)) != recordDir(id) || path.Dir(historyKey(id, generation)) != historyDir(id) {
		t.Errorf("%+q: a file is not in its directory", id)
	}
}
