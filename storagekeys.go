package caddyoauth

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strconv"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// All storage keys and lock names are made in this file. They hold no user text: Caddy's sanitiser and the file systems below
// it map different names to one key, and an empty or dotted part addresses a parent directory. Instead each part is a digest
// over a length-prefixed tuple, in lower-case hex because some file systems do not tell upper from lower case.

const storageRoot = "oauth2_inject"

const (
	keysetKey  = storageRoot + "/keyset.json"
	doctorLock = storageRoot + "-doctor"
	recordFile = "current.json"
	recordsExt = ".json"
)

// What was made at run time.
const (
	entryDir  = storageRoot + "/entries"
	indexKey  = entryDir + "/index" + recordsExt
	entryLock = storageRoot + "-entries"
)

// trailDir is where the last events are kept that instances have seen.
const trailDir = storageRoot + "/audit"

// trailKey is where one process keeps them.
func trailKey(writer string) string { return trailDir + "/" + keyPart("audit", writer) + recordsExt }

// keyUseKey is where the last use of an API key is kept.
func keyUseKey(id string) string {
	return path.Join(storageRoot, "keyuses", keyPart("key use", id)) + recordsExt
}

// entryKey is where an entry is kept. Two of the same name in the same space have the same place, so that both cannot be there.
func entryKey(tenant, space, name string) string {
	return entryDir + "/" + keyPart("entry", tenant, space, name) + recordsExt
}

// onceDir is where the answers are kept that a tenant's clients may ask for again.
func onceDir(tenant string) string {
	return path.Join(storageRoot, "tenants", keyPart("tenant", tenant), "once")
}

// onceKey is where one such answer is kept.
func onceKey(tenant, key string) string {
	return onceDir(tenant) + "/" + keyPart("once", tenant, key) + recordsExt
}

// onceLock is the name of the lock under which a request with an Idempotency-Key is answered.
func onceLock(key string) string { return storageRoot + "-" + keyPart("once lock", key) }

// keyPart digests a tuple to 32 hex digits. The length before each element makes ("ab","c") and ("a","bc") differ.
func keyPart(tuple ...string) string {
	hash := sha256.New()
	for _, element := range tuple {
		fmt.Fprintf(hash, "%d:%s", len(element), element)
	}
	return hex.EncodeToString(hash.Sum(nil)[:16])
}

// connectionDir is where everything about a connection is kept, whatever the subject.
func connectionDir(id connection.ID) string {
	return path.Join(storageRoot,
		"tenants", keyPart("tenant", id.Tenant),
		"connections", keyPart("connection", id.Tenant, id.Connection))
}

// recordDir is where everything about one ID is kept.
func recordDir(id connection.ID) string {
	return connectionDir(id) + "/" + keyPart("subject", id.Tenant, id.Connection, id.Subject)
}

// recordKey is where the current record of an ID is kept.
func recordKey(id connection.ID) string { return recordDir(id) + "/" + recordFile }

// historyDir is where superseded token sets of an ID are kept.
func historyDir(id connection.ID) string { return recordDir(id) + "/history" }

// historyKey is where one superseded token set is kept.
func historyKey(id connection.ID, generation uint64) string {
	return historyDir(id) + "/" + strconv.FormatUint(generation, 10) + recordsExt
}

// lockName is the name of the lock under which one generation is replaced. A new name for each generation makes a lock that a
// crashed process left behind, and another process keeps alive, harmless.
func lockName(id connection.ID, generation uint64) string {
	return storageRoot + "-" + keyPart("lock", id.Tenant, id.Connection, id.Subject, strconv.FormatUint(generation, 10))
}

// keysetLock is the name of the lock under which one revision of the data keyset is replaced; see lockName.
func keysetLock(revision uint64) string {
	return storageRoot + "-keyset-" + strconv.FormatUint(revision, 10)
}

// recordLock is the name of the lock under which what is stored under a key is replaced while records are sealed anew.
func recordLock(key string, stored []byte) string {
	return storageRoot + "-" + keyPart("record lock", key, string(stored))
}

// alertKey is where it is kept what one receiver of alerts was told of a connection.
func alertKey(receiver, connection string) string {
	return path.Join(storageRoot, "alerts", keyPart("alert", receiver, connection)+recordsExt)
}

// alertLock is the name of the lock under which one instance tells.
func alertLock(key string) string { return storageRoot + "-" + keyPart("alert lock", key) }

// pendingDir is where the authorizations under way of a tenant are kept.
func pendingDir(tenant string) string {
	return path.Join(storageRoot, "tenants", keyPart("tenant", tenant), "pending")
}

// pendingKey is where one authorization under way is kept. The state itself, which the browser knows, is not in it.
func pendingKey(tenant, state string) string {
	return pendingDir(tenant) + "/" + keyPart("pending", tenant, state) + recordsExt
}

// pendingLock is the name of the lock under which an authorization is finished.
func pendingLock(key string) string { return storageRoot + "-" + keyPart("pending lock", key) }

// accountKey is where it is noted who holds an account. what says which, by its id or by a digest.
func accountKey(tenant, endpoint, clientID, what string) string {
	return path.Join(storageRoot, "tenants", keyPart("tenant", tenant), "accounts", keyPart("account", tenant, endpoint, clientID, what)) + recordsExt
}

// accountLock is the name of the lock under which that note is changed.
func accountLock(key string) string { return storageRoot + "-" + keyPart("account lock", key) }
