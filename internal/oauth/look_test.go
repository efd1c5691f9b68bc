package oauth

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// TestLookShowsNothing: an endpoint is looked at without credentials, and its clock and certificate are seen.
func TestLookShowsNothing(t *testing.T) {
	t.Parallel()
	var got string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got += fmt.Sprint(r.Method, r.URL, r.Header, string(body))
		w.Header().Set("Date", time.Now().Add(10*time.Minute).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusMethodNotAllowed)
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c, err := NewClient(Config{
		TokenEndpoint: server.URL + "/token", RevocationEndpoint: "https://127.0.0.1:1/revoke", ClientID: "me", RootCAs: roots,
		Secret: func() (secret.Text, error) { return secret.New("seeded-secret"), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	sights, err := c.Look(t.Context())
	if err != nil || len(sights) != 2 {
		t.Fatalf("%v, %v", sights, err)
	}
	if s := sights[0]; s.Err != nil || s.Status != 405 || !s.CertEnds.Equal(server.Certificate().NotAfter) || (s.Offset-10*time.Minute).Abs() > 2*time.Second {
		t.Errorf("the token endpoint looks like %+v", s)
	}
	var failure *Error
	if s := sights[1]; !errors.As(s.Err, &failure) || failure.Code != "unreachable" || !strings.Contains(failure.Error(), "revocation endpoint") {
		t.Errorf("the endpoint where nobody is looks like %+v", s)
	}
	if strings.Contains(got, "seeded") || strings.Contains(got, "Authorization") || !strings.HasPrefix(got, "GET/token") {
		t.Error("more than a look was sent")
	}
}

// TestIntroduce: what servers answer to a code that nobody has issued tells whether they accept the client.
func TestIntroduce(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]struct {
		accepted bool
		class    Class
	}{
		`400 {"error":"invalid_grant"}`:         {accepted: true},
		`200 {"error":"bad_verification_code"}`: {accepted: true}, // GitHub
		`401 {"error":"invalid_client"}`:        {class: Misconfigured},
		`400 {"error":"redirect_uri_mismatch"}`: {class: Misconfigured},
		`503 {}`:                                {class: RetryLater},
		`400 {"error":"something_else"}`:        {},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			status, body, _ := strings.Cut(answer, " ")
			code := 0
			_, _ = fmt.Sscan(status, &code)
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		}))
		c, err := NewClient(Config{TokenEndpoint: server.URL, ClientID: "me", Method: None})
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := c.Introduce(t.Context(), "https://app.example/callback")
		var failure *Error
		if errors.As(err, &failure); accepted != want.accepted || (failure != nil) != (want.class != 0) || failure != nil && failure.Class != want.class {
			t.Errorf("%s: accepted %v, %v", answer, accepted, err)
		}
		server.Close()
	}
}
