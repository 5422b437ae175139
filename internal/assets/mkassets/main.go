// mkassets makes a section of bin/runv, compressed, of a file.
package main

import (
	"flag"
	"fmt"
	"os"

	"runv.dev/runv/internal/assets"
)

func main() {
	out := flag.String("o", "", "write the section to this file")
	flag.Parse()
	if *out == "" || flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*out, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "mkassets:", err)
		os.Exit(1)
	}
}

func run(out, in string) error {
	content, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	packed, err := assets.Pack(content)
	if err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	// Whole or not at all.
	if err := os.WriteFile(out+".new", packed, 0o644); err != nil {
		return err
	}
	return os.Rename(out+".new", out)
}
