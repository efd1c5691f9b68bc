package envelope_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

// A keyset is made once and stored wrapped. Each start opens it and then the records. A record opens in its own place only.
func Example() {
	ctx := context.Background()
	text, err := envelope.GenerateKey()
	if err != nil {
		panic(err)
	}
	key, err := envelope.NewKey(text)
	if err != nil {
		panic(err)
	}
	ring, wrapped, err := envelope.New(ctx, []envelope.KeyEncryptionKey{key})
	if err != nil {
		panic(err)
	}
	sealed, err := ring.Seal([]byte("a token"), []byte("connections/billing"))
	if err != nil {
		panic(err)
	}

	reopened, by, err := envelope.Open(ctx, wrapped, []envelope.KeyEncryptionKey{key})
	if err != nil {
		panic(err)
	}
	record, err := reopened.Open(sealed, []byte("connections/billing"))
	fmt.Printf("%s, %d, %v\n", record, by, err)
	_, err = reopened.Open(sealed, []byte("connections/another"))
	fmt.Println(errors.Is(err, envelope.ErrTampered))
	// Output:
	// a token, 0, <nil>
	// true
}
