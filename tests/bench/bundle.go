package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
)

type (
	object = map[string]any
	list   = []any
)

const mib = 1 << 20

// config is what an engine would ask for a small container: 256 MiB, one CPU,
// a network of its own.
func config(args ...string) object {
	mount := func(destination, kind, source string, options ...any) object {
		return object{"destination": destination, "type": kind, "source": source, "options": options}
	}
	capabilities := list{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
		"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
	return object{
		"ociVersion": "1.0.2",
		"process": object{
			"user": object{"uid": 0, "gid": 0}, "args": args, "cwd": "/",
			"env":          list{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/root", "LC_ALL=C"},
			"capabilities": object{"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
		},
		"root":     object{"path": "rootfs"},
		"hostname": "bench",
		"mounts": list{
			mount("/proc", "proc", "proc"),
			mount("/dev", "tmpfs", "tmpfs", "nosuid", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
			mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
		},
		"linux": object{
			"resources":  resources(256, 1),
			"namespaces": namespaces("pid", "network", "ipc", "uts", "mount"),
		},
	}
}

func resources(memory, cpus int) object {
	return object{
		"memory": object{"limit": memory * mib},
		"cpu":    object{"quota": cpus * 100000, "period": 100000},
	}
}

func namespaces(types ...string) list {
	var all list
	for _, t := range types {
		all = append(all, object{"type": t})
	}
	return all
}

// bundle makes a bundle with busybox, or gives the one that was made before.
func (b *bench) bundle(name string, args ...string) (string, error) {
	dir := filepath.Join(b.dir, name)
	bin := filepath.Join(dir, "rootfs/bin")
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err == nil {
		return dir, nil
	}
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755); err != nil {
			return "", err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	if err := copyFile(filepath.Join(bin, "busybox"), busybox, 0o755); err != nil {
		return "", err
	}
	for _, tool := range []string{"true", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(bin, tool)); err != nil {
			return "", err
		}
	}
	return dir, writeConfig(dir, config(args...))
}

func writeConfig(dir string, config object) error {
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644)
}

func copyFile(to, from string, mode os.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, mode)
}
