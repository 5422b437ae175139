package vmprocess

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

func TestNameServers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	usual := write("usual", "# comment\nsearch example.com\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\noptions edns0\n")
	for _, c := range []struct {
		name  string
		binds []spec.Bind
		want  string
		bad   bool
	}{
		{name: "none", want: "[]"},
		{name: "another file", binds: []spec.Bind{{Source: usual, Destination: "/etc/hosts"}}, want: "[]"},
		{name: "usual", binds: []spec.Bind{{Source: usual, Destination: resolvConf}}, want: "[127.0.0.53 fe80::1%eth0]"},
		{
			name: "the one on top", want: "[192.0.2.1]",
			binds: []spec.Bind{
				{Source: usual, Destination: resolvConf},
				{Source: write("top", "nameserver 192.0.2.1"), Destination: resolvConf},
			},
		},
		{
			name: "too many", want: "[192.0.2.1 192.0.2.1 192.0.2.1]",
			binds: []spec.Bind{{Source: write("many", strings.Repeat("nameserver 192.0.2.1\n", 9)), Destination: resolvConf}},
		},
		{
			name: "nonsense", want: "[]",
			binds: []spec.Bind{{Source: write("bad", "nameserver\nnameserver x\n nameservers 1.1.1.1\n"), Destination: resolvConf}},
		},
		{name: "missing", binds: []spec.Bind{{Source: dir + "/none", Destination: resolvConf}}, want: "[]", bad: true},
		{name: "no file", binds: []spec.Bind{{Source: fifo, Destination: resolvConf}}, want: "[]", bad: true},
		{
			name: "too long", want: "[]", bad: true,
			binds: []spec.Bind{{Source: write("long", strings.Repeat("#", maxResolvConf+1)), Destination: resolvConf}},
		},
	} {
		got, err := nameServers(c.binds)
		if fmt.Sprint(got) != c.want || (err != nil) != c.bad {
			t.Errorf("%s: %v, %v; want %s", c.name, got, err, c.want)
		}
	}
}
