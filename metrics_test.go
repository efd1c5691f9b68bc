package caddyoauth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/caddyserver/caddy/v2/modules/metrics"
	"github.com/caddyserver/certmagic"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// scrape reads /metrics of the admin endpoint: our series, with their values.
func (c *liveCaddy) scrape() map[string]float64 {
	c.t.Helper()
	answer := c.ask(http.MethodGet, "/metrics")
	if answer.status != http.StatusOK {
		c.t.Fatalf("/metrics answers %d %s", answer.status, answer.body)
	}
	if strings.Contains(answer.body, "seeded-") {
		c.t.Error("the metrics hold a secret or a subject")
	}
	series := make(map[string]float64)
	for line := range strings.Lines(answer.body) {
		name, value, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "caddy_oauth2_inject_")), " ")
		if !strings.HasPrefix(line, "caddy_oauth2_inject_") {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			c.t.Fatalf("%s: %v", line, err)
		}
		series[name] = number
	}
	return series
}

// wantMetrics scrapes until the series have these values, for some are counted after the answer.
func (c *liveCaddy) wantMetrics(want map[string]float64) {
	c.t.Helper()
	var got map[string]float64
	var wrong string
	for deadline := time.Now().Add(5 * time.Second); ; {
		got, wrong = c.scrape(), ""
		for name, value := range want {
			if is, ok := got[name]; !ok && value >= 0 || is != max(value, 0) {
				wrong += fmt.Sprintf("%s is %v, want %v\n", name, is, value)
			}
		}
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s\nof %v", wrong, slices.Sorted(maps.Keys(got)))
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestMetricsSurviveReload scrapes a real Caddy before and after reloads, one of which fails (trap 14).
func TestMetricsSurviveReload(t *testing.T) {
	c := newLiveCaddy(t)
	config := c.config("", "client_secret seeded-secret")
	c.mustLoad(config)
	c.wantMetrics(map[string]float64{
		`requests_total{connection="api",outcome="injected"}`: 0, `token_sets{connection="api",status="pending"}`: 1,
		`token_sets{connection="api",status="revoked"}`: 0, `token_expires_in_seconds{connection="api"}`: -1,
	})
	for range 3 {
		c.want(c.get(), "Bearer token-1")
	}
	before := map[string]float64{
		`requests_total{connection="api",outcome="injected"}`: 3, `refreshes_total{connection="api",reason="first",result="refreshed"}`: 1,
		`refresh_duration_seconds_count{connection="api"}`: 1, `lock_wait_seconds_count{connection="api"}`: 1, `events_total{connection="api",event="refreshed"}`: 1,
		`token_sets{connection="api",status="active"}`: 1, `token_sets{connection="api",status="pending"}`: 0, `keyset_open`: 1,
	}
	c.wantMetrics(before)
	if left := c.scrape()[`token_expires_in_seconds{connection="api"}`]; left < 3500 || left > 3600 {
		t.Errorf("the token ends in %v seconds", left)
	}
	found, err := c.app().store.counted(t.Context(), true)
	if err != nil || found.total != 1 {
		t.Fatalf("%+v, %v", found, err)
	}
	for id := range found.byKey {
		before[fmt.Sprintf(`sealed_records{key="%d"}`, id)] = 1
	}
	c.mustLoad(config)
	c.wantMetrics(before)
	c.want(c.get(), "Bearer token-1")
	before[`requests_total{connection="api",outcome="injected"}`] = 4
	c.wantMetrics(before)
	for _, when := range []string{"provision", "provision", "provision", "start"} { // apps are provisioned in any order
		if err := c.load(config, when); err == nil {
			t.Fatal("the failing app did not fail")
		}
		c.want(c.get(), "Bearer token-1")
		before[`requests_total{connection="api",outcome="injected"}`]++
		c.wantMetrics(before) // from the admin endpoint of the configuration that failed
	}
	// A configuration without the app has none.
	c.mustLoad("{\n\tadmin unix/" + filepath.Join(c.dir, "adminSOCKET") + "\n}\n")
	if series := c.scrape(); len(series) != 0 {
		t.Errorf("without the app there are %v", series)
	}
}

// TestMetricsOfTrouble: outcomes, failures and their codes.
func TestMetricsOfTrouble(t *testing.T) {
	c := newLiveCaddy(t)
	config := c.config("", "client_secret seeded-secret")
	c.mustLoad(config)
	c.idp.says(http.StatusUnauthorized, "invalid_client")
	c.want(c.get(), "502 Bad Gateway")
	c.want(c.get(), "502 Bad Gateway")
	c.wantMetrics(map[string]float64{
		`requests_total{connection="api",outcome="misconfigured"}`: 2, `requests_total{connection="api",outcome="injected"}`: 0,
		`refreshes_total{connection="api",reason="first",result="failed"}`: 1, `refresh_failures_total{code="invalid_client",connection="api"}`: 1,
		`events_total{connection="api",event="misconfigured"}`: 1, `token_sets{connection="api",status="misconfigured"}`: 1,
	})
	storage := c.app().store.storage
	if _, err := storage.Load(t.Context(), "missing"); err == nil {
		t.Fatal("there is something")
	}
	c.wantMetrics(map[string]float64{`storage_errors_total{operation="load"}`: -1}) // it is no failure that nothing is there
	broken := &meteredStorage{Storage: brokenStorage{}, failures: c.app().metrics.storageErrors}
	_, _ = broken.Load(t.Context(), "k")
	_ = broken.Store(t.Context(), "k", nil)
	_ = broken.Delete(t.Context(), "k")
	_, _ = broken.List(t.Context(), "k", false)
	_, _ = broken.Stat(t.Context(), "k")
	_ = broken.Lock(t.Context(), "k")
	_ = broken.Unlock(t.Context(), "k")
	for _, operation := range storageOperations {
		c.wantMetrics(map[string]float64{`storage_errors_total{operation="` + operation + `"}`: 1})
	}
}

// TestMetricsOfPeople: statuses are counted over subjects, none of which is seen; what has lapsed is not counted as ending.
func TestMetricsOfPeople(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.config("", strings.Replace(personalOptions, "seeded-jane", "{http.request.header.User}", 1)))
	c.want(c.get(), "403 Forbidden") // nobody
	for _, user := range []string{"seeded-jane", "seeded-joe"} {
		c.want(c.getAs(user), "403 Forbidden")
	}
	c.wantMetrics(map[string]float64{
		`requests_total{connection="api",outcome="subject_required"}`: 1, `requests_total{connection="api",outcome="authorization_required"}`: 2,
		`token_sets{connection="api",status="authorization_required"}`: 2, `refreshes_total{connection="api",reason="first",result="failed"}`: -1,
		`events_total{connection="api",event="authorization_required"}`: 2, `token_expires_in_seconds{connection="api"}`: -1,
	})
}

// brokenStorage fails in everything.
type brokenStorage struct{ certmagic.Storage }

var errBroken = errors.New("the storage is broken")

func (brokenStorage) Store(context.Context, string, []byte) error          { return errBroken }
func (brokenStorage) Load(context.Context, string) ([]byte, error)         { return nil, errBroken }
func (brokenStorage) Delete(context.Context, string) error                 { return errBroken }
func (brokenStorage) List(context.Context, string, bool) ([]string, error) { return nil, errBroken }
func (brokenStorage) Lock(context.Context, string) error                   { return errBroken }
func (brokenStorage) Unlock(context.Context, string) error                 { return errBroken }
func (brokenStorage) Stat(context.Context, string) (certmagic.KeyInfo, error) {
	return certmagic.KeyInfo{}, errBroken
}

// TestMetricsOfReplays: each 401 of an upstream is counted once, by what came of it.
func TestMetricsOfReplays(t *testing.T) {
	c := newLiveCaddy(t)
	var refuses atomic.Pointer[func(token string) bool]
	picky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if (*refuses.Load())(r.Header.Get("Authorization")) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(picky.Close)
	config := strings.ReplaceAll(c.config("", "client_secret seeded-secret"), "reverse_proxy "+c.upstream.URL, "replay_limit 10B\nreverse_proxy "+picky.URL)
	c.mustLoad(config)
	refuse := func(token string) {
		refuse := func(shown string) bool { return strings.HasSuffix(shown, token) }
		refuses.Store(&refuse)
	}
	refuse("seeded-token-1")
	c.get()
	result := func(name string) string { return `replays_total{connection="api",result="` + name + `"}` }
	c.wantMetrics(map[string]float64{result("helped"): 1, `requests_total{connection="api",outcome="injected"}`: 1})
	refuse("seeded-token-2")
	c.get() // token 2 replaced a refused one just now, so the refusal stands
	c.wantMetrics(map[string]float64{result("no_new_token"): 1})
	if resp, err := c.site.Post("http://localhost/", "text/plain", strings.NewReader(strings.Repeat("x", 100))); err == nil {
		resp.Body.Close()
	}
	c.wantMetrics(map[string]float64{result("body_not_kept"): 1, result("helped"): 1, result("no_new_token"): 1})
	// Both tokens are refused.
	c.mustLoad(strings.ReplaceAll(config, "client_id caddy", "client_id other"))
	refuse("")
	c.get()
	c.wantMetrics(map[string]float64{result("refused"): 1, result("helped"): 1, `requests_total{connection="api",outcome="injected"}`: 4})
}

// getAs asks the site as somebody.
func (c *liveCaddy) getAs(user string) string {
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, "http://localhost/", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("User", user)
	resp, err := c.site.Do(req)
	if err != nil {
		return err.Error()
	}
	resp.Body.Close()
	return resp.Status
}

// TestMetricLabelsAreBounded: however many connections come and go, and whatever codes a provider makes up.
func TestMetricLabelsAreBounded(t *testing.T) {
	t.Parallel()
	e := emptyEngine()
	m := newMetrics(e)
	for i := range 3 * maxConnectionLabels {
		name := fmt.Sprint("connection-", i)
		m.meter(name).request("injected")
		m.observe(connection.Event{
			Kind: connection.KindFailed, ID: connection.ID{Connection: name, Subject: "seeded-subject"}, Status: connection.StatusFailing, Asked: true,
			Took: time.Second, Waited: time.Second, Reason: connection.ReasonFirst, Err: &connection.Unavailable{Code: fmt.Sprint("code-", i)},
		}, []signal{signalFailed})
	}
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(m); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]map[string]bool)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if values[label.GetName()] == nil {
					values[label.GetName()] = make(map[string]bool)
				}
				values[label.GetName()][label.GetValue()] = true
			}
		}
	}
	for label, most := range map[string]int{"connection": maxConnectionLabels + 1, "code": maxCodeLabels + 1} {
		if len(values[label]) != most || !values[label][otherLabel] {
			t.Errorf("%s has %d values, want %d", label, len(values[label]), most)
		}
	}
}

// TestMetricNames: names, units and help texts are as Prometheus asks for, and documented, both ways.
func TestMetricNames(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.config("", ""))
	c.want(c.get(), "Bearer token-1")
	var ours strings.Builder
	for line := range strings.Lines(c.ask(http.MethodGet, "/metrics").body) {
		if strings.Contains(line, "caddy_oauth2_inject_") {
			ours.WriteString(line)
		}
	}
	problems, err := promlint.New(strings.NewReader(ours.String())).Lint()
	if err != nil || len(problems) > 0 || ours.Len() == 0 {
		t.Errorf("%v, %v", problems, err)
	}
	text, err := os.ReadFile("docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]string) // kind and labels by name
	for _, row := range regexp.MustCompile("(?m)^\\| `caddy_oauth2_inject_([a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\|").FindAllStringSubmatch(string(text), -1) {
		documented[row[1]] = row[2] + " " + strings.NewReplacer("`", "", " ", "").Replace(row[3])
	}
	if got, want := metricShapes(), documented; !maps.Equal(got, want) {
		t.Errorf("the metrics are\n%v, documented are\n%v", got, want)
	}
}

var descShape = regexp.MustCompile(`fqName: "caddy_oauth2_inject_([a-z_]+)".*variableLabels: \{([^}]*)\}`)

// metricShapes returns kind and labels of every metric, by name.
func metricShapes() map[string]string {
	m := newMetrics(emptyEngine())
	shapes := make(map[string]string)
	add := func(kind string, descs ...*prometheus.Desc) {
		for _, desc := range descs {
			match := descShape.FindStringSubmatch(desc.String())
			shapes[match[1]] = kind + " " + match[2]
		}
	}
	describe := func(c prometheus.Collector) *prometheus.Desc {
		descs := make(chan *prometheus.Desc, 1)
		c.Describe(descs)
		return <-descs
	}
	for _, vector := range m.vectors() {
		kind := "counter"
		if _, ok := vector.(*prometheus.HistogramVec); ok {
			kind = "histogram"
		}
		add(kind, describe(vector))
	}
	all := make(chan *prometheus.Desc, 100)
	m.Describe(all)
	close(all)
	for desc := range all {
		if name := descShape.FindStringSubmatch(desc.String())[1]; shapes[name] == "" {
			add("gauge", desc)
		}
	}
	return shapes
}
