package passthrough

import (
	"bytes"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	xattrNameMax = 255      // XATTR_NAME_MAX
	xattrSizeMax = 64 << 10 // XATTR_SIZE_MAX
	xattrListMax = 64 << 10 // XATTR_LIST_MAX

	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
	fileCaps   = "security.capability"

	trusted = "trusted."

	// hostTrusted is where the client's trusted attributes are kept: the
	// host's own need CAP_SYS_ADMIN, and are not the client's to see or set.
	hostTrusted = "user.runv.trusted."
)

// hostXattr is the attribute of the host which the client's name stands for.
// User attributes, file capabilities and ACLs are passed on; what else is in
// the security namespace is a label of the host's security modules.
func hostXattr(name string) (string, error) {
	switch {
	case name == "" || len(name) > xattrNameMax || strings.IndexByte(name, 0) >= 0:
		return "", unix.ERANGE
	case name == aclAccess || name == aclDefault || name == fileCaps:
		return name, nil
	case strings.HasPrefix(name, trusted) && len(name) > len(trusted):
		name = hostTrusted + name[len(trusted):]
		if len(name) > xattrNameMax {
			return "", unix.ERANGE
		}
		return name, nil
	case strings.HasPrefix(name, hostTrusted):
		return "", unix.EPERM
	case strings.HasPrefix(name, "user."):
		return name, nil
	}
	return "", unix.EOPNOTSUPP
}

// clientXattr is the inverse of hostXattr.
func clientXattr(name string) (string, bool) {
	if rest, ok := strings.CutPrefix(name, hostTrusted); ok {
		return trusted + rest, rest != ""
	}
	host, err := hostXattr(name)
	return name, err == nil && host == name
}

// clientXattrs converts a list of attributes, each ended by a NUL.
func clientXattrs(list []byte) []byte {
	var out []byte
	for len(list) > 0 {
		name, rest, _ := bytes.Cut(list, []byte{0})
		list = rest
		if s, ok := clientXattr(string(name)); ok {
			out = append(append(out, s...), 0)
		}
	}
	return out
}

// GetXAttr reads an attribute into dest, or tells its size if dest is empty.
func (f *FS) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	name, err := hostXattr(attr)
	if err == unix.EOPNOTSUPP || err == unix.EPERM {
		err = unix.ENODATA
	}
	if err != nil {
		return 0, status(err)
	}
	n, err := f.inodes.get(in.NodeId)
	if err != nil {
		return 0, status(err)
	}
	defer f.inodes.put(n)
	size, err := f.xattrs.get(n, name, dest)
	if err != nil {
		return 0, status(err)
	}
	return uint32(size), fuse.OK
}

// ListXAttr lists the attributes, or tells the list's size if dest is empty.
func (f *FS) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, err := f.inodes.get(in.NodeId)
	if err != nil {
		return 0, status(err)
	}
	defer f.inodes.put(n)
	list, err := f.listXattrs(n)
	switch {
	case err != nil:
		return 0, status(err)
	case len(dest) == 0:
		return uint32(len(list)), fuse.OK
	case len(dest) < len(list):
		return uint32(len(list)), fuse.ERANGE
	}
	return uint32(copy(dest, list)), fuse.OK
}

func (f *FS) listXattrs(n *inode) ([]byte, error) {
	buf := make([]byte, 1<<10)
	for {
		size, err := f.xattrs.list(n, buf)
		if err == unix.ERANGE && len(buf) < xattrListMax {
			buf = make([]byte, xattrListMax)
			continue
		}
		if err != nil {
			return nil, err
		}
		return clientXattrs(buf[:size]), nil
	}
}

// SetXAttr sets an attribute.
func (f *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if f.readOnly {
		return fuse.EROFS
	}
	name, err := hostXattr(attr)
	if err != nil {
		return status(err)
	}
	switch {
	case len(data) > xattrSizeMax:
		return fuse.Status(unix.E2BIG)
	case int(in.Size) != len(data) || in.Flags&^uint32(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0:
		return fuse.EINVAL
	}
	n, err := f.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(n)
	if err := f.xattrs.set(n, name, data, int(in.Flags)); err != nil {
		return status(err)
	}
	if name == aclAccess && in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
		return status(f.dropSetGroupID(n))
	}
	return fuse.OK
}

func (f *FS) dropSetGroupID(n *inode) error {
	var st unix.Statx_t
	if err := statFD(n.fd, &st); err != nil || st.Mode&unix.S_ISGID == 0 {
		return err
	}
	return f.chmod(n.fd, uint32(st.Mode)&^unix.S_ISGID)
}

// RemoveXAttr removes an attribute.
func (f *FS) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, attr string) fuse.Status {
	if f.readOnly {
		return fuse.EROFS
	}
	name, err := hostXattr(attr)
	if err != nil {
		return status(err)
	}
	n, err := f.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(n)
	return status(f.xattrs.remove(n, name))
}

// hasDefaultACL reports whether new entries of dir get their mode from an
// ACL instead of the umask.
func (f *FS) hasDefaultACL(dir *inode) bool {
	tr := f.mounts.of(dir.key.dev, dir.fd)
	if tr.noACL {
		return false
	}
	size, err := f.xattrs.get(dir, aclDefault, nil)
	if err == unix.EOPNOTSUPP {
		tr.noACL = true
		f.mounts.set(dir.key.dev, tr)
	}
	return err == nil && size > 0
}
