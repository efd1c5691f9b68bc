//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// keyStatus is what is read here of `GET /oauth2_inject/keys`.
type keyStatus struct {
	DataKeys []struct {
		ID      uint32 `json:"id"`
		State   string `json:"state"`
		Records int    `json:"records"`
	} `json:"data_keys"`
	Rekey   *struct{ Phase string }
	Records int `json:"records"`
}

func keysOf(c *lab.Caddy) (status keyStatus, err error) {
	body, err := c.Get(c.AdminURL("/oauth2_inject/keys"))
	if err != nil {
		return status, err
	}
	return status, json.Unmarshal(body, &status)
}

func rekey(t *testing.T, c *lab.Caddy) {
	t.Helper()
	resp, err := http.Post(c.AdminURL("/oauth2_inject/rekey"), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("rekey: %s", resp.Status)
	}
}

// TestKilledWhileRekeying: the process that replaces the data key is killed again and again, at any moment. The other one serves
// and refreshes all the time without a failure, and in the end every token is still there, under one key.
func TestKilledWhileRekeying(t *testing.T) {
	t.Parallel()
	const kept, rounds = 20, 5
	op, api, dir := lab.StartOP(t, lab.Options{AccessTokenTTL: time.Hour}), startUpstream(t), t.TempDir()
	connections, sites, addresses := "\t\trekey_pause 1s\n", "", []string{}
	for i := range kept {
		name := fmt.Sprint("kept", i)
		connections += connection(name, basic(op, "scopes api:read")...)
		addresses = append(addresses, freeAddress(t))
		sites += site(addresses[i], name, api.address())
	}
	busy := freeAddress(t)
	connections += connection("busy", basic(op, "resource https://api.lab/?ttl=3")...)
	server := start(t, dir, global(connections), sites+site(busy, "busy", api.address()))
	for _, address := range addresses {
		if _, err := server.Get("http://" + address + "/"); err != nil {
			t.Fatal(err)
		}
	}
	first, err := keysOf(server)
	if err != nil || len(first.DataKeys) != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	l := apply(server, 2, append(addresses, busy)...)
	seen := make(map[string]int)
	for round := range rounds {
		victim := start(t, dir, global(connections), "")
		rekey(t, victim)
		time.Sleep(time.Duration(round)*500*time.Millisecond + rand.N(500*time.Millisecond)) // the moment of its death
		if status, err := keysOf(victim); err == nil && status.Rekey != nil {
			seen[status.Rekey.Phase]++
		}
		victim.Kill()
	}
	t.Logf("killed while %v", seen)
	var last keyStatus
	eventually(t, "the other process comes to the end", func() error {
		if last, err = keysOf(server); err != nil {
			return err
		}
		if last.Rekey != nil || len(last.DataKeys) != 1 || last.DataKeys[0].Records != last.Records {
			return fmt.Errorf("%+v", last)
		}
		return nil
	})
	if last.DataKeys[0].ID == first.DataKeys[0].ID || last.Records < kept+1 {
		t.Errorf("before %+v, after %+v", first, last)
	}
	if requests, failures := l.stop(); len(failures) > 0 {
		t.Errorf("%d requests, failures %v", requests, failures)
	}
	server.Stop(t)
	before := op.Stats(t).TokenRequests()
	server = start(t, dir, global(connections), sites)
	for _, address := range addresses {
		if _, err := server.Get("http://" + address + "/"); err != nil {
			t.Error(err)
		}
	}
	if more := op.Stats(t).TokenRequests() - before; more != 0 {
		t.Errorf("%d tokens were lost", more)
	}
	if log := server.Log(t); strings.Contains(log, "cannot be opened") {
		t.Error("a record does not open")
	}
	server.Stop(t)
	server.KeepsSecrets(t, append(api.distinct(), lab.Secret)...)
}
