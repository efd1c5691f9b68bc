//go:build !unix

package caddyoauth

// ownerOf returns nothing: this system has no such owners.
func ownerOf(string) (uid int, known bool) { return 0, false }
