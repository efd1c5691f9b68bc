//go:build integration

package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"
)

// remoteAdmin is an administrator of Caddy's remote admin endpoint, with a certificate of its own.
type remoteAdmin struct {
	name   string
	public string // the certificate, as Caddy's configuration wants it
	client *http.Client
}

func newRemoteAdmin(t *testing.T, name string) *remoteAdmin {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &remoteAdmin{name: name, public: base64.StdEncoding.EncodeToString(der), client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{
			Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
			InsecureSkipVerify: true, // it is the clients that are looked at here
		},
	}}}
}

// ask returns the status that the remote endpoint answers with.
func (a *remoteAdmin) ask(t *testing.T, method, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// TestRemoteAccessControl: Caddy's own access_control, which knows paths and methods, gives remote administrators roles of the REST API;
// the audit log has their names.
func TestRemoteAccessControl(t *testing.T) {
	t.Parallel()
	dir, remote := t.TempDir(), freeAddress(t)
	c := start(t, dir, global("\t\tstored_connections\n"), "")
	status, made := ask(t, c, http.MethodPost, "/secrets/oauth2", map[string]any{"name": "drive", "provider": "google", "client_id": "x", "client_secret": "y"})
	if status != http.StatusCreated {
		t.Fatal(status)
	}
	viewer, operator, admin := newRemoteAdmin(t, "viewer"), newRemoteAdmin(t, "operator"), newRemoteAdmin(t, "admin")
	config := make(map[string]any)
	raw, err := c.Get(c.AdminURL("/config/"))
	if err == nil {
		err = json.Unmarshal(raw, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	may := func(a *remoteAdmin, path string) map[string]any {
		return map[string]any{"public_keys": []string{a.public}, "permissions": []any{map[string]any{"paths": []string{path}}}}
	}
	endpoint := config["admin"].(map[string]any)
	endpoint["identity"] = map[string]any{"identifiers": []string{"127.0.0.1"}, "issuers": []any{map[string]any{"module": "internal"}}}
	endpoint["remote"] = map[string]any{"listen": remote, "access_control": []any{
		may(viewer, "/oauth2_inject/viewer"), may(operator, "/oauth2_inject/operator"), may(admin, "/oauth2_inject"),
	}}
	config["apps"].(map[string]any)["pki"] = map[string]any{"certificate_authorities": map[string]any{"local": map[string]any{"install_trust": false}}}
	if raw, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(c.AdminURL("/load"), "application/json", bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(resp.Body)
	if resp.Body.Close(); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, answer)
	}
	at := func(role, path string) string { return "https://" + remote + "/oauth2_inject" + role + "/v1" + path }
	eventually(t, "the remote endpoint answers", func() error {
		_, err := admin.client.Get(at("", "/health"))
		return err
	})
	one := "/secrets/" + made["id"].(string)
	for _, tt := range []struct {
		who          *remoteAdmin
		role         string
		see, refresh int
		end          int
	}{
		{viewer, "/viewer", 200, 403, 403}, {viewer, "/operator", 403, 403, 403}, {viewer, "", 403, 403, 403},
		{operator, "/operator", 200, 409, 403}, {operator, "", 403, 403, 403},
		{admin, "/viewer", 200, 403, 403}, {admin, "", 200, 409, 428},
	} {
		got := fmt.Sprint(tt.who.ask(t, http.MethodGet, at(tt.role, one)), tt.who.ask(t, http.MethodPost, at(tt.role, one+"/refresh")), tt.who.ask(t, http.MethodDelete, at(tt.role, one)))
		if want := fmt.Sprint(tt.see, tt.refresh, tt.end); got != want {
			t.Errorf("%s at %q: got %s, want %s", tt.who.name, tt.role, got, want)
		}
	}
	if !strings.Contains(c.Log(t), `admin endpoint: CN=operator`) {
		t.Error("the audit log has not the name of the operator")
	}
	c.Stop(t)
}
