//go:build integration

package integration

import (
	"testing"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// The names by which the tests here call what they use all the time.
var (
	start       = lab.StartCaddy
	eventually  = lab.Eventually
	freeAddress = lab.FreeAddress
	statusOf    = lab.StatusOf
)
