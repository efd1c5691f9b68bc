package caddyoauth

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The tests here hold the invariants of docs/ARCHITECTURE.md that can be seen in the source. The message of a failing test is
// the rule. Where a rule has exceptions they are listed with a reason, and the list must be exact.

// sourceFile is one file of the program; tests, tools and benchmarks are none.
type sourceFile struct {
	path string // slash-separated, from the module's root
	dir  string
	*ast.File
	fset *token.FileSet
}

func (f *sourceFile) line(node ast.Node) int { return f.fset.Position(node.Pos()).Line }

func (f *sourceFile) at(node ast.Node) string { return fmt.Sprintf("%s:%d", f.path, f.line(node)) }

func sourceFiles(t *testing.T) []*sourceFile {
	t.Helper()
	var files []*sourceFile
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			switch entry.Name() {
			case "bench", "bin", "examples", "node_modules", "test", "testdata", "tools", ".git", "standin", "storetest":
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		name = filepath.ToSlash(name)
		files = append(files, &sourceFile{path: name, dir: path.Dir(name), File: file, fset: fset})
		return err
	})
	if err != nil || len(files) < 30 {
		t.Fatalf("read %d files, %v", len(files), err)
	}
	return files
}

// eachNode visits all nodes of a file with the name of the function that they are in.
func (f *sourceFile) eachNode(visit func(function string, node ast.Node)) {
	for _, decl := range f.Decls {
		name := ""
		if function, ok := decl.(*ast.FuncDecl); ok {
			name = function.Name.Name
			if receiver := receiverOf(function); receiver != "" {
				name = receiver + "." + name
			}
		}
		ast.Inspect(decl, func(node ast.Node) bool {
			if node != nil {
				visit(name, node)
			}
			return true
		})
	}
}

func receiverOf(function *ast.FuncDecl) string {
	if function.Recv == nil {
		return ""
	}
	kind := function.Recv.List[0].Type
	if star, ok := kind.(*ast.StarExpr); ok {
		kind = star.X
	}
	return fmt.Sprint(kind)
}

// method returns the name of the method that a call calls, and what on; "" for anything else.
func method(node ast.Node) (call *ast.CallExpr, on ast.Expr, name string) {
	call, ok := node.(*ast.CallExpr)
	if !ok {
		return nil, nil, ""
	}
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil, nil, ""
	}
	return call, selector.X, selector.Sel.Name
}

// isName reports whether an expression is that name, as in a package's.
func isName(expr ast.Expr, name string) bool {
	ident, ok := expr.(*ast.Ident)
	return ok && ident.Name == name
}

// lastName returns the last name of a.b.c.
func lastName(expr ast.Expr) string {
	switch e := expr.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// wantSites compares where something was found with where it may be. Both sides count.
func wantSites(t *testing.T, rule string, got, want map[string]int) {
	t.Helper()
	for _, site := range slices.Sorted(maps.Keys(got)) {
		if got[site] > want[site] {
			t.Errorf("%s: %s has %d, allowed are %d", rule, site, got[site], want[site])
		}
	}
	for _, site := range slices.Sorted(maps.Keys(want)) {
		if got[site] < want[site] {
			t.Errorf("%s: the list allows %d in %s, there are %d; shorten the list", rule, want[site], site, got[site])
		}
	}
}

// sites counts, by file and function, the nodes that match.
func sites(t *testing.T, match func(f *sourceFile, node ast.Node) bool) map[string]int {
	t.Helper()
	found := make(map[string]int)
	for _, f := range sourceFiles(t) {
		f.eachNode(func(function string, node ast.Node) {
			if match(f, node) {
				found[f.path+" "+function]++
			}
		})
	}
	return found
}

// byFile adds up what was found in the functions of a file.
func byFile(found map[string]int) map[string]int {
	sum := make(map[string]int)
	for site, count := range found {
		file, _, _ := strings.Cut(site, " ")
		sum[file] += count
	}
	return sum
}

func TestGuardOneDoorToTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	wantSites(t, "requests to a token endpoint leave through Client.send only, so that nothing is sent twice or to somebody else",
		sites(t, func(_ *sourceFile, node ast.Node) bool {
			call, on, name := method(node)
			switch {
			case name == "Do":
				_, once := call.Args[0].(*ast.FuncLit)
				return !once // sync.Once.Do takes a function
			case isName(on, "http"):
				return slices.Contains([]string{"Get", "Head", "Post", "PostForm"}, name)
			}
			selector, ok := node.(*ast.SelectorExpr)
			return ok && isName(selector.X, "http") && (selector.Sel.Name == "DefaultClient" || selector.Sel.Name == "DefaultTransport")
		}),
		map[string]int{
			"internal/oauth/endpoint.go Client.send": 1,
			"internal/cli/client.go Client.send":     1, // the command line asks the REST API, never a token endpoint
			"alertsend.go webhook.send":              1, // to the receivers of alerts, who are no token endpoint and never get a token
		})
}

func TestGuardRevealSites(t *testing.T) {
	t.Parallel()
	wantSites(t, "a secret leaves its secret.Text only where its bytes are really needed; a new call site of Reveal needs a reason and a place on this list",
		sites(t, func(_ *sourceFile, node ast.Node) bool {
			_, _, name := method(node)
			return name == "Reveal"
		}),
		revealSites)
}

// revealSites are the places where the bytes of a secret are needed.
var revealSites = map[string]int{
	// On the way to the upstream.
	"injection.go injection.render":    1,
	"injection.go injection.withQuery": 1,
	// To take out of a token response what is no secret: the fields that are kept, by their names.
	"kept.go keeping.facts": 1,
	// Into the plain form of a record, which is sealed next, and into the generated key file.
	"record.go encodeTokenSet": 3,
	// Into the plain form of an entry, which is sealed next, and into the connection that is built from its options.
	"entry.go encodeEntry":         1,
	"entry.go entryOptions.reveal": 1,
	// Into the plain form of an authorization under way, which is sealed next: the PKCE verifier, for whoever finishes it.
	"authorization.go App.beginAuthorization": 1,
	"keys.go createKeyFile":                   1,
	// Keys.
	"internal/envelope/key.go NewKey":                   1,
	"internal/envelope/passphrase.go NewPassphrase":     1, // to count its characters
	"internal/envelope/passphrase.go passphrase.derive": 1,
	// On the way to the token endpoint and the revocation endpoint.
	"internal/oauth/client.go Client.Refresh":            1,
	"internal/oauth/authorize.go Client.ExchangeCode":    2,
	"internal/oauth/password.go Client.sendPassword":     1,
	"internal/oauth/clientauth.go Client.identify":       2,
	"internal/oauth/assertion.go Client.assertionSigner": 1, // client_secret_jwt signs with it
	"internal/oauth/clientauth.go Config.basic":          3,
	"internal/oauth/revocation.go Client.Revoke":         2,
	"internal/oauth/revocation.go Client.newRevocation":  2,
	"internal/oauth/certificate.go Certificate.read":     1, // a key that is kept in storage
	"internal/oauth/assertion.go ClientKey.read":         1, // likewise
	// On the way to a receiver of alerts: its URL, its headers, and the keys that sign.
	"alertsend.go webhook.send": 2,
	// On the way to the REST API on a site: the API key of whoever uses the command line.
	"internal/cli/client.go Client.request": 1,
	"internal/alert/sign.go ParseKey":       1,
	"internal/alert/sign.go Sign":           1,
	// To read an ID token's claims, to check a callback's signature, to find what an answer echoes, to compare.
	"internal/oauth/signature.go isSignature":    1,
	"internal/oauth/idtoken.go ParseIDToken":     1,
	"internal/oauth/response.go Client.echoable": 1,
	"internal/secret/secret.go Text.Equal":       2,
}

func TestGuardOneWriter(t *testing.T) {
	t.Parallel()
	wantSites(t, "everything that goes to storage goes through put, which is given sealed bytes only",
		sites(t, func(_ *sourceFile, node ast.Node) bool {
			call, _, name := method(node)
			return name == "Store" && len(call.Args) == 3
		}),
		map[string]int{
			"storage.go put":                       1,
			"storagemeter.go meteredStorage.Store": 1, // the storage itself, as put sees it: passes on what it was given
		})
	wantSites(t, "put is given what the envelope sealed or wrapped, never anything else",
		sites(t, func(_ *sourceFile, node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			return ok && isName(call.Fun, "put")
		}),
		map[string]int{
			"reseal.go recordStore.seal": 1, "reseal.go recordStore.reseal": 1,
			"keyset.go keySource.create": 1, "keyset.go keySource.follow": 1, "rekey.go keySource.replace": 1,
		})
}

func TestGuardOneRemover(t *testing.T) {
	t.Parallel()
	wantSites(t, "everything that is deleted from storage goes through recordStore.remove: sealing records anew at the same time would bring it back",
		sites(t, func(_ *sourceFile, node ast.Node) bool {
			call, on, name := method(node)
			return name == "Delete" && len(call.Args) == 2 && lastName(on) == "storage"
		}),
		map[string]int{"reseal.go recordStore.remove": 1})
}

func TestGuardImports(t *testing.T) {
	t.Parallel()
	const module = "github.com/caddyoauth/caddyoauth/"
	allowed := map[string][]string{
		"internal/secret":     {},
		"internal/api":        {},
		"internal/envelope":   {module + "internal/secret", "github.com/tink-crypto/tink-go/"},
		"internal/oauth":      {module + "internal/secret", "golang.org/x/", "github.com/go-jose/go-jose/v4"},
		"internal/cli":        {module + "internal/api", module + "internal/secret", "golang.org/x/text/width"},
		"internal/alert":      {module + "internal/secret"},
		"internal/pages":      {},
		"internal/dashboard":  {module + "internal/api", module + "internal/pages"},
		"internal/connection": {module + "internal/secret", module + "internal/oauth"},
		"internal/provider":   {module + "internal/oauth", "golang.org/x/oauth2"},
	}
	for _, f := range sourceFiles(t) {
		if !strings.HasPrefix(f.dir, "internal/") {
			continue
		}
		prefixes, known := allowed[f.dir]
		if !known {
			t.Errorf("%s: a new package needs a whole subject of its own and a line in this test", f.dir)
		}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			standard := !strings.Contains(strings.Split(name, "/")[0], ".")
			if !standard && !slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
				t.Errorf("%s imports %s: dependencies run root -> connection -> oauth -> secret, root -> envelope and root -> alert; nothing under internal/ knows Caddy, certmagic, zap or prometheus", f.at(spec), name)
			}
		}
	}
}

func TestGuardGoroutines(t *testing.T) {
	t.Parallel()
	wantSites(t, "goroutines start in two places, and end before Stop returns",
		byFile(sites(t, func(_ *sourceFile, node ast.Node) bool {
			_, statement := node.(*ast.GoStmt)
			_, _, name := method(node)
			return statement || name == "Go"
		})),
		map[string]int{"worker.go": 1, "internal/connection/flight.go": 1})
	wantSites(t, "AfterFunc starts a goroutine too: it may only cancel or close something, and must not outlive what it belongs to",
		sites(t, func(_ *sourceFile, node ast.Node) bool {
			_, _, name := method(node)
			return name == "AfterFunc"
		}),
		map[string]int{
			"internal/oauth/endpoint.go wire.dial":        1, // closes the connection when its exchange ends
			"internal/connection/refresh.go refresh.lock": 1, // ends the wait for a lock
		})
}

func TestGuardNoSleep(t *testing.T) {
	t.Parallel()
	wantSites(t, "time.Sleep cannot be interrupted: wait with a timer and a context",
		sites(t, func(_ *sourceFile, node ast.Node) bool {
			_, on, name := method(node)
			return name == "Sleep" && isName(on, "time")
		}),
		map[string]int{"internal/oauth/certificate.go Certificate.Load": 1}) // 50 ms between two looks at files that are being replaced
}

// moduleInterfaces says which interface a method is there for.
var moduleInterfaces = map[string]string{
	"Provision": "Provisioner", "Validate": "Validator", "Cleanup": "CleanerUpper", "UnmarshalCaddyfile": "Unmarshaler", "Start": "App",
	"Routes": "AdminRouter", "RoundTrip": "RoundTripper", "ServeHTTP": "MiddlewareHandler", "KeyEncryptionKey": "KeyModule",
}

func TestGuardInterfaceGuards(t *testing.T) {
	t.Parallel()
	guarded := make(map[string]bool) // "file Type Interface"
	var need []string
	for _, f := range sourceFiles(t) {
		if f.dir != "." {
			continue
		}
		for _, decl := range f.Decls {
			switch decl := decl.(type) {
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					if kind, iface := guardOf(spec); kind != "" {
						guarded[f.path+" "+kind+" "+iface] = true
					}
				}
			case *ast.FuncDecl:
				iface, wanted := moduleInterfaces[decl.Name.Name]
				if receiver := receiverOf(decl); wanted && ast.IsExported(receiver) {
					need = append(need, f.path+" "+receiver+" "+iface)
				}
			}
		}
	}
	if len(need) < 12 {
		t.Fatalf("found only %v", need)
	}
	for _, one := range need {
		if !guarded[one] {
			t.Errorf("every module type ends its file with its own interface guards; missing: %s", one)
		}
	}
}

// guardOf reads `_ pkg.Interface = (*Type)(nil)`.
func guardOf(spec ast.Spec) (kind, iface string) {
	value, ok := spec.(*ast.ValueSpec)
	if !ok || len(value.Names) != 1 || value.Names[0].Name != "_" || len(value.Values) != 1 {
		return "", ""
	}
	conversion, ok := value.Values[0].(*ast.CallExpr)
	if !ok {
		return "", ""
	}
	inner, ok := conversion.Fun.(*ast.ParenExpr)
	if !ok {
		return "", ""
	}
	star, ok := inner.X.(*ast.StarExpr)
	if !ok {
		return "", ""
	}
	return lastName(star.X), lastName(value.Type)
}

var errorNamed = regexp.MustCompile(`(?i)^(err|.*err|.*error|cause)$`)

func TestGuardErrorsWrap(t *testing.T) {
	t.Parallel()
	for _, f := range sourceFiles(t) {
		f.eachNode(func(_ string, node ast.Node) {
			call, on, name := method(node)
			switch {
			case name == "Errorf" && isName(on, "fmt"), name == "Errf":
				checkWraps(t, f, call)
			case isName(on, "strings"):
				for _, arg := range call.Args {
					if _, _, inner := method(arg); inner == "Error" {
						t.Errorf("%s: failures are classified by errors.Is and errors.As, never by reading error text", f.at(call))
					}
				}
			}
		})
	}
}

func checkWraps(t *testing.T, f *sourceFile, call *ast.CallExpr) {
	t.Helper()
	format, ok := call.Args[0].(*ast.BasicLit)
	if !ok {
		return
	}
	given := 0
	for _, arg := range call.Args[1:] {
		if _, _, inner := method(arg); inner == "Error" || inner == "Err" || errorNamed.MatchString(lastName(arg)) {
			given++
		}
	}
	if given > strings.Count(format.Value, "%w") {
		t.Errorf("%s: every error that is passed on is wrapped with %%w, so that it can be classified by code", f.at(call))
	}
}

// keyMakers are what may stand where a storage operation takes a key.
var keyMakers = []string{"key", "name", "keysetKey", "doctorLock", "storageRoot", "recordKey", "historyKey", "historyDir", "connectionDir", "pendingDir", "lock", "indexKey", "entryDir", "entryLock", "onceDir"}

func TestGuardStorageKeys(t *testing.T) {
	t.Parallel()
	operations := 0
	suspicious := regexp.MustCompile(`^"(oauth2_inject[-/].*|.*\.json|.*history.*/.*)"$`)
	for _, f := range sourceFiles(t) {
		if f.dir != "." || f.path == "storagekeys.go" {
			continue
		}
		f.eachNode(func(_ string, node ast.Node) {
			if literal, ok := node.(*ast.BasicLit); ok && suspicious.MatchString(literal.Value) {
				t.Errorf("%s: storage keys are made in storagekeys.go only, where they are injective and hold no user text; this looks like one: %s", f.at(node), literal.Value)
			}
			call, on, name := method(node)
			if call == nil || lastName(on) != "storage" || len(call.Args) < 2 {
				return
			}
			operations++
			key := call.Args[1]
			if made, ok := key.(*ast.CallExpr); ok {
				key = made.Fun
			}
			if !slices.Contains(keyMakers, lastName(key)) {
				t.Errorf("%s: %s takes a key that storagekeys.go did not make", f.at(call), name)
			}
		})
	}
	if operations < 8 {
		t.Errorf("found only %d storage operations; does the rule still look at the right name?", operations)
	}
}

func TestGuardFailClosed(t *testing.T) {
	t.Parallel()
	wantSites(t, "the next handler is reached only with the token in place, or with the plan that a transport injects from",
		sites(t, func(f *sourceFile, node ast.Node) bool {
			_, _, name := method(node)
			return f.dir == "." && name == "ServeHTTP"
		}),
		map[string]int{
			"handler.go Handler.hand": 1, "handler.go Handler.wear": 1,
			"api_http.go RestAPI.ServeHTTP":    1, // likewise
			"connect.go Connect.ServeHTTP":     1, // what is not under the path of the pages; they never touch a token
			"dashboard.go Dashboard.ServeHTTP": 1, // likewise
		})
	wantSites(t, "a request leaves with a token through send only, and without one only where nobody planned for one",
		sites(t, func(_ *sourceFile, node ast.Node) bool {
			_, _, name := method(node)
			return name == "RoundTrip"
		}),
		map[string]int{"transport.go Transport.RoundTrip": 1, "transport.go Transport.send": 1, "internal/oauth/endpoint.go door.RoundTrip": 1,
			"kms/vault/vault.go bound.RoundTrip": 1}) // to a key service, which knows no token
}

// overBudget may be larger than the budgets of the house style. Each needs a reason.
var overBudget = map[string]string{}

func TestGuardBudgets(t *testing.T) {
	t.Parallel()
	const fileLines, functionLines, parameters = 400, 60, 4
	over := make(map[string]bool)
	exceeds := func(what string, is, budget int) {
		if is <= budget {
			return
		}
		over[what] = true
		if overBudget[what] == "" {
			t.Errorf("%s is %d, the budget is %d: divide it, or say in overBudget why not", what, is, budget)
		}
	}
	for _, f := range sourceFiles(t) {
		exceeds(f.path+" (lines)", f.fset.File(f.Package).LineCount(), fileLines)
		for _, decl := range f.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if !ok || function.Body == nil {
				continue
			}
			name := f.path + " " + receiverOf(function) + "." + function.Name.Name
			exceeds(name+" (lines)", f.fset.Position(function.Body.End()).Line-f.line(function), functionLines)
			exceeds(name+" (parameters)", function.Type.Params.NumFields(), parameters)
		}
	}
	for what := range overBudget {
		if !over[what] {
			t.Errorf("%s is within its budget; take it off the list", what)
		}
	}
}

func TestGuardPackageComments(t *testing.T) {
	t.Parallel()
	described := make(map[string]string)
	for _, f := range sourceFiles(t) {
		described[f.dir] += f.Doc.Text()
	}
	for dir, text := range described {
		if len(text) < 80 {
			t.Errorf("%s: a package comment says what the package is for, what it does not do and what it may import", dir)
		}
	}
}

// TestGuardEveryModuleIsTested: a Go module that no step of `make test` enters has tests that nobody runs.
func TestGuardEveryModuleIsTested(t *testing.T) {
	t.Parallel()
	const rule = "`make test` runs the tests of every Go module of the tree"
	raw, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	steps := wordsOf(t, raw, `(?m)^\t@for step in (.*); do`)
	phony := wordsOf(t, raw, `(?m)^\.PHONY: (.*)$`)
	modules, err := filepath.Glob("*/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	deeper, err := filepath.Glob("*/*/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, file := range append(modules, deeper...) {
		dir := filepath.ToSlash(filepath.Dir(file))
		if strings.HasPrefix(dir, "tools/") {
			continue // nothing but a version
		}
		checked++
		enters := regexp.MustCompile(`(?m)^([a-z-]+):.*\n(?:\t.*\n)*?\t(?:go test -C ` + dir + ` |cd ` + dir + ` && go test )`)
		target := enters.FindSubmatch(raw)
		if target == nil || !slices.Contains(steps, string(target[1])) {
			t.Errorf("%s: %s is not entered by a step of it", rule, dir)
		}
	}
	if checked < 2 {
		t.Errorf("found %d modules", checked)
	}
	for _, step := range steps {
		if _, err := os.Stat(step); err == nil && !slices.Contains(phony, step) {
			t.Errorf("%s: there is a file called %s, so make does nothing unless it is .PHONY", rule, step)
		}
	}
}

// wordsOf returns the words that the first group of a pattern finds.
func wordsOf(t *testing.T, text []byte, pattern string) []string {
	t.Helper()
	found := regexp.MustCompile(pattern).FindSubmatch(text)
	if found == nil {
		t.Fatalf("nothing matches %s", pattern)
	}
	return strings.Fields(string(found[1]))
}
