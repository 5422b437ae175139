package hostcheck

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/cage"
)

// kernel: recent enough for openat2 (5.6) and what KVM needs.
func (h host) kernel() Result {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return result("kernel", os.NewSyscallError("uname", err), "")
	}
	return checkRelease(unix.ByteSliceToString(u.Release[:]))
}

func checkRelease(release string) Result {
	const name = "kernel"
	parts := strings.FieldsFunc(release, func(r rune) bool { return r < '0' || r > '9' })
	var v [2]int
	for i := range v {
		if i >= len(parts) {
			return Result{Name: name, Status: Warn, Detail: "unknown release " + release, Advice: "runv is made for Linux 5.10 and later"}
		}
		v[i], _ = strconv.Atoi(parts[i])
	}
	switch {
	case v[0] < 5 || v[0] == 5 && v[1] < 6:
		return Result{Name: name, Status: Fail, Detail: "Linux " + release, Advice: "use Linux 5.10 or later"}
	case v[0] == 5 && v[1] < 10:
		return Result{Name: name, Status: Warn, Detail: "Linux " + release + " is not tested", Advice: "use Linux 5.10 or later"}
	}
	return Result{Name: name, Status: OK, Detail: "Linux " + release}
}

// cgroup: version 2 is mounted where everybody expects it.
func (h host) cgroup() Result {
	const name = "cgroup"
	var st unix.Statfs_t
	if err := unix.Statfs(h.path("sys/fs/cgroup"), &st); err != nil {
		return Result{
			Name: name, Status: Fail, Detail: "/sys/fs/cgroup: " + err.Error(),
			Advice: "mount cgroup2 on /sys/fs/cgroup",
		}
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return Result{Name: name, Status: OK, Detail: "version 2"}
	}
	return Result{
		Name: name, Status: Warn, Detail: "/sys/fs/cgroup is not cgroup version 2: limits cannot be set",
		Advice: "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 there",
	}
}

// namespaces: all kinds exist.
func (h host) namespaces() Result {
	const name = "namespaces"
	var missing []string
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		if _, err := os.Lstat(h.path("proc/self/ns/" + ns)); err != nil {
			missing = append(missing, ns)
		}
	}
	if missing != nil {
		return Result{
			Name: name, Status: Fail, Detail: "missing: " + strings.Join(missing, ", "),
			Advice: "use a host kernel with all namespaces",
		}
	}
	if b, err := os.ReadFile(h.path("proc/sys/user/max_user_namespaces")); err == nil && strings.TrimSpace(string(b)) == "0" {
		return Result{
			Name: name, Status: Warn, Detail: "user namespaces are turned off: rootless use is not possible",
			Advice: "set the sysctl user.max_user_namespaces",
		}
	}
	return Result{Name: name, Status: OK, Detail: "all kinds"}
}

// openat2: what confines the file system share.
func (h host) openat2() Result {
	const name = "openat2"
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return Result{
			Name: name, Status: Fail, Detail: "openat2: " + err.Error(),
			Advice: "use Linux 5.6 or later; if runv is in a container, its seccomp filter has to allow openat2",
		}
	}
	unix.Close(fd)
	return Result{Name: name, Status: OK, Detail: "available"}
}

// cage: the layers around the VM process that not every host has.
func cageLayers() []Result {
	var results []Result
	for _, l := range cage.Layers() {
		r := Result{Name: "cage: " + l.Name, Status: OK, Detail: l.Detail}
		if l.Err != nil {
			r.Status, r.Detail, r.Advice = Warn, l.Err.Error()+": a layer around the VM process is missing", l.Advice
			if l.Vital {
				r.Status = Fail
			}
		}
		results = append(results, r)
	}
	return results
}

// overcommit: guest memory is mapped whole and used lazily.
func (h host) overcommit() Result {
	const name = "overcommit"
	b, err := os.ReadFile(h.path("proc/sys/vm/overcommit_memory"))
	if err == nil && strings.TrimSpace(string(b)) == "2" {
		return Result{
			Name: name, Status: Warn, Detail: "vm.overcommit_memory is 2: every guest needs its whole memory at once",
			Advice: "set vm.overcommit_memory to 0 or 1",
		}
	}
	return Result{Name: name, Status: OK, Detail: "guest memory is allocated on demand"}
}
