//go:build integration

package browser

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// axe is the accessibility checker, which is brought into a page by the browser's debugger: the page's policy would refuse it.
var axe = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile(filepath.Join("node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		return "", fmt.Errorf("axe-core is missing: run make test-parts")
	}
	return string(text), nil
})

// viewport is a size of the page, in CSS pixels.
type viewport struct {
	name          string
	width, height int64
}

var (
	phone  = viewport{"phone", 390, 844}
	desk   = viewport{"desk", 1280, 800}
	narrow = viewport{"narrow", 320, 640} // WCAG 2.2, 1.4.10: no scrolling in two directions
)

// look emulates a size and a preference for light or dark.
func (p *person) look(v viewport, scheme string) {
	p.t.Helper()
	p.do(chromedp.EmulateViewport(v.width, v.height),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
}

// finding is what axe-core has against a page.
type finding struct {
	ID    string `json:"id"`
	Help  string `json:"help"`
	Nodes []struct {
		HTML    string `json:"html"`
		Summary string `json:"failureSummary"`
	} `json:"nodes"`
}

// findings asks axe-core about the page as it looks now.
func (p *person) findings() []finding {
	p.t.Helper()
	source, err := axe()
	if err != nil {
		p.t.Fatal(err)
	}
	if !js[bool](p, `"axe" in window`) {
		p.do(chromedp.Evaluate(source+";0", nil))
	}
	var found []finding
	text := js[string](p, `axe.run(document, {resultTypes: ["violations"], preload: false}).then(r => JSON.stringify(r.violations))`)
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		p.t.Fatal(err)
	}
	return found
}

// inspect checks the page that the browser is at: with axe-core on a phone and on a desk, in the light and in the dark; that it needs
// no scrolling to the side on a narrow screen; and that it has one heading of the first level.
func (p *person) inspect(name string) {
	p.t.Helper()
	for _, size := range []viewport{phone, desk} {
		for _, scheme := range []string{"light", "dark"} {
			p.look(size, scheme)
			for _, found := range p.findings() {
				for _, node := range found.Nodes {
					p.t.Errorf("%s, %s, %s: %s: %s\n%s\n%s", name, size.name, scheme, found.ID, found.Help, node.HTML, node.Summary)
				}
			}
		}
	}
	p.look(narrow, "light")
	if wide := js[int](p, "document.documentElement.scrollWidth"); wide > int(narrow.width) {
		p.t.Errorf("%s: is %d pixels wide on a screen of %d", name, wide, narrow.width)
	}
	if n := js[int](p, `document.querySelectorAll("h1").length`); n != 1 {
		p.t.Errorf("%s: %d headings of the first level", name, n)
	}
	p.remember()
	p.pictures(name)
	p.look(desk, "light")
}

// pictures leaves pictures of the page in the directory that the environment variable PICTURES names, to be looked at.
func (p *person) pictures(name string) {
	p.t.Helper()
	dir := os.Getenv("PICTURES")
	if dir == "" {
		return
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, size := range []viewport{phone, desk} {
			var image []byte
			p.look(size, scheme)
			p.do(chromedp.Evaluate("scrollTo(0, 0)", nil), chromedp.CaptureScreenshot(&image))
			if err := os.WriteFile(filepath.Join(dir, strings.Join([]string{name, size.name, scheme}, "-")+".png"), image, 0o600); err != nil {
				p.t.Fatal(err)
			}
		}
	}
}

// testInspection: what looks for faults finds them. A page with a policy of its own refuses a style sheet that somebody puts into
// it, and the browser says so.
func testInspection(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	jane.open("/connect")
	jane.do(chromedp.Evaluate(`document.querySelector("h1").style.color = "#eee"; document.querySelector(".acts a").textContent = ""`, nil))
	found := make(map[string]bool)
	for _, one := range jane.findings() {
		found[one.ID] = true
	}
	if !found["color-contrast"] || !found["link-name"] {
		t.Errorf("axe-core found %v on a page without contrast and with a link without a name", found)
	}
	if wrong := jane.seen.complaints(); len(wrong) > 0 {
		t.Errorf("the checker itself has the browser complain: %v", wrong)
	}
	jane.do(chromedp.Evaluate(`document.head.append(Object.assign(document.createElement("style"), {textContent: "h1 { color: red }"}));
		document.body.insertAdjacentHTML("beforeend", "<img src=/x onerror='document.title = 1'>"); 0`, nil))
	if wrong := jane.seen.complaints(); len(wrong) < 2 || js[string](jane, "document.title") != "Connected accounts" {
		t.Errorf("the browser complained only of %v", wrong)
	}
}
