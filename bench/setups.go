//go:build linux

package main

import (
	"fmt"
	"strings"
)

// setup is one proxy that is measured. All differ in the site's directives only.
type setup struct {
	name  string
	title string
	token bool // the upstream must receive the token; else it must receive none
	ours  bool // it gets the token from the token endpoint
	site  string
}

// Marks in a site that are replaced when the addresses are known.
const (
	upstreamMark = "UPSTREAM"
	tokenMark    = "TOKEN"
	endpointMark = "ENDPOINT"
)

const connectionLines = `
		token_endpoint ENDPOINT
		client_id bench
		client_secret bench-bench-bench`

var setups = []setup{
	{
		name: "plain", title: "reverse_proxy",
		site: `reverse_proxy UPSTREAM`,
	},
	{
		name: "static", title: "reverse_proxy, header_up with the token written out", token: true,
		site: `reverse_proxy UPSTREAM {
		header_up Authorization "Bearer TOKEN"
	}`,
	},
	{
		name: "static again", title: "the same once more, to see the noise", token: true,
		site: `reverse_proxy UPSTREAM {
		header_up Authorization "Bearer TOKEN"
	}`,
	},
	{
		name: "static 256", title: "as static, keepalive_idle_conns_per_host 256", token: true,
		site: `reverse_proxy UPSTREAM {
		header_up Authorization "Bearer TOKEN"
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}`,
	},
	{
		name: "ours", title: "oauth2_inject, block form, at its defaults", token: true, ours: true,
		site: `oauth2_inject bench {` + connectionLines + `
		reverse_proxy UPSTREAM
	}`,
	},
	{
		name: "ours 32", title: "as ours, keepalive_idle_conns_per_host 32 (Caddy's default)", token: true, ours: true,
		site: `oauth2_inject bench {` + connectionLines + `
		reverse_proxy UPSTREAM {
			transport oauth2_inject {
				keepalive_idle_conns_per_host 32
			}
		}
	}`,
	},
}

// caddyfile writes the whole configuration of a set-up.
func (s setup) caddyfile(port int, upstream, token, endpoint string) string {
	site := strings.NewReplacer(upstreamMark, upstream, tokenMark, token, endpointMark, endpoint).Replace(s.site)
	return fmt.Sprintf(`{
	admin off
	auto_https off
	default_bind 127.0.0.1
	servers {
		protocols h1
	}
}
http://:%d {
	%s
}
`, port, site)
}

// path is what wrk asks for. The upstream answers 403 on one without a token and on the other with one, at equal cost, so that
// a token lost under load fails the run.
func (s setup) path() string {
	if s.token {
		return "/auth"
	}
	return "/bare"
}

// comparison is a subject measured against a base, in pairs of neighbouring runs.
type comparison struct {
	subject, base string
	remark        string
	goals         []goal
}

// goal is a bound on a ratio, subject to base.
type goal struct {
	metric  string
	limit   float64
	atLeast bool
}

const churnRemark = "the base opens upstream connections all the time, which costs the upstream and the kernel too: raw CPU counts here"

var comparisons = []comparison{
	{
		subject: "ours", base: "static", remark: churnRemark,
		goals: []goal{{metric: metricCPU, limit: 0.92}, {metric: metricThroughput, limit: 1.08, atLeast: true}},
	},
	{
		subject: "ours", base: "static 256", remark: "equal keep-alive: normalised CPU is the most precise",
		goals: []goal{{metric: metricNormalised, limit: 1.01}},
	},
	{subject: "ours", base: "plain", remark: churnRemark + "; plain sends about 800 bytes less a request"},
	{subject: "ours 32", base: "static", remark: "equal keep-alive, both open upstream connections all the time"},
	{subject: "static again", base: "static", remark: "the same configuration twice: how far from 1.00 chance gets"},
}

// nginxConfig is the upstream: one process, 64 bytes, no log. It closes no connection by itself, so that only the proxies'
// settings decide how many are opened.
func nginxConfig(dir string, port int) string {
	body := strings.Repeat("0123456789abcdef", 4)
	return fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/nginx.pid;
error_log stderr error;
events {
	worker_connections 8192;
}
http {
	access_log off;
	keepalive_timeout 1h;
	keepalive_requests 1000000000;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen 127.0.0.1:%[2]d backlog=1024;
		location = /auth {
			if ($http_authorization = "") {
				return 403;
			}
			return 200 %[3]s;
		}
		location = /bare {
			if ($http_authorization != "") {
				return 403;
			}
			return 200 %[3]s;
		}
		location = /echo {
			return 200 "$http_authorization";
		}
		location = /serial {
			return 200 "$connection";
		}
	}
}
`, dir, port, body)
}
