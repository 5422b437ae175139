//go:build integration

package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestChaos does a few rounds; `make chaos` does many.
func TestChaos(t *testing.T) {
	r, err := run(options{runv: filepath.Join(os.Getenv("RUNV_TEST_BIN"), "runv"), rounds: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	if r.failed > 0 {
		t.Errorf("%d of %d rounds failed", r.failed, r.rounds)
	}
}
