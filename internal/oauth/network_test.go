package oauth

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// readRequest takes a whole request off a raw connection.
func readRequest(conn net.Conn) {
	if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// untilClosed waits for the other side to hang up.
func untilClosed(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// TestLostAnswers: the server got the request and its answer never came. Each case must cost one connection: a second
// one would be a replay of a token that may be used up.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		serve  func(net.Conn)
		class  Class
		code   string
		status int
	}{
		{"closed after reading", readRequest, UnknownOutcome, "connection_lost", 0},
		{"reset after reading", func(conn net.Conn) {
			readRequest(conn)
			_ = conn.(*net.TCPConn).SetLinger(0)
		}, UnknownOutcome, "connection_lost", 0},
		{"silent", func(conn net.Conn) { readRequest(conn); untilClosed(conn) }, UnknownOutcome, "timeout", 0},
		{"header breaks off", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-")
		}, UnknownOutcome, "connection_lost", 0},
		{"not HTTP", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "SSH-2.0-x\r\n\r\n")
		}, UnknownOutcome, "connection_lost", 0},
		{"body breaks off", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"+goodToken[:30])
		}, UnknownOutcome, "connection_lost", 200},
		{"body stalls", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"+goodToken[:30])
			untilClosed(conn)
		}, UnknownOutcome, "timeout", 200},
		{"refusal breaks off", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad\r\nContent-Length: 500\r\nRetry-After: 9\r\n\r\n{\"error\":\"invalid_cl")
		}, RetryLater, "connection_lost", 400},
		{"endless header", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 2*maxHeader)+"\r\n\r\n"+goodToken)
		}, UnknownOutcome, "connection_lost", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var connections atomic.Int32
			addr := rawServer(t, func(conn net.Conn) { connections.Add(1); tc.serve(conn) })
			c := newTestClient(t, Config{TokenEndpoint: "http://" + addr + "/token", Timeout: 500 * time.Millisecond})
			token, err := c.Refresh(t.Context(), secret.New("rt"))
			e := mustFail(t, token, err)
			expect(t, e, tc.class, tc.code)
			if e.Status != tc.status {
				t.Errorf("status %d, want %d", e.Status, tc.status)
			}
			if connections.Load() != 1 {
				t.Errorf("%d connections: the request was sent again", connections.Load())
			}
		})
	}
}

// TestNothingSent: failures before the request left can be repeated without a thought.
func TestNothingSent(t *testing.T) {
	t.Parallel()
	closed := rawServer(t, func(net.Conn) {})
	hangsUp := rawServer(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) })
	silent := rawServer(t, untilClosed)
	noTLS := rawServer(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_, _ = io.WriteString(conn, "220 mail.example ESMTP\r\n")
		untilClosed(conn)
	})
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := l.Addr().String()
	_ = l.Close()
	for name, tc := range map[string]struct{ endpoint, code string }{
		"refused":               {"http://" + refused, "unreachable"},
		"hangs up at once":      {"https://" + closed, "unreachable"},
		"hangs up in handshake": {"https://" + hangsUp, "unreachable"},
		"silent in handshake":   {"https://" + silent, "timeout"},
		"plain HTTP":            {"https://" + plain.Listener.Addr().String(), "not_tls"},
		"another protocol":      {"https://" + noTLS, "not_tls"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestClient(t, Config{TokenEndpoint: tc.endpoint, Timeout: 500 * time.Millisecond})
			token, err := c.Refresh(t.Context(), secret.New("rt"))
			e := mustFail(t, token, err)
			expect(t, e, RetryLater, tc.code)
			if name == "refused" && (!errors.Is(e, syscall.ECONNREFUSED) || !strings.Contains(e.Error(), refused)) {
				t.Errorf("the cause is missing: %v", e)
			}
		})
	}
}

// TestEarlyAnswer: a server may answer and hang up before it has read the request; the answer counts, not the failed
// write.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	addr := rawServer(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
	})
	c := newTestClient(t, Config{
		TokenEndpoint: "http://" + addr, Params: map[string]string{"assertion_like": strings.Repeat("x", 4<<20)},
	})
	token, err := c.ClientCredentials(t.Context())
	if e := mustFail(t, token, err); e.Status != 413 {
		t.Errorf("got %v, want the server's 413", e)
	}
}

func TestCancelledCaller(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	addr := rawServer(t, func(conn net.Conn) { readRequest(conn); cancel(); untilClosed(conn) })
	c := newTestClient(t, Config{TokenEndpoint: "http://" + addr})
	token, err := c.ClientCredentials(ctx)
	expect(t, mustFail(t, token, err), UnknownOutcome, "cancelled")
	if !errors.Is(err, context.Canceled) {
		t.Error("the cause is missing")
	}
	token, err = c.ClientCredentials(ctx)
	expect(t, mustFail(t, token, err), RetryLater, "cancelled")
}

// TestTimeoutCoversBothAttempts: the second try after a changed secret gets what is left, not a timeout of its own.
func TestTimeoutCoversBothAttempts(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			answer(401, "", `{"error":"invalid_client"}`)(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client left
		<-r.Context().Done()
	})
	var readings atomic.Int32
	c := newTestClient(t, Config{TokenEndpoint: endpoint, Timeout: 300 * time.Millisecond, Secret: func() (secret.Text, error) {
		return secret.New(strings.Repeat("s", int(readings.Add(1)))), nil
	}})
	start := time.Now()
	token, err := c.ClientCredentials(t.Context())
	expect(t, mustFail(t, token, err), UnknownOutcome, "timeout")
	if calls.Load() != 2 || time.Since(start) > 10*time.Second {
		t.Errorf("%d calls in %v", calls.Load(), time.Since(start))
	}
}

// TestNetworkFailureClasses covers what cannot be made on a loopback.
func TestNetworkFailureClasses(t *testing.T) {
	t.Parallel()
	plain := newTestClient(t, Config{TokenEndpoint: "https://idp.example/"})
	alert := func(n tls.AlertError) error { return &net.OpError{Op: "remote error", Err: n} }
	proxy := errors.New("407 http://user:p4ssw0rd@proxy")
	for name, tc := range map[string]struct {
		err   error
		got   progress
		class Class
		code  string
	}{
		"dns":                {&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "idp.example"}}, progress{}, RetryLater, "dns"},
		"handshake_failure":  {alert(40), progress{}, RetryLater, "tls"},
		"the same, asked":    {alert(40), progress{asked: true}, Misconfigured, "certificate_refused"},
		"the same, late":     {alert(40), progress{carried: true}, UnknownOutcome, "connection_lost"},
		"certificate, early": {alert(42), progress{}, Misconfigured, "certificate_refused"},
		"certificate, late":  {alert(116), progress{carried: true}, Misconfigured, "certificate_refused"},
		"unknown ca":         {alert(48), progress{carried: true}, Misconfigured, "certificate_refused"},
		"access denied":      {alert(49), progress{carried: true}, Misconfigured, "certificate_refused"},
		"proxy text":         {&net.OpError{Op: "proxyconnect", Err: proxy}, progress{}, RetryLater, "unreachable"},
		"reset":              {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, progress{carried: true}, UnknownOutcome, "connection_lost"},
	} {
		e := plain.networkFailure(t.Context(), tc.err, tc.got)
		expect(t, e, tc.class, tc.code)
		if strings.Contains(e.Error(), "p4ssw0rd") || errors.Is(e, proxy) {
			t.Errorf("%s: foreign text is shown: %v", name, e)
		}
	}
}

// TestConnectionPerExchange: net/http replays a request when a kept connection turns out dead, so none is kept.
func TestConnectionPerExchange(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Proto != "HTTP/1.1" || !r.Close {
			t.Errorf("%s, close %t: want HTTP/1.1 and the announcement that nothing follows", r.Proto, r.Close)
		}
		answer(200, "application/json", goodToken)(w, r)
	}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	c := newTestClient(t, Config{TokenEndpoint: srv.URL, RootCAs: pool})
	for range 3 {
		accessToken(t, c)
	}
	if connections.Load() != 3 {
		t.Errorf("%d connections for 3 exchanges", connections.Load())
	}
}

// TestProgress: only bytes after the handshake count, and only those that the network took.
func TestProgress(t *testing.T) {
	t.Parallel()
	w := &wire{ctx: t.Context()}
	near, far := net.Pipe()
	conn := &countedConn{Conn: near, written: &w.written}
	go untilClosed(far)
	write := func() {
		if n, err := conn.Write([]byte("12345")); n != 5 || err != nil {
			t.Errorf("write: %d, %v", n, err)
		}
	}
	write()
	if w.progress().carried {
		t.Error("the handshake counts as the request")
	}
	w.gotConn(httptrace.GotConnInfo{})
	_ = far.Close()
	write() // fails, and leaves it to the reader to say so
	if w.progress().carried {
		t.Error("bytes count that were never taken")
	}
	near, far = net.Pipe()
	conn.Conn = near
	go untilClosed(far)
	write()
	if !w.progress().carried {
		t.Error("bytes that left do not count")
	}
	_, _ = near.Close(), far.Close()
}

// TestDialEndsWithTheExchange: net/http hands dials a context that outlives the request.
func TestDialEndsWithTheExchange(t *testing.T) {
	t.Parallel()
	addr := rawServer(t, func(net.Conn) {})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := &wire{ctx: ctx}
	if _, err := w.dial(t.Context(), "tcp", addr); err == nil {
		t.Error("dialled for an exchange that is over")
	}
}
