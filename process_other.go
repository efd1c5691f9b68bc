//go:build !unix

package caddyoauth

import "os/exec"

// killTogether leaves a command as it is: this system has no groups of processes.
func killTogether(*exec.Cmd) {}
