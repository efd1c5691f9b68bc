package caddyoauth_test

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"
)

// overAll runs a test for every form and protocol, with and without a 401 that is replayed on the way.
func overAll(t *testing.T, protocols []string, handler http.HandlerFunc, test func(*testing.T, *site, *upstream)) {
	for _, kind := range protocols {
		for form, inject := range allForms {
			for _, refused := range []int64{0, 2} {
				if form == "flat" && refused > 0 {
					continue // it never replays
				}
				t.Run(fmt.Sprintf("%s %s token %d", kind, form, max(refused, 1)), func(t *testing.T) {
					up := upstreamOf(t, kind, handler)
					up.demand.Store(refused)
					s := run(t, setup{quiet: form == "flat", site: inject(up, "")})
					test(t, s, up)
					if got := up.last(t).header.Get("Authorization"); got != bearer(max(refused, 1)) {
						t.Errorf("the upstream got the token %s", mask([]string{got}))
					}
				})
			}
		}
	}
}

// TestProtocols: each upstream is spoken to in its own protocol.
func TestProtocols(t *testing.T) {
	for _, kind := range kinds {
		overAll(t, []string{kind}, nil, func(t *testing.T, s *site, up *upstream) {
			want := map[string]string{"h1": "HTTP/1.1", "https": "HTTP/1.1", "h2": "HTTP/2.0", "h2c": "HTTP/2.0", "h3": "HTTP/3.0"}[kind]
			s.get("/path").want(t, http.StatusOK, "GET /path 0 bytes over "+want)
		})
	}
}

// TestWebSocket upgrades and talks in both directions.
func TestWebSocket(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		for {
			line, err := buffered.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "echo "+line)
		}
	}
	// With an HTTP/2 upstream Caddy falls back to HTTP/1.1 for this.
	overAll(t, []string{"h1", "https", "h2"}, echo, func(t *testing.T, s *site, up *upstream) {
		// The client itself hides the connection behind its time-out.
		resp, err := s.client.Transport.RoundTrip(s.request(http.MethodGet, "/", nil, "Connection: Upgrade", "Upgrade: websocket",
			"Sec-Websocket-Version: 13", "Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { // Caddy must be through with it before it is stopped: it counts bytes of hijacked connections without a lock
			_ = resp.Body.Close()
			eventually(t, "the end of the connection", func() bool { return strings.Contains(logged.String(), `"handled request"`) })
		}()
		if resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("got %d, want 101", resp.StatusCode)
		}
		conn, lines := resp.Body.(io.ReadWriter), bufio.NewReader(resp.Body)
		for _, word := range []string{"one", "two"} {
			fmt.Fprintln(conn, word)
			line, err := lines.ReadString('\n')
			fmt.Fprint(&s.seen, line)
			if err != nil || line != "echo "+word+"\n" {
				t.Errorf("said %q, heard %q, %v", word, line, err)
			}
		}
	})
}

// TestEventStream: events arrive while the upstream still has more to say.
func TestEventStream(t *testing.T) {
	next := make(chan struct{})
	events := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for n := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", n)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next: // the client has seen it
			case <-r.Context().Done():
				return
			}
		}
	}
	overAll(t, kinds, events, func(t *testing.T, s *site, up *upstream) {
		resp, err := s.client.Do(s.request(http.MethodGet, "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		for n := range 3 {
			if !lines.Scan() || lines.Text() != fmt.Sprintf("data: %d", n) || !lines.Scan() {
				t.Fatalf("event %d is %q, %v", n, lines.Text(), lines.Err())
			}
			next <- struct{}{}
		}
		if lines.Scan() {
			t.Errorf("there is more: %q", lines.Text())
		}
	})
}

// TestEarlyHints: 103 reaches the client before the response.
func TestEarlyHints(t *testing.T) {
	hints := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "page")
	}
	overAll(t, []string{"h1", "https", "h2", "h2c"}, hints, func(t *testing.T, s *site, up *upstream) {
		var links []string
		trace := &httptrace.ClientTrace{Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			links = append(links, fmt.Sprint(status, header.Values("Link")))
			return nil
		}}
		req := s.request(http.MethodGet, "/", nil)
		s.do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace))).want(t, http.StatusOK, "page")
		if !slices.Equal(links, []string{"103 [</style.css>; rel=preload]"}) {
			t.Errorf("the client got the hints %q", links)
		}
	})
}

// TestTrailers go both ways.
func TestTrailers(t *testing.T) {
	got := make(chan http.Header, 1)
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Trailer.Clone()
		w.Header().Set("Trailer", "X-Sum")
		_, _ = w.Write(body)
		_ = http.NewResponseController(w).Flush() // a response that has a length has no trailers in HTTP/1.1
		w.Header().Set("X-Sum", "42")
	}
	overAll(t, kinds, handler, func(t *testing.T, s *site, up *upstream) {
		req := s.request(http.MethodPost, "/", unsized{strings.NewReader("text")})
		req.Trailer = http.Header{"X-Check": {"7"}}
		a := s.do(req)
		a.want(t, http.StatusOK, "text")
		if a.trailer.Get("X-Sum") != "42" {
			t.Errorf("the client got the trailers %v", a.trailer)
		}
		if trailer := <-got; trailer.Get("X-Check") != "7" {
			t.Errorf("the upstream got the trailers %v", trailer)
		}
	})
}

// TestRequestStreaming: the upstream has the first part before the client sends the second.
func TestRequestStreaming(t *testing.T) {
	heard := make(chan string)
	handler := func(w http.ResponseWriter, r *http.Request) {
		for part := make([]byte, 8); ; {
			n, err := io.ReadFull(r.Body, part)
			if n > 0 {
				heard <- string(part[:n])
			}
			if err != nil {
				break
			}
		}
		_, _ = io.WriteString(w, "heard all")
	}
	for _, kind := range kinds {
		for form, inject := range forms {
			t.Run(kind+" "+form, func(t *testing.T) {
				up := upstreamOf(t, kind, handler)
				s := run(t, setup{site: inject(up, "")})
				reader, writer := io.Pipe()
				go func() {
					defer writer.Close()
					for n := range 3 {
						part := fmt.Sprintf("part %03d", n)
						_, _ = io.WriteString(writer, part)
						select {
						case got := <-heard:
							if got != part {
								t.Errorf("sent %q, the upstream heard %q", part, got)
							}
						case <-time.After(5 * time.Second):
							t.Errorf("the upstream did not hear %q before the next part", part)
							return
						}
					}
				}()
				s.do(s.request(http.MethodPost, "/", reader)).want(t, http.StatusOK, "heard all")
				if got := up.last(t).header.Get("Authorization"); got != bearer(1) {
					t.Error("the upstream got no token")
				}
			})
		}
	}
}

// TestExpectContinue: the client is told to go on, and its body arrives.
func TestExpectContinue(t *testing.T) {
	overAll(t, kinds, nil, func(t *testing.T, s *site, up *upstream) {
		s.client.Transport.(*http.Transport).ExpectContinueTimeout = 15 * time.Second
		continued := make(chan struct{}, 1)
		req := s.request(http.MethodPost, "/", strings.NewReader("the body"), "Expect: 100-continue")
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got100Continue: func() { continued <- struct{}{} }}))
		s.do(req).want(t, http.StatusOK, "POST / 8 bytes")
		if len(continued) != 1 {
			t.Error("the client was not told to continue")
		}
	})
}

// TestNobodyAsksForGzipUnasked: the upstream is asked for gzip by a client that wants it, or by `compression on`.
func TestNobodyAsksForGzipUnasked(t *testing.T) {
	for option, want := range map[string]string{"": "", "compression on": "gzip", "compression off": ""} {
		up := newUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "asked for "+r.Header.Get("Accept-Encoding")+".")
		})
		s := run(t, setup{site: "oauth2_inject api {\nreverse_proxy " + up.url + " {\ntransport oauth2_inject {\n" + option + "\n}\n}\n}"})
		req := s.request(http.MethodGet, "/", nil)
		req.Header["Accept-Encoding"] = nil // else this test's own client asks
		s.do(req).want(t, http.StatusOK, "asked for "+want+".")
	}
}

// TestCompressedResponsesPass: what the upstream compressed for the client stays as it is.
func TestCompressedResponsesPass(t *testing.T) {
	var packed strings.Builder
	writer := gzip.NewWriter(&packed)
	_, _ = io.WriteString(writer, strings.Repeat("text ", 1000))
	_ = writer.Close()
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, packed.String())
		}
	}
	overAll(t, kinds, handler, func(t *testing.T, s *site, up *upstream) {
		a := s.get("/", "Accept-Encoding: gzip")
		if a.body != packed.String() || a.header.Get("Content-Encoding") != "gzip" {
			t.Errorf("got %d bytes with the encoding %q, want %d as the upstream sent them", len(a.body), a.header.Get("Content-Encoding"), packed.Len())
		}
	})
}

// TestHealthChecks: active checks pass the transport without a token, and the upstream counts as healthy (trap 8).
func TestHealthChecks(t *testing.T) {
	for _, kind := range kinds {
		for form, inject := range forms {
			t.Run(kind+" "+form, func(t *testing.T) {
				up := upstreamOf(t, kind, nil)
				s := run(t, setup{site: inject(up, "health_uri /health\n health_interval 20ms\n health_timeout 5s")})
				checks := func() (n int) {
					for _, r := range up.requests() {
						if r.uri == "/health" {
							n++
						}
					}
					return n
				}
				eventually(t, "two health checks", func() bool { return checks() >= 2 })
				s.get("/").want(t, http.StatusOK, "GET")
				for _, r := range up.requests() {
					if hasToken := r.header.Get("Authorization") != ""; hasToken != (r.uri == "/") {
						t.Errorf("%s with a token: %t", r.uri, hasToken)
					}
				}
			})
		}
	}
}
