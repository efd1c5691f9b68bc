//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// TestDiscovery: the issuer is all that is known of the server. Machines get tokens with every kind of credentials, a certificate
// goes to the endpoint that asks for one, and the server, which names itself on the way back (RFC 9207), is believed.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	op := lab.StartOP(t, lab.Options{AccessTokenTTL: 3 * time.Second, RedirectURIs: []string{"http://" + address + "/connect/callback"}})
	api, dir := startUpstream(t), t.TempDir()
	cert, key := op.Cert(lab.CertTLS)
	issuer := "issuer " + op.Issuer()
	machines := map[string][]string{
		"basic": {issuer, "client_id " + lab.ClientBasic, "client_secret " + lab.Secret},
		"key":   {issuer, "client_id " + lab.ClientES256, "client_key " + op.Key(lab.KeyEC)},
		"mtls":  {issuer, "client_id " + lab.ClientTLS, "client_certificate " + cert + " " + key, "tls {\n\t\t\t\tca " + op.CAFile() + "\n\t\t\t}"},
	}
	connections := []string{connection("drive", issuer, "client_id "+lab.ClientWeb, "client_secret "+lab.Secret, "scopes openid offline_access api:read",
		"auth_param prompt consent", "subject {http.request.header.X-User}")}
	sites := fmt.Sprintf("http://%s {\n\toauth2_connect {\n\t\tidentity {http.request.header.X-User}\n\t}\n\toauth2_inject drive {\n\t\treverse_proxy %s\n\t}\n}\n", address, api.address())
	addresses := make(map[string]string)
	for name, options := range machines {
		addresses[name] = freeAddress(t)
		connections = append(connections, connection(name, options...))
		sites += site(addresses[name], name, api.address())
	}
	caddy := start(t, dir, global(connections...), sites)
	if n := op.Stats(t).Requests["GET /.well-known/openid-configuration"]; n != 0 {
		t.Errorf("the metadata were read %d times before anybody needed them", n)
	}
	for name, at := range addresses {
		if _, err := caddy.Get("http://" + at + "/"); err != nil {
			t.Errorf("%s: %v; the connection says %+v", name, err, caddy.Status(t, name))
		} else if !op.Introspect(t, api.last(t)) {
			t.Errorf("%s: the server does not know the token", name)
		}
	}
	jane := newPerson(t, "jane", address)
	home := "http://" + address + "/files"
	if status, body, at := jane.connect("http://" + address + "/connect/authorize/drive?return_to=/files"); status != http.StatusOK || at.String() != home {
		t.Fatalf("after connecting: status %d at %s: %.300s", status, at.Path, body)
	}
	tokens := len(api.distinct())
	eventually(t, "two refreshes", func() error {
		if status, _, _ := jane.visit(home); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		if n := len(api.distinct()); n < tokens+2 {
			return fmt.Errorf("%d tokens", n)
		}
		return nil
	})
	stats := op.Stats(t)
	if n := stats.Requests["GET /.well-known/openid-configuration"]; n != 2 { // with and without the certificate, and no more
		t.Errorf("the metadata were read %d times", n)
	}
	if stats.Events["grant.error"]+stats.Events["grant.revoked"] > 0 {
		t.Errorf("the server refused something: %+v", stats)
	}
	caddy.Stop(t)
	caddy.KeepsSecrets(t, append(api.distinct(), lab.Secret)...)
}

// TestAnnouncedIssuerIsChecked: the server always names itself on the way back. An answer without its name, or with another one, is
// refused, and its code stays unused.
func TestAnnouncedIssuerIsChecked(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	op := lab.StartOP(t, lab.Options{RedirectURIs: []string{"http://" + address + "/connect/callback"}})
	config := global(connection("drive", "issuer "+op.Issuer(), "client_id "+lab.ClientWeb, "client_secret "+lab.Secret, "scopes openid",
		"subject {http.request.header.X-User}"))
	start(t, t.TempDir(), config, fmt.Sprintf("http://%s {\n\toauth2_connect {\n\t\tidentity {http.request.header.X-User}\n\t}\n}\n", address))
	for code, instead := range map[string]string{
		"issuer_missing":  "",
		"issuer_mismatch": "&iss=https%3A%2F%2Fevil.example",
	} {
		jane := newPerson(t, "jane", address) // whom the server asks again
		jane.client.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
			if r.URL.Path == "/connect/callback" && r.URL.Query().Get("iss") == op.Issuer() { // as an attacker in between would
				query := r.URL.Query()
				query.Del("iss")
				r.URL.RawQuery = query.Encode() + instead
			}
			return nil
		}
		status, body, at := jane.connect("http://" + address + "/connect/authorize/drive")
		if status != http.StatusBadGateway || !strings.Contains(body, code) || at.Path != "/connect/callback" {
			t.Errorf("%s: status %d at %s: %.400s", code, status, at.Path, body)
		}
	}
	if n := op.Stats(t).TokenRequests(); n != 0 {
		t.Errorf("%d codes were tried", n)
	}
	if status, body, at := newPerson(t, "jane", address).connect("http://" + address + "/connect/authorize/drive"); status != http.StatusOK || at.Path != "/connect/done/drive" {
		t.Errorf("unchanged: status %d at %s: %.400s", status, at.Path, body)
	}
}
