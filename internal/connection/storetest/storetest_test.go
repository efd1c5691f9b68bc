package storetest

import (
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	Run(t, func(*testing.T) connection.Store { return new(Memory) })
}
