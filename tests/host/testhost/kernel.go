package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// hostKernel is a distribution kernel unpacked in the cache.
type hostKernel struct {
	version string // as in uname -r
	image   string // bzImage, or the ELF file inside
	dir     string // the directory that holds lib/modules
}

func (k *hostKernel) modules() string { return filepath.Join(k.dir, "lib/modules") }

// initModuleNames are what it takes to reach the root file system, and kvm-amd.
var initModuleNames = []string{"virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay", "kvm-amd"}

const kernelPrefix = "linux-image-"

// ensureKernel returns the cached kernel, or downloads Debian's generic one.
// The cloud flavour has no 9p.
func ensureKernel(cache string) (*hostKernel, error) {
	k, err := cachedKernel(cache)
	if err == nil && k == nil {
		k, err = downloadKernel(cache)
	}
	if err != nil {
		return nil, err
	}
	elf := filepath.Join(filepath.Dir(k.image), "vmlinux-"+k.version)
	k.image, err = uncompressedImage(k.image, elf)
	return k, err
}

func downloadKernel(cache string) (*hostKernel, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, errors.New("the emulated host runs Debian's kernel and there is no apt-get to download it with")
	}
	pkg, err := kernelPackage()
	if err != nil {
		return nil, err
	}
	if err := unpackKernel(cache, pkg); err != nil {
		return nil, err
	}
	k, err := cachedKernel(cache)
	if err == nil && k == nil {
		err = fmt.Errorf("package %s holds no kernel", pkg)
	}
	return k, err
}

func cachedKernel(cache string) (*hostKernel, error) {
	images, err := filepath.Glob(filepath.Join(cache, kernelPrefix+"*", "boot", "vmlinuz-*"))
	if err != nil || len(images) == 0 {
		return nil, err
	}
	image := slices.Max(images)
	return &hostKernel{
		version: strings.TrimPrefix(filepath.Base(image), "vmlinuz-"),
		image:   image,
		dir:     filepath.Dir(filepath.Dir(image)),
	}, nil
}

var kernelDependency = regexp.MustCompile(`(?m)^Depends:.*\b(linux-image-[0-9][^ ,]*)`)

// kernelPackage is the newest package the meta-package stands for.
func kernelPackage() (string, error) {
	for range 2 {
		out, err := exec.Command("apt-cache", "show", "linux-image-amd64").Output()
		if m := kernelDependency.FindSubmatch(out); err == nil && m != nil {
			return string(m[1]), nil
		}
		if err := aptUpdate(); err != nil {
			return "", err
		}
	}
	return "", errors.New("the apt sources have no linux-image-amd64")
}

func unpackKernel(cache, pkg string) error {
	tmp, err := os.MkdirTemp(cache, "unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := downloadPackage(tmp, pkg); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("download %s: got %d files (%v)", pkg, len(debs), err)
	}
	tree := filepath.Join(tmp, "tree")
	if out, err := exec.Command("dpkg", "-x", debs[0], tree).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", pkg, err, out)
	}
	// Packages since the end of the /usr merge hold usr/lib/modules only.
	if _, err := os.Stat(filepath.Join(tree, "lib/modules")); errors.Is(err, fs.ErrNotExist) {
		if err := os.Symlink("usr/lib", filepath.Join(tree, "lib")); err != nil {
			return err
		}
	}
	depmod, err := lookTool("depmod")
	if err != nil {
		return err
	}
	version := strings.TrimPrefix(pkg, kernelPrefix)
	if out, err := exec.Command(depmod, "-b", tree, version).CombinedOutput(); err != nil {
		return fmt.Errorf("depmod: %w: %s", err, out)
	}
	return os.Rename(tree, filepath.Join(cache, pkg))
}

func downloadPackage(dir, pkg string) error {
	download := func() error {
		cmd := exec.Command("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", pkg)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
		return cmd.Run()
	}
	if download() == nil {
		return nil
	}
	if err := aptUpdate(); err != nil {
		return err
	}
	if err := download(); err != nil {
		return fmt.Errorf("download %s failed (%w): see apt-get's messages above", pkg, err)
	}
	return nil
}

// initrd builds the initial file system: this program as /init, the modules
// in load order, and what guestInit must know.
func (k *hostKernel) initrd(shares []string) ([]byte, error) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	modules, err := k.moduleFiles()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	c := newCPIO(&buf)
	c.file("/init", 0o755, self)
	for i, file := range modules {
		data, err := moduleData(file)
		if err != nil {
			return nil, err
		}
		c.file(fmt.Sprintf("%s/%03d-%s", initModules, i, filepath.Base(file)), 0o644, data)
	}
	c.file(initShares, 0o644, []byte(strings.Join(shares, "\n")))
	c.file(initParent, 0o644, []byte(k.modules()))
	if err := c.close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// moduleFiles lists initModuleNames and what they depend on, in load order.
func (k *hostKernel) moduleFiles() ([]string, error) {
	modprobe, err := lookTool("modprobe")
	if err != nil {
		return nil, err
	}
	args := append([]string{"-d", k.dir, "-S", k.version, "-a", "--show-depends"}, initModuleNames...)
	out, err := exec.Command(modprobe, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("modprobe --show-depends: %w", err)
	}
	var files []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "insmod" && !slices.Contains(files, f[1]) {
			files = append(files, f[1])
		}
	}
	return files, nil
}

// moduleData reads a module, decompressed: not every kernel can do that itself.
func moduleData(file string) ([]byte, error) {
	for suffix, tool := range map[string][2]string{".xz": {"xz", "xz-utils"}, ".zst": {"zstd", "zstd"}} {
		if !strings.HasSuffix(file, suffix) {
			continue
		}
		if err := ensureTool(tool[0], tool[1]); err != nil {
			return nil, err
		}
		out, err := exec.Command(tool[0], "-dc", file).Output()
		if err != nil {
			return nil, fmt.Errorf("decompress %s: %w", file, err)
		}
		return out, nil
	}
	return os.ReadFile(file)
}
