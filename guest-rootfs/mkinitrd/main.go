// mkinitrd writes the initial RAM file system the guest boots into: an
// uncompressed cpio archive (format newc) with the agent as /init. The same
// agent always gives the same bytes.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	out := flag.String("o", "", "write the archive to this file")
	agent := flag.String("agent", "", "the agent's executable, which becomes /init")
	flag.Parse()
	if *out == "" || *agent == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*out, *agent); err != nil {
		fmt.Fprintln(os.Stderr, "mkinitrd:", err)
		os.Exit(1)
	}
}

// run writes the archive beside its place and renames it, so that a reader
// never sees half of it.
func run(out, agent string) (err error) {
	init, err := os.ReadFile(agent)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(out), ".mkinitrd-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriter(f)
	err = write(w, entries(init))
	if err = errors.Join(err, w.Flush(), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), out)
}
