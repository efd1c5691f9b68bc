package kms_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"

	_ "github.com/caddyoauth/caddyoauth/kms"
)

func adapt(text string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	return config, err
}

// TestCaddyfile: each option into JSON, and each mistake with its place.
func TestCaddyfile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"aws_kms a":                                                   `{"key":"a","source":"aws_kms"}`,
		"aws_kms a {\nendpoint b\nprofile c\n}":                       `{"endpoint":"b","key":"a","profile":"c","source":"aws_kms"}`,
		"gcp_kms a {\nendpoint {env.B}\n}":                            `{"endpoint":"{env.B}","key":"a","source":"gcp_kms"}`,
		"vault_transit a {\naddress b\nnamespace c\n token_file d\n}": `{"address":"b","key":"a","namespace":"c","source":"vault_transit","token_file":"d"}`,
		"aws_kms":                              "wrong argument count or unexpected line ending after 'aws_kms', at Caddyfile:3",
		"gcp_kms a b":                          "wrong argument count or unexpected line ending after 'b', at Caddyfile:3",
		"vault_transit a {\nregion b\n}":       `unknown option "region" of encryption vault_transit, at Caddyfile:4`,
		"aws_kms a {\nprofile\n}":              "wrong argument count or unexpected line ending after 'profile', at Caddyfile:4",
		"aws_kms a {\nprofile b c\n}":          "wrong argument count or unexpected line ending after 'c', at Caddyfile:4",
		"aws_kms a {\nprofile b\nprofile c\n}": "profile is given twice, at Caddyfile:5",
		"aws_kms a {\nprofile b {\nx\n}\n}":    "profile takes no block, at Caddyfile:5",
	} {
		config, err := adapt("{\noauth2_inject {\nencryption " + text + "\n}\n}\n")
		if err != nil {
			if got := strings.TrimPrefix(err.Error(), "parsing caddyfile tokens for 'oauth2_inject': "); got != want {
				t.Errorf("%q:\ngot  %s\nwant %s", text, got, want)
			}
			continue
		}
		var got struct {
			Apps struct {
				Inject struct {
					Encryption []json.RawMessage `json:"encryption"`
				} `json:"oauth2_inject"`
			} `json:"apps"`
		}
		if err := json.Unmarshal(config, &got); err != nil || len(got.Apps.Inject.Encryption) != 1 || string(got.Apps.Inject.Encryption[0]) != want {
			t.Errorf("%q: got %s, %v", text, config, err)
		}
	}
}

// TestDocumentedCaddyfiles adapts every Caddyfile block of README.md, and asks that each option is in its tables.
func TestDocumentedCaddyfiles(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)(<!-- caddyfile: global -->\n)?```caddyfile\n(.*?)```").FindAllStringSubmatch(string(raw), -1)
	if len(blocks) < 4 {
		t.Errorf("found only %d Caddyfiles", len(blocks))
	}
	for _, block := range blocks {
		text := block[2]
		if block[1] != "" {
			text = "{\noauth2_inject {\n" + text + "}\n}\n"
		}
		if _, err := adapt(text); err != nil {
			t.Errorf("%v:\n%s", err, text)
		}
	}
	for _, option := range []string{"endpoint", "profile", "address", "namespace", "token_file"} {
		if !strings.Contains(string(raw), fmt.Sprintf("| `%s ", option)) {
			t.Errorf("README.md does not explain %s", option)
		}
	}
}
