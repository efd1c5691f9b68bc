// Package openapi compares answers with the OpenAPI document of who gives them: status, headers and body have to be as the document says,
// and nothing may be there that it does not name. It knows as much of JSON Schema as the document of the REST API uses.
package openapi

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
)

// Document is an OpenAPI document.
type Document map[string]any

// Answer is what was answered to a request.
type Answer struct {
	Method, Path string // the path as it was asked for, without a query
	Status       int
	Header       http.Header
	Body         []byte
}

// plain are the headers that HTTP itself needs, and those of a server in front.
var plain = []string{"Alt-Svc", "Connection", "Content-Length", "Content-Type", "Date", "Server", "Transfer-Encoding", "Vary", "Via"}

// Parse reads a document.
func Parse(text []byte) (Document, error) {
	var d Document
	err := json.Unmarshal(text, &d)
	return d, err
}

// Follow returns what is below a node, names after names, and what that refers to; nil if there is nothing.
func (d Document) Follow(node any, names ...string) any {
	for _, name := range names {
		members, ok := d.resolve(node).(map[string]any)
		if !ok {
			return nil
		}
		node = members[name]
	}
	return d.resolve(node)
}

func (d Document) resolve(node any) any {
	for {
		members, ok := node.(map[string]any)
		if !ok {
			return node
		}
		ref, ok := members["$ref"].(string)
		if !ok {
			return node
		}
		node = any(map[string]any(d))
		for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			node = node.(map[string]any)[name]
		}
	}
}

// Operation returns what the document says of a method at a path; path is its template, "" if the document has no such path.
func (d Document) Operation(method, asked string) (op any, path string) {
	paths, _ := d["paths"].(map[string]any)
	if method == http.MethodHead {
		method = http.MethodGet
	}
	best := -1
	for template, item := range paths {
		literal := fits(template, asked)
		found := d.Follow(item, strings.ToLower(method))
		if literal < 0 || found == nil && path != "" || found != nil && op != nil && literal < best {
			continue
		}
		op, path, best = found, template, literal
	}
	return op, path
}

// fits counts the parts of a path that are as in the template; -1 if it is another path.
func fits(template, asked string) int {
	pattern, parts := strings.Split(template, "/"), strings.Split(asked, "/")
	if len(pattern) != len(parts) {
		return -1
	}
	literal := 0
	for i, want := range pattern {
		switch {
		case want == parts[i]:
			literal++
		case !strings.HasPrefix(want, "{") || parts[i] == "":
			return -1
		}
	}
	return literal
}

// Check returns what of an answer is not as the document says.
func (d Document) Check(a Answer) []string {
	op, path := d.Operation(a.Method, a.Path)
	switch {
	case path == "" && a.Status == http.StatusNotFound, path != "" && op == nil && a.Status == http.StatusMethodNotAllowed:
		return nil
	case op == nil:
		return []string{fmt.Sprintf("%s %s is not documented, and is answered with %d", a.Method, a.Path, a.Status)}
	}
	response := d.Follow(op, "responses", fmt.Sprint(a.Status))
	if response == nil {
		return []string{fmt.Sprintf("the status %d is not documented for %s %s", a.Status, a.Method, path)}
	}
	documented, _ := d.Follow(response, "headers").(map[string]any)
	faults := d.checkHeaders(documented, a.Header)
	if a.Method == http.MethodHead {
		return faults
	}
	var body any
	if err := json.Unmarshal(a.Body, &body); err != nil {
		return append(faults, "the body is not JSON")
	}
	schema := d.Follow(response, "content", "application/json", "schema")
	return append(faults, d.Validate(schema, body, "body")...)
}

func (d Document) checkHeaders(documented map[string]any, got http.Header) (faults []string) {
	for name, header := range documented {
		if d.Follow(header, "required") == true && got.Get(name) == "" {
			faults = append(faults, "there is no header "+name)
		}
	}
	for name := range got {
		known := slices.Contains(plain, name)
		for other := range documented {
			known = known || http.CanonicalHeaderKey(other) == name
		}
		if !known {
			faults = append(faults, "the header "+name+" is not documented")
		}
	}
	return faults
}

// Validate returns what of a value is not as a schema says.
func (d Document) Validate(schema, value any, where string) (faults []string) {
	s, _ := d.resolve(schema).(map[string]any)
	if want, ok := s["type"]; ok && !isOf(want, value) {
		return []string{fmt.Sprintf("%s is %T, not %v", where, value, want)}
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, value) {
		faults = append(faults, fmt.Sprintf("%s is %v, not one of %v", where, value, enum))
	}
	if items, ok := value.([]any); ok {
		for i, item := range items {
			faults = append(faults, d.Validate(s["items"], item, fmt.Sprint(where, "[", i, "]"))...)
		}
	}
	members, ok := value.(map[string]any)
	if !ok {
		return faults
	}
	properties, _ := s["properties"].(map[string]any)
	for name, member := range members {
		if property, known := properties[name]; known {
			faults = append(faults, d.Validate(property, member, where+"."+name)...)
		} else if s["additionalProperties"] == false {
			faults = append(faults, where+"."+name+" is not documented")
		}
	}
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, there := members[name.(string)]; !there {
			faults = append(faults, where+"."+name.(string)+" is missing")
		}
	}
	return faults
}

func isOf(want, value any) bool {
	if several, ok := want.([]any); ok {
		return slices.ContainsFunc(several, func(one any) bool { return isOf(one, value) })
	}
	switch value := value.(type) {
	case nil:
		return want == "null"
	case string:
		return want == "string"
	case bool:
		return want == "boolean"
	case float64:
		return want == "number" || want == "integer" && value == math.Trunc(value)
	case []any:
		return want == "array"
	}
	return want == "object"
}
