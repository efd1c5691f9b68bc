package openapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyoauth/caddyoauth/test/openapi"
)

const document = `{
	"paths": {
		"/v1/things": {"post": {"responses": {"201": {"$ref": "#/components/responses/Made"}}}},
		"/v1/things/{id}": {"get": {"responses": {"200": {"$ref": "#/components/responses/Made"}}}},
		"/v1/things/all": {"post": {"responses": {"204": {"headers": {}}}}}
	},
	"components": {
		"headers": {"Location": {"required": true}, "ETag": {"required": false}},
		"schemas": {"Thing": {"type": "object", "additionalProperties": false, "required": ["id"], "properties": {
			"id": {"type": "integer"}, "kind": {"type": ["string", "null"], "enum": [null, "a", "b"]}, "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}}
		}}},
		"responses": {"Made": {
			"headers": {"Location": {"$ref": "#/components/headers/Location"}, "ETag": {"$ref": "#/components/headers/ETag"}},
			"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}
		}}
	}
}`

// TestCheckFindsWhatIsNotAsDocumented: each answer, and what has to be said of it; "" is nothing.
func TestCheckFindsWhatIsNotAsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := openapi.Parse([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method, path string
		status       int
		headers      string
		body, want   string
	}{
		{"POST", "/v1/things", 201, "Location ETag Date", `{"id":1,"kind":"a","parts":[{"id":2,"kind":null}]}`, ""},
		{"GET", "/v1/things/7", 200, "Location", `{"id":1}`, ""},
		{"HEAD", "/v1/things/all", 200, "Location", ``, ""},
		{"PUT", "/v1/things", 405, "Allow", `{}`, ""},
		{"GET", "/v1/other", 404, "", `{}`, ""},
		{"GET", "/v1/other", 200, "", `{}`, "is not documented, and is answered"},
		{"PUT", "/v1/things", 200, "", `{}`, "is not documented, and is answered"},
		{"POST", "/v1/things", 409, "", `{}`, "the status 409 is not documented"},
		{"POST", "/v1/things", 201, "ETag", `{"id":1}`, "there is no header Location"},
		{"POST", "/v1/things", 201, "Location X-Other", `{"id":1}`, "the header X-Other is not documented"},
		{"POST", "/v1/things", 201, "Location", `x`, "not JSON"},
		{"POST", "/v1/things", 201, "Location", `{}`, "body.id is missing"},
		{"POST", "/v1/things", 201, "Location", `{"id":1.5}`, "body.id is float64"},
		{"POST", "/v1/things", 201, "Location", `{"id":1,"kind":"c"}`, "not one of"},
		{"POST", "/v1/things", 201, "Location", `{"id":1,"parts":[{"id":1},{"id":"x"}]}`, "body.parts[1].id is string"},
		{"POST", "/v1/things", 201, "Location", `{"id":1,"colour":"red"}`, "body.colour is not documented"},
	} {
		header := make(http.Header)
		for _, name := range strings.Fields(tt.headers) {
			header.Set(name, "x")
		}
		faults := strings.Join(doc.Check(openapi.Answer{Method: tt.method, Path: tt.path, Status: tt.status, Header: header, Body: []byte(tt.body)}), "; ")
		if (faults == "") != (tt.want == "") || !strings.Contains(faults, tt.want) {
			t.Errorf("%s %s %d %s: got %q, want %q", tt.method, tt.path, tt.status, tt.body, faults, tt.want)
		}
	}
}
