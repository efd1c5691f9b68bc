// Package browser drives Chromium over the pages on which people connect their accounts: a real Caddy, built with this plugin and
// run as a process of its own, and the real authorization server of test/lab, with its login and consent pages.
//
// It is a module of its own, so that the plugin's go.mod does not name the driver of a browser. Its tests carry the build tag
// integration; `make browser` runs them. Every page that a test comes to is also checked for accessibility, in light and dark.
package browser
