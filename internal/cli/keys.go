package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// ListKeys shows the API keys, without the keys.
func (c *CLI) ListKeys(ctx context.Context) error {
	keys, err := pages[api.Key](ctx, c.Client, "/v1/api-keys")
	if err != nil {
		return err
	}
	if keys == nil {
		keys = []api.Key{}
	}
	return c.show(keys, func(t *table) {
		t.row("ID", "NAME", "PREFIX", "ROLE", "TENANT", "CREATED", "EXPIRES", "LAST USED")
		for _, key := range keys {
			tenant := key.Tenant
			if key.AllTenants {
				tenant = "all"
			}
			t.row(key.ID, key.Name, key.Prefix, key.Role, tenant, t.when(&key.CreatedAt), t.when(key.ExpiresAt), t.when(key.LastUsed))
		}
	})
}

// NewKey says what an API key is to be.
type NewKey struct {
	Name        string     `json:"name"`
	Role        string     `json:"role"`
	Collections []string   `json:"collections,omitempty"`
	Tenant      string     `json:"tenant,omitempty"`
	AllTenants  bool       `json:"all_tenants,omitempty"`
	ExpiresAt   *time.Time `json:"expires_at,omitempty"`
}

// CreateKey makes an API key. The key itself is all that goes to standard output, so that it can be piped into a file.
func (c *CLI) CreateKey(ctx context.Context, want NewKey) error {
	var key api.Key
	if _, err := c.Client.call(ctx, ask{http.MethodPost, "/v1/api-keys", want}, &key); err != nil {
		return err
	}
	if c.JSON {
		return c.show(key, nil)
	}
	c.note("Made the API key %s (%s, %s). It is shown this once:", key.Name, key.ID, key.Role)
	_, err := fmt.Fprintln(c.Out, key.Key)
	return err
}

// RevokeKey ends an API key, named by its name, ID or prefix.
func (c *CLI) RevokeKey(ctx context.Context, which string) error {
	keys, err := pages[api.Key](ctx, c.Client, "/v1/api-keys")
	if err != nil {
		return err
	}
	var found []api.Key
	for _, key := range keys {
		if key.ID == which || key.Name == which || len(which) >= 8 && strings.HasPrefix(which, key.Prefix) {
			found = append(found, key)
		}
	}
	switch len(found) {
	case 0:
		return fmt.Errorf("%w: there is no API key %q; `apikey list` shows those that there are", errNotFound, which)
	case 1:
	default:
		return Usage("several API keys are called %q; give the ID", which)
	}
	var removed api.Removed
	if _, err := c.Client.call(ctx, ask{http.MethodDelete, "/v1/api-keys/" + url.PathEscape(found[0].ID), nil}, &removed); err != nil {
		return err
	}
	return c.show(removed, func(t *table) { t.field("Revoked", found[0].Name+" ("+found[0].Prefix+")") })
}

// keysPoll is how often Rekey looks how far it is.
const keysPoll = 2 * time.Second

// KeyStatus shows the keys, and how far a replacement of the data key is.
func (c *CLI) KeyStatus(ctx context.Context) error {
	var status api.SealingKeys
	if _, err := c.Client.call(ctx, ask{http.MethodGet, "/v1/sealing-keys", nil}, &status); err != nil {
		return err
	}
	return c.showKeys(status)
}

// Rekey begins to replace the data key, or goes on with it, and waits until it is done; wait 0 does not wait.
func (c *CLI) Rekey(ctx context.Context, wait time.Duration) error {
	if wait < 0 {
		return Usage("the time to wait is below zero")
	}
	var status api.SealingKeys
	if _, err := c.Client.call(ctx, ask{http.MethodPost, "/v1/sealing-keys/rekey", nil}, &status); err != nil {
		return err
	}
	if wait == 0 || status.Rekey == nil {
		return c.showKeys(status)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ticker := time.NewTicker(keysPoll)
	defer ticker.Stop()
	for said := ""; status.Rekey != nil; {
		if now := status.Rekey.Phase; now != said {
			c.note("%s: %d of %d records", now, status.Rekey.Done, status.Rekey.Total)
			said = now
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: the key is not replaced yet; it goes on by itself, `rekey --status` shows how far it is", errUnreachable)
		case <-ticker.C:
		}
		var next api.SealingKeys
		if _, err := c.Client.call(ctx, ask{http.MethodGet, "/v1/sealing-keys", nil}, &next); err == nil {
			status = next
		}
	}
	return c.showKeys(status)
}

func (c *CLI) showKeys(status api.SealingKeys) error {
	return c.show(status, func(t *table) {
		if !status.Open || status.Error != "" {
			t.line(strings.TrimSpace("The keys are in trouble: " + status.Error + ". " + status.Hint))
			t.line("")
		}
		t.row("ENCRYPTION KEY", "WRAPS", "REMOVABLE")
		for _, one := range status.EncryptionKeys {
			t.row(one.ID, yes(one.Wraps), yes(one.Removable))
		}
		t.line("")
		t.row("DATA KEY", "STATE", "RECORDS", "MADE")
		for _, one := range status.DataKeys {
			t.row(strconv.FormatUint(uint64(one.ID), 10), one.State, strconv.Itoa(one.Records), t.when(one.Created))
		}
		if status.Rekey != nil {
			t.line("")
			t.line(fmt.Sprintf("Replacing the data key: %s, %d of %d records.", status.Rekey.Phase, status.Rekey.Done, status.Rekey.Total))
		}
	})
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}
