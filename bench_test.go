package caddyoauth

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// The benchmarks below run Caddy's real reverse_proxy with a network that is not there: the difference between the two
// sub-benchmarks is what injecting costs a request.

// benchUpstream answers at once, in place of the network.
type benchUpstream struct{}

func (benchUpstream) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header), Body: http.NoBody, Request: req,
	}, nil
}

// benchChain provisions a site and returns its handlers, with the network taken out.
func benchChain(b *testing.B, caddyfile string) caddyhttp.Handler {
	b.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		b.Fatal(err)
	}
	var cfg caddy.Config
	if err := json.Unmarshal(adapted, &cfg); err != nil {
		b.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&cfg)
	if err != nil {
		b.Fatal(err)
	}
	app, err := ctx.App("http")
	if err != nil {
		b.Fatal(err)
	}
	routes := app.(*caddyhttp.App).Servers["srv0"].Routes
	if !unplug(routes) {
		b.Fatal("found no reverse_proxy to unplug")
	}
	return routes.Compile(caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil }))
}

// unplug replaces the network of every reverse_proxy below the routes.
func unplug(routes caddyhttp.RouteList) (found bool) {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch h := handler.(type) {
			case *caddyhttp.Subroute:
				found = unplug(h.Routes) || found
			case *reverseproxy.Handler:
				found = true
				switch transport := h.Transport.(type) {
				case *Transport:
					transport.Transport.RegisterProtocol("http", benchUpstream{})
				case *reverseproxy.HTTPTransport:
					transport.Transport.RegisterProtocol("http", benchUpstream{})
				}
			}
		}
	}
	return found
}

// benchRequest sends one request through the handlers, prepared as Caddy's server does.
func benchRequest(chain caddyhttp.Handler, template *http.Request) error {
	w := httptest.NewRecorder()
	r := template.Clone(context.Background())
	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, w, &caddyhttp.Server{})
	return chain.ServeHTTP(w, r)
}

func benchTemplate() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://localhost:8080/invoices?page=2", nil)
	r.Header.Set("User-Agent", "bench/1.0")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Accept-Encoding", "gzip")
	r.RemoteAddr = "192.0.2.1:40000"
	return r
}

func benchTokenEndpoint(b *testing.B) string {
	b.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"`+strings.Repeat("x", 600)+`","token_type":"Bearer","expires_in":3600}`)
	}))
	b.Cleanup(server.Close)
	return server.URL
}

func benchSites(b *testing.B) map[string]string {
	connection := "token_endpoint " + benchTokenEndpoint(b) + "\nclient_id bench\nclient_secret bench-bench-bench\n"
	return map[string]string{
		"reverse_proxy":        "http://localhost:8080 {\nreverse_proxy 127.0.0.1:1\n}",
		"reverse_proxy_static": "http://localhost:8080 {\nreverse_proxy 127.0.0.1:1 {\nheader_up Authorization \"Bearer x\"\n}\n}",
		"oauth2_inject":        "http://localhost:8080 {\noauth2_inject bench {\n" + connection + "reverse_proxy 127.0.0.1:1\n}\n}",
		"oauth2_inject_flat":   "http://localhost:8080 {\noauth2_inject bench {\n" + connection + "}\nreverse_proxy 127.0.0.1:1\n}",
	}
}

func BenchmarkInject(b *testing.B) {
	for name, site := range benchSites(b) {
		b.Run(name, func(b *testing.B) {
			chain, template := benchChain(b, site), benchTemplate()
			if err := benchRequest(chain, template); err != nil { // fetches the token
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := benchRequest(chain, template); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkInjectParallel(b *testing.B) {
	for name, site := range benchSites(b) {
		b.Run(name, func(b *testing.B) {
			chain, template := benchChain(b, site), benchTemplate()
			if err := benchRequest(chain, template); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := benchRequest(chain, template); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
