package provider

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/presets.golden and docs/providers/README.md anew")

// TestGolden: a review sees every changed fact, also one that came through a shared constant.
func TestGolden(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	fmt.Fprintln(&b, "# Every preset. Written by: go test ./internal/provider -update")
	for _, name := range Names() {
		fmt.Fprintf(&b, "\n[%s]\n", name)
		dump(&b, "", reflect.ValueOf(*table[name]))
	}
	current(t, filepath.Join("testdata", "presets.golden"), b.Bytes())
}

// TestDocs: the table in the documentation is the table in the code, and every page that it links to is there.
func TestDocs(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "docs", "providers")
	current(t, filepath.Join(dir, "README.md"), docs(t, dir))
	pages, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		name := strings.TrimSuffix(filepath.Base(page), ".md")
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if name != "README" && table[name] == nil {
			t.Errorf("%s describes no provider", page)
		}
		if p := table[name]; p != nil {
			for _, must := range []string{"## Register", "## Pitfalls", p.AsOf} {
				if !bytes.Contains(text, []byte(must)) {
					t.Errorf("%s: wants %q", page, must)
				}
			}
		}
	}
	for _, name := range words("google microsoft salesforce slack github shopify quickbooks") {
		if !slices.Contains(pages, filepath.Join(dir, name+".md")) {
			t.Errorf("%s has no page", name)
		}
	}
}

func current(t *testing.T, path string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	gotLines, wantLines := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range wantLines {
		if i >= len(gotLines) || gotLines[i] != wantLines[i] {
			t.Fatalf("%s line %d is not what the table says; look at the change, then: go test ./internal/provider -update\nthe table: %s", path, i+1, wantLines[i])
		}
	}
	t.Fatalf("%s has more than the table says", path)
}

// dump writes what is set, a line each.
func dump(b *bytes.Buffer, path string, v reflect.Value) {
	if v.IsZero() || path == "Name" {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			dump(b, strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			dump(b, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			dump(b, path+"."+key.String(), v.MapIndex(key))
		}
	default:
		fmt.Fprintf(b, "%s = %v\n", path, v.Interface())
	}
}

// docs renders the table for people.
func docs(t *testing.T, dir string) []byte {
	t.Helper()
	intro, err := os.ReadFile(filepath.Join("testdata", "docs-intro.md"))
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.NewBuffer(intro)
	fmt.Fprintln(b, "\n## All presets")
	fmt.Fprintln(b, "\n| `provider` | For | Parameters | Access token | Refresh token | Scope sets | Facts of |\n|---|---|---|---|---|---|---|")
	for _, name := range Names() {
		p := table[name]
		link := "[`" + name + "`](#" + name + ")"
		if _, err := os.Stat(filepath.Join(dir, name+".md")); err == nil {
			link = "[`" + name + "`](" + name + ".md)"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s |\n", link, p.Title, paramsCell(p), accessCell(p), refreshCell(p),
			inCode(slices.Sorted(maps.Keys(p.ScopeSets))), p.AsOf)
	}
	for _, name := range Names() {
		section(b, table[name])
	}
	return b.Bytes()
}

func section(b *bytes.Buffer, p *Provider) {
	fmt.Fprintf(b, "\n### %s\n\n%s.\n\n", p.Name, p.Title)
	line := func(what, value string) {
		if value != "" {
			fmt.Fprintf(b, "* %s: %s\n", what, value)
		}
	}
	for _, param := range p.Params {
		text := param.Label + ", as in `" + param.Example + "`"
		if param.OperatorOnly {
			text += "; in the configuration only"
		}
		line("`"+param.Name+"`", text)
	}
	line("Token endpoint", inCode(words(p.TokenEndpoint)))
	line("Client authentication", inCode(p.ClientAuth))
	line("Scopes", inCode(p.Scopes(nil)))
	if p.HeaderName != authorization {
		line("Token travels in", "`"+p.HeaderName+": "+p.HeaderTemplate+"`")
	}
	for _, name := range slices.Sorted(maps.Keys(p.APIHeaders)) {
		line("API header", "`"+name+": "+p.APIHeaders[name]+"`")
	}
	line("Allowed hosts", inCode(p.APIHosts))
	line("Kept for templates", inCode(slices.Concat(p.KeepFields, p.CallbackFields, slices.Sorted(maps.Keys(p.TestCall.Keep)))))
	line("A used refresh token", usedCell(p))
	line("A consent that is gone shows as", goneCell(p))
	line("Revocation ends", map[Radius]string{
		"": "nothing, there is none", KillsToken: "the token", KillsGrant: "every token of this app for the account",
		KillsInstallation: "the app's installation, for everybody at the account", KillsSessions: "all of the person's sessions, so it is never called",
	}[p.Revocation.Kills])
	line("Recalled, not read in a source", strings.ReplaceAll(strings.Join(p.Recalled, ", "), "_", " "))
	for _, note := range p.Notes {
		fmt.Fprintf(b, "* %s\n", note)
	}
	links := make([]string, 0, len(p.Sources))
	for _, key := range p.Sources {
		links = append(links, "["+Sources[key].Title+"]("+Sources[key].URL+")")
	}
	line("Sources", strings.Join(links, "; "))
}

// usedCell says what a refresh ends.
func usedCell(p *Provider) string {
	text := map[RotationClass]string{
		RotationStatic: "stays", RotationOverlapping: "lives on beside the new one", RotationRecoverable: "works until the new one is used",
		RotationGrace: "works a while longer", RotationSingleUse: "is dead at once", RotationPunished: "is dead, and sending it again ends the consent",
	}[p.Rotation]
	if p.GraceSeconds > 0 {
		text += ", for " + span(time.Duration(p.GraceSeconds)*time.Second) + map[bool]string{true: " at most", false: ""}[p.Rotation == RotationRecoverable]
		if p.Rotation == RotationPunished {
			text = "is dead after " + span(time.Duration(p.GraceSeconds)*time.Second) + ", and sending it then ends the consent"
		}
	}
	if p.KillsOldAccessToken {
		text += "; the old access token dies as well"
	}
	return text
}

// goneCell says how a refresh is refused for good.
func goneCell(p *Provider) string {
	text := inCode(p.Errors.Revoked)
	if p.Errors.RevokedStatus > 0 {
		text += fmt.Sprintf(", with HTTP %d", p.Errors.RevokedStatus)
	}
	return text
}

func paramsCell(p *Provider) string {
	var cells []string
	for _, param := range p.Params {
		switch {
		case param.Required:
			cells = append(cells, "**`"+param.Name+"`**")
		case param.Default != "":
			cells = append(cells, "`"+param.Name+"` ("+param.Default+")")
		default:
			cells = append(cells, "`"+param.Name+"`")
		}
	}
	return strings.Join(cells, ", ")
}

func accessCell(p *Provider) string {
	text := span(p.AccessLifetime)
	if p.NoExpiryMeansUnlimited {
		if text == "" {
			return "no end"
		}
		return text + " or no end"
	}
	return text
}

func refreshCell(p *Provider) string {
	text := "class " + string(p.Rotation)
	if p.RotationConfigurable {
		text += " if configured"
	}
	if p.RefreshTokenLifetime > 0 {
		text += ", lives " + span(p.RefreshTokenLifetime)
	}
	if p.RefreshTokenIdleLimit > 0 {
		text += ", idle " + span(p.RefreshTokenIdleLimit)
	}
	if p.ConsentLifetime > 0 {
		text += ", from consent " + span(p.ConsentLifetime)
	}
	return text
}

func span(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d%day == 0 && d > day:
		return fmt.Sprintf("%d d", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	}
	return fmt.Sprintf("%d min", d/time.Minute)
}

func inCode(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return "`" + strings.Join(list, "`, `") + "`"
}
