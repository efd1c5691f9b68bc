//go:build linux

package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// tokenBytes makes a token of 800 characters, about what a JWT access token has.
	tokenBytes   = 600
	readyTimeout = 20 * time.Second
)

//go:embed wrk.lua
var wrkScript []byte

// lab is everything that runs during a comparison.
type lab struct {
	options
	dir      string
	wrk      string
	token    string
	upstream *process
	address  string // of the upstream
	proxies  map[string]*proxy
	client   *http.Client

	endpoint      *http.Server
	tokenRequests atomic.Int64
	injecting     int // proxies that ask for a token
}

// proxy is a running set-up.
type proxy struct {
	*process
	url  string
	path string
}

// newLab starts all servers and checks that the upstream receives what it should. The lab must be closed even after an error,
// if there is one.
func newLab(ctx context.Context, o options, wrk, nginx string) (*lab, error) {
	dir, err := os.MkdirTemp("", "caddyoauth-bench-")
	if err != nil {
		return nil, err
	}
	l := &lab{
		options: o, dir: dir, wrk: wrk, proxies: make(map[string]*proxy),
		// A new connection each time: those of a pool would be counted, or be closed, in the middle of a run.
		client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	random := make([]byte, tokenBytes)
	_, _ = rand.Read(random) // never fails
	l.token = base64.RawURLEncoding.EncodeToString(random)
	if err := os.WriteFile(filepath.Join(dir, "wrk.lua"), wrkScript, 0o600); err != nil {
		return l, err
	}
	endpoint, err := l.startTokenEndpoint(ctx)
	if err != nil {
		return l, err
	}
	if err := l.startUpstream(ctx, nginx); err != nil {
		return l, err
	}
	for _, s := range setups {
		if err := l.startProxy(ctx, s, endpoint); err != nil {
			return l, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return l, nil
}

// close ends everything that was started.
func (l *lab) close() error {
	for _, p := range l.proxies {
		p.stop()
	}
	if l.upstream != nil {
		l.upstream.stop()
	}
	var err error
	if l.endpoint != nil {
		err = l.endpoint.Close()
	}
	return errors.Join(err, os.RemoveAll(l.dir))
}

func (l *lab) startTokenEndpoint(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	l.endpoint = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		l.tokenRequests.Add(1)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":86400}`, l.token)
	})}
	go func() { _ = l.endpoint.Serve(listener) }() // until close
	return "http://" + listener.Addr().String() + "/token", nil
}

func (l *lab) startUpstream(ctx context.Context, nginx string) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	config := filepath.Join(l.dir, "nginx.conf")
	if err := os.WriteFile(config, []byte(nginxConfig(l.dir, port)), 0o600); err != nil {
		return err
	}
	l.address = fmt.Sprintf("127.0.0.1:%d", port)
	l.upstream, err = startProcess(ctx, "nginx", nil, nginx, "-p", l.dir, "-e", "stderr", "-c", config)
	if err != nil {
		return err
	}
	_, err = l.ready(ctx, l.upstream, "http://"+l.address+"/bare")
	return err
}

func (l *lab) startProxy(ctx context.Context, s setup, endpoint string) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	home := filepath.Join(l.dir, strings.ReplaceAll(s.name, " ", "-"))
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	config := filepath.Join(home, "Caddyfile")
	if err := os.WriteFile(config, []byte(s.caddyfile(port, l.address, l.token, endpoint)), 0o600); err != nil {
		return err
	}
	env := []string{"HOME=" + home, "XDG_DATA_HOME=" + home + "/data", "XDG_CONFIG_HOME=" + home + "/config"}
	server, err := startProcess(ctx, s.title, env, l.caddy, "run", "--config", config, "--adapter", "caddyfile")
	if err != nil {
		return err
	}
	p := &proxy{process: server, url: fmt.Sprintf("http://127.0.0.1:%d", port), path: s.path()}
	l.proxies[s.name] = p
	if s.ours {
		l.injecting++
	}
	received, err := l.ready(ctx, server, p.url+"/echo")
	if err != nil {
		return err
	}
	want := ""
	if s.token {
		want = "Bearer " + l.token
	}
	if received != want {
		return fmt.Errorf("the upstream received an Authorization header of %d bytes instead of %d", len(received), len(want))
	}
	return nil
}

// ready asks until the server answers 200, and returns the answer.
func (l *lab) ready(ctx context.Context, p *process, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		body, err := l.get(ctx, url)
		if err == nil {
			return body, nil
		}
		if ended := p.alive(); ended != nil {
			return "", ended
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s is not ready: %w", p.name, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (l *lab) get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return string(body), err
}

// serial returns nginx's number of its newest connection, the one that asks.
func (l *lab) serial(ctx context.Context) (int, error) {
	text, err := l.get(ctx, "http://"+l.address+"/serial")
	if err != nil {
		return 0, fmt.Errorf("ask the upstream for its connections: %w", err)
	}
	return strconv.Atoi(text)
}

// runWrk puts load on a proxy and returns what wrk saw.
func (l *lab) runWrk(ctx context.Context, p *proxy) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.duration+15*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.wrk, "-t", strconv.Itoa(l.threads), "-c", strconv.Itoa(l.connections),
		"-d", l.duration.String(), "-s", filepath.Join(l.dir, "wrk.lua"), p.url+p.path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return s, fmt.Errorf("run wrk: %w\n%s", err, out)
	}
	_, figures, found := strings.Cut(string(out), "figures: ")
	var micros, errs, p99 float64
	if _, err := fmt.Sscan(figures, &s.requests, &micros, &p99, &errs); err != nil || !found {
		return s, fmt.Errorf("cannot read wrk's output:\n%s", out)
	}
	if errs > 0 || s.requests == 0 {
		return s, fmt.Errorf("%.0f of %.0f requests failed (status other than 2xx or 3xx, or the connection):\n%s", errs, s.requests, out)
	}
	s.throughput, s.p99 = s.requests/(micros/1e6), p99/1e3
	s.wrkCPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return s, nil
}

// load measures one run.
func (l *lab) load(ctx context.Context, name string) (sample, error) {
	p := l.proxies[name]
	connections, err := l.serial(ctx)
	if err != nil {
		return sample{}, err
	}
	before, err := l.clocks(p)
	if err != nil {
		return sample{}, err
	}
	s, err := l.runWrk(ctx, p)
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", name, errors.Join(err, p.alive(), l.upstream.alive()))
	}
	select {
	case <-ctx.Done():
		return sample{}, ctx.Err()
	case <-time.After(settle):
	}
	after, err := l.clocks(p)
	if err != nil {
		return sample{}, err
	}
	newest, err := l.serial(ctx)
	if err != nil {
		return sample{}, err
	}
	s.name = name
	s.connections = float64(newest - connections - 1) // without the one that asks
	s.proxyCPU, s.upstreamCPU = after.proxy-before.proxy, after.upstream-before.upstream
	busy, cores := after.machine-before.machine, after.at.Sub(before.at)*time.Duration(numCPU)
	s.others = max(0, (busy-s.proxyCPU-s.upstreamCPU-s.wrkCPU).Seconds()/cores.Seconds())
	return s, nil
}

// clocks are CPU times at one moment.
type clocks struct {
	at                       time.Time
	proxy, upstream, machine time.Duration
}

func (l *lab) clocks(p *proxy) (c clocks, err error) {
	var errs [3]error
	c.at = time.Now()
	c.proxy, errs[0] = p.cpu()
	c.upstream, errs[1] = l.upstream.cpu()
	c.machine, errs[2] = machineCPU()
	return c, errors.Join(errs[:]...)
}
