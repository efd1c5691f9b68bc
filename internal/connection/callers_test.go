//go:build !race

package connection_test

// callers is how many requests ask at once.
const callers = 10_000
