package envelope_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

func day(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }

// must ends the test when a change of a ring fails.
func must(t testing.TB, ring *envelope.KeyRing, err error) *envelope.KeyRing {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func added(t testing.TB, ring *envelope.KeyRing, at time.Time) (*envelope.KeyRing, uint32) {
	t.Helper()
	next, err := ring.Add(at)
	must(t, next, err)
	keys := next.Keys()
	return next, keys[len(keys)-1].ID
}

func promoted(t testing.TB, ring *envelope.KeyRing, id uint32) *envelope.KeyRing {
	t.Helper()
	next, err := ring.Promote(id)
	return must(t, next, err)
}

func without(t testing.TB, ring *envelope.KeyRing, id uint32) *envelope.KeyRing {
	t.Helper()
	next, err := ring.Retire(id)
	return must(t, next, err)
}

// rotated replaces the data key of a ring, and begins to replace the new one.
func rotated(t testing.TB, ring *envelope.KeyRing) *envelope.KeyRing {
	t.Helper()
	first := ring.Primary()
	ring, second := added(t, ring, day(2))
	ring = without(t, promoted(t, ring, second), first)
	ring, _ = added(t, ring, day(3))
	return ring
}

// opens reports which rings open what was sealed.
func opens(t testing.TB, ring *envelope.KeyRing, sealed []byte) bool {
	t.Helper()
	plain, err := ring.Open(sealed, place)
	if err != nil && !errors.Is(err, envelope.ErrWrongKey) {
		t.Fatalf("unexpected error: %v", err)
	}
	return err == nil && bytes.Equal(plain, record)
}

// TestRotation walks one data key's way to the next, and asks at each step which holder of which keyset opens what.
func TestRotation(t *testing.T) {
	t.Parallel()
	one, _ := newRing(t, testKey(t, 1))
	first := one.Primary()
	two, second := added(t, one, day(2))
	three := promoted(t, two, second)
	four := without(t, three, first)
	for i, ring := range []*envelope.KeyRing{one, two, three, four} {
		if ring.Revision() != uint64(i+1) {
			t.Errorf("step %d is revision %d", i+1, ring.Revision())
		}
	}
	sealedBefore, sealedAfter := seal(t, two), seal(t, three)
	for name, test := range map[string]struct {
		ring          *envelope.KeyRing
		before, after bool
		primary       uint32
	}{
		"at first": {one, true, false, first}, "published": {two, true, true, first},
		"promoted": {three, true, true, second}, "retired": {four, false, true, second},
	} {
		if opens(t, test.ring, sealedBefore) != test.before || opens(t, test.ring, sealedAfter) != test.after || test.ring.Primary() != test.primary {
			t.Errorf("%s: opens or seals something else", name)
		}
	}
	for sealed, want := range map[*[]byte]uint32{&sealedBefore: first, &sealedAfter: second} {
		if id, err := envelope.KeyOf(*sealed); err != nil || id != want {
			t.Errorf("KeyOf says %d, %v; want %d", id, err, want)
		}
	}
	keys := four.Keys()
	if two.Next() != second || three.Next() != 0 || !two.Keys()[1].Next {
		t.Errorf("the next key is %d, then %d", two.Next(), three.Next())
	}
	if len(keys) != 1 || keys[0] != (envelope.DataKey{ID: second, Created: day(2), Primary: true}) {
		t.Errorf("got %v", keys)
	}
	if created := one.Keys()[0].Created; time.Since(created) > time.Minute || time.Until(created) > time.Minute {
		t.Errorf("the first key was made at %v", created)
	}
	if _, err := three.Retire(second); err == nil {
		t.Error("the key that seals was retired")
	}
	if _, err := one.Promote(second); err == nil {
		t.Error("a key that is not there was promoted")
	}
}

// TestRotationOfAnEarlierKeyset: one that was stored without a catalog gets it with its first change.
func TestRotationOfAnEarlierKeyset(t *testing.T) {
	t.Parallel()
	key, _ := goldenKEKs(t)
	ring, _, err := openRing(t.Context(), readGolden(t, "keyset-key.json"), []envelope.KeyEncryptionKey{key})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ring.Rewrap(t.Context(), key); err != nil || bytes.Contains(again, []byte("catalog")) {
		t.Errorf("rewrapped: %s, %v; an older build could not read it", again, err)
	}
	next, id := added(t, ring, day(2))
	next = promoted(t, next, id)
	wrapped, err := next.Rewrap(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	reopened, _, err := openRing(t.Context(), wrapped, []envelope.KeyEncryptionKey{key})
	if err != nil {
		t.Fatal(err)
	}
	keys := reopened.Keys()
	if len(keys) != 2 || !keys[0].Created.IsZero() || keys[1].Created != day(2) || !keys[1].Primary {
		t.Errorf("got %v", keys)
	}
	if opened, err := reopened.Open(readGolden(t, "sealed.json"), place); err != nil || !bytes.Equal(opened, record) {
		t.Errorf("an earlier record does not open: %v", err)
	}
}

// TestCatalogIsBound: what stands in the clear cannot be changed without the key.
func TestCatalogIsBound(t *testing.T) {
	t.Parallel()
	kek := testKey(t, 1)
	ring, _ := newRing(t, kek)
	ring = rotated(t, ring)
	wrapped, err := ring.Rewrap(t.Context(), kek)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(from, to string) func(*keysetFile) {
		return func(file *keysetFile) {
			file.Catalog = json.RawMessage(strings.Replace(string(file.Catalog), from, to, 1))
		}
	}
	for name, change := range map[string]func(*keysetFile){
		"revision": edit(`"revision":5`, `"revision":9`),
		"time":     edit("2026-11-02", "2026-11-12"),
		"retired":  edit(`"retired":[`, `"retired":[1,`),
		"next":     edit(fmt.Sprintf(`"next":%d,`, ring.Next()), ""),
		"removed":  func(file *keysetFile) { file.Catalog = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := withFile(t, wrapped, change)
			if bytes.Equal(changed, wrapped) {
				t.Fatalf("nothing was changed in %s", wrapped)
			}
			if _, _, err := openRing(t.Context(), changed, []envelope.KeyEncryptionKey{kek}); !errors.Is(err, envelope.ErrTampered) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// capture keeps what it was given to wrap.
type capture struct {
	envelope.KeyEncryptionKey
	plaintext []byte
}

func (c *capture) Wrap(ctx context.Context, plaintext, associatedData []byte) ([]byte, error) {
	c.plaintext = bytes.Clone(plaintext)
	return c.KeyEncryptionKey.Wrap(ctx, plaintext, associatedData)
}

// TestCatalogContradictsKeyset: whoever has the key can write a catalog that lies; it is refused all the same.
func TestCatalogContradictsKeyset(t *testing.T) {
	t.Parallel()
	one, _ := newRing(t, testKey(t, 1))
	other, _ := added(t, one, day(2))
	service := &keyService{KeyEncryptionKey: testKey(t, 9), id: "a"}
	wrapped, err := one.Rewrap(t.Context(), service)
	if err != nil {
		t.Fatal(err)
	}
	foreign := &capture{KeyEncryptionKey: testKey(t, 9)}
	if _, err := other.Rewrap(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	service.unwrapped = foreign.plaintext
	if _, _, err := openRing(t.Context(), wrapped, []envelope.KeyEncryptionKey{service}); !errors.Is(err, envelope.ErrMalformed) {
		t.Errorf("got %v", err)
	}
}

// TestMerge: what a running program makes of a stored keyset that is not the one it knows. No case may lose a key that can
// have sealed something.
func TestMerge(t *testing.T) {
	t.Parallel()
	one, _ := newRing(t, testKey(t, 1))
	two, second := added(t, one, day(2))
	three := promoted(t, two, second)
	four := without(t, three, one.Primary())
	fork, forked := added(t, one, day(2))
	restarted, _ := newRing(t, testKey(t, 1))
	ids := func(ring *envelope.KeyRing) []uint32 {
		var all []uint32
		for _, key := range ring.Keys() {
			all = append(all, key.ID)
		}
		slices.Sort(all)
		return all
	}
	first := one.Primary()
	for name, test := range map[string]struct {
		mine, stored *envelope.KeyRing
		keys         []uint32
		primary      uint32
		changed      bool
	}{
		"the same":                         {two, two, []uint32{first, second}, first, false},
		"published meanwhile":              {one, two, []uint32{first, second}, first, false},
		"promoted meanwhile":               {two, three, []uint32{first, second}, second, false},
		"retired meanwhile":                {three, four, []uint32{second}, second, false},
		"slept through it all":             {one, four, []uint32{first, second}, second, true},
		"restored before the promotion":    {three, two, []uint32{first, second}, second, true},
		"restored before the rotation":     {three, one, []uint32{first, second}, second, true},
		"restored after the old was gone":  {four, one, []uint32{first, second}, second, true},
		"two instances rotated at once":    {two, fork, []uint32{first, second, forked}, first, true}, // one of the two stays the next
		"somebody began anew with nothing": {three, restarted, []uint32{first, second, restarted.Primary()}, second, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			merged, changed, err := test.mine.Merge(test.stored)
			if err != nil {
				t.Fatal(err)
			}
			want := slices.Sorted(slices.Values(test.keys))
			if !slices.Equal(ids(merged), want) || merged.Primary() != test.primary || changed != test.changed {
				t.Errorf("got keys %v, primary %d, changed %v; want %v, %d, %v", ids(merged), merged.Primary(), changed, want, test.primary, test.changed)
			}
			if changed && merged.Revision() != max(test.mine.Revision(), test.stored.Revision())+1 {
				t.Errorf("the result is revision %d of %d and %d", merged.Revision(), test.mine.Revision(), test.stored.Revision())
			}
			for _, ring := range []*envelope.KeyRing{test.mine, test.stored} {
				if sealed := seal(t, ring); !opens(t, merged, sealed) {
					t.Error("what one of the two sealed last does not open")
				}
			}
			// The other side comes to the same.
			if again, changed, err := test.mine.Merge(merged); err != nil || changed || !slices.Equal(ids(again), ids(merged)) {
				t.Errorf("merged again: changed %v, %v", changed, err)
			}
			if wrapped, err := merged.Rewrap(t.Context(), testKey(t, 1)); err != nil {
				t.Error(err)
			} else if _, _, err := openRing(t.Context(), wrapped, []envelope.KeyEncryptionKey{testKey(t, 1)}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRetiredKeysAreForgottenInTheEnd: a keyset does not grow with every rotation, nor beyond what key services wrap (AWS KMS:
// 4096 bytes).
func TestRetiredKeysAreForgottenInTheEnd(t *testing.T) {
	t.Parallel()
	kek := &capture{KeyEncryptionKey: testKey(t, 1)}
	ring, _ := newRing(t, kek)
	for range 100 {
		before := ring.Primary()
		next, id := added(t, ring, day(2))
		ring = without(t, promoted(t, next, id), before)
	}
	wrapped, err := ring.Rewrap(t.Context(), kek)
	if err != nil || len(wrapped) > 2000 || len(kek.plaintext) > 200 {
		t.Errorf("after 100 rotations the file has %d bytes, the keyset %d (%v)", len(wrapped), len(kek.plaintext), err)
	}
}

// TestLook: what is said in the clear, for those who cannot open the keyset.
func TestLook(t *testing.T) {
	t.Parallel()
	kek := testKey(t, 1)
	ring, _ := newRing(t, kek)
	ring, second := added(t, ring, day(2))
	wrapped, err := ring.Rewrap(t.Context(), kek)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := envelope.Look(wrapped)
	if err != nil || inside.KeyEncryptionKey != kek.ID() || inside.Primary != ring.Primary() || inside.Revision != 2 || !slices.Equal(inside.Keys, []uint32{ring.Primary(), second}) {
		t.Errorf("got %+v, %v", inside, err)
	}
	if inside, err := envelope.Look(readGolden(t, "keyset-key.json")); err != nil || inside.Primary != 0 || inside.Keys != nil {
		t.Errorf("without a catalog: %+v, %v", inside, err)
	}
	if _, err := envelope.Look(wrapped[1:]); !errors.Is(err, envelope.ErrMalformed) {
		t.Errorf("cut short: %v", err)
	}
}

func TestKeyOfRefuses(t *testing.T) {
	t.Parallel()
	ring, wrapped := newRing(t, testKey(t, 1))
	contradiction := bytes.Replace(seal(t, ring), fmt.Appendf(nil, `"key_id":%d`, ring.Primary()), []byte(`"key_id":7`), 1)
	for name, test := range map[string]struct {
		sealed []byte
		want   error
	}{
		"nothing": {nil, envelope.ErrMalformed}, "a keyset": {wrapped, envelope.ErrMalformed}, "text": {[]byte("text"), envelope.ErrMalformed},
		"no ciphertext": {[]byte(`{"version":1,"cipher":"tink-aes256-gcm","key_id":7,"ciphertext":""}`), envelope.ErrTampered},
		"contradiction": {contradiction, envelope.ErrTampered},
	} {
		if _, err := envelope.KeyOf(test.sealed); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
