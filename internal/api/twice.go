package api

import (
	"bytes"
	"encoding/json"
	"strings"
)

// maxTwice bounds the members that are named as standing twice.
const maxTwice = 20

// twice returns the members that stand twice in one object of a JSON text, at any depth, their names joined by dots: programs on the way
// may take the other one than we do.
func twice(text []byte) []string {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // one that is too large is for who reads it
	var w walk
	for len(w.found) < maxTwice {
		token, err := decoder.Token()
		if err != nil {
			break // the end; what is no JSON was refused before
		}
		w.step(token)
	}
	return w.found
}

// walk is a way through a JSON text, token by token.
type walk struct {
	levels []*level // the objects and arrays that are open
	found  []string
}

// level is an open object or array.
type level struct {
	seen map[string]bool // nil in an array
	name string          // of the member that is being read
	wait bool            // a name comes next
}

func (w *walk) step(token json.Token) {
	at := new(level) // around everything
	if len(w.levels) > 0 {
		at = w.levels[len(w.levels)-1]
	}
	if name, ok := token.(string); ok && at.wait {
		at.name, at.wait = name, false
		if at.seen[name] {
			w.found = append(w.found, w.path())
		}
		at.seen[name] = true
		return
	}
	switch at.wait = at.seen != nil; token {
	case json.Delim('}'), json.Delim(']'):
		w.levels = w.levels[:len(w.levels)-1]
	case json.Delim('{'):
		w.levels = append(w.levels, &level{seen: make(map[string]bool), wait: true})
	case json.Delim('['):
		w.levels = append(w.levels, new(level))
	}
}

// path names the member that is being read.
func (w *walk) path() string {
	var names []string
	for _, at := range w.levels {
		if at.seen != nil {
			names = append(names, at.name)
		}
	}
	return strings.Join(names, ".")
}
