// FUSE requests by hand (include/uapi/linux/fuse.h), for the guests that attack
// the file system device.
#pragma once
#include "lib.h"

enum {
	LOOKUP = 1, FORGET = 2, GETATTR = 3, SETATTR = 4, READLINK = 5, SYMLINK = 6, MKNOD = 8, MKDIR = 9,
	UNLINK = 10, RMDIR = 11, RENAME = 12, LINK = 13, OPEN = 14, READ = 15, FUSE_WRITE = 16, STATFS = 17,
	RELEASE = 18, FSYNC = 20, SETXATTR = 21, GETXATTR = 22, LISTXATTR = 23, REMOVEXATTR = 24, FLUSH = 25,
	INIT = 26, OPENDIR = 27, READDIR = 28, RELEASEDIR = 29, FSYNCDIR = 30, CREATE = 35, INTERRUPT = 36,
	DESTROY = 38, IOCTL = 39, BATCH_FORGET = 42, FALLOCATE = 43, READDIRPLUS = 44, RENAME2 = 45, LSEEK = 46,
	COPY_FILE_RANGE = 47, SETUPMAPPING = 48, REMOVEMAPPING = 49, SYNCFS = 50, TMPFILE = 51, STATX = 52,
};
enum {
	EPERM = 1, ENOENT = 2, ENXIO = 6, EBADF = 9, EINVAL = 22, ENFILE = 23, EFBIG = 27, EROFS = 30,
	ENAMETOOLONG = 36, ENOSYS = 38, ENOTDIR = 20, ELOOP = 40, EIO = 5, ENOTCONN = 107, ESTALE = 116, EPROTO = 71,
};
#define ROOT 1ul
#define SECRET_SIZE 31337

struct in_header {
	u32 len, opcode;
	u64 unique, node;
	u32 uid, gid, pid;
	u16 extlen, padding;
} PACKED;

struct out_header {
	u32 len;
	int error;
	u64 unique;
} PACKED;

struct attr {
	u64 ino, size, blocks, atime, mtime, ctime;
	u32 atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev, blksize, flags;
} PACKED;

struct entry {
	u64 node, generation, entry_valid, attr_valid;
	u32 entry_valid_nsec, attr_valid_nsec;
	struct attr attr;
} PACKED;

#define SESSION_SIZE 32
struct session {
	u64 dev;
	struct queue hiprio, q;
	u8 *request; // where request() puts it together: 128 KiB
	u8 *reply;   // 64 KiB
	u32 reply_len;
};

// A request in the making: add to it, then do it.
struct builder {
	struct session *s;
	u32 len;
	u32 room; // for the reply
	u32 lie;  // length in the header, if not 0
	u32 uid;
};

struct session session(u32 nth);	      // device nth (0 writable, 1 read-only), no INIT
struct session mounted(u32 nth);	      // the same with INIT done
struct builder req(struct session *s, u32 opcode, u64 node);
void add(struct builder *b, const void *p, u64 n);
void add32(struct builder *b, u32 v);
void add64(struct builder *b, u64 v);
void add_name(struct builder *b, const char *name); // with its NUL
int run(struct builder *b);	      // the errno of the reply
void submit(struct builder *b);	      // does not wait
int init(struct session *s, u32 major, u32 minor);

int lookup(struct session *s, u64 dir, const char *name, struct entry *e);
u64 node_of(struct session *s, u64 dir, const char *name); // must exist
int open_node(struct session *s, u64 node, u32 flags, u64 *fh);
int read_fh(struct session *s, u64 node, u64 fh, u64 offset, u32 size);
int write_fh(struct session *s, u64 node, u64 fh, u64 offset, const void *p, u32 n, u32 write_flags, u32 uid);
void forget(struct session *s, u64 node, u64 n);
void share_works(struct session *s); // the session still serves
