package initproc

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// setUser changes user, groups and umask of the calling thread and keeps its
// permitted capabilities. The calls of package unix would change every thread.
func setUser(u *specs.User) error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if err := setgroups(u.AdditionalGids); err != nil {
		return fmt.Errorf("set additional groups: %w", err)
	}
	gid, uid := uintptr(u.GID), uintptr(u.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return fmt.Errorf("set gid %d: %w", u.GID, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return fmt.Errorf("set uid %d: %w", u.UID, errno)
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("stop keeping capabilities: %w", err)
	}
	if u.Umask != nil {
		unix.Umask(int(*u.Umask & 0o777))
	}
	return nil
}

// maxPasswd bounds what is read of the container's /etc/passwd.
const maxPasswd = 1 << 20

// environment is env with one entry a name, the last, and with HOME: without
// one it is the user's home directory in the container's /etc/passwd, else "/".
func environment(env []string, uid uint32) []string {
	seen := make(map[string]bool, len(env))
	out := make([]string, 0, len(env)+1)
	for _, entry := range slices.Backward(env) {
		name, value, _ := strings.Cut(entry, "=")
		if seen[name] || name == "HOME" && value == "" {
			continue
		}
		seen[name] = true
		out = append(out, entry)
	}
	slices.Reverse(out)
	if !seen["HOME"] {
		out = append(out, "HOME="+homeOf("/etc/passwd", uid))
	}
	return out
}

func homeOf(passwd string, uid uint32) string {
	// The container's file may be a FIFO or a device: never wait for it.
	fd, err := unix.Open(passwd, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "/"
	}
	f := os.NewFile(uintptr(fd), passwd)
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return "/"
	}
	want := strconv.FormatUint(uint64(uid), 10)
	read := 0
	for lines := bufio.NewScanner(f); read < maxPasswd && lines.Scan(); {
		read += len(lines.Bytes())
		fields := strings.Split(lines.Text(), ":")
		if len(fields) >= 6 && fields[2] == want && fields[5] != "" {
			return fields[5]
		}
	}
	return "/"
}
