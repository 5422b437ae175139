package fstest

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// calls are tests of what go-fuse's leave out.
var calls = map[string]func(t *testing.T, dir string){
	"CopyFileRange": copyFileRange,
	"MakeFiles":     makeFiles,
}

func copyFileRange(t *testing.T, dir string) {
	const text = "to be copied"
	if err := os.WriteFile(filepath.Join(dir, "from"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(filepath.Join(dir, "from"))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(filepath.Join(dir, "to"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if n, err := unix.CopyFileRange(int(from.Fd()), nil, int(to.Fd()), nil, 1000, 0); n != len(text) || err != nil {
		t.Errorf("copy_file_range = %d, %v; want %d", n, err, len(text))
	}
	if got, err := os.ReadFile(to.Name()); string(got) != text || err != nil {
		t.Errorf("the copy has %q, %v", got, err)
	}
}

// makeFiles makes what open cannot: a file by mknod, and a Unix socket.
func makeFiles(t *testing.T, dir string) {
	file, socket := filepath.Join(dir, "file"), filepath.Join(dir, "s")
	if err := unix.Mknod(file, unix.S_IFREG|0o600, 0); err != nil {
		t.Errorf("mknod of a regular file: %v", err)
	}
	// Through a short name, as that of a socket is limited.
	t.Chdir(dir)
	l, err := net.Listen("unix", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, want := range map[string]os.FileMode{file: 0, socket: os.ModeSocket} {
		if info, err := os.Lstat(path); err != nil || info.Mode().Type() != want {
			t.Errorf("%s: %v, %v; want type %v", path, info, err, want)
		}
	}
}
