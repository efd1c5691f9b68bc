package caddyoauth

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// TestOpenAPIDocument compares docs/openapi.json, which is linted and read by people, with what is served. UPDATE_OPENAPI writes it.
func TestOpenAPIDocument(t *testing.T) {
	t.Parallel()
	text, err := json.MarshalIndent(api.New((&App{}).service()).Document("/oauth2"), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	const file = "docs/openapi.json"
	if os.Getenv("UPDATE_OPENAPI") != "" {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(text, want) {
		t.Errorf("%s is not what is served; run `UPDATE_OPENAPI=1 go test -run OpenAPIDocument .` (%v)", file, err)
	}
}

// TestEveryOptionIsDecided: a new option of a connection is either to be had through the API or refused with a reason. Whoever adds one
// that names a file, or weakens something, has to say so.
func TestEveryOptionIsDecided(t *testing.T) {
	t.Parallel()
	known := make(map[string]bool)
	for i := range reflect.TypeFor[storedOptions]().NumField() {
		field := reflect.TypeFor[storedOptions]().Field(i)
		if !field.Anonymous {
			known[jsonName(field)] = true
			continue
		}
		for j := range field.Type.NumField() {
			known[jsonName(field.Type.Field(j))] = true
		}
	}
	for name := range known {
		if allowed, refused := storedUses[name] != 0, refusedOptions[name] != ""; allowed == refused && name != "tenant" {
			t.Errorf("the option %q has to stand either in storedUses or in refusedOptions", name)
		}
	}
	for name := range storedUses {
		if !known[name] {
			t.Errorf("there is no option %q", name)
		}
	}
	for _, name := range hiddenOptions {
		if storedUses[name] == 0 {
			t.Errorf("there is no hidden option %q", name)
		}
	}
}

// TestDocumentedFieldsAreAccepted, and no others: both ways for the body of a secret.
func TestDocumentedFieldsAreAccepted(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(api.New((&App{}).service()).Document("/x"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Components struct {
			Schemas map[string]struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	properties := doc.Components.Schemas["SecretBody"].Properties
	ofAll := map[string]bool{ // read before, or by another kind
		"name": true, "secret_type": true, "description": true, "collection_id": true, "tenant": true, "base_environment": true, "environments": true,
		"certificate": true, "private_key": true, "provider": true, "provider_params": true,
	}
	for field := range properties {
		var wrong faults
		wrong.apply(map[string]json.RawMessage{}, map[string]json.RawMessage{field: jsonNull}, "", func(use) bool { return true })
		if !ofAll[field] && len(wrong) > 0 {
			t.Errorf("%s is documented, and refused: %v", field, wrong)
		}
	}
	for name := range storedUses {
		field := strings.SplitN(apiFieldName(name), ".", 2)[0]
		if properties[field] == nil {
			t.Errorf("%s can be set, and is not documented", field)
		}
	}
}
