package caddyoauth_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// untouched fails the test when the upstream was called at all.
func untouched(t *testing.T, u *upstream) {
	t.Helper()
	if n := len(u.requests()); n != 0 {
		t.Errorf("%d requests reached a host that was to be refused", n)
	}
}

// TestAllowHosts: the connection and the block each say who may receive the token, and both must agree (trap 9).
func TestAllowHosts(t *testing.T) {
	for _, tt := range []struct {
		connection, block string
		status            int
	}{
		{"", "", 200},
		{"127.0.0.1", "", 200},
		{"127.0.0.1:PORT", "", 200},
		{"127.0.0.0/8", "", 200},
		{"other.test 127.0.0.1", "", 200},
		{"", "127.0.0.1:PORT", 200},
		{"127.0.0.1", "127.0.0.1", 200},
		{"elsewhere.test", "", 502},
		{"*.example.com", "", 502},
		{"127.0.0.1:1", "", 502},
		{"10.0.0.0/8", "", 502},
		{"", "elsewhere.test", 502},
		{"127.0.0.1", "elsewhere.test", 502},
		{"elsewhere.test", "127.0.0.1", 502},
	} {
		for _, form := range []string{"block", "via transport"} {
			t.Run(fmt.Sprintf("%s connection=%s block=%s", form, tt.connection, tt.block), func(t *testing.T) {
				up := newUpstream(t, nil)
				with := setup{options: allowHosts(tt.connection, up), site: "oauth2_inject api {\n" + allowHosts(tt.block, up) + "reverse_proxy " + up.addr + "\n}"}
				if form == "via transport" {
					with.site = viaDirective + "reverse_proxy " + up.addr + " {\n transport oauth2_inject {\n" + allowHosts(tt.block, up) + "}\n}"
				}
				s := run(t, with)
				s.get("/").want(t, tt.status, "")
				if tt.status != http.StatusOK {
					untouched(t, up)
				}
			})
		}
	}
}

func allowHosts(hosts string, up *upstream) string {
	if hosts == "" {
		return ""
	}
	_, port, _ := net.SplitHostPort(up.addr)
	return "allow_hosts " + strings.ReplaceAll(hosts, "PORT", port) + "\n"
}

// TestPlaceholderUpstream: a client that can choose the upstream cannot choose who gets the token.
func TestPlaceholderUpstream(t *testing.T) {
	up, evil := newUpstream(t, nil), newUpstream(t, nil)
	const proxy = "reverse_proxy {http.request.header.X-To}"
	t.Run("no allow_hosts", func(t *testing.T) {
		s := run(t, setup{site: "oauth2_inject api {\n" + proxy + "\n}"})
		s.get("/", "X-To: "+up.addr).want(t, http.StatusBadGateway, "")
		if !strings.Contains(logged.String(), "so allow_hosts must name who may receive the token") {
			t.Error("the log does not say what to do")
		}
		untouched(t, up)
	})
	t.Run("allow_hosts", func(t *testing.T) {
		s := run(t, setup{site: "oauth2_inject api {\n allow_hosts " + up.addr + "\n" + proxy + "\n}"})
		s.get("/", "X-To: "+evil.addr).want(t, http.StatusBadGateway, "")
		s.get("/", "X-To: "+up.addr).want(t, http.StatusOK, "GET")
		untouched(t, evil)
	})
}

// TestDynamicUpstreams need a list, and their addresses are what is compared with it.
func TestDynamicUpstreams(t *testing.T) {
	for hosts, status := range map[string]int{"": 502, "127.0.0.0/8": 200, "127.0.0.1": 200, "10.0.0.0/8": 502, "localhost": 502} {
		t.Run("allow_hosts "+hosts, func(t *testing.T) {
			up := newUpstream(t, nil)
			_, port, _ := net.SplitHostPort(up.addr)
			s := run(t, setup{site: "oauth2_inject api {\n" + allowHosts(hosts, up) + "reverse_proxy {\n dynamic a localhost " + port + " {\n versions ipv4\n }\n }\n}"})
			s.get("/").want(t, status, "")
			if status != http.StatusOK {
				untouched(t, up)
			}
		})
	}
}

// TestServerNameSteering: the TLS server name is checked as it is used, whatever a client writes into headers.
func TestServerNameSteering(t *testing.T) {
	for _, name := range []string{"X-Forwarded-Host", "X-Name"} {
		for _, tt := range []struct {
			allow, value string
			status       int
		}{
			{"", "example.com", 502},
			{"127.0.0.1 example.com", "example.com", 200},
			{"example.com", "example.com", 200}, // the certificate proves who is at that address
			{"127.0.0.1 example.com", "evil.test", 502},
			{"127.0.0.1", "example.com", 502},
			{"127.0.0.1", "evil.test", 502},
		} {
			t.Run(name+" "+tt.value+" of "+tt.allow, func(t *testing.T) {
				up := upstreamOf(t, "https", nil)
				up.transport += "\n tls_server_name {http.request.header." + name + "}"
				s := run(t, setup{site: "oauth2_inject api {\n" + allowHosts(tt.allow, up) + "reverse_proxy " + proxyBlock(up, "http", "") + "\n}"})
				s.get("/", name+": "+tt.value).want(t, tt.status, "")
				if tt.status != http.StatusOK {
					untouched(t, up)
				}
			})
		}
	}
}

// TestSteeredConnectionsAreNotPooled: one that was opened for another server name must not serve a request with a token.
func TestSteeredConnectionsAreNotPooled(t *testing.T) {
	var ports sync.Map
	up := upstreamOf(t, "https", func(_ http.ResponseWriter, r *http.Request) { ports.Store(r.RemoteAddr, true) })
	up.transport += "\n tls_server_name {http.request.header.X-Host}"
	s := run(t, setup{site: "oauth2_inject api {\n" + allowHosts("127.0.0.1 example.com", up) + "reverse_proxy " + proxyBlock(up, "http", "") + "\n}"})
	for range 3 {
		s.get("/", "X-Host: example.com").want(t, http.StatusOK, "")
	}
	connections := 0
	ports.Range(func(any, any) bool { connections++; return true })
	if connections != 3 {
		t.Errorf("3 requests used %d connections, want one each", connections)
	}
}

// TestUnverifiedServerProvesNothing: with tls_insecure_skip_verify the dialled host itself must be on the list.
func TestUnverifiedServerProvesNothing(t *testing.T) {
	up := upstreamOf(t, "https", nil)
	up.transport = "tls_server_name example.com\n tls_insecure_skip_verify"
	s := run(t, setup{options: "allow_hosts example.com", site: block(up, "")})
	s.get("/").want(t, http.StatusBadGateway, "")
	untouched(t, up)
}

// TestPlaintextUpstreamsAreNamed in the log and in the status, unless they are on this machine.
func TestPlaintextUpstreamsAreNamed(t *testing.T) {
	for to, named := range map[string]bool{
		"http://api.internal.test:8080": true, "10.1.2.3:80": true, "h2c://api.internal.test:8080": true,
		"https://api.internal.test": false, "127.0.0.1:8080": false, "localhost:8080": false, "unix//run/api.sock": false,
	} {
		t.Run(to, func(t *testing.T) {
			s := run(t, setup{site: "oauth2_inject api {\n reverse_proxy " + to + "\n}"})
			warnings := strings.Join(s.app().Status().Warnings, "\n")
			if got := strings.Contains(warnings, "without TLS"); got != named {
				t.Errorf("in the status: %t, want %t: %s", got, named, warnings)
			}
			if got := strings.Contains(logged.String(), "without TLS"); got != named {
				t.Errorf("in the log: %t, want %t", got, named)
			}
		})
	}
}

// TestRedirectsAreTheClients: an upstream's redirect goes to the client, and nobody follows it with the token.
func TestRedirectsAreTheClients(t *testing.T) {
	other := newUpstream(t, nil)
	up := newUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://"+other.addr+"/stolen")
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	s := run(t, setup{site: block(up, "")})
	a := s.post("/", "body")
	a.want(t, http.StatusTemporaryRedirect, "")
	if a.header.Get("Location") != "http://"+other.addr+"/stolen" {
		t.Error("the redirect did not reach the client")
	}
	untouched(t, other)
}

// keptOpen is a listener that outlives the servers on it.
type keptOpen struct{ *net.TCPListener }

func (l keptOpen) Close() error { return l.SetDeadline(time.Now()) }

func (l keptOpen) Accept() (net.Conn, error) {
	conn, err := l.TCPListener.Accept()
	if err != nil {
		return nil, net.ErrClosed // the server would try again after a time-out
	}
	return conn, nil
}

// TestProxyOfTheEnvironment: HTTP_PROXY would read a token that travels in the clear.
func TestProxyOfTheEnvironment(t *testing.T) {
	listener := environmentProxy.(*net.TCPListener)
	proxy := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "proxied") }))
	_ = proxy.Listener.Close()
	proxy.Listener = keptOpen{listener}
	proxy.Start()
	defer func() {
		proxy.Close()
		_ = listener.SetDeadline(time.Time{})
	}()
	up := newUpstream(t, nil)
	_, port, _ := net.SplitHostPort(up.addr)
	up.url = "http://0.0.0.0:" + port // net/http never asks a proxy for 127.0.0.1
	t.Run("control", func(t *testing.T) {
		run(t, setup{site: plain(up, "")}).get("/").want(t, http.StatusOK, "proxied")
	})
	for form, inject := range forms {
		t.Run(form, func(t *testing.T) {
			run(t, setup{site: inject(up, "")}).get("/").want(t, http.StatusOK, "GET / 0 bytes")
		})
	}
}

// TestOtherKindsOfAddress are upstreams that the default list must know again when they are dialled.
func TestOtherKindsOfAddress(t *testing.T) {
	up := newUpstream(t, nil)
	socket := filepath.Join(t.TempDir(), "Api.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: up, ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	defer func() {
		_ = server.Close()
		<-done
	}()
	_, port, _ := net.SplitHostPort(up.addr)
	for _, to := range []string{"unix/" + socket, ":" + port, "localhost:" + port, "LOCALHOST:" + port} {
		t.Run(strings.TrimSuffix(to, port), func(t *testing.T) {
			s := run(t, setup{site: "oauth2_inject api {\n reverse_proxy " + to + "\n}"})
			s.get("/").want(t, http.StatusOK, "GET")
			if got := up.last(t).header.Get("Authorization"); got != bearer(1) {
				t.Error("the upstream got no token")
			}
		})
	}
}
