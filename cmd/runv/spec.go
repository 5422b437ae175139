package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"runv.dev/runv/internal/spec"
)

func specCommand(*globals) *cli.Command {
	return &cli.Command{
		Name:  "spec",
		Usage: "write an example config.json",
		Description: "The example runs a shell on a terminal. An existing file is not touched.\n\n" +
			"Example:\n" +
			"   runv spec --bundle ./mybundle",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Value: ".", Usage: "`DIRECTORY` to write it to"},
			&cli.BoolFlag{Name: "rootless", Usage: "for a container without root privileges (refused: not supported)"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("spec: takes no arguments")
			}
			if c.Bool("rootless") {
				return errors.New("spec: --rootless: containers without root privileges are not supported: leave it out, and run as root")
			}
			data, err := json.MarshalIndent(spec.Example(), "", "\t")
			if err != nil {
				return err
			}
			path := filepath.Join(c.String("bundle"), spec.ConfigName)
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s exists already: move it away first", path)
			}
			if err != nil {
				return err
			}
			_, err = f.Write(append(data, '\n'))
			return errors.Join(err, f.Close())
		},
	}
}
