package dashboard

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	maxStreams  = 64 // browsers that are told news at the same time
	streamLooks = 10 // how often a stream looks before it ends
	streamPause = 3 * time.Second

	// lookAgain is after how long a page is looked at although nothing has changed in this process: other instances change what is
	// stored, and time passes.
	lookAgain = 15 * time.Second
	// lookPause is how long a look counts for all, whatever changes.
	lookPause = time.Second
)

// newsroom has streams of the same page look together: visitors of equal standing see the same.
type newsroom struct {
	mu      sync.Mutex // guards the fields below; never held across I/O
	streams int
	desks   map[string]*desk // by page and standing
}

// desk is what streams of one page share.
type desk struct {
	viewers int           // guarded by the newsroom's mu
	turn    chan struct{} // holds one token: who looks; a channel, since it is held across I/O and must heed contexts

	seen    string // digest of the page, as it was last looked at; guarded by turn, as what follows
	changes uint64
	at      time.Time
}

// enter gives a stream its desk, or nil if there are too many streams. Whoever got one leaves it.
func (n *newsroom) enter(key string) *desk {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.streams >= maxStreams {
		return nil
	}
	n.streams++
	d := n.desks[key]
	if d == nil {
		if n.desks == nil {
			n.desks = make(map[string]*desk)
		}
		d = &desk{turn: make(chan struct{}, 1)}
		d.turn <- struct{}{}
		n.desks[key] = d
	}
	d.viewers++
	return d
}

func (n *newsroom) leave(key string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams--
	if d := n.desks[key]; d.viewers > 1 {
		d.viewers--
	} else {
		delete(n.desks, key)
	}
}

// look returns the digest of the page as it is now. Whoever has the turn looks for all, and only if something may have changed.
func (d *desk) look(ctx context.Context, changes func() uint64, digest func() (string, error)) (string, error) {
	select {
	case <-d.turn:
		defer func() { d.turn <- struct{}{} }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	now, age := changes(), time.Since(d.at)
	if d.seen != "" && (age < lookPause || now == d.changes && age < lookAgain) {
		return d.seen, nil
	}
	seen, err := digest()
	if err != nil {
		return "", err
	}
	d.seen, d.changes, d.at = seen, now, time.Now()
	return seen, nil
}

// follow tells the browser when the page has changed, as server-sent events, so that it fetches the page anew. A stream ends by
// itself, and the browser opens another: it holds up neither a reload nor the end of the program.
func (v *visit) follow(at spot) error {
	key := v.standing() + " " + at.page() + "?" + v.chosen().Encode()
	d := v.news.enter(key)
	if d == nil {
		v.w.Header().Set("Retry-After", "30")
		v.w.WriteHeader(http.StatusServiceUnavailable)
		return nil
	}
	defer v.news.leave(key)
	look := func() (string, error) {
		return d.look(v.r.Context(), v.Changes, func() (string, error) { return v.look(at) })
	}
	now, err := look()
	if err != nil {
		return v.refused(err)
	}
	v.w.Header().Set("Content-Type", "text/event-stream")
	v.w.Header().Set("X-Accel-Buffering", "no")
	v.stream(now, look)
	return nil
}

// standing tells visitors apart who may see or do different things.
func (v *visit) standing() string {
	return fmt.Sprintf("%q %t %v", v.caller.Tenant, v.caller.AllTenants, v.caller.Grants)
}

// stream tells of differences, and looks again and again.
func (v *visit) stream(now string, look func() (string, error)) {
	flusher := http.NewResponseController(v.w)
	before := cmp.Or(v.r.Header.Get("Last-Event-Id"), v.r.URL.Query().Get("seen")) // on the stream before this one, or on the page
	for looks := 1; ; looks++ {
		text := ": nothing new\n\n"
		if now != before {
			text = "id: " + now + "\ndata: changed\n\n"
		}
		before = now
		if _, err := io.WriteString(v.w, text); err != nil || flusher.Flush() != nil {
			return // the browser is gone
		}
		if looks == streamLooks || v.Exiting() || !pauseUntil(v.r.Context(), v.Ended, streamPause) {
			return
		}
		var err error
		if now, err = look(); err != nil {
			return // the browser asks again, and is told why
		}
	}
}

// look returns a digest that changes whenever a page would look different, but for the time that passes and what only counts uses.
func (v *visit) look(at spot) (string, error) {
	if at.id == "" {
		data, err := v.overview()
		if err != nil {
			return "", err
		}
		return data.Seen, nil
	}
	data, err := v.detail(at)
	if err != nil {
		return "", err
	}
	return data.Seen, nil
}

// digestOfPage digests what a page shows.
func digestOfPage(shown ...any) string {
	sum := sha256.New()
	for _, one := range shown {
		text, _ := json.Marshal(one) // never fails: rows hold texts, numbers and times
		_, _ = sum.Write(append(text, '\n'))
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// still returns rows without what changes with every use.
func still(rows ...standingRow) []standingRow {
	out := make([]standingRow, 0, len(rows))
	for _, row := range rows {
		row.LastUsed, row.Uses, row.Busy = nil, 0, false
		out = append(out, row)
	}
	return out
}

// pauseUntil waits, and reports whether to go on: the context has not ended, and the other one neither.
func pauseUntil(ctx context.Context, ended <-chan struct{}, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-ended:
	}
	return false
}
