package caddyoauth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddyoauth/caddyoauth/internal/alert"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// TestDocumentedCaddyfiles adapts every Caddyfile block of README.md and of all pages below docs, so that nobody copies one that does not work.
//
// A block that is a whole Caddyfile stands as it is. A fragment needs an HTML comment on the line before its fence:
//
//	<!-- caddyfile: connection -->  lines of a connection, as in `connection NAME { ... }`
//	<!-- caddyfile: global -->      lines of the global option oauth2_inject
//	<!-- caddyfile: site -->        lines of a site; the connections that oauth2_inject names are made up
//	<!-- caddyfile: proxy -->       lines of a reverse_proxy inside an oauth2_inject block
//	<!-- caddyfile: sites -->       whole sites; the connections that oauth2_inject names are made up
//	<!-- caddyfile: wrong -->       a whole Caddyfile that must be refused
func TestDocumentedCaddyfiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("docs/providers/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("found no pages of providers, %v", err)
	}
	files = append(files, pages...)
	readme := 0
	for _, file := range append(files, "README.md") {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err) // a README there must be
		}
		blocks := caddyfileBlocks(string(raw))
		if file == "README.md" {
			readme = len(blocks)
		}
		for _, block := range blocks {
			t.Run(fmt.Sprintf("%s:%d", filepath.ToSlash(file), block.line), func(t *testing.T) { block.check(t) })
		}
	}
	if readme == 0 {
		t.Error("README.md shows no Caddyfile")
	}
}

var (
	docPicture   = regexp.MustCompile(`\bimg/([\w-]+)\.png`)
	madePicture  = regexp.MustCompile(`(?m)^\t"([\w-]+)": +\{`)
	takenPicture = regexp.MustCompile(`\.picture\("([\w-]+)"\)`)
)

// texts are the files that match any of the patterns, each of which matches some, by path.
func texts(t *testing.T, globs ...string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, glob := range globs {
		files, err := filepath.Glob(glob)
		if err != nil || len(files) == 0 {
			t.Fatalf("there is no %s, %v", glob, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found[file] = string(text)
		}
	}
	return found
}

// TestPicturesAreTaken: the documentation shows the pictures that the browser tests take, all of them and no others. Whoever changes a
// page takes them anew with `make pictures`.
func TestPicturesAreTaken(t *testing.T) {
	t.Parallel()
	named := func(pattern *regexp.Regexp, globs ...string) []string {
		var names []string
		for _, text := range texts(t, globs...) {
			for _, match := range pattern.FindAllStringSubmatch(text, -1) {
				names = append(names, match[1])
			}
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
	shown := named(docPicture, "README.md", "docs/*.md", "docs/providers/*.md")
	if made := named(madePicture, "test/browser/pictures_test.go"); len(made) == 0 || !slices.Equal(made, shown) {
		t.Errorf("the tests know of %v, the documentation shows %v", made, shown)
	}
	if taken := named(takenPicture, "test/browser/*_test.go"); !slices.Equal(taken, shown) {
		t.Errorf("the tests take %v, the documentation shows %v", taken, shown)
	}
	files, err := os.ReadDir("docs/img")
	if err != nil || len(files) != len(shown) {
		t.Fatalf("docs/img has %d files, the documentation shows %d, %v", len(files), len(shown), err)
	}
	for _, file := range files {
		if name, png := strings.CutSuffix(file.Name(), ".png"); !png || !slices.Contains(shown, name) {
			t.Errorf("nothing shows docs/img/%s", file.Name())
		}
		if info, err := file.Info(); err != nil || info.Size() > 150_000 {
			t.Errorf("docs/img/%s is too large, %v", file.Name(), err)
		}
	}
}

var (
	docLink    = regexp.MustCompile(`\]\(([^)\s:]+)\)`)
	docHeading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notInSlug  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// headings returns what links into a page may name, as GitHub makes it.
func headings(markdown string) map[string]bool {
	found := make(map[string]bool)
	for _, match := range docHeading.FindAllStringSubmatch(markdown, -1) {
		slug := notInSlug.ReplaceAllString(strings.ToLower(match[1]), "")
		found[strings.ReplaceAll(slug, " ", "-")] = true
	}
	return found
}

// TestLinksLeadSomewhere: links between pages name files and headings that there are.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	checked := 0
	for file, text := range texts(t, "*.md", "docs/*.md", "docs/providers/*.md", "kms/*.md") {
		for _, match := range docLink.FindAllStringSubmatch(text, -1) {
			checked++
			path, anchor, _ := strings.Cut(match[1], "#")
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			found, err := os.Stat(target)
			if err != nil {
				t.Errorf("%s: there is no %s", file, match[1])
				continue
			}
			if anchor == "" || found.IsDir() {
				continue
			}
			page, err := os.ReadFile(target)
			if err != nil || !headings(string(page))[anchor] {
				t.Errorf("%s: %s has no heading %s, %v", file, target, anchor, err)
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d links were found", checked)
	}
}

// TestReadmeCountsPresets: the number that it boasts of is right.
func TestReadmeCountsPresets(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil || !strings.Contains(string(text), fmt.Sprintf("[%d presets]", len(provider.Names()))) {
		t.Errorf("the README does not say that there are %d presets, %v", len(provider.Names()), err)
	}
}

// TestOptionsAreDocumented: each option of the global block and of a connection has a row.
func TestOptionsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/options.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(globalParsers)), slices.Collect(maps.Keys(optionParsers))) {
		if !regexp.MustCompile("(?m)^\\| `" + name + "[` ]").Match(page) {
			t.Errorf("the page has no row for %s", name)
		}
	}
}

// TestQuirksAreDocumented: each option has a row.
func TestQuirksAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/providers/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(quirkParsers)), slices.Collect(maps.Keys(revocationParsers))) {
		if !strings.Contains(string(page), "\n| `"+name+" ") {
			t.Errorf("the page has no row for %s", name)
		}
	}
}

// docBlock is a fenced block of a Markdown file.
type docBlock struct {
	line int
	kind string // "" = a whole Caddyfile
	text string
}

var (
	docKind  = regexp.MustCompile(`^\s*<!-- caddyfile: ([a-z]+) -->\s*$`)
	docFence = regexp.MustCompile("^(\\s*)```+\\s*(caddyfile|Caddyfile|caddy)\\b")
)

func caddyfileBlocks(markdown string) []docBlock {
	var blocks []docBlock
	lines := strings.Split(markdown, "\n")
	for i := 0; i < len(lines); i++ {
		fence := docFence.FindStringSubmatch(lines[i])
		if fence == nil {
			continue
		}
		block := docBlock{line: i + 1}
		if i > 0 {
			if kind := docKind.FindStringSubmatch(lines[i-1]); kind != nil {
				block.kind = kind[1]
			}
		}
		for i++; i < len(lines) && !strings.HasPrefix(strings.TrimSpace(lines[i]), "```"); i++ {
			block.text += strings.TrimPrefix(lines[i], fence[1]) + "\n"
		}
		blocks = append(blocks, block)
	}
	return blocks
}

// required are the options that every connection needs.
const required = "token_endpoint https://idp.example/token\nclient_id caddy\n"

func (b docBlock) check(t *testing.T) {
	t.Helper()
	var whole string
	switch b.kind {
	case "":
		whole = b.text
	case "connection":
		whole = "{\noauth2_inject {\nconnection example {\n" + missing(b.text) + b.text + "}\n}\n}\n"
	case "global":
		whole = "{\noauth2_inject {\n" + b.text + "}\n}\n"
	case "site":
		whole = madeUp(b.text) + "example.com {\n" + b.text + "}\n"
	case "proxy":
		whole = madeUp("oauth2_inject example") + "example.com {\noauth2_inject example {\nreverse_proxy {\n" + b.text + "}\n}\n}\n"
	case "sites":
		whole = madeUp(b.text) + b.text
	case "wrong":
		if _, err := adaptText(b.text); err == nil {
			t.Errorf("the Caddyfile is said to be wrong, and was accepted")
		}
		return
	default:
		t.Fatalf("the comment names an unknown kind of block, %q", b.kind)
	}
	if _, err := adaptText(whole); err != nil {
		t.Errorf("%v\n%s", err, whole)
	}
}

// missing returns the required options that a fragment leaves out.
func missing(text string) string {
	var lines string
	for line := range strings.Lines(required) {
		if name, _, _ := strings.Cut(line, " "); !regexp.MustCompile(`(?m)^\s*` + name + `\s`).MatchString(text) {
			lines += line
		}
	}
	return lines
}

var docConnection = regexp.MustCompile(`(?m)^\s*oauth2_inject\s+(?:[/*@]\S*\s+)?([\w.-]+)`)

// madeUp returns global options with all the connections that a fragment names.
func madeUp(text string) string {
	seen := make(map[string]bool)
	connections := ""
	for _, match := range docConnection.FindAllStringSubmatch(text, -1) {
		if !seen[match[1]] {
			seen[match[1]] = true
			connections += "connection " + match[1] + " {\n" + required + "}\n"
		}
	}
	return "{\noauth2_inject {\n" + connections + "}\n}\n"
}

// TestDocumentedJSON decodes what pages show as JSON: it is what the program writes, with no member that there is not.
func TestDocumentedJSON(t *testing.T) {
	t.Parallel()
	for file, value := range map[string]any{"docs/keys.md": new(KeyStatus), "docs/metrics.md": new(HealthReport), "docs/alerts.md": new(alert.Generic)} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		blocks := regexp.MustCompile("(?s)\n```(?:json|console\n\\$ curl [^\n]*)\n(\\{.*?)```").FindAllSubmatch(raw, -1)
		if len(blocks) != 1 {
			t.Errorf("%s has %d blocks of JSON", file, len(blocks))
		}
		for _, block := range blocks {
			decoder := json.NewDecoder(bytes.NewReader(block[1]))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(value); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

// TestDocBlocks looks at the extraction itself: a test that finds no blocks would find no faults either.
func TestDocBlocks(t *testing.T) {
	t.Parallel()
	fence := "```"
	blocks := caddyfileBlocks("text\n" + fence + "caddyfile\na\n" + fence + "\n" + fence + "sh\nno\n" + fence + "\n<!-- caddyfile: site -->\n  " +
		fence + "caddyfile\n  b\n  \tc\n  " + fence + "\n")
	want := []docBlock{{2, "", "a\n"}, {9, "site", "b\n\tc\n"}}
	if fmt.Sprint(blocks) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", blocks, want)
	}
	for _, block := range []docBlock{
		{0, "connection", "scopes a\n"}, {0, "connection", "token_endpoint https://x.example\n"}, {0, "site", "oauth2_inject /x/* drive {\nreverse_proxy localhost:1\n}\n"},
		{0, "global", "encryption key {env.KEY}\n"}, {0, "proxy", "to localhost:1\n"}, {0, "wrong", "{\noauth2_inject x\n}\n"},
	} {
		block.check(t)
	}
}

// TestExamples: every example adapts, loads, and is formatted.
func TestExamples(t *testing.T) {
	t.Parallel()
	found := 0
	err := filepath.WalkDir("examples", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasPrefix(entry.Name(), "Caddyfile") {
			return err
		}
		found++
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if formatted := caddyfile.Format(raw); string(formatted) != string(raw) {
			t.Errorf("%s: run `caddy fmt --overwrite %s`", file, file)
		}
		adapted, err := adaptText(string(raw))
		if err != nil {
			t.Errorf("%s: %v", file, err)
		} else if err := validate(adapted); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		return nil
	})
	if err != nil || found == 0 {
		t.Errorf("found %d examples, %v", found, err)
	}
}
