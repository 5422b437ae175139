package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseOneLine(t *testing.T) {
	text := `# deb http://commented.example/debian bookworm main
deb http://m.example/debian bookworm main contrib # trailing
deb-src http://m.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://n.example/debian bookworm-updates main
deb	http://tab.example/debian	sid	main
deb
debx http://no.example/ a b
`
	want := []aptSource{
		{uri: "http://m.example/debian", suite: "bookworm", components: []string{"main", "contrib"}},
		{uri: "http://n.example/debian", suite: "bookworm-updates", components: []string{"main"}, signedBy: "/k.gpg"},
		{uri: "http://tab.example/debian", suite: "sid", components: []string{"main"}},
	}
	if got := parseOneLine(text); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseDeb822(t *testing.T) {
	text := `Types: deb deb-src
# a comment inside
URIs: http://m.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /k.gpg

Types: deb-src
URIs: http://m.example/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

types: deb
uris: http://key.example/debian
suites: trixie
components: main
signed-by:
 -----BEGIN-----
 .
 abc
`
	want := []aptSource{
		{"http://m.example/debian", "bookworm", []string{"main"}, "/k.gpg"},
		{"http://m.example/debian", "bookworm-updates", []string{"main"}, "/k.gpg"},
		{"http://key.example/debian", "trixie", []string{"main"}, "-----BEGIN-----\n .\n abc"},
	}
	if got := parseDeb822(text); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// What is written for the backports suite must mean the same when read.
func TestBackportsStanza(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := aptSource{"http://m.example/debian", "bookworm", []string{"main", "contrib"}, "\n -----BEGIN-----\n abc"}
	stanza := s.backports("bookworm-backports")
	if err := os.WriteFile(filepath.Join(dir, "sources.list.d/b.sources"), []byte(stanza), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := aptSources(dir)
	want := []aptSource{{"http://m.example/debian", "bookworm-backports", []string{"main"}, strings.TrimSpace(s.signedBy)}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, error %v\nwant %+v", got, err, want)
	}
}

func TestHostMounts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mountinfo")
	text := `21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /proc rw - proc proc rw
23 21 0:5 / /dev rw - devtmpfs udev rw
24 23 0:21 / /dev/shm rw - tmpfs tmpfs rw
25 21 8:2 / /home/a\040b rw master:3 - xfs /dev/sda2 rw
26 21 0:30 / /srv rw - tmpfs old rw
27 26 8:3 / /srv rw - ext4 /dev/sda3 rw
28 21 8:4 / /tmp/x rw - ext4 /dev/sda4 rw
29 21 0:31 / /mnt/cg rw - cgroup2 none rw
30 21 8:5 / /runway rw - ext4 /dev/sda5 rw
`
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	want := []hostMount{{"/", "ext4"}, {"/home/a b", "xfs"}, {"/srv", "ext4"}, {"/tmp/x", "ext4"}, {"/runway", "ext4"}}
	got, err := hostMounts(file)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, error %v; want %+v", got, err, want)
	}
}

func TestCPIO(t *testing.T) {
	var buf bytes.Buffer
	c := newCPIO(&buf)
	c.file("/a/b/x", 0o755, []byte("12345"))
	c.file("/a/y", 0o644, nil)
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for b := buf.Bytes(); len(b) > 0; {
		var field [13]int
		if string(b[:6]) != "070701" {
			t.Fatalf("no magic number after %v", names)
		}
		for i := range field {
			for _, d := range b[6+8*i : 14+8*i] {
				field[i] = field[i]<<4 | strings.IndexByte("0123456789abcdef", d)
			}
		}
		name := string(b[110 : 110+field[11]-1])
		data := (110 + field[11] + 3) &^ 3
		end := (data + field[6] + 3) &^ 3
		if name == "a/b/x" && (string(b[data:data+field[6]]) != "12345" || field[1] != 0o100755) {
			t.Errorf("a/b/x holds %q, mode %o", b[data:data+field[6]], field[1])
		}
		names = append(names, name)
		b = b[end:]
	}
	if want := []string{"a", "a/b", "a/b/x", "a/y", "TRAILER!!!"}; !reflect.DeepEqual(names, want) {
		t.Errorf("entries %q, want %q", names, want)
	}
}

func TestBZImagePayload(t *testing.T) {
	image := func(sectors byte, offset, length uint32, size int) []byte {
		b := make([]byte, size)
		b[0x1f1] = sectors
		copy(b[0x202:], "HdrS\x0f\x02")
		binary.LittleEndian.PutUint32(b[0x248:], offset)
		binary.LittleEndian.PutUint32(b[0x24c:], length)
		return b
	}
	good := image(1, 16, 12, 2048)
	copy(good[2*512+16:], "payload+size")
	if p, err := bzImagePayload(good); err != nil || string(p) != "payload+size" {
		t.Errorf("payload %q, error %v", p, err)
	}
	for name, b := range map[string][]byte{
		"short":          make([]byte, 100),
		"no header":      make([]byte, 2048),
		"beyond the end": image(1, 16, 2000, 2048),
		"wraps":          image(1, 1<<32-1, 1<<32-1, 2048),
		"empty":          image(1, 16, 0, 2048),
	} {
		if p, err := bzImagePayload(b); err == nil {
			t.Errorf("%s: payload of %d bytes", name, len(p))
		}
	}
}

func TestOptions(t *testing.T) {
	if _, err := shareable("/"); err == nil {
		t.Error("the root directory was accepted as a share")
	}
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if got, err := shareable(link); err != nil || got != dir {
		t.Errorf("shareable(link) = %q, %v; want %q", got, err, dir)
	}
	for name, ok := range map[string]bool{"a": true, "A.b-1_": true, "": false, ".": false, "..": false, "a/b": false, "-t": false} {
		if err := checkName(name); (err == nil) != ok {
			t.Errorf("checkName(%q): %v", name, err)
		}
	}
	if got := share9p("/a,b", "t", true)[1]; !strings.Contains(got, "path=/a,,b,") || !strings.HasSuffix(got, "readonly=on") {
		t.Errorf("share9p: %s", got)
	}
}
