//go:build unix

package caddyoauth

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/alert"
)

// TestAlertOfHangingCommand: a command that does not end is ended, with all that it has started.
func TestAlertOfHangingCommand(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		reader, err := os.Open(pipe)
		if err == nil {
			defer reader.Close()
			text := bufio.NewReader(reader)
			_, err = text.ReadString('\n')
			cancel()                         // as when its time is up
			_, _ = io.Copy(io.Discard, text) // a pipe ends when the last who can write to it is gone
		}
		ended <- err
	}()
	hang := &command{name: "sh", args: []string{"sh", "-c", "(echo; sleep 3600) >" + pipe + " & sleep 3600"}}
	began := time.Now()
	if _, err := hang.send(ctx, alert.News{Connection: "c"}); err == nil {
		t.Error("it ended well")
	}
	if took := time.Since(began); took > execGrace+10*time.Second {
		t.Errorf("it took %v", took)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("what the command has started goes on")
	}
}
