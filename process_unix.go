//go:build unix

package caddyoauth

import (
	"os/exec"
	"syscall"
)

// killTogether has a command that is killed take along what it has started, which would else go on for ever, once more for each attempt.
func killTogether(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
