package oauth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// seeds are the secrets of a connection of a person. Each would pass as a code, and no two share a run of echoRun bytes,
// so that forgetting one cannot hide behind another.
const (
	seedClient   = "Seed0-kQ7vC1ient"
	seedCode     = "Seed0-wX2mC0de99"
	seedVerifier = "Seed0-hJ8sVer1fy"
	seedUser     = "Seed0-tB4nUs3r66"
	seedPassword = "Seed0-zL5dP4ssw0"
	seedRefresh  = "Seed0-fY1gRefr3sh"
	seedHeader   = "Seed0-oD6cHe4der"
	seedParam    = "Seed0-iN3xPar4ms"
	seedRevoke   = "Seed0-uW9pRev0ke"
)

// TestAttackEchoToPeople: a server that repeats what it was sent, at every place it can write to, gets none of it into
// an error, whichever call it was.
func TestAttackEchoToPeople(t *testing.T) {
	t.Parallel()
	raw := base64.StdEncoding.EncodeToString([]byte("caddy:" + seedClient))
	calls := map[string]struct {
		shape RevocationShape
		texts []string
		call  func(context.Context, *Client) error
	}{
		"code": {texts: []string{seedCode, seedVerifier, seedClient, raw, seedHeader, seedCode[6:]}, call: func(ctx context.Context, c *Client) error {
			_, err := c.ExchangeCode(ctx, CodeExchange{secret.New(seedCode), secret.New(seedVerifier), callback})
			return err
		}},
		"password": {texts: []string{seedPassword, seedUser}, call: func(ctx context.Context, c *Client) error {
			_, err := c.Password(ctx)
			return err
		}},
		"refresh": {texts: []string{seedRefresh, seedParam}, call: func(ctx context.Context, c *Client) error {
			_, err := c.Refresh(ctx, secret.New(seedRefresh))
			return err
		}},
		"revoke": {texts: []string{seedRefresh, raw, seedHeader}, call: func(ctx context.Context, c *Client) error {
			return c.Revoke(ctx, secret.New(seedRefresh), "refresh_token")
		}},
		"revoke by secret": {
			shape: RevocationShape{Auth: RevokeWithSecret, Format: FormatJSON, Params: map[string]string{"p": seedRevoke}},
			texts: []string{seedRefresh, seedClient, seedRevoke}, call: func(ctx context.Context, c *Client) error {
				return c.Revoke(ctx, secret.New(seedRefresh), "")
			},
		},
	}
	for name, tc := range calls {
		for i, text := range tc.texts {
			for kind, attack := range hostileAnswers(text) {
				t.Run(fmt.Sprintf("%s/%d/%s", name, i, kind), func(t *testing.T) {
					t.Parallel()
					addr := rawServer(t, func(conn net.Conn) {
						readRequest(conn)
						_, _ = io.WriteString(conn, attack)
					})
					c := newTestClient(t, Config{
						TokenEndpoint: "http://" + addr + "/token", RevocationEndpoint: "http://" + addr + "/revoke",
						Secret: fixed(seedClient), BasicRaw: true, Timeout: 5 * time.Second, Revocation: tc.shape,
						Username: seedUser, Password: fixed(seedPassword),
						ExtraHeaders: map[string]string{"X-Key": seedHeader}, RefreshParams: map[string]string{"k": seedParam},
					})
					err := tc.call(t.Context(), c)
					// RFC 7009 section 2.2: what a success says is ignored.
					ignored := strings.HasPrefix(name, "revoke") && (kind == "success" || kind == "broken token")
					if err == nil && !ignored {
						t.Fatal("accepted")
					}
					checkSilent(t, err, text)
				})
			}
		}
	}
}

// checkSilent fails if any link of the chain shows a seed or text, however it is printed.
func checkSilent(t *testing.T, err error, text string) {
	t.Helper()
	for link := err; link != nil; link = errors.Unwrap(link) {
		if shown := fmt.Sprintf("%v %+v %#v %q", link, link, link, link); strings.Contains(shown, "Seed0") || strings.Contains(shown, text) {
			t.Errorf("%T shows what was sent", link)
		}
	}
}

// TestAttackEchoOfMetadata: the same for discovery, which sends no secrets but reads foreign text.
func TestAttackEchoOfMetadata(t *testing.T) {
	t.Parallel()
	for kind, attack := range hostileAnswers("Seed0-Foreign1Text2") {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			addr := rawServer(t, func(conn net.Conn) {
				readRequest(conn)
				_, _ = io.WriteString(conn, attack)
			})
			got, err := Discover(t.Context(), DiscoverConfig{Issuer: "http://" + addr, Timeout: 5 * time.Second})
			if e := mustFail(t, nil, err); got != nil || (e.Class != Misconfigured && e.Class != RetryLater) {
				t.Errorf("got %+v, %v", got, e)
			}
			checkSilent(t, err, "Foreign1")
		})
	}
}

// TestAttackPrintedPeople: what holds the secrets of a login can be printed whole.
func TestAttackPrintedPeople(t *testing.T) {
	t.Parallel()
	response, err := ParseAuthorizationResponse("code=" + seedCode + "&state=s")
	if err != nil {
		t.Fatal(err)
	}
	token := granted(t, `{"access_token":"Seeded0a","refresh_token":"Seeded0r","id_token":"Seeded0i","refresh_expires_in":60}`, time.Now())
	pair := pkceOf(seedVerifier)
	for _, value := range []any{
		response, *response, pair, &pair, token, *token,
		CodeExchange{secret.New(seedCode), secret.New(seedVerifier), callback},
	} {
		if strings.Contains(fmt.Sprintf("%v %+v %#v %s", value, value, value, value), "Seed") {
			t.Errorf("%T prints a secret", value)
		}
	}
}

// FuzzGrantedShapes: nested tokens and the grants of people, against the same rules as a plain answer.
func FuzzGrantedShapes(f *testing.F) {
	for _, body := range []string{
		goodToken, `{"ok":true,"authed_user":{"access_token":"a","refresh_token":"r"},"access_token":"b"}`, `{"authed_user":[]}`,
		`{"authed_user":{"access_token":""},"token":"t"}`, `{"error":"invalid_grant"}`, `{"token":"t","refresh_token_expires_in":1e400}`,
		`{"authed_user":{"access_token":"a","expires_in":-5},"id_token":7}`, "access_token=a&id_token=b",
	} {
		f.Add(200, []byte(body))
		f.Add(400, []byte(body))
	}
	nested := &Client{cfg: Config{ClientID: "caddy", Method: ClientSecretPost, TokenPath: []string{"authed_user.access_token", "token"}}}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		sentAt := time.Now()
		for _, grant := range []string{GrantAuthorizationCode, GrantPassword, GrantRefreshToken} {
			token, err := nested.judge(&exchange{grant: grant}, secret.New("s3cret-of-the-client"), &reply{status: status, body: body, sentAt: sentAt})
			if err == nil {
				checkGranted(t, status, token)
				continue
			}
			checkShown(t, grant, token, err)
			var e *Error
			if errors.As(err, &e) && e.Class == Revoked && grant != GrantRefreshToken {
				t.Fatalf("%s cannot be revoked", grant)
			}
		}
	})
}
