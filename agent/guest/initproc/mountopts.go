package initproc

import (
	"strings"

	"golang.org/x/sys/unix"
)

// mountOptions are the options of an OCI mount, taken apart.
type mountOptions struct {
	bind      bool
	recursive bool // rbind
	flags     uintptr
	// attr and its recursive twin are for mount_setattr.
	set, clear                   uint64
	recursiveSet, recursiveClear uint64
	propagation                  []uintptr
	copyUp                       bool
	lower                        string // what to copy, below the mount point
	idmap                        bool
	data                         []string
}

// An attribute of a mount has a flag for mount(2) and one for
// mount_setattr(2).
type attribute struct {
	flag uintptr
	attr uint64
}

var attributes = map[string]attribute{
	"ro":          {unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY},
	"nosuid":      {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
	"nodev":       {unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
	"noexec":      {unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
	"nodiratime":  {unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
	"nosymfollow": {unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW},
}

// cleared maps an option to the attribute it takes away.
var cleared = map[string]string{
	"rw":        "ro",
	"suid":      "nosuid",
	"dev":       "nodev",
	"exec":      "noexec",
	"diratime":  "nodiratime",
	"symfollow": "nosymfollow",
}

// atimes are the values of the one attribute that is not a bit.
var atimes = map[string]attribute{
	"noatime":       {unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME},
	"relatime":      {unix.MS_RELATIME, unix.MOUNT_ATTR_RELATIME},
	"strictatime":   {unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME},
	"atime":         {0, unix.MOUNT_ATTR_RELATIME},
	"norelatime":    {0, unix.MOUNT_ATTR_STRICTATIME},
	"nostrictatime": {0, unix.MOUNT_ATTR_RELATIME},
}

const atimeFlags = unix.MS_NOATIME | unix.MS_RELATIME | unix.MS_STRICTATIME

// superFlags are options of the file system rather than of the mount.
var superFlags = map[string]struct {
	set  bool
	flag uintptr
}{
	"sync": {true, unix.MS_SYNCHRONOUS}, "async": {false, unix.MS_SYNCHRONOUS},
	"dirsync":    {true, unix.MS_DIRSYNC},
	"mand":       {true, unix.MS_MANDLOCK},
	"nomand":     {false, unix.MS_MANDLOCK},
	"lazytime":   {true, unix.MS_LAZYTIME},
	"nolazytime": {false, unix.MS_LAZYTIME},
	"iversion":   {true, unix.MS_I_VERSION}, "noiversion": {false, unix.MS_I_VERSION},
	"silent": {true, unix.MS_SILENT}, "loud": {false, unix.MS_SILENT},
}

var propagation = map[string]uintptr{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

func (o *mountOptions) apply(name string, recursive bool) bool {
	set, clear := &o.set, &o.clear
	if recursive {
		set, clear = &o.recursiveSet, &o.recursiveClear
	}
	if a, ok := attributes[name]; ok {
		*set |= a.attr
		*clear &^= a.attr
		if !recursive {
			o.flags |= a.flag
		}
		return true
	}
	if opposite, ok := cleared[name]; ok {
		a := attributes[opposite]
		*set &^= a.attr
		*clear |= a.attr
		if !recursive {
			o.flags &^= a.flag
		}
		return true
	}
	if a, ok := atimes[name]; ok {
		*set = *set&^unix.MOUNT_ATTR__ATIME | a.attr
		*clear |= unix.MOUNT_ATTR__ATIME
		if !recursive {
			o.flags = o.flags&^atimeFlags | a.flag
		}
		return true
	}
	return false
}

// parseMountOptions takes options apart; what is no option of mount(2) is data
// for the file system, as mount(8) has it.
func parseMountOptions(options []string) mountOptions {
	var o mountOptions
	for _, option := range options {
		if flag, ok := superFlags[option]; ok {
			if flag.set {
				o.flags |= flag.flag
			} else {
				o.flags &^= flag.flag
			}
			continue
		}
		if flag, ok := propagation[option]; ok {
			o.propagation = append(o.propagation, flag)
			continue
		}
		switch option {
		case "defaults", "":
			continue
		case "bind":
			o.bind = true
			continue
		case "rbind":
			o.bind, o.recursive = true, true
			continue
		case "tmpcopyup":
			o.copyUp, o.lower = true, "."
			continue
		case "idmap", "ridmap":
			o.idmap = true
			continue
		}
		if lower, ok := strings.CutPrefix(option, "tmpcopyup="); ok {
			o.copyUp, o.lower = true, lower
			continue
		}
		if o.apply(option, false) {
			continue
		}
		if plain, ok := strings.CutPrefix(option, "r"); ok && o.apply(plain, true) {
			continue
		}
		o.data = append(o.data, option)
	}
	return o
}
