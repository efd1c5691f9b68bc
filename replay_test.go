package caddyoauth_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestReplay answers a 401 with one refresh and one replay, over every protocol (trap 5).
func TestReplay(t *testing.T) {
	for _, kind := range kinds {
		for name, inject := range forms {
			for _, body := range []string{"", "small", strings.Repeat("x", 64<<10)} {
				t.Run(fmt.Sprintf("%s %s %d bytes", kind, name, len(body)), func(t *testing.T) {
					up := upstreamOf(t, kind, nil)
					up.demand.Store(2)
					s := run(t, setup{site: inject(up, "")})
					if body == "" {
						s.get("/").want(t, http.StatusOK, "GET / 0 bytes")
					} else {
						s.post("/", body).want(t, http.StatusOK, fmt.Sprintf("POST / %d bytes", len(body)))
					}
					wantTokens(t, up, 1, 2)
					if got := up.last(t); got.body != body {
						t.Errorf("the replay brought %d bytes of %d", len(got.body), len(body))
					}
				})
			}
		}
	}
}

// wantTokens fails the test unless the upstream got exactly these tokens in this order.
func wantTokens(t *testing.T, u *upstream, numbers ...int64) {
	t.Helper()
	var want []string
	for _, n := range numbers {
		want = append(want, bearer(n))
	}
	if got := u.tokens(); !slices.Equal(got, want) {
		t.Errorf("the upstream got the tokens %s, want %s", mask(got), mask(want))
	}
}

// mask leaves the numbers of tokens.
func mask(tokens []string) string { return strings.ReplaceAll(fmt.Sprint(tokens), "Bearer "+seed, "") }

// unsized is a body whose length nobody knows.
type unsized struct{ io.Reader }

// TestReplayOfUnsizedBodies: a chunked body can be replayed once it was read to its end within the limit.
func TestReplayOfUnsizedBodies(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			up := upstreamOf(t, kind, nil)
			up.demand.Store(2)
			s := run(t, setup{site: block(up, "")})
			s.do(s.request(http.MethodPost, "/", unsized{strings.NewReader("chunked")})).want(t, http.StatusOK, "POST / 7 bytes")
			wantTokens(t, up, 1, 2)
		})
	}
}

// TestNoReplayBeyondTheLimit passes the upstream's own 401 on; the next request has a new token.
func TestNoReplayBeyondTheLimit(t *testing.T) {
	large := strings.Repeat("x", 64<<10+1)
	for name, send := range map[string]func(*site) answer{
		"sized":        func(s *site) answer { return s.post("/", large) },
		"unsized":      func(s *site) answer { return s.do(s.request(http.MethodPost, "/", unsized{strings.NewReader(large)})) },
		"incremental":  func(s *site) answer { return s.post("/", "small", "Incremental: ?1") },
		"below, block": func(s *site) answer { return s.post("/limited", "more than ten") },
		"off":          func(s *site) answer { return s.post("/off", "small") },
	} {
		t.Run(name, func(t *testing.T) {
			up := newUpstream(t, nil)
			up.demand.Store(2)
			s := run(t, setup{site: fmt.Sprintf(`
				handle /limited {
					oauth2_inject api {
						replay_limit 10B
						reverse_proxy %[1]s
					}
				}
				handle /off {
					oauth2_inject api {
						via transport
					}
					reverse_proxy %[1]s {
						transport oauth2_inject {
							replay_limit off
						}
					}
				}
				handle {
					%[2]s
				}`, up.addr, block(up, ""))})
			refusal := send(s)
			refusal.want(t, http.StatusUnauthorized, "the upstream's own refusal")
			if refusal.header.Get("Www-Authenticate") != challenge {
				t.Error("the upstream's challenge is gone")
			}
			wantTokens(t, up, 1)
			s.get("/").want(t, http.StatusOK, "GET")
			wantTokens(t, up, 1, 2)
		})
	}
}

// TestReplayInsideHandle: running the handlers once more would skip every `handle` block and answer an empty 200.
func TestReplayInsideHandle(t *testing.T) {
	for name, inject := range forms {
		t.Run(name, func(t *testing.T) {
			up := newUpstream(t, nil)
			up.demand.Store(2)
			s := run(t, setup{site: "handle /api/* {\n handle_path /api/v1/* {\n rewrite * /new{uri}\n" + inject(up, "") + "}\n}\nrespond other 404"})
			s.post("/api/v1/x", "body").want(t, http.StatusOK, "POST /new/x 4 bytes")
			wantTokens(t, up, 1, 2)
		})
	}
}

// TestRefusalStands passes the upstream's own 401 on, whole, when a new token does not help or cannot be had.
func TestRefusalStands(t *testing.T) {
	for name, endpoint := range map[string]func(*idp){
		"new token refused": func(*idp) {},
		"same token again": func(i *idp) {
			i.answers(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"access_token":"%s","expires_in":3600}`, token(1))
			})
		},
		"endpoint down":    func(i *idp) { i.says(http.StatusInternalServerError, "{}") },
		"endpoint refuses": func(i *idp) { i.says(http.StatusUnauthorized, `{"error":"invalid_client"}`) },
	} {
		for form, inject := range forms {
			t.Run(name+" "+form, func(t *testing.T) {
				up := newUpstream(t, nil)
				s := run(t, setup{site: inject(up, "")})
				s.get("/").want(t, http.StatusOK, "GET")
				endpoint(s.idp)
				up.demand.Store(1000)
				for range 5 {
					refusal := s.post("/", "body")
					refusal.want(t, http.StatusUnauthorized, "the upstream's own refusal")
					if refusal.header.Get("Www-Authenticate") == "" || refusal.header.Get("X-Upstream") != up.addr {
						t.Error("headers of the upstream's answer are gone")
					}
				}
				if asked := s.idp.asked.Load(); asked != 2 {
					t.Errorf("%d token requests, want the first and one after the first 401", asked)
				}
				if got := len(up.requests()); got > 7 {
					t.Errorf("the upstream got %d requests for 6 of the client's; one replay may be on top", got)
				}
			})
		}
	}
}

// TestOneRefreshForManyRefusals: all who were refused wait for the same refresh.
func TestOneRefreshForManyRefusals(t *testing.T) {
	const clients = 60
	up := newUpstream(t, nil)
	s := run(t, setup{site: block(up, "")})
	s.get("/").want(t, http.StatusOK, "GET")
	up.demand.Store(2)
	var group sync.WaitGroup
	for n := range clients {
		group.Go(func() {
			body := fmt.Sprintf("body %d", n)
			a, err := s.try(s.request(http.MethodPost, "/", strings.NewReader(body)))
			if err != nil || a.status != http.StatusOK {
				t.Errorf("client %d got %d, %v", n, a.status, err)
			}
		})
	}
	group.Wait()
	if asked := s.idp.asked.Load(); asked != 2 {
		t.Errorf("%d token requests, want 2", asked)
	}
}

// TestEarlyRefusal: the upstream answers 401 before it has read the body, and the replay brings it whole.
func TestEarlyRefusal(t *testing.T) {
	for _, kind := range kinds {
		for _, size := range []int{10, 60 << 10} {
			t.Run(fmt.Sprintf("%s %d bytes", kind, size), func(t *testing.T) {
				arrived := make(chan string, 1)
				up := upstreamOf(t, kind, func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					arrived <- string(body)
					_, _ = io.WriteString(w, "done")
				})
				up.early = true
				up.demand.Store(2)
				s := run(t, setup{site: block(up, "")})
				body := strings.Repeat("y", size)
				s.post("/", body).want(t, http.StatusOK, "done")
				if got := <-arrived; got != body {
					t.Errorf("the replay brought %d bytes of %d", len(got), size)
				}
				wantTokens(t, up, 1, 2)
			})
		}
	}
}

// TestRefusalWhileTheClientStillSends: of an unsized body that goes on, nothing can be replayed, and its end is not waited for.
func TestRefusalWhileTheClientStillSends(t *testing.T) {
	up := newUpstream(t, func(http.ResponseWriter, *http.Request) {})
	up.early = true
	up.demand.Store(2)
	s := run(t, setup{site: block(up, "")})
	reader, writer := io.Pipe()
	go func() {
		_, _ = io.WriteString(writer, "first part")
		for range 1000 { // net/http's server holds the answer back until the body is over; Caddy's log does not
			if strings.Contains(logged.String(), "upstream roundtrip") {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		_, _ = io.WriteString(writer, "last part")
		_ = writer.Close()
	}()
	s.do(s.request(http.MethodPost, "/", reader)).want(t, http.StatusUnauthorized, "the upstream's own refusal")
	s.get("/").want(t, http.StatusOK, "")
	wantTokens(t, up, 1, 2)
}

// TestRetriesOfOtherUpstreams: the first upstream is down, and the healthy second one gets body and token (trap 6).
func TestRetriesOfOtherUpstreams(t *testing.T) {
	for name, retry := range map[string]string{
		"lb_retries": "lb_retries 3", "lb_try_duration": "lb_try_duration 3s\n lb_try_interval 10ms",
	} {
		for form, inject := range forms {
			for _, old := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s refused=%t", name, form, old), func(t *testing.T) {
					up := newUpstream(t, nil)
					if old {
						up.demand.Store(2)
					}
					two := &upstream{url: "http://" + freeAddress(t) + " http://" + up.addr}
					s := run(t, setup{site: inject(two, "lb_policy first\n fail_duration 30s\n"+retry)})
					s.post("/", "the body").want(t, http.StatusOK, "POST / 8 bytes")
					if got := up.last(t); got.body != "the body" || !strings.HasPrefix(got.header.Get("Authorization"), "Bearer "+seed) {
						t.Errorf("the second upstream got the body %q", got.body)
					}
				})
			}
		}
	}
}

// TestTokenTroubleIsNotTheUpstreams: one client's lack of a token must not take the upstream from the others (trap 7).
func TestTokenTroubleIsNotTheUpstreams(t *testing.T) {
	up, down := newUpstream(t, nil), newIDP(t)
	down.says(http.StatusInternalServerError, "{}")
	slow := make(chan struct{})
	stuck := newIDP(t)
	stuck.answers(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-slow:
		case <-r.Context().Done():
		}
	})
	defer close(slow)
	proxy := "oauth2_inject {http.request.header.X-Connection} {\n reverse_proxy " + proxyBlock(up, "http", "fail_duration 1m\n max_fails 1") + "\n}\n"
	s := run(t, setup{site: proxy, connections: fmt.Sprintf(`
		connection broken {
			token_endpoint %s/token
			client_id x
		}
		connection stuck {
			token_endpoint %s/token
			client_id x
			timeout 200ms
		}
		connection elsewhere {
			token_endpoint %s/token
			client_id x
			allow_hosts elsewhere.test
		}`, down.URL, stuck.URL, newIDP(t).URL)})
	for connection, status := range map[string]int{"broken": 503, "stuck": 503, "elsewhere": 502, "none": 403} {
		for range 2 {
			s.get("/", "X-Connection: "+connection).want(t, status, "")
			s.get("/", "X-Connection: api").want(t, http.StatusOK, "GET")
		}
	}
}
