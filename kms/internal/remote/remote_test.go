package remote

import "testing"

// TestEndpoint: keysets and credentials go nowhere in the clear, and no address hides something.
func TestEndpoint(t *testing.T) {
	t.Parallel()
	for text, works := range map[string]bool{
		"https://vault.example": true, "https://vault.example:8200": true, "http://127.0.0.1:8200": true, "http://[::1]:8200": true, "http://localhost:8200": true,
		"http://vault.example": false, "http://127.0.0.1.example": false, "vault.example:8200": false, "ftp://127.0.0.1": false, "": false,
		"https://": false, "https://user:pass@vault.example": false, "https://vault.example?x": false, "https://vault.example#x": false,
	} {
		if address, err := Endpoint(text); (err == nil) != works || works && address.Host == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
}
