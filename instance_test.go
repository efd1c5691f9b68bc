package caddyoauth_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// A process runs one Caddy. A test that needs another instance starts its own binary again, with this variable: the child runs the
// Caddyfile that it reads, until its input ends, and then gives its log out.
const instanceVariable = "CADDYOAUTH_TEST_INSTANCE"

const instanceReady = "ready"

// runInstance is the child. Its input is the Caddyfile, up to a line of its own with a dot.
func runInstance() int {
	var config strings.Builder
	input := bufio.NewReader(os.Stdin)
	for {
		line, err := input.ReadString('\n')
		if err != nil {
			return 2
		}
		if line == ".\n" {
			break
		}
		config.WriteString(line)
	}
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config.String()), map[string]any{"filename": "Caddyfile"})
	if err == nil {
		err = caddy.Load(adapted, true)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(instanceReady)
	_, _ = io.Copy(io.Discard, input) // until the test ends it
	err = caddy.Stop()
	fmt.Println(logged.String())
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// instance starts another Caddy with the same configuration and storage, at an address of its own.
func (s *site) instance(with setup) *site {
	s.t.Helper()
	binary, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	other := &site{t: s.t, idp: s.idp, dir: s.dir, addr: freeAddress(s.t)}
	transport := &http.Transport{DisableCompression: true, Proxy: nil}
	other.client = &http.Client{Transport: transport, Timeout: 20 * time.Second}
	child := exec.Command(binary)
	child.Env = append(os.Environ(), instanceVariable+"=1")
	input, err := child.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	output, err := child.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	child.Stderr = os.Stderr // a race
	if err := child.Start(); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.WriteString(input, other.config(with)+"\n.\n"); err != nil {
		s.t.Error(err)
	}
	reader := bufio.NewReader(output)
	first, _ := reader.ReadString('\n')
	s.t.Cleanup(func() {
		transport.CloseIdleConnections()
		input.Close()
		log, _ := io.ReadAll(reader)
		if err := child.Wait(); err != nil {
			s.t.Errorf("the other instance: %v", err)
		}
		for _, line := range append(leaks(string(log)), leaks(other.seen.String())...) {
			s.t.Errorf("the other instance has shown a secret: %s", line)
		}
	})
	if strings.TrimSpace(first) != instanceReady {
		s.t.Fatalf("the other instance says %q", first)
	}
	return other
}
