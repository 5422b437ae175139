package main

import (
	"strings"
	"testing"
)

func TestOptionsFirst(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", ""},
		{"--root /x --debug", "--root /x --debug"},
		{"--root", "--root"},
		{"delete web1 --force", "delete --force web1"},
		{"--root delete delete web1 -f", "--root delete delete -f web1"},
		{"--root=/x --debug update web1 --cpu-period 900 --cpu-quota=5", "--root=/x --debug update --cpu-period 900 --cpu-quota=5 web1"},
		{"run web1 -b dir -d", "run -b dir -d web1"},
		{"run web1 -b", "run -b web1"},
		{"kill web1 -9", "kill web1 -9"},
		{"kill web1 KILL --all", "kill --all web1 KILL"},
		{"kill -- web1 --all", "kill -- web1 --all"},
		{"exec web1 ls --cwd x", "exec web1 ls --cwd x"},
		{"ps web1 -f json", "ps web1 -f json"},
		{"template build --memory 1", "template build --memory 1"},
		{"nonsense web1 --force", "nonsense web1 --force"},
	} {
		got := optionsFirst(newApp(&globals{}), append([]string{"runv"}, strings.Fields(tt.args)...))
		if s := strings.Join(got[1:], " "); s != tt.want {
			t.Errorf("%q becomes %q; want %q", tt.args, s, tt.want)
		}
	}
}
