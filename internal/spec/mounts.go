package spec

import (
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Bind is a bind mount that is composed under the root filesystem on the host.
type Bind struct {
	Source      string // absolute, on the host
	Destination string // absolute and clean, inside the root filesystem
	Recursive   bool

	// MOUNT_ATTR_* of mount_setattr(2): of the top mount, and of the whole tree.
	Set, Clear       uint64
	RecSet, RecClear uint64

	// Propagation is one of MS_PRIVATE and MS_SLAVE, with MS_REC for the whole
	// tree; 0 stands for private.
	Propagation uint64

	IDMap *IDMap // nil: ids are as in the file system

	// Index is the position in the configuration's mounts.
	Index int
}

// readOnly tells whether nothing can be written through the mount.
func (b *Bind) readOnly() bool {
	const ro = unix.MOUNT_ATTR_RDONLY
	return b.RecSet&ro != 0 && b.Clear&ro == 0 || b.Set&ro != 0 && !b.Recursive
}

// mountOption is what an fstab-style option of a mount means.
type mountOption struct {
	set, clear  uint64 // MOUNT_ATTR_*
	recursive   bool
	propagation uint64
	ignored     bool // holds anyway, or cannot be seen
}

// mountOptions has the options of the specification that are not data for the
// file system.
var mountOptions = map[string]mountOption{
	"ro":     {set: unix.MOUNT_ATTR_RDONLY},
	"rw":     {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid": {set: unix.MOUNT_ATTR_NOSUID},
	"suid":   {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev":  {set: unix.MOUNT_ATTR_NODEV},
	"dev":    {clear: unix.MOUNT_ATTR_NODEV},
	"noexec": {set: unix.MOUNT_ATTR_NOEXEC},
	"exec":   {clear: unix.MOUNT_ATTR_NOEXEC},

	"nodiratime":  {set: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":    {clear: unix.MOUNT_ATTR_NODIRATIME},
	"noatime":     {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"atime":       {clear: unix.MOUNT_ATTR__ATIME},
	"relatime":    {clear: unix.MOUNT_ATTR__ATIME},
	"norelatime":  {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"strictatime": {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"nostrictatime": {
		clear: unix.MOUNT_ATTR__ATIME,
	},
	"nosymfollow": {set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"symfollow":   {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},

	"rro":          {set: unix.MOUNT_ATTR_RDONLY, recursive: true},
	"rrw":          {clear: unix.MOUNT_ATTR_RDONLY, recursive: true},
	"rnosuid":      {set: unix.MOUNT_ATTR_NOSUID, recursive: true},
	"rsuid":        {clear: unix.MOUNT_ATTR_NOSUID, recursive: true},
	"rnodev":       {set: unix.MOUNT_ATTR_NODEV, recursive: true},
	"rdev":         {clear: unix.MOUNT_ATTR_NODEV, recursive: true},
	"rnoexec":      {set: unix.MOUNT_ATTR_NOEXEC, recursive: true},
	"rexec":        {clear: unix.MOUNT_ATTR_NOEXEC, recursive: true},
	"rnodiratime":  {set: unix.MOUNT_ATTR_NODIRATIME, recursive: true},
	"rdiratime":    {clear: unix.MOUNT_ATTR_NODIRATIME, recursive: true},
	"rnoatime":     {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME, recursive: true},
	"ratime":       {clear: unix.MOUNT_ATTR__ATIME, recursive: true},
	"rrelatime":    {clear: unix.MOUNT_ATTR__ATIME, recursive: true},
	"rnorelatime":  {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME, recursive: true},
	"rstrictatime": {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME, recursive: true},
	"rnostrictatime": {
		clear: unix.MOUNT_ATTR__ATIME, recursive: true,
	},
	"rnosymfollow": {set: unix.MOUNT_ATTR_NOSYMFOLLOW, recursive: true},
	"rsymfollow":   {clear: unix.MOUNT_ATTR_NOSYMFOLLOW, recursive: true},

	"private":  {propagation: unix.MS_PRIVATE},
	"rprivate": {propagation: unix.MS_PRIVATE | unix.MS_REC},
	"slave":    {propagation: unix.MS_SLAVE},
	"rslave":   {propagation: unix.MS_SLAVE | unix.MS_REC},

	// In the guest as it says; on the host nothing is to come in or go out.
	"unbindable":  {propagation: unix.MS_PRIVATE},
	"runbindable": {propagation: unix.MS_PRIVATE | unix.MS_REC},

	"bind":  {ignored: true},
	"rbind": {ignored: true},

	// See idMap.
	"idmap":  {ignored: true},
	"ridmap": {ignored: true},

	// The kernel ignores these for bind mounts.
	"defaults": {ignored: true},
	"async":    {ignored: true},
	"sync":     {ignored: true},
	"dirsync":  {ignored: true},
	"silent":   {ignored: true},
	"loud":     {ignored: true},
	"mand":     {ignored: true},
	"nomand":   {ignored: true},
}

// refusedOptions are options of any mount that a VM cannot honour.
var refusedOptions = map[string]string{
	"remount": "a new mount cannot be remounted",
}

// refusedBindOptions are options that only a file system of the guest's own can
// have.
var refusedBindOptions = map[string]string{
	"shared":  "a mount inside the VM cannot propagate to the host",
	"rshared": "a mount inside the VM cannot propagate to the host",
}

// guestMountTypes are the file systems that the guest mounts by itself.
var guestMountTypes = set("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2")

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// maxMounts bounds the mounts of a container, each of which is held against the
// others.
const maxMounts = 4096

func (p *planner) mounts() {
	if n := len(p.in.Mounts); n > maxMounts {
		p.refuse("mounts", "%d of them: at most %d", n, maxMounts)
		return
	}
	for i, m := range p.in.Mounts {
		at := indexed("mounts", i, m.Destination)
		p.destination(at, m.Destination)
		for _, option := range m.Options {
			if reason, refused := refusedOptions[option]; refused {
				p.refuse(at, "option %q: %s", option, reason)
			}
			if strings.HasPrefix(option, "tmpcopyup=") {
				p.refuse(at, "option %q: takes no value", option)
			}
			if hasNUL(option) {
				p.refuse(at, "an option contains a NUL byte")
			}
		}
		mapping := p.idMap(at, m)
		switch {
		case isBind(m):
			p.bind(at, i, m, mapping)
		case m.Type == "":
			p.refuse(at, "has no type")
		case !guestMountTypes[m.Type]:
			p.refuse(at, "type %q is not supported", m.Type)
		}
	}
}

func (p *planner) destination(at, destination string) {
	switch {
	case destination == "":
		p.refuse(at, "has no destination")
	case hasNUL(destination):
		p.refuse(at, "the destination contains a NUL byte")
	case path.Clean("/"+destination) == "/":
		p.refuse(at, "the destination is the root directory")
	case !path.IsAbs(destination):
		p.warn(at, "the destination is not an absolute path, which is deprecated: taken as /%s", destination)
	}
}

func (p *planner) bind(at string, index int, m specs.Mount, mapping *IDMap) {
	if m.Source == "" {
		p.refuse(at, "a bind mount needs a source")
		return
	}
	if hasNUL(m.Source) {
		p.refuse(at, "the source contains a NUL byte")
		return
	}
	b := Bind{Destination: path.Clean("/" + m.Destination), Source: m.Source, Index: index, IDMap: mapping}
	if !filepath.IsAbs(b.Source) {
		b.Source = filepath.Join(p.bundle, b.Source)
	}
	b.Source = filepath.Clean(b.Source)
	for _, kernel := range []string{"/proc", "/sys"} {
		if b.Source == kernel || strings.HasPrefix(b.Source, kernel+"/") {
			p.refuse(at, "the host's %s cannot be shared with a VM: use a mount of type %s", kernel, strings.TrimPrefix(kernel, "/"))
		}
	}
	b.Recursive = slices.Contains(m.Options, "rbind")
	for _, name := range m.Options {
		option, known := mountOptions[name]
		if !known {
			_, refused := refusedOptions[name]
			reason, refusedHere := refusedBindOptions[name]
			switch {
			case refused, isIDMapOption(name):
			case refusedHere:
				p.refuse(at, "option %q: %s", name, reason)
			case isData(name):
				p.warn(at, "option %q has no effect on a bind mount", name)
			default:
				p.refuse(at, "option %q is not supported for a bind mount", name)
			}
			continue
		}
		if option.recursive {
			b.RecSet = b.RecSet&^option.clear | option.set
			b.RecClear = b.RecClear&^option.set | option.clear
		} else {
			b.Set = b.Set&^option.clear | option.set
			b.Clear = b.Clear&^option.set | option.clear
		}
		if option.propagation != 0 {
			b.Propagation = option.propagation
		}
	}
	p.plan.Binds = append(p.plan.Binds, b)
}

// isData tells whether an option is for a file system. The kernel passes over
// those of a bind mount, and other runtimes leave it to that.
func isData(option string) bool { return strings.Contains(option, "=") }
