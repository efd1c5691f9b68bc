package caddyoauth

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// releaseTimeout is how long a replay waits until net/http has let go of the first attempt's body.
const releaseTimeout = 5 * time.Second

// keptBody copies what an attempt reads of a request's body, so that the request can be sent once more. It reads nothing
// ahead: a streamed upload, and `Expect: 100-continue`, behave as without it. A nil *keptBody stands for "there is no body".
type keptBody struct {
	inner  io.ReadCloser
	length int64 // the request's Content-Length, -1 when unknown
	limit  int64 // bytes that may be kept; 0 = none

	mu       sync.Mutex // guards the fields below
	kept     []byte
	overflow bool // more was read than may be kept, or keeping has ended
	ended    bool // the body was read to its end
	isClosed bool
	closed   chan struct{} // closed with the body
	passing  bool          // Close goes through to inner
}

// keepBody starts keeping the request's body, if it has one.
func keepBody(req *http.Request, limit int64) *keptBody {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	if req.ContentLength > limit || limit < 0 || caddyhttp.IsIncremental(req.Header) {
		limit = 0
	}
	return &keptBody{inner: req.Body, length: req.ContentLength, limit: limit, overflow: limit == 0, closed: make(chan struct{})}
}

// reader returns what the first attempt reads from.
func (b *keptBody) reader(req *http.Request) io.ReadCloser {
	if b == nil || b.limit == 0 {
		return req.Body
	}
	return b
}

// Read implements io.Reader.
func (b *keptBody) Read(p []byte) (int, error) {
	n, err := b.inner.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.overflow {
		if int64(len(b.kept)+n) > b.limit {
			b.kept, b.overflow = nil, true
		} else {
			b.kept = append(b.kept, p[:n]...)
		}
	}
	if errors.Is(err, io.EOF) || b.length >= 0 && int64(len(b.kept)) == b.length {
		b.ended = true
	}
	return n, err
}

// Close implements io.Closer. The body itself stays open until it is certain that nothing of it is needed any more.
func (b *keptBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.isClosed {
		return nil
	}
	b.isClosed = true
	close(b.closed)
	if b.passing {
		return b.inner.Close()
	}
	return nil
}

// release ends the keeping.
func (b *keptBody) release() {
	if b == nil || b.limit == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.passing {
		return
	}
	b.passing, b.overflow, b.kept = true, true, nil
	if b.isClosed {
		_ = b.inner.Close()
	}
}

// replayable reports whether the body can be had whole: it was read to its end within the limit, or its length is known and
// the rest can still be read.
func (b *keptBody) replayable() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.overflow && (b.ended || b.length >= 0)
}

// whole returns the body from its beginning, after the first attempt has let go of it.
func (b *keptBody) whole(ctx context.Context) (io.ReadCloser, error) {
	if b == nil {
		return http.NoBody, nil
	}
	timeout := time.NewTimer(releaseTimeout)
	defer timeout.Stop()
	select {
	case <-b.closed:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timeout.C:
		return nil, errors.New("the first attempt did not let go of the request's body")
	}
	for !b.isEnded() {
		if _, err := b.Read(make([]byte, 4096)); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.overflow {
		return nil, errors.New("the request's body is larger than it said")
	}
	return io.NopCloser(bytes.NewReader(b.kept)), nil
}

func (b *keptBody) isEnded() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended || b.overflow
}
