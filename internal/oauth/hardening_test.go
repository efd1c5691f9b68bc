package oauth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// TestAttackRedirect: a redirect would carry the client secret and a refresh token to wherever it points.
func TestAttackRedirect(t *testing.T) {
	t.Parallel()
	var stolen atomic.Int32
	thief := serve(t, func(w http.ResponseWriter, r *http.Request) {
		stolen.Add(1)
		answer(200, "application/json", goodToken)(w, r)
	})
	for _, status := range []int{300, 301, 302, 303, 307, 308} {
		for _, location := range []string{thief, "", "http://[bad/%zz"} {
			endpoint := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", location)
				w.WriteHeader(status)
				_, _ = io.WriteString(w, goodToken)
			})
			token, err := newTestClient(t, Config{TokenEndpoint: endpoint}).Refresh(t.Context(), secret.New("rt"))
			e := mustFail(t, token, err)
			expect(t, e, Misconfigured, "redirect")
			if e.Status != status {
				t.Errorf("status %d, want %d", e.Status, status)
			}
		}
	}
	if stolen.Load() != 0 {
		t.Errorf("%d redirects were followed", stolen.Load())
	}
}

// TestAttackHugeAnswer: an answer above the limit is refused, not cut and parsed; one just below it is read.
func TestAttackHugeAnswer(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		status int
		size   int
		class  Class // 0: a token
		code   string
	}{
		{"2 MiB", 200, 2 << 20, UnknownOutcome, "response_too_large"},
		{"one byte too many", 200, maxBody + 1, UnknownOutcome, "response_too_large"},
		{"at the limit", 200, maxBody, 0, ""},
		{"a large error page", 502, 2 << 20, RetryLater, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			// The token stands first and blanks follow, so that a cut answer would parse.
			body := goodToken + strings.Repeat(" ", tc.size-len(goodToken))
			c := newTestClient(t, Config{TokenEndpoint: serve(t, answer(tc.status, "application/json", body))})
			token, err := c.ClientCredentials(t.Context())
			if tc.class == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			expect(t, mustFail(t, token, err), tc.class, tc.code)
		})
	}
}

// TestAttackEcho: a server that repeats what it was sent, at every place it can write to, gets none of it into an error.
func TestAttackEcho(t *testing.T) {
	t.Parallel()
	const seed = "Seeded0Client1Secret2" // would pass as a code
	const refresh, param, query = "Seeded0Refresh1Token2", "Seeded0Param1Value2", "Seeded0Query1Key2"
	blob := base64.StdEncoding.EncodeToString([]byte("caddy:" + seed))
	for i, text := range []string{seed, refresh, param, query, blob, seed[:12], "x." + refresh[6:], strings.ToLower(seed)} {
		for name, attack := range hostileAnswers(text) {
			t.Run(fmt.Sprintf("%d/%s", i, name), func(t *testing.T) {
				t.Parallel()
				addr := rawServer(t, func(conn net.Conn) {
					readRequest(conn)
					_, _ = io.WriteString(conn, attack)
				})
				c := newTestClient(t, Config{
					TokenEndpoint: "http://" + addr + "/token?key=" + query, Secret: fixed(seed),
					Params: map[string]string{"api_key": param}, Timeout: 5 * time.Second,
				})
				token, err := c.Refresh(t.Context(), secret.New(refresh))
				e := mustFail(t, token, err)
				for link := error(e); link != nil; link = errors.Unwrap(link) {
					shown := fmt.Sprintf("%v %+v %#v %q", link, link, link, link)
					if strings.Contains(strings.ToLower(shown), strings.ToLower(text)) || strings.Contains(shown, "Seeded0") {
						t.Errorf("%T shows what was sent", link)
					}
				}
			})
		}
	}
}

// hostileAnswers makes hostile answers out of text.
func hostileAnswers(text string) map[string]string {
	response := func(status, header, body string) string {
		return "HTTP/1.1 " + status + "\r\n" + header + "Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
	}
	quoted := strconv.Quote(text)
	return map[string]string{
		"code":         response("400 Bad", "", `{"error":`+quoted+`,"error_description":`+quoted+`,"error_uri":`+quoted+`}`),
		"code in 200":  response("200 OK", "", `{"error":`+quoted+`}`),
		"object":       response("400 Bad", "", `{"error":{"code":`+quoted+`,"message":`+quoted+`}}`),
		"sibling":      response("400 Bad", "", `{"status":`+quoted+`,"message":`+quoted+`}`),
		"form":         response("200 OK", "", "error="+url.QueryEscape(text)),
		"description":  response("400 Bad", "", `{"error":"invalid_grant","error_description":`+quoted+`}`),
		"page":         response("502 "+text, "X-Echo: "+text+"\r\n", "<html>"+text),
		"success":      response("200 "+text, "", `{"note":`+quoted+`}`),
		"prose":        response("404 "+text, "Retry-After: "+text+"\r\n", text),
		"redirect":     response("302 Found", "Location: http://["+text+"\r\n", ""),
		"status line":  text + " " + text + "\r\n\r\n",
		"status":       "HTTP/1.1 " + text + "\r\n\r\n",
		"header line":  "HTTP/1.1 200 OK\r\n" + text + "\r\n\r\n",
		"length":       "HTTP/1.1 200 OK\r\nContent-Length: " + text + "\r\n\r\n",
		"encoding":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + text + "\r\n\r\n",
		"chunk":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + text + "\r\n",
		"broken token": response("200 OK", "", `{"access_token":`+strconv.Quote(text+"\n")+`}`),
	}
}

// TestAttackPrintedToken: a whole response can be printed without giving a token away.
func TestAttackPrintedToken(t *testing.T) {
	t.Parallel()
	got := granted(t, `{"access_token":"Seeded-a","refresh_token":"Seeded-r","id_token":"Seeded-i"}`, time.Now())
	if shown := fmt.Sprintf("%v %+v %#v %s", got, got, *got, got); strings.Contains(shown, "Seeded") {
		t.Error("a token response prints its tokens")
	}
}

// TestOneDoor: every request to a token endpoint goes through one call.
func TestOneDoor(t *testing.T) {
	t.Parallel()
	doors := 0
	for name, source := range sources(t) {
		n := bytes.Count(source, []byte(".Do(")) + bytes.Count(source, []byte(".Post")) + bytes.Count(source, []byte("http.Get("))
		if doors += n; n > 0 && name != "endpoint.go" {
			t.Errorf("%s sends requests: one door to the token endpoint, and it is in endpoint.go", name)
		}
	}
	if doors != 1 {
		t.Errorf("%d doors: http.Client.Do stands exactly once", doors)
	}
}

// TestImports: the standard library and internal/secret; go-jose where assertions are signed; nothing else.
func TestImports(t *testing.T) {
	t.Parallel()
	for name, source := range sources(t) {
		file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			first, _, _ := strings.Cut(path, "/")
			if name == "assertion.go" && path == "github.com/go-jose/go-jose/v4" {
				continue
			}
			if strings.Contains(first, ".") && path != "github.com/caddyoauth/caddyoauth/internal/secret" {
				t.Errorf("%s imports %s: this package lives on the standard library and internal/secret", name, path)
			}
		}
	}
}

// sources are the files of this package without its tests.
func sources(t *testing.T) map[string][]byte {
	t.Helper()
	names, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if found[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	if len(found) == 0 {
		t.Fatal("no source files found")
	}
	return found
}
