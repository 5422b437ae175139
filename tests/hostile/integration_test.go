//go:build integration

package hostile

import (
	"os"
	"testing"
)

// TestOnTestHost makes this package one of those that run on the test host,
// where the guests' kernel code runs on the processor instead of in an
// emulator.
func TestOnTestHost(t *testing.T) {
	if os.Getenv("RUNV_IN_TEST_HOST") == "" {
		t.Error("not on the test host: run `make integration`, or leave out -tags integration")
	}
}
