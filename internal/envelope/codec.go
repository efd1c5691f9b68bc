package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// form is a stored JSON object with a version.
type form interface{ version() int }

// errTooLarge is not [ErrMalformed]: nothing is wrong with any stored file, the caller asks for too much.
var errTooLarge = errors.New("too large to be sealed; at most 1 MiB may be stored")

// encode gives the only spelling of f: compact, fields in the order of the struct, nothing escaped without need.
func encode(f form) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false) // ids of key services are URLs; "&" is to stay readable
	if err := encoder.Encode(f); err != nil {
		return nil, fmt.Errorf("encode envelope: %w", err)
	}
	if out.Len() > MaxSize {
		return nil, errTooLarge
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// decode reads what encode wrote and nothing else, apart from white space between the tokens, which a tool or an editor
// may have added.
//
// encoding/json forgives much: unknown and duplicate fields, names in another case, line breaks inside base64, null. One
// comparison with the canonical spelling refuses all of that at once, so what an envelope says is what its bytes say.
func decode(data []byte, f form) error {
	if len(data) > MaxSize {
		return fmt.Errorf("%w (larger than %d bytes)", ErrMalformed, MaxSize)
	}
	if json.Unmarshal(data, f) != nil || f.version() != formatVersion || !canonical(data, f) {
		return malformed(data)
	}
	return nil
}

// canonical reports whether data spells f as encode does.
func canonical(data []byte, f form) bool {
	want, err := encode(f)
	if err != nil {
		return false
	}
	if bytes.Equal(data, want) {
		return true
	}
	var compact bytes.Buffer
	return json.Compact(&compact, data) == nil && bytes.Equal(compact.Bytes(), want)
}

// malformed names the version if there is one, because "written by a newer version" is the one harmless cause. The text
// of encoding/json is left out: it quotes the file.
func malformed(data []byte) error {
	var head struct {
		Version int `json:"version"`
	}
	switch {
	case json.Unmarshal(data, &head) != nil:
		return fmt.Errorf("%w (no JSON of the known form)", ErrMalformed)
	case head.Version != formatVersion:
		return fmt.Errorf("%w (format version %d, known is %d)", ErrMalformed, head.Version, formatVersion)
	default:
		return fmt.Errorf("%w (unknown, missing or repeated fields)", ErrMalformed)
	}
}
