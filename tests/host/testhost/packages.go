package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// qemuMinimum is the first QEMU whose emulated SVM runs nested guests on
// several processors; 7.2 locks up.
const qemuMinimum = 9

const qemuProgram = "qemu-system-x86_64"

// cacheDir holds what a host is made of and survives it.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "runv", "testhost")
	return dir, os.MkdirAll(dir, 0o755)
}

// lockCache serializes installation between instances. The lock ends with the
// returned file.
func lockCache(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, os.NewSyscallError("flock", err)
	}
	return f, nil
}

// ensureTools installs QEMU and the programs that unpack a kernel.
func ensureTools() error {
	if v := qemuVersion(); v < qemuMinimum {
		if err := installQEMU(v); err != nil {
			return err
		}
	}
	for program, pkg := range map[string]string{"modprobe": "kmod", "depmod": "kmod", "dpkg": "dpkg"} {
		if err := ensureTool(program, pkg); err != nil {
			return err
		}
	}
	return nil
}

// lookTool finds a program also when the caller's PATH lacks the sbin directories.
func lookTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}

var versionPattern = regexp.MustCompile(`version (\d+)\.`)

// qemuVersion is the installed major version, 0 without QEMU.
func qemuVersion() int {
	out, err := exec.Command(qemuProgram, "--version").Output()
	if err != nil {
		return 0
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return 0
	}
	v, _ := strconv.Atoi(string(m[1]))
	return v
}

func installQEMU(installed int) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("QEMU %d or newer is needed (found: %d) and this is no Debian system: install qemu-system-x86", qemuMinimum, installed)
	}
	release := ""
	if candidateMajor("qemu-system-x86") < qemuMinimum {
		if err := aptUpdate(); err != nil {
			return err
		}
	}
	if candidateMajor("qemu-system-x86") < qemuMinimum {
		backports, err := enableBackports()
		if err != nil {
			return err
		}
		release = backports
	}
	if err := aptInstall(release, "qemu-system-x86"); err != nil {
		return err
	}
	if v := qemuVersion(); v < qemuMinimum {
		return fmt.Errorf("QEMU %d or newer is needed; the package sources give %d", qemuMinimum, v)
	}
	return nil
}

var candidatePattern = regexp.MustCompile(`Candidate: (?:\d+:)?(\d+)\.`)

func candidateMajor(pkg string) int {
	out, err := exec.Command("apt-cache", "policy", pkg).Output()
	if err != nil {
		return 0
	}
	m := candidatePattern.FindSubmatch(out)
	if m == nil {
		return 0
	}
	v, _ := strconv.Atoi(string(m[1]))
	return v
}

// enableBackports adds the release's backports suite from the mirror that
// serves its main suite, unless it is there, and returns the suite's name.
func enableBackports() (string, error) {
	codename, err := osRelease("VERSION_CODENAME")
	if err != nil {
		return "", err
	}
	sources, err := aptSources("/etc/apt")
	if err != nil {
		return "", err
	}
	suite := codename + "-backports"
	var main *aptSource
	for i, s := range sources {
		if s.suite == suite {
			return suite, nil
		}
		if s.suite == codename && s.has("main") && main == nil {
			main = &sources[i]
		}
	}
	if main == nil {
		return "", fmt.Errorf("no apt source gives %s main, so its backports cannot be found", codename)
	}
	entry := main.backports(suite)
	if err := os.WriteFile("/etc/apt/sources.list.d/runv-testhost.sources", []byte(entry), 0o644); err != nil {
		return "", err
	}
	return suite, aptUpdate()
}

func osRelease(key string) (string, error) {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), key+"="); ok {
			return strings.Trim(v, `"'`), nil
		}
	}
	return "", fmt.Errorf("/etc/os-release has no %s", key)
}

func aptUpdate() error { return apt("update") }

func aptInstall(release string, packages ...string) error {
	args := []string{"install", "-y", "--no-install-recommends"}
	if release != "" {
		args = append(args, "-t", release)
	}
	args = append(args, packages...)
	if apt(args...) == nil {
		return nil
	}
	// The package lists may be missing or older than the mirror.
	if err := aptUpdate(); err != nil {
		return err
	}
	return apt(args...)
}

// apt runs apt-get with its chatter on stderr, so that a command's output
// stays clean.
func apt(args ...string) error {
	cmd := exec.Command("apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		var missing *exec.Error
		if errors.As(err, &missing) {
			return fmt.Errorf("%s is needed and this is no Debian system", args[len(args)-1])
		}
		return fmt.Errorf("apt-get %s failed (%w): see its messages above", strings.Join(args, " "), err)
	}
	return nil
}
