//go:build integration

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// binary is the Caddy under test, built once with the race detector.
var binary string

// Main builds the Caddy under test, runs the tests of a package, and removes it again. It is what TestMain calls.
func Main(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the Caddy under test:", err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	root, err := moduleRoot()
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "caddyoauth-lab-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "caddy")
	build := exec.CommandContext(context.Background(), "go", "build", "-race", "-o", binary, "./cmd/caddy")
	build.Dir, build.Stderr = root, os.Stderr
	if err := build.Run(); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// Caddy is a running Caddy.
type Caddy struct {
	cmd   *exec.Cmd
	dir   string // storage, keys and log
	admin string
	log   string // path of the log
	ended chan struct{}
}

// StartCaddy runs a Caddy with that Caddyfile, in a directory that an earlier one may have used. The Caddyfile has no global
// options but those in global.
func StartCaddy(t testing.TB, dir, global, sites string) *Caddy {
	t.Helper()
	c := &Caddy{dir: dir, admin: FreeAddress(t), ended: make(chan struct{})}
	config := c.caddyfile(global, sites)
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.CreateTemp(dir, "log-*")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.log = log.Name()
	c.cmd = exec.CommandContext(context.Background(), binary, "run", "--config", file)
	c.cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+filepath.Join(dir, "data"), "XDG_CONFIG_HOME="+filepath.Join(dir, "config"), "GORACE=halt_on_error=1")
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.cmd.Wait(); close(c.ended) }()
	t.Cleanup(func() { c.Kill() })
	Eventually(t, "Caddy answers on its admin endpoint", func() error {
		select {
		case <-c.ended:
			t.Fatalf("Caddy ended by itself:\n%s", c.Log(t))
		default:
		}
		_, err := c.Get("http://" + c.admin + "/config/")
		return err
	})
	return c
}

func (c *Caddy) caddyfile(global, sites string) string {
	return fmt.Sprintf("{\n\tadmin %s\n\tdefault_bind 127.0.0.1\n\tauto_https off\n\tpersist_config off\n\tlog {\n\t\tlevel DEBUG\n\t}\n%s\n}\n%s\n", c.admin, global, sites)
}

// Command runs another command of the same program, in the same surroundings, and returns what it wrote and its exit code.
func (c *Caddy) Command(t testing.TB, args ...string) (out, notes string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = c.cmd.Env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exited *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exited) {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// Environ is what a script needs that runs the same program as `caddy`, in the same surroundings.
func (c *Caddy) Environ() []string { return append(slices.Clone(c.cmd.Env), "CADDY="+binary) }

// With sets a variable, "NAME=value", for the commands from now on, and returns what takes it back.
func (c *Caddy) With(variable string) (back func()) {
	before := c.cmd.Env
	c.cmd.Env = append(slices.Clone(before), variable)
	return func() { c.cmd.Env = before }
}

// Config is the file that the process was started with.
func (c *Caddy) Config() string { return c.cmd.Args[len(c.cmd.Args)-1] }

// Reload loads another Caddyfile into the running process.
func (c *Caddy) Reload(t testing.TB, global, sites string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+c.admin+"/load", strings.NewReader(c.caddyfile(global, sites)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("reload: %s: %s", resp.Status, body)
	}
}

// Stop ends the process as a service manager does and waits for it.
func (c *Caddy) Stop(t testing.TB) {
	t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("Caddy did not end within 30 s")
	}
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("Caddy ended with status %d:\n%s", code, c.Log(t))
	}
}

// Kill ends the process without a chance to clean up.
func (c *Caddy) Kill() {
	_ = c.cmd.Process.Kill()
	<-c.ended
}

// Log returns what the process has logged.
func (c *Caddy) Log(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(c.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Get returns the body of an answer. One with another status than 200 is a *[StatusError] as well.
func (c *Caddy) Get(url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = &StatusError{resp.StatusCode, resp.Header}
	}
	return body, err
}

// StatusError is an answer other than 200.
type StatusError struct {
	Code   int
	Header http.Header
}

func (e *StatusError) Error() string { return fmt.Sprintf("status %d", e.Code) }

// StatusOf returns the status of an answer that [Caddy.Get] gave.
func StatusOf(err error) int {
	var status *StatusError
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &status):
		return status.Code
	}
	return 0
}

// ConnectionStatus is what the admin endpoint says of a connection.
type ConnectionStatus struct {
	Connection string         `json:"connection"`
	Status     string         `json:"status"`
	Generation uint64         `json:"generation"`
	Error      string         `json:"error"`
	Subjects   map[string]int `json:"subjects"` // how many are in which state
	Counters   struct {
		TokenRequests int `json:"token_requests"`
		LocksLost     int `json:"locks_lost"`
	} `json:"counters"`
}

// AdminURL is where a path of the admin endpoint is.
func (c *Caddy) AdminURL(path string) string { return "http://" + c.admin + path }

// Status asks the admin endpoint for the state of a connection.
func (c *Caddy) Status(t testing.TB, connection string) ConnectionStatus {
	t.Helper()
	body, err := c.Get("http://" + c.admin + "/oauth2_inject/connections")
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Connections []ConnectionStatus `json:"connections"`
	}
	if err := json.Unmarshal(body, &report); err != nil {
		t.Fatal(err)
	}
	for _, status := range report.Connections {
		if status.Connection == connection {
			return status
		}
	}
	t.Fatalf("the status does not name connection %q: %s", connection, body)
	return ConnectionStatus{}
}

// KeepsSecrets fails the test if a secret stands in the log, in a file of the storage, or on the admin endpoint.
func (c *Caddy) KeepsSecrets(t testing.TB, secrets ...string) {
	t.Helper()
	if len(secrets) == 0 {
		t.Fatal("no secret was given to look for")
	}
	files := 0
	err := filepath.WalkDir(c.dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for _, secret := range secrets {
			if bytes.Contains(content, []byte(secret)) {
				t.Errorf("a secret stands in %s", filepath.Base(path))
			}
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("looked through %d files: %v", files, err)
	}
}

// Eventually waits, for at most 30 s, until check succeeds.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond) // polls another process, which cannot tell us
	}
}

// nextPort is where FreeAddress looks next. It stays below the ports that the kernel gives out by itself, to listeners on port 0 and
// to outgoing connections, so that nobody takes an address before it is used.
var nextPort atomic.Int32

// portBase keeps apart the test processes that run at the same time.
var portBase = 25000 + os.Getpid()%60*100

// FreeAddress returns an address on which nothing listens, a new one each time.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", portBase+int(nextPort.Add(1)))
		if listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatal("found no free port")
	return ""
}
