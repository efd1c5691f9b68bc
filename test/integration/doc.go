// Package integration drives a real Caddy, built with this plugin and run as a process of its own, against the real
// authorization server of test/lab. Its tests carry the build tag integration; `make integration` runs them.
package integration
