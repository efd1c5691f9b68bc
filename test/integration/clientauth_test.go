//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// site is one site with one connection in block form.
func site(address, connection, upstream string) string {
	return fmt.Sprintf("http://%s {\n\toauth2_inject %s {\n\t\treverse_proxy %s\n\t}\n}\n", address, connection, upstream)
}

// connection writes a connection of the global option.
func connection(name string, options ...string) string {
	return fmt.Sprintf("\t\tconnection %s {\n\t\t\t%s\n\t\t}\n", name, strings.Join(options, "\n\t\t\t"))
}

func global(connections ...string) string {
	return "\toauth2_inject {\n" + strings.Join(connections, "") + "\t}"
}

// TestEveryClientAuthenticationWorks sends a request with each method, and asks the server whether the token that arrived is good.
func TestEveryClientAuthenticationWorks(t *testing.T) {
	t.Parallel()
	op, api, dir := lab.StartOP(t, lab.Options{AccessTokenTTL: time.Minute}), startUpstream(t), t.TempDir()
	plain := "token_endpoint " + op.TokenEndpoint()
	mtls := "token_endpoint " + op.MTLSTokenEndpoint() + "\n\t\t\ttls {\n\t\t\t\tca " + op.CAFile() + "\n\t\t\t}"
	certificate := func(name string) string {
		cert, key := op.Cert(name)
		return "client_certificate " + cert + " " + key
	}
	cases := map[string][]string{
		"basic":      {plain, "client_id " + lab.ClientBasic, "client_secret " + lab.Secret},
		"post":       {plain, "client_id " + lab.ClientPost, "client_secret " + lab.Secret, "client_auth client_secret_post"},
		"odd":        {plain, `client_id "` + lab.ClientOdd + `"`, `client_secret "` + lab.OddSecret + `"`},
		"tls":        {mtls, "client_id " + lab.ClientTLS, certificate(lab.CertTLS)},
		"tls_san":    {mtls, "client_id " + lab.ClientTLSSAN, certificate(lab.CertTLS2), "client_auth tls_client_auth"},
		"self":       {mtls, "client_id " + lab.ClientSelf, certificate(lab.CertSelf), "client_auth self_signed_tls_client_auth"},
		"bound":      {mtls, "client_id " + lab.ClientBound, "client_secret " + lab.Secret, certificate(lab.CertBound)},
		"rs256":      {plain, "client_id " + lab.ClientRS256, "client_key " + op.Key(lab.KeyRSA) + " " + lab.KeyID},
		"ps256":      {plain, "client_id " + lab.ClientPS256, "client_key " + op.Key(lab.KeyRSA) + " " + lab.KeyID + " PS256"},
		"es256":      {plain, "client_id " + lab.ClientES256, "client_key " + op.Key(lab.KeyEC), "client_auth private_key_jwt"}, // without a kid
		"es256_iss":  {plain, "client_id " + lab.ClientES256, "client_key " + op.Key(lab.KeyEC), "issuer " + op.Issuer()},
		"secret_jwt": {plain, "client_id " + lab.ClientSecretJWT, "client_secret " + lab.Secret, "client_auth client_secret_jwt"},
		"scoped":     {plain, "client_id " + lab.ClientBasic, "client_secret " + lab.Secret, "scopes api:read api:write"},
		"jwt":        {plain, "client_id " + lab.ClientBasic, "client_secret " + lab.Secret, "resource https://api.lab/?ttl=60"},
		"with_param": {plain, "client_id " + lab.ClientBasic, "client_secret " + lab.Secret, "token_param scope_hint x"},
	}
	var connections, sites []string
	addresses := make(map[string]string)
	for name, options := range cases {
		addresses[name] = freeAddress(t)
		connections = append(connections, connection(name, options...))
		sites = append(sites, site(addresses[name], name, api.address()))
	}
	caddy := start(t, dir, global(connections...), strings.Join(sites, ""))
	var secrets []string
	for name, address := range addresses {
		if _, err := caddy.Get("http://" + address + "/"); err != nil {
			t.Errorf("%s: %v; the connection says %+v", name, err, caddy.Status(t, name))
			continue
		}
		token := api.last(t)
		secrets = append(secrets, token)
		if expiryOf(token).IsZero() != (name != "jwt") {
			t.Errorf("%s: only the request with a resource is answered with a JWT", name)
		}
		if name != "jwt" && !op.Introspect(t, token) {
			t.Errorf("%s: the server does not know the token that the upstream received", name)
		}
	}
	if len(api.distinct()) != len(cases) {
		t.Errorf("%d connections used %d distinct tokens", len(cases), len(api.distinct()))
	}
	caddy.Stop(t)
	caddy.KeepsSecrets(t, append(secrets, lab.Secret, lab.OddSecret)...)
}

// TestAssertionsAreNeverReplayed: the server refuses an assertion that it has seen. Many tokens are obtained, and none is refused; a
// key that is not registered, and an audience that is not the server, are refused and named.
func TestAssertionsAreNeverReplayed(t *testing.T) {
	t.Parallel()
	op, api, dir := lab.StartOP(t, lab.Options{AccessTokenTTL: 2 * time.Second}), startUpstream(t), t.TempDir()
	options := func(more ...string) []string {
		return append([]string{"token_endpoint " + op.TokenEndpoint(), "client_id " + lab.ClientRS256}, more...)
	}
	good, stranger, elsewhere := freeAddress(t), freeAddress(t), freeAddress(t)
	caddy := start(t, dir, global(
		connection("good", options("client_key "+op.Key(lab.KeyRSA))...),
		connection("stranger", options("client_key "+op.Key(lab.KeyEC))...),
		connection("elsewhere", options("client_key "+op.Key(lab.KeyRSA), "assertion_audience https://evil.example")...),
	), site(good, "good", api.address())+site(stranger, "stranger", api.address())+site(elsewhere, "elsewhere", api.address()))
	eventually(t, "five tokens", func() error {
		if _, err := caddy.Get("http://" + good + "/"); err != nil {
			t.Fatal(err)
		}
		if n := len(api.distinct()); n < 5 {
			return fmt.Errorf("%d tokens", n)
		}
		return nil
	})
	if refused := op.Stats(t).Outcome(lab.ClientRS256, "401"); refused > 0 {
		t.Errorf("%d exchanges were refused", refused)
	}
	for name, address := range map[string]string{"stranger": stranger, "elsewhere": elsewhere} {
		_, err := caddy.Get("http://" + address + "/")
		if status := caddy.Status(t, name); statusOf(err) != http.StatusBadGateway || status.Status != "misconfigured" || status.Error != "invalid_client" {
			t.Errorf("%s: got %v, %+v", name, err, status)
		}
	}
	if !strings.Contains(caddy.Log(t), "check client_id, client_key, assertion_audience") {
		t.Error("the log does not say what to check")
	}
	caddy.Stop(t)
	caddy.KeepsSecrets(t, api.distinct()...)
}

// TestRefusedCertificatesAreNamed: the wrong certificate is the operator's fault, and the log and the status say which fault.
func TestRefusedCertificatesAreNamed(t *testing.T) {
	t.Parallel()
	op, api, dir := lab.StartOP(t, lab.Options{RequireClientCert: true}), startUpstream(t), t.TempDir()
	cert, key := op.Cert(lab.CertTLS)
	_, otherKey := op.Cert(lab.CertTLS2)
	expired, expiredKey := op.Cert(lab.CertExpired)
	wrong, wrongKey := op.Cert(lab.CertWrong)
	options := func(cert, key string) []string {
		return []string{"token_endpoint " + op.MTLSTokenEndpoint(), "tls {\n\t\t\t\tca " + op.CAFile() + "\n\t\t\t}",
			"client_id " + lab.ClientTLS, "client_certificate " + cert + " " + key}
	}
	cases := map[string]struct {
		cert, key string
		code      string
	}{
		"expired":    {expired, expiredKey, "certificate_expired"},
		"mismatched": {cert, otherKey, "certificate_mismatch"},
		"absent":     {cert + ".gone", key, "certificate_unreadable"},
		"refused":    {wrong, wrongKey, "invalid_client"}, // the lab's CA vouches for it, but not for this client
		"good":       {cert, key, ""},
	}
	var connections, sites []string
	addresses := make(map[string]string)
	for name, c := range cases {
		addresses[name] = freeAddress(t)
		connections = append(connections, connection(name, options(c.cert, c.key)...))
		sites = append(sites, site(addresses[name], name, api.address()))
	}
	caddy := start(t, dir, global(connections...), strings.Join(sites, ""))
	for name, c := range cases {
		_, err := caddy.Get("http://" + addresses[name] + "/")
		status := caddy.Status(t, name)
		if c.code == "" {
			if err != nil {
				t.Errorf("%s: %v %+v", name, err, status)
			}
			continue
		}
		if statusOf(err) != http.StatusBadGateway || status.Status != "misconfigured" || status.Error != c.code {
			t.Errorf("%s: got %v, status %s, error %s; want 502, misconfigured, %s", name, err, status.Status, status.Error, c.code)
		}
	}
}

// TestRenewedCertificateIsPickedUp replaces the files of a certificate that the server refuses by those of a good one. No
// restart, no reload; while the old one was wrong, nothing was lost.
func TestRenewedCertificateIsPickedUp(t *testing.T) {
	t.Parallel()
	op, api, dir := lab.StartOP(t, lab.Options{AccessTokenTTL: 3 * time.Second}), startUpstream(t), t.TempDir()
	pair := t.TempDir()
	install := func(name string) {
		cert, key := op.Cert(name)
		for from, to := range map[string]string{cert: pair + "/client.pem", key: pair + "/client.key"} {
			content, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(to+".new", content, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(to+".new", to); err != nil {
				t.Fatal(err)
			}
		}
	}
	install(lab.CertTLS)
	address := freeAddress(t)
	caddy := start(t, dir, global(connection("api", "token_endpoint "+op.MTLSTokenEndpoint(), "tls {\n\t\t\t\tca "+op.CAFile()+"\n\t\t\t}",
		"client_id "+lab.ClientTLS, "client_certificate "+pair+"/client.pem "+pair+"/client.key")), site(address, "api", api.address()))
	ask := func() error { _, err := caddy.Get("http://" + address + "/"); return err }
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	first := api.last(t)
	install(lab.CertTLS2) // the same subject, another key: what a renewal looks like
	eventually(t, "a token is obtained with the renewed certificate", func() error {
		if err := ask(); err != nil {
			t.Fatalf("a request failed during the renewal: %v", err)
		}
		if api.last(t) == first {
			return fmt.Errorf("still the first token")
		}
		return nil
	})
	if got := op.Stats(t).Outcome(lab.ClientTLS, "200"); got < 2 {
		t.Errorf("the server issued %d tokens, want at least 2", got)
	}
}
