# `make` lists the targets. `make test` and `make lint` are what CI runs (.ci/run).

FUZZTIME ?= 30s
BENCH    ?= .
PLUGIN   := github.com/caddyoauth/caddyoauth

.DEFAULT_GOAL := help
# kms above all: there is a directory of that name, which make would take for what is to be made.
.PHONY: help build test test-parts unit kms integration browser pictures xcaddy lint fuzz bench fmt clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/caddy: Caddy with the standard modules and this plugin
	go build -o bin/caddy ./cmd/caddy

test: ## everything: parts, unit, kms, integration, browser, xcaddy; installs what it needs
	@for step in test-parts unit kms integration browser xcaddy; do \
		scripts/timed $$step $(MAKE) --no-print-directory $$step || exit 1; \
	done

test-parts: ## installs what the integration tests need (apt-get, npm)
	scripts/install-parts test

unit: ## the tests that need nothing but Go, with the race detector
	go test -race ./...

kms: ## the tests of the module kms/, against servers that stand in for key services
	cd kms && go test -race ./...

integration: test-parts ## the tests against real servers
	go test -race -tags integration -count=1 -timeout 15m $$(scripts/packages-with '^//go:build.*\bintegration\b')

browser: test-parts ## the pages of people and operators in Chromium; PICTURES=DIR leaves pictures there
	go test -C test/browser -tags integration -count=1 -timeout 10m .

pictures: test-parts ## takes the pictures of the documentation anew, into docs/img
	DOCS_PICTURES=1 go test -C test/browser -tags integration -count=1 -run '^(TestConnect|TestTroubles)$$' .

# Caddy's version is the one of go.mod. The build flags are go build's own, not xcaddy's -trimpath and tags, so that the
# packages compiled here serve `make build` and `make lint` as well. The made-up version keeps go get from asking for
# published ones.
xcaddy: bin/xcaddy ## builds Caddy the way users do, without and with kms/, and runs the quickstart with it
	XCADDY_SETCAP=0 XCADDY_SUDO=0 XCADDY_GO_BUILD_FLAGS='-ldflags=-s' bin/xcaddy build \
		$$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2) --with $(PLUGIN)@v0.0.0=. --output bin/caddy-xcaddy
	scripts/smoke bin/caddy-xcaddy
	XCADDY_SETCAP=0 XCADDY_SUDO=0 XCADDY_GO_BUILD_FLAGS='-ldflags=-s' bin/xcaddy build \
		$$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2) --with $(PLUGIN)@v0.0.0=. --with $(PLUGIN)/kms@v0.0.0=./kms \
		--output bin/caddy-xcaddy-kms
	scripts/smoke-kms bin/caddy-xcaddy-kms bin/caddy-xcaddy

lint: bin/golangci-lint ## golangci-lint, shellcheck, a syntax check of the lab, the alert rules and their tests
	scripts/install-parts lint
	bin/golangci-lint run --build-tags integration
	cd kms && ../bin/golangci-lint run
	cd test/browser && ../../bin/golangci-lint run --build-tags integration
	shellcheck .ci/run bench/run scripts/*
	node --check test/lab/op/server.mjs
	REDOCLY_TELEMETRY=off tools/redocly/node_modules/.bin/redocly lint --config tools/redocly/redocly.yaml docs/openapi.json
	PATH="bin:$$PATH" promtool check rules ops/prometheus/rules.yml
	PATH="bin:$$PATH" promtool test rules ops/prometheus/rules_test.yml

fuzz: ## every fuzz test for FUZZTIME (30s)
	scripts/fuzz $(FUZZTIME)

bench: ## Go benchmarks matching BENCH (.), then bench/run against other set-ups
	scripts/install-parts bench
	go test -run '^$$' -bench '$(BENCH)' -benchmem $$(scripts/packages-with '^func Benchmark')
	if [ -x bench/run ]; then bench/run; fi

fmt: bin/golangci-lint ## formats the Go code
	bin/golangci-lint fmt

clean: ## removes what was built and installed here
	rm -rf bin test/lab/op/node_modules test/browser/node_modules

# Tools are pinned by a module of their own each. `go install TOOL@VERSION` is not used: it ignores go.sum.
bin/xcaddy: tools/xcaddy/go.mod tools/xcaddy/go.sum
	go build -C tools/xcaddy -buildvcs=false -o ../../$@ github.com/caddyserver/xcaddy/cmd/xcaddy

bin/golangci-lint: tools/golangci-lint/go.mod tools/golangci-lint/go.sum
	go build -C tools/golangci-lint -buildvcs=false -o ../../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
