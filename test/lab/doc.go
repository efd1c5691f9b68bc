// Package lab starts the counterparts of the integration tests: real servers that nobody here wrote, on free loopback
// ports, ended with the test.
//
// One is panva's oidc-provider (a certified OpenID provider for Node.js) with a fault injector in front; op/server.mjs is its
// configuration. The other is Caddy as users build it, run as a process of its own. The package holds no protocol code and knows
// nothing of the plugin but how to build it, so that a test never checks our code against our own idea of a server. It imports
// the standard library only.
//
// Everything but this file carries the build tag integration: `go test ./...` needs nothing but Go. A missing part is a
// failure that names the remedy, never a skip.
package lab
