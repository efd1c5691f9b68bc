package caddyoauth

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// traceReceiver speaks the receiving side of OTLP over HTTP.
type traceReceiver struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []byte
	events [][]string // of each span: "name attribute=value ..."
}

func newTraceReceiver(t *testing.T) *traceReceiver {
	t.Helper()
	r := new(traceReceiver)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		var export collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &export)
		}
		if err != nil || req.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", req.URL.Path, err)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.bodies = append(r.bodies, body...)
		r.add(&export)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(r.Close)
	for name, value := range map[string]string{
		"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": r.URL,
	} {
		t.Setenv(name, value)
	}
	return r
}

func (r *traceReceiver) add(export *collector.ExportTraceServiceRequest) {
	for _, resource := range export.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				events := []string{}
				for _, event := range span.GetEvents() {
					text := []string{event.GetName()}
					for _, attribute := range event.GetAttributes() {
						value := attribute.GetValue().GetStringValue()
						if value == "" {
							value = fmt.Sprint(attribute.GetValue().GetIntValue())
						}
						if name := strings.TrimPrefix(attribute.GetKey(), "oauth2_inject."); name != "waited_ms" {
							text = append(text, name+"="+value)
						}
					}
					slices.Sort(text[1:])
					events = append(events, strings.Join(text, " "))
				}
				r.events = append(r.events, events)
			}
		}
	}
}

// flatForm is a block form, whose reverse_proxy stands behind the directive in flat form.
var flatForm = regexp.MustCompile(`oauth2_inject api \{\n\t\t(reverse_proxy [^\n]*)\n\t\}`)

// TestTrace runs Caddy's own tracing against a real receiver: what a request's span says of its token.
func TestTrace(t *testing.T) {
	receiver := newTraceReceiver(t)
	c := newLiveCaddy(t)
	picky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("Authorization"), "seeded-token-1") && r.URL.Path == "/picky" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(picky.Close)
	options := strings.Replace(personalOptions, "seeded-jane", "{http.request.header.User}", 1)
	config := strings.ReplaceAll(c.config("", "client_secret seeded-secret"), c.upstream.URL, picky.URL)
	people := strings.ReplaceAll(c.config("", options), c.upstream.URL, picky.URL)
	traced := func(config string) string {
		return strings.Replace(config, "\toauth2_inject api {\n\t\treverse_proxy", "\ttracing\n\toauth2_inject api {\n\t\treverse_proxy", 1)
	}
	ask := func(path string) {
		t.Helper()
		resp, err := c.site.Get("http://localhost" + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	c.mustLoad(traced(config))
	ask("/")
	ask("/")
	ask("/picky")
	c.mustLoad(traced(people))
	c.getAs("seeded-jane")
	c.mustLoad(flatForm.ReplaceAllString(traced(config), "oauth2_inject api\n\t$1"))
	ask("/")
	c.mustLoad(config) // not traced
	ask("/")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	receiver.mu.Lock()
	defer receiver.mu.Unlock()
	injected := "oauth2_inject.injected connection=api generation="
	want := [][]string{
		{"oauth2_inject.refresh connection=api generation=1", injected + "1"}, // the first request waits
		{injected + "1"},
		{injected + "1", "oauth2_inject.replay connection=api result=helped"},
		{"oauth2_inject.refused connection=api outcome=authorization_required"},
		{"oauth2_inject.refresh connection=api generation=2", injected + "2"}, // in flat form, with the token set that was stored
	}
	if fmt.Sprint(receiver.events) != fmt.Sprint(want) {
		t.Errorf("got\n%v, want\n%v", receiver.events, want)
	}
	for _, secret := range []string{"seeded-token", "seeded-secret", "seeded-jane"} {
		if strings.Contains(string(receiver.bodies), secret) {
			t.Errorf("the trace holds %s...", secret[:7])
		}
	}
}
