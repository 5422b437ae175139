package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// optionsFirst moves options of a command that come after its arguments before
// them, where runc finds them, too: `runv delete web1 --force`. What comes after
// the container's id in exec and ps is for another program, and commands of
// commands are left alone.
func optionsFirst(app *cli.App, args []string) []string {
	at := 1
	for at < len(args) && strings.HasPrefix(args[at], "-") {
		_, inline, values := option(app.Flags, args[at])
		at++
		if values && !inline {
			at++
		}
	}
	if at >= len(args) {
		return args
	}
	command := app.Command(args[at])
	if command == nil || command.Name == "exec" || command.Name == "ps" || len(command.Subcommands) > 0 {
		return args
	}
	var options, others []string
	rest := args[at+1:]
	for i := 0; i < len(rest); i++ {
		if rest[i] == "--" {
			others = append(others, rest[i:]...)
			break
		}
		known, inline, values := option(command.Flags, rest[i])
		if !known {
			others = append(others, rest[i])
			continue
		}
		options = append(options, rest[i])
		if values && !inline && i+1 < len(rest) {
			i++
			options = append(options, rest[i])
		}
	}
	return slices.Concat(args[:at+1], options, others)
}

// option tells whether arg is one of the flags, has its value with it, and wants
// one at all.
func option(flags []cli.Flag, arg string) (known, inline, values bool) {
	if !strings.HasPrefix(arg, "-") {
		return false, false, false
	}
	name, _, inline := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
	for _, flag := range flags {
		if slices.Contains(flag.Names(), name) {
			takes, ok := flag.(cli.DocGenerationFlag)
			return true, inline, ok && takes.TakesValue()
		}
	}
	return false, inline, false
}
