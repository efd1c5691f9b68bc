// Command caddy is Caddy with its standard modules and this plugin: the development build, and what the quickstart runs.
// Deployments are built with xcaddy instead; see the README.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddyoauth/caddyoauth"
)

func main() { caddycmd.Main() }
