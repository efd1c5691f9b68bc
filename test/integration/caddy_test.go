//go:build integration

package integration

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
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// binary is the Caddy under test, built once with the race detector.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "caddyoauth-integration-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "caddy")
	build := exec.Command("go", "build", "-race", "-o", binary, "../../cmd/caddy")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// caddyProcess is a running Caddy.
type caddyProcess struct {
	cmd   *exec.Cmd
	dir   string // storage, keys and log
	admin string
	log   string // path of the log
	ended chan struct{}
}

// start runs a Caddy with that Caddyfile, in a directory that an earlier one may have used. The Caddyfile has no global
// options but those in global.
func start(t *testing.T, dir, global, sites string) *caddyProcess {
	t.Helper()
	c := &caddyProcess{dir: dir, admin: freeAddress(t), ended: make(chan struct{})}
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
	c.cmd = exec.Command(binary, "run", "--config", file)
	c.cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+filepath.Join(dir, "data"), "XDG_CONFIG_HOME="+filepath.Join(dir, "config"), "GORACE=halt_on_error=1")
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.cmd.Wait(); close(c.ended) }()
	t.Cleanup(func() { c.kill() })
	eventually(t, "Caddy answers on its admin endpoint", func() error {
		select {
		case <-c.ended:
			t.Fatalf("Caddy ended by itself:\n%s", c.logText(t))
		default:
		}
		_, err := c.get("http://" + c.admin + "/config/")
		return err
	})
	return c
}

func (c *caddyProcess) caddyfile(global, sites string) string {
	return fmt.Sprintf("{\n\tadmin %s\n\tdefault_bind 127.0.0.1\n\tauto_https off\n\tpersist_config off\n\tlog {\n\t\tlevel DEBUG\n\t}\n%s\n}\n%s\n", c.admin, global, sites)
}

// reload loads another Caddyfile into the running process.
func (c *caddyProcess) reload(t *testing.T, global, sites string) {
	t.Helper()
	resp, err := http.Post("http://"+c.admin+"/load", "text/caddyfile", strings.NewReader(c.caddyfile(global, sites)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("reload: %s: %s", resp.Status, body)
	}
}

// stop ends the process as a service manager does and waits for it.
func (c *caddyProcess) stop(t *testing.T) {
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
		t.Fatalf("Caddy ended with status %d:\n%s", code, c.logText(t))
	}
}

// kill ends the process without a chance to clean up.
func (c *caddyProcess) kill() {
	_ = c.cmd.Process.Kill()
	<-c.ended
}

func (c *caddyProcess) logText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(c.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (c *caddyProcess) get(url string) ([]byte, error) {
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
		err = &statusError{resp.StatusCode, resp.Header}
	}
	return body, err
}

// statusError is an answer other than 200.
type statusError struct {
	code   int
	header http.Header
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d", e.code) }

func statusOf(err error) int {
	var status *statusError
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &status):
		return status.code
	}
	return 0
}

// connectionStatus is what the admin endpoint says of a connection.
type connectionStatus struct {
	Connection string `json:"connection"`
	Status     string `json:"status"`
	Generation uint64 `json:"generation"`
	Error      string `json:"error"`
	Counters   struct {
		TokenRequests int `json:"token_requests"`
		LocksLost     int `json:"locks_lost"`
	} `json:"counters"`
}

func (c *caddyProcess) status(t *testing.T, connection string) connectionStatus {
	t.Helper()
	body, err := c.get("http://" + c.admin + "/oauth2_inject/connections")
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Connections []connectionStatus `json:"connections"`
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
	return connectionStatus{}
}

// keepsSecrets fails the test if a secret stands in the log, in a file of the storage, or on the admin endpoint.
func (c *caddyProcess) keepsSecrets(t *testing.T, secrets ...string) {
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

// eventually waits, for at most 30 s, until check succeeds.
func eventually(t *testing.T, what string, check func() error) {
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

// nextPort is where freeAddress looks next. It stays below the ports that the kernel gives out by itself, to listeners on port 0 and
// to outgoing connections, so that nobody takes an address before it is used.
var nextPort atomic.Int32

// freeAddress returns an address on which nothing listens, a new one each time.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 25000+nextPort.Add(1))
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatal("found no free port")
	return ""
}
