//go:build integration

package browser

import (
	"bytes"
	"cmp"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"
)

// board is tall enough for the overview to be understood.
var board = viewport{"board", 1280, 1000}

// pictures are those of the documentation, by their names in docs/img, and how the page looks that they show. `make pictures` takes
// them anew.
var pictures = map[string]struct {
	size   viewport
	scheme string
}{
	"connect-accounts-light": {desk, "light"},
	"connect-accounts-dark":  {desk, "dark"},
	"dashboard-light":        {board, "light"},
	"dashboard-dark":         {board, "dark"},
	"dashboard-connection":   {board, "light"},
	"dashboard-phone":        {phone, "light"},
}

// mostPicture is how many bytes a picture of the documentation may have.
const mostPicture = 150_000

// picture takes a picture of the page for the documentation, and keeps it if the environment variable DOCS_PICTURES is set. Where the
// site is must not change with each run.
func (p *person) picture(name string) {
	p.t.Helper()
	how, known := pictures[name]
	if !known {
		p.t.Fatalf("%q is not among the pictures", name)
	}
	p.look(how.size, how.scheme)
	rename := func(from, to string) chromedp.Action {
		return chromedp.Evaluate(`(() => {
			const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
			while (walk.nextNode()) walk.currentNode.data = walk.currentNode.data.replaceAll(`+from+`, `+to+`);
			document.activeElement.blur();
			scrollTo(0, 0);
		})()`, nil)
	}
	const host, example = "location.host", `"app.example.com"`
	var shot []byte
	p.do(rename(host, example), chromedp.CaptureScreenshot(&shot), rename(example, host))
	taken, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		p.t.Fatal(err)
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, paletted(taken)); err != nil || out.Len() > mostPicture {
		p.t.Errorf("%s has %d bytes, %v", name, out.Len(), err)
	}
	if os.Getenv("DOCS_PICTURES") == "" {
		return
	}
	if err := os.WriteFile(filepath.Join("..", "..", "docs", "img", name+".png"), out.Bytes(), 0o644); err != nil { //nolint:gosec // for everybody to see
		p.t.Fatal(err)
	}
}

// paletted returns the picture in its 256 most frequent colours, of which pages have hardly more.
func paletted(from image.Image) *image.Paletted {
	count := make(map[color.RGBA]int)
	bounds := from.Bounds()
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(from.At(x, y)).(color.RGBA) }
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B))
	})
	var palette color.Palette
	for _, c := range colours[:min(len(colours), 256)] {
		palette = append(palette, c)
	}
	nearest := make(map[color.RGBA]uint8)
	for _, c := range colours {
		nearest[c] = uint8(palette.Index(c)) //nolint:gosec // of 256 at most
	}
	to := image.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			to.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	return to
}

// TestPaletted: a page has few colours, and keeps those that it has.
func TestPaletted(t *testing.T) {
	t.Parallel()
	from := image.NewRGBA(image.Rect(0, 0, 40, 40))
	for i := range 40 * 40 {
		from.Set(i%40, i/40, color.RGBA{uint8(i % 200), uint8(i % 200), 7, 255})
	}
	to := paletted(from)
	for i := range 40 * 40 {
		if want, got := from.At(i%40, i/40), to.At(i%40, i/40); want != got {
			t.Fatalf("pixel %d is %v, was %v", i, got, want)
		}
	}
}
