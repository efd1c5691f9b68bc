package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The OpenAPI document is made of the table of routes and the types of what they take and answer, so that it cannot say anything else
// than what the handlers do.

// object is a JSON object.
type object = map[string]any

// openAPI serves the document.
func (c *call) openAPI() {
	c.send(http.StatusOK, c.Document(c.access.Prefix))
}

// Document returns the OpenAPI 3.1 document of the API under a path.
func (a *API) Document(prefix string) map[string]any {
	s := &schemas{named: object{}, options: a.Options}
	paths := object{}
	for _, r := range routes {
		item, ok := paths[r.path].(object)
		if !ok {
			item = object{}
			paths[r.path] = item
		}
		item[strings.ToLower(r.method)] = s.operation(r)
	}
	s.of(reflect.TypeFor[errorBody]())
	return object{
		"openapi": "3.1.0",
		"info": object{
			"title": "oauth2_api", "version": "1.0.0", "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "Connections, certificates, collections and API keys of oauth2_inject. No answer holds a token, refresh token, client secret, verifier or key.",
		},
		"servers":  []any{object{"url": prefix}},
		"security": []any{object{"key": []any{}}, object{"site": []any{}}},
		"paths":    paths,
		"components": object{
			"schemas":         s.named,
			"responses":       errorResponses(),
			"securitySchemes": securitySchemes(),
			"headers":         headers,
		},
	}
}

// headers are those that answers have, besides what HTTP itself needs.
var headers = object{
	"Cache-Control":          header("Always no-store.", true),
	"ETag":                   header("The revision, to be sent as If-Match. Left out for what comes from the configuration of the server.", false),
	"Idempotent-Replayed":    header("true if this is the answer that was kept for the Idempotency-Key.", false),
	"Location":               header("Path of what was made.", true),
	"Retry-After":            object{"description": "Seconds to wait.", "required": true, "schema": object{"type": "integer"}},
	"WWW-Authenticate":       header("How to be known: by a Bearer token.", true),
	"X-Content-Type-Options": header("Always nosniff.", true),
	"X-Request-Id":           header("Names the request in the log.", true),
}

func header(doc string, always bool) object {
	return object{"description": doc, "required": always, "schema": object{"type": "string"}}
}

// headersOf refers to the headers of an answer: those of all, and some more.
func headersOf(more ...string) object {
	out := object{}
	for _, name := range append(more, "Cache-Control", "X-Content-Type-Options", "X-Request-Id") {
		out[name] = object{"$ref": "#/components/headers/" + name}
	}
	return out
}

func securitySchemes() object {
	return object{
		"key":  object{"type": "http", "scheme": "bearer", "description": "An API key."},
		"site": object{"type": "http", "scheme": "basic", "description": "Whatever authentication the site has in front of the API."},
	}
}

// failures are the statuses that refusals have, with what they mean.
var failures = map[int]string{
	400: "A field or parameter is missing, wrong or unknown.", 401: "It is not known who asks.", 403: "The role is not enough, or a limit is reached.",
	404: "There is nothing here, for this caller.", 409: "The state of things does not allow it: a name is taken, something is still in use.",
	412: "It was changed since the client looked at it.", 413: "The body is too large.", 415: "The body is not application/json.",
	428: "If-Match is missing.", 429: "Too many requests.", 500: "Something is not working here.", 502: "The provider refused.",
	503: "Provider or storage trouble; trying again helps.",
}

func errorResponses() object {
	out := object{}
	for status, text := range failures {
		var more []string
		switch status {
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			more = []string{"Retry-After"}
		case http.StatusUnauthorized:
			more = []string{"WWW-Authenticate"}
		}
		out["Error"+strconv.Itoa(status)] = object{
			"description": text, "headers": headersOf(more...),
			"content": object{"application/json": object{"schema": object{"$ref": "#/components/schemas/Error"}}},
		}
	}
	return out
}

// statuses are those that a route may refuse with.
func (r *route) statuses() []int {
	if r.role == Nobody {
		return nil
	}
	all := []int{400, 401, 403, 429, 500, 503}
	if strings.Contains(r.path, "{id}") {
		all = append(all, 404)
	}
	if r.method != http.MethodGet {
		all = append(all, 413, 415)
	}
	if r.method == http.MethodPost || r.conflicts { // of an Idempotency-Key, or of the thing itself
		all = append(all, 409)
	}
	if r.asks {
		all = append(all, 502)
	}
	if r.match {
		all = append(all, 412, 428)
	}
	slices.Sort(all)
	return all
}

// schemas makes schemas of types, each named one once.
type schemas struct {
	named   object
	options []Option
}

func (s *schemas) operation(r *route) object {
	responses := object{}
	for _, status := range r.statuses() {
		responses[strconv.Itoa(status)] = object{"$ref": "#/components/responses/Error" + strconv.Itoa(status)}
	}
	responses[strconv.Itoa(r.status)] = s.response(r)
	if r.action == "health" {
		responses["503"] = s.response(r) // not an error, but the answer
	}
	op := object{
		"operationId": r.action, "summary": r.doc, "tags": []any{strings.Split(r.action, ".")[0]}, "responses": responses,
		"parameters": r.parameters(),
	}
	if r.role > Nobody {
		op["x-role"] = r.role.String()
	} else {
		op["security"] = []any{}
	}
	if r.body != nil {
		schema := s.of(reflect.TypeOf(r.body))
		if len(r.needs) > 0 {
			schema = object{"allOf": []any{schema}, "required": r.needs}
		}
		content := object{}
		for _, kind := range r.kinds() {
			content[kind] = object{"schema": schema}
		}
		op["requestBody"] = object{"required": true, "content": content}
	}
	return op
}

func (s *schemas) response(r *route) object {
	var more []string
	if r.etag {
		more = append(more, "ETag")
	}
	if r.status == http.StatusCreated {
		more = append(more, "Location")
	}
	if r.method == http.MethodPost {
		more = append(more, "Idempotent-Replayed")
	}
	schema := object{"type": "object"}
	if r.answer != nil {
		data := s.of(reflect.TypeOf(r.answer))
		if r.list {
			data = object{"type": "array", "items": data}
		}
		schema = object{
			"type": "object", "required": []any{"data", "meta"}, "additionalProperties": false,
			"properties": object{"data": data, "meta": s.of(reflect.TypeFor[meta]())},
		}
	}
	return object{"description": r.doc, "headers": headersOf(more...), "content": object{"application/json": object{"schema": schema}}}
}

// parameters are those of the path, the query and the header.
func (r *route) parameters() []any {
	all := []any{}
	for part := range strings.SplitSeq(r.path, "/") {
		if name := strings.Trim(part, "{}"); name != part {
			schema := object{"type": "string"}
			switch name {
			case "n":
				schema = object{"type": "integer", "minimum": 1}
			case "id":
				schema["format"] = "uuid"
			}
			all = append(all, object{"name": name, "in": "path", "required": true, "schema": schema})
		}
	}
	for _, p := range r.params {
		schema := object{"type": "string"}
		if p.number {
			schema = object{"type": "integer", "minimum": 1}
		}
		if len(p.enum) > 0 {
			schema["enum"] = p.enum
		}
		all = append(all, object{"name": p.name, "in": "query", "description": p.doc, "schema": schema})
	}
	if r.match {
		all = append(all, object{"name": "If-Match", "in": "header", "required": true, "description": "The ETag that was seen last, or *.", "schema": object{"type": "string"}})
	}
	if r.method == http.MethodPost {
		all = append(all, object{"name": "Idempotency-Key", "in": "header", "description": "A second request with the same key gets the answer of the first, for a day.", "schema": object{"type": "string", "maxLength": maxIdempotencyKey}})
	}
	return all
}

// names are the schemas' names where they are not the types'.
var names = map[string]string{"errorBody": "Error", "errorDetail": "ErrorDetail", "meta": "Meta", "secretBody": "SecretBody", "collectionBody": "CollectionBody", "keyBody": "KeyBody"}

// of returns the schema of a type. The JSON tags say what is required: what has no omitempty is always there.
func (s *schemas) of(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{}
	case t.Name() == "Duration":
		return object{"type": []any{"integer", "string"}, "description": "Nanoseconds, or a text such as 5m."}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.Slice:
		return object{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer"}
	case reflect.Struct:
		return s.structure(t)
	case reflect.String:
		return object{"type": "string"}
	}
	panic("there is no schema for " + t.String()) // a programming error, which every test of the document shows
}

func (s *schemas) structure(t reflect.Type) object {
	name := t.Name()
	if other, ok := names[name]; ok {
		name = other
	}
	if _, known := s.named[name]; !known {
		schema := object{"type": "object", "additionalProperties": false}
		s.named[name] = schema // before its fields: types may hold themselves
		properties, required := object{}, []any{}
		s.fields(t, properties, &required)
		if t == reflect.TypeFor[secretBody]() {
			for _, option := range s.options {
				properties[option.Name] = nullable(described(s.of(option.Type), option.Doc))
			}
		}
		schema["properties"] = properties
		if len(required) > 0 {
			schema["required"] = required
		}
	}
	return object{"$ref": "#/components/schemas/" + name}
}

func (s *schemas) fields(t reflect.Type, properties object, required *[]any) {
	for i := range t.NumField() {
		field := t.Field(i)
		tag, optional := strings.CutSuffix(field.Tag.Get("json"), ",omitempty")
		if field.Anonymous {
			s.fields(field.Type, properties, required)
			continue
		}
		if tag == "-" {
			continue
		}
		properties[tag] = s.field(field)
		if !optional {
			*required = append(*required, tag)
		}
	}
}

// field is the schema of a field: that of its type, and what its tags say.
func (s *schemas) field(field reflect.StructField) object {
	schema := maps.Clone(s.of(field.Type))
	if enum := field.Tag.Get("enum"); enum != "" {
		schema["enum"] = strings.Split(enum, ",")
	}
	if format := field.Tag.Get("format"); format != "" {
		schema["format"] = format
	}
	if field.Tag.Get("writeOnly") != "" {
		schema["writeOnly"] = true
	}
	if field.Type.Kind() == reflect.Pointer && field.Type.Elem().Kind() == reflect.String {
		schema = nullable(schema)
	}
	if field.Tag.Get("nullable") != "" {
		schema = nullable(schema)
	}
	return described(schema, field.Tag.Get("doc"))
}

// nullable allows null besides what a schema allows.
func nullable(schema object) object {
	out := maps.Clone(schema)
	switch kind := schema["type"].(type) {
	case string:
		out["type"] = []any{kind, "null"}
	case []any:
		if !slices.Contains(kind, any("null")) {
			out["type"] = append(slices.Clone(kind), "null")
		}
	case nil:
		if schema["$ref"] != nil {
			delete(out, "$ref")
			out["anyOf"] = []any{object{"$ref": schema["$ref"]}, object{"type": "null"}}
		}
	}
	if enum, ok := schema["enum"].([]string); ok {
		values := []any{nil}
		for _, value := range enum {
			values = append(values, value)
		}
		out["enum"] = values
	}
	return out
}

func described(schema object, doc string) object {
	if doc == "" {
		return schema
	}
	schema = maps.Clone(schema)
	schema["description"] = doc // beside $ref too, which OpenAPI 3.1 allows
	return schema
}
