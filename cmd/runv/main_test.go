package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestHelpAndVersion(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string // lines of stdout start like this, from the first on
		err  string
	}{
		{[]string{"--version"}, []string{"runv version ", "commit: ", "spec: 1.", "go: "}, ""},
		{[]string{"--help"}, []string{"NAME:", "   runv - Open Container Initiative runtime"}, ""},
		{[]string{"help"}, []string{"NAME:", "   runv - Open Container Initiative runtime"}, ""},
		{[]string{"help", "kill"}, []string{"NAME:", "   runv kill - "}, ""},
		{[]string{"h", "template"}, []string{"NAME:", "   runv template - "}, ""},
		{[]string{"kill", "-h"}, []string{"NAME:", "   runv kill - "}, ""},
		{[]string{"help", "foo"}, nil, "foo: no such command"},
		{[]string{"foo", "-h"}, nil, "foo: no such command"},
		{[]string{"help", "kill", "run"}, nil, "one command"},
	} {
		var out bytes.Buffer
		app := newApp(&globals{})
		app.Writer = &out
		err := app.Run(append([]string{"runv"}, c.args...))
		if err == nil != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %v; want %q", c.args, err, c.err)
		}
		lines := strings.Split(out.String(), "\n")
		for i, want := range c.want {
			if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
				t.Errorf("%q: line %d of %q; want %q", c.args, i, out.String(), want)
			}
		}
	}
}
