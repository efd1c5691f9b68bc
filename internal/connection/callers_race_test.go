//go:build race

package connection_test

// callers is how many requests ask at once: the race detector ends a process with more than 8128 goroutines.
const callers = 7_500
