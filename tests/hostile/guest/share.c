// virtio-fs: everything that could lead out of the share, or change what must
// not change. The test watches what is beside it.
#include "fuse.h"

static const char *const bad_names[] = {
	"", ".", "..", "/", "//", "../secret", "../neighbour", "../../etc/passwd", "/etc/passwd", "dir/sub", "dir/../..",
	"./file", "file/", "/proc/self/root", "..\\secret",
};
#define BACKSLASH (LEN(bad_names) - 1) // an ordinary name, in truth

// name_calls does everything that takes a name with one that is not.
static void name_calls(struct session *s, u64 dir, const char *name, u64 len, int backslash)
{
	u64 file = node_of(s, ROOT, "file");
	struct builder b;
	static const u32 plain[] = {LOOKUP, UNLINK, RMDIR};
	for (u32 i = 0; i < LEN(plain); i++) {
		b = req(s, plain[i], dir);
		add(&b, name, len);
		CHECK(run(&b) > 0);
	}
	if (backslash)
		return;
	b = req(s, MKDIR, dir);
	add32(&b, 0755);
	add32(&b, 0);
	add(&b, name, len);
	CHECK(run(&b) > 0);
	b = req(s, MKNOD, dir);
	add32(&b, 0100644);
	add32(&b, 0);
	add64(&b, 0);
	add(&b, name, len);
	CHECK(run(&b) > 0);
	b = req(s, CREATE, dir);
	add32(&b, 0101); // O_CREAT, O_WRONLY
	add32(&b, 0644);
	add64(&b, 0);
	add(&b, name, len);
	CHECK(run(&b) > 0);
	b = req(s, SYMLINK, dir);
	add(&b, name, len);
	add_name(&b, "target");
	CHECK(run(&b) > 0);
	b = req(s, LINK, dir);
	add64(&b, file);
	add(&b, name, len);
	CHECK(run(&b) > 0);
	for (int second = 0; second < 2; second++) {
		b = req(s, RENAME, dir);
		add64(&b, ROOT);
		if (second)
			add_name(&b, "file");
		add(&b, name, len);
		if (!second)
			add_name(&b, "stolen");
		CHECK(run(&b) > 0);
		b = req(s, RENAME2, dir);
		add64(&b, ROOT);
		add64(&b, 2); // RENAME_EXCHANGE
		if (second)
			add_name(&b, "file");
		add(&b, name, len);
		if (!second)
			add_name(&b, "swap");
		CHECK(run(&b) > 0);
	}
}

CASE(names, "every call that takes a name, with ones that are paths, dots or empty", "")
{
	struct session s = mounted(0);
	u64 dir = node_of(&s, ROOT, "dir");
	for (u32 i = 0; i < LEN(bad_names); i++) {
		name_calls(&s, ROOT, bad_names[i], strlen(bad_names[i]) + 1, i == BACKSLASH);
		name_calls(&s, dir, bad_names[i], strlen(bad_names[i]) + 1, i == BACKSLASH);
	}
	share_works(&s);
}

CASE(names_nul, "names with a NUL inside, without an end, and of 256 and 70000 bytes", "")
{
	struct session s = mounted(0);
	u8 *n = alloc(70001, 16);
	memset(n, 'a', 70000);
	n[70000] = 0;
	static const u32 ops[] = {LOOKUP, UNLINK, RMDIR, REMOVEXATTR};
	for (u32 i = 0; i < LEN(ops); i++) {
		struct builder b = req(&s, ops[i], ROOT);
		add(&b, "..\0secret", 10);
		CHECK(run(&b) > 0);
		b = req(&s, ops[i], ROOT);
		add(&b, "../secret", 9); // without its NUL
		CHECK(run(&b) > 0);
		b = req(&s, ops[i], ROOT);
		add(&b, n + 70000 - 256, 257);
		CHECK(run(&b) > 0);
		b = req(&s, ops[i], ROOT);
		add(&b, n, 70001);
		CHECK(run(&b) > 0);
	}
	// Two names where one NUL is missing.
	struct builder b = req(&s, RENAME, ROOT);
	add64(&b, ROOT);
	add(&b, "file", 4);
	CHECK(run(&b) > 0);
	b = req(&s, SYMLINK, ROOT);
	add(&b, "new", 4);
	CHECK(run(&b) > 0);
	name_calls(&s, ROOT, (char *)n + 70000 - 256, 257, 0);
	share_works(&s);
}

CASE(dotdot_root, ".. of the root by every node id that it has", "")
{
	struct session s = mounted(0);
	static const u64 roots[] = {ROOT, 1ul << 63 | 1};
	for (u32 i = 0; i < LEN(roots); i++) {
		CHECK(lookup(&s, roots[i], "..", 0) > 0);
		CHECK(lookup(&s, roots[i], "../secret", 0) > 0);
	}
	share_works(&s);
}

CASE(links, "links out of the share are looked up, opened, read through and followed", "")
{
	struct session s = mounted(0);
	static const char *const links[] = {"link", "link.abs", "link.dir", "link.root", "swap.link"};
	for (u32 i = 0; i < LEN(links); i++) {
		struct entry e;
		u64 fh;
		CHECK_EQUAL(lookup(&s, ROOT, links[i], &e), 0);
		CHECK_EQUAL(e.attr.mode & 0170000, 0120000); // the link itself
		CHECK_EQUAL(open_node(&s, e.node, 0, &fh), ELOOP);
		CHECK_EQUAL(open_node(&s, e.node, 02 | 01000, &fh), ELOOP);
		CHECK(open_node(&s, e.node, 0200000, &fh) > 0); // as a directory
		CHECK_EQUAL(lookup(&s, e.node, "file", 0), ENOTDIR);
		CHECK_EQUAL(lookup(&s, e.node, "etc", 0), ENOTDIR);
		struct builder b = req(&s, UNLINK, e.node);
		add_name(&b, "file");
		CHECK_EQUAL(run(&b), ENOTDIR);
		b = req(&s, CREATE, ROOT); // of the link's name, not exclusive
		add32(&b, 0101);
		add32(&b, 0644);
		add64(&b, 0);
		add_name(&b, links[i]);
		CHECK(run(&b) > 0);
		// The size, the owner and the mode of what it leads to.
		b = req(&s, SETATTR, e.node);
		add32(&b, 1 << 3 | 1 << 0 | 1 << 1);
		for (int k = 0; k < 21; k++)
			add32(&b, 0);
		run(&b);
		b = req(&s, SETXATTR, e.node);
		add32(&b, 4);
		add32(&b, 0);
		add64(&b, 0);
		add_name(&b, "user.evil");
		add(&b, "evil", 4);
		run(&b);
		b = req(&s, LINK, ROOT); // a hard link to what it leads to
		add64(&b, e.node);
		add_name(&b, "hard");
		if (run(&b) == 0) {
			CHECK_EQUAL(lookup(&s, ROOT, "hard", &e), 0);
			CHECK_EQUAL(e.attr.mode & 0170000, 0120000);
			b = req(&s, UNLINK, ROOT);
			add_name(&b, "hard");
			CHECK_EQUAL(run(&b), 0);
		}
	}
	share_works(&s);
}

CASE(link_targets, "links with targets of every kind are made and read", "")
{
	struct session s = mounted(0);
	char *target = alloc(5001, 16);
	memset(target, '/', 5000);
	target[5000] = 0;
	struct builder b = req(&s, SYMLINK, ROOT);
	add_name(&b, "long");
	add(&b, target, 5001);
	CHECK_EQUAL(run(&b), ENAMETOOLONG);
	b = req(&s, SYMLINK, ROOT);
	add_name(&b, "empty");
	add_name(&b, "");
	CHECK_EQUAL(run(&b), ENOENT);
	b = req(&s, SYMLINK, ROOT);
	add_name(&b, "proc");
	add_name(&b, "/proc/self/fd/3");
	CHECK_EQUAL(run(&b), 0);
	u64 fh, node = node_of(&s, ROOT, "proc");
	CHECK_EQUAL(open_node(&s, node, 0, &fh), ELOOP);
	CHECK_EQUAL(lookup(&s, node, "x", 0), ENOTDIR);
	b = req(&s, READLINK, node_of(&s, ROOT, "file"));
	CHECK_EQUAL(run(&b), EINVAL);
	share_works(&s);
}

CASE(swap, "a directory that the host swaps with a link outside, under lookups and changes", "")
{
	struct session s = mounted(0);
	ask(ASK_SWAP);
	for (int i = 0; i < 400; i++) {
		struct entry e;
		if (lookup(&s, ROOT, "swap", &e) == 0) {
			struct entry f;
			u64 fh;
			if (lookup(&s, e.node, "file", &f) == 0 && open_node(&s, f.node, i & 1 ? 02 : 0, &fh) == 0)
				read_fh(&s, f.node, fh, 0, 64);
			struct builder b = req(&s, i & 2 ? UNLINK : RMDIR, e.node);
			add_name(&b, i & 4 ? "sub" : "new");
			run(&b);
			b = req(&s, CREATE, e.node);
			add32(&b, 0101);
			add32(&b, 0644);
			add64(&b, 0);
			add_name(&b, "new");
			if (run(&b) == 0) {
				memcpy(&e, s.reply + sizeof(struct out_header), sizeof(e));
				memcpy(&fh, s.reply + sizeof(struct out_header) + sizeof(e), 8);
				b = req(&s, RELEASE, e.node);
				add64(&b, fh);
				add64(&b, 0);
				add64(&b, 0);
				run(&b);
			}
		}
		if (i % 50 == 49) // let the handles go
			s = mounted(0);
	}
	CHECK(ask(ASK_SWAP_STOP) > 20);
	share_works(&s);
}

CASE(rename_cycles, "directories are renamed into themselves and across each other", "")
{
	struct session s = mounted(0);
	u64 dir = node_of(&s, ROOT, "dir"), sub = node_of(&s, dir, "sub");
	struct builder b = req(&s, RENAME, ROOT);
	add64(&b, sub);
	add_name(&b, "dir");
	add_name(&b, "inside");
	CHECK_EQUAL(run(&b), EINVAL);
	for (u32 flags = 1; flags; flags <<= 1) {
		b = req(&s, RENAME2, ROOT);
		add64(&b, sub);
		add64(&b, flags);
		add_name(&b, "dir");
		add_name(&b, "inside");
		CHECK(run(&b) > 0);
	}
	for (int i = 0; i < 200; i++) { // up and down again
		b = req(&s, RENAME, i & 1 ? ROOT : dir);
		add64(&b, i & 1 ? dir : ROOT);
		add_name(&b, "sub");
		add_name(&b, "sub");
		CHECK_EQUAL(run(&b), 0);
		CHECK_EQUAL(lookup(&s, sub, "file", 0), 0);
		CHECK_EQUAL(lookup(&s, i & 1 ? dir : ROOT, "sub", 0), 0);
	}
	share_works(&s);
}

CASE(device_nodes, "device nodes of all kinds are made", "")
{
	struct session s = mounted(0);
	u32 before = ask(ASK_NODES);
	static const u32 modes[] = {0020666, 0060666, 0170666, 0010000 << 3 | 0644, 0050644};
	static const u32 devices[] = {0x0101, 0x0800, 0x0ae8, 0x0103, 0xffffffff};
	for (u32 i = 0; i < LEN(modes); i++)
		for (u32 k = 0; k < LEN(devices); k++) {
			struct builder b = req(&s, MKNOD, ROOT);
			add32(&b, modes[i]);
			add32(&b, devices[k]);
			add64(&b, 0);
			add_name(&b, "node");
			int err = run(&b);
			if (modes[i] == 0100644 && err == 0) {
				b = req(&s, UNLINK, ROOT);
				add_name(&b, "node");
				CHECK_EQUAL(run(&b), 0);
				continue;
			}
			CHECK(err == EPERM || err == EINVAL);
		}
	CHECK_EQUAL(ask(ASK_NODES), before);
	share_works(&s);
}

CASE(blocking_files, "FIFOs and sockets, the host's and its own, are opened every way", "")
{
	struct session s = mounted(0);
	struct builder b = req(&s, MKNOD, ROOT);
	add32(&b, 0010644);
	add32(&b, 0);
	add64(&b, 0);
	add_name(&b, "mine");
	CHECK_EQUAL(run(&b), 0);
	static const char *const names[] = {"fifo", "mine", "socket"};
	for (u32 i = 0; i < LEN(names); i++) {
		u64 node = node_of(&s, ROOT, names[i]), fh;
		for (u32 flags = 0; flags < 3; flags++)
			CHECK_EQUAL(open_node(&s, node, flags, &fh), ENXIO);
		CHECK_EQUAL(open_node(&s, node, 0200000, &fh), ENOTDIR);
		CHECK(lookup(&s, node, "x", 0) == ENOTDIR);
		b = req(&s, SYNCFS, node);
		add64(&b, 0);
		run(&b);
		b = req(&s, CREATE, ROOT);
		add32(&b, 0101);
		add32(&b, 0644);
		add64(&b, 0);
		add_name(&b, names[i]);
		CHECK(run(&b) > 0);
		b = req(&s, GETXATTR, node);
		add32(&b, 100);
		add32(&b, 0);
		add_name(&b, "user.x");
		CHECK(run(&b) > 0);
	}
	share_works(&s);
}

CASE(set_user_id, "a set-user-ID file with capabilities is written as another user", "")
{
	struct session s = mounted(0);
	CHECK_EQUAL(ask(ASK_SUID_MODE), 04755);
	CHECK_EQUAL(ask(ASK_SUID_CAPS), 1);
	u64 node = node_of(&s, ROOT, "suid"), fh;
	CHECK_EQUAL(open_node(&s, node, 1, &fh), 0);
	CHECK_EQUAL(write_fh(&s, node, fh, 0, "evil", 4, 4, 1000), 0); // FUSE_WRITE_KILL_SUIDGID
	CHECK_EQUAL(ask(ASK_SUID_MODE), 0755);
	CHECK_EQUAL(ask(ASK_SUID_CAPS), 0);
	share_works(&s);
}

CASE(read_only, "every call that changes something, on the read-only share", "")
{
	struct session s = mounted(1);
	u64 file = node_of(&s, ROOT, "file"), fh, rfh;
	struct builder b;
	for (u32 flags = 1; flags < 3; flags++)
		CHECK_EQUAL(open_node(&s, file, flags, &fh), EROFS);
	CHECK_EQUAL(open_node(&s, file, 01000, &fh), EROFS); // O_RDONLY|O_TRUNC
	CHECK_EQUAL(open_node(&s, file, 0, &rfh), 0);
	CHECK(write_fh(&s, file, rfh, 0, "evil", 4, 0, 0) > 0);
	b = req(&s, SETATTR, file);
	add32(&b, 1 << 0);
	for (int k = 0; k < 21; k++)
		add32(&b, 0);
	CHECK_EQUAL(run(&b), EROFS);
	b = req(&s, FALLOCATE, file);
	add64(&b, rfh);
	add64(&b, 0);
	add64(&b, 1 << 20);
	add64(&b, 0);
	CHECK_EQUAL(run(&b), EROFS);
	b = req(&s, COPY_FILE_RANGE, file);
	add64(&b, rfh);
	add64(&b, 0);
	add64(&b, file);
	add64(&b, rfh);
	add64(&b, 4096);
	add64(&b, 4096);
	add64(&b, 0);
	CHECK_EQUAL(run(&b), EROFS);
	b = req(&s, SETXATTR, file);
	add32(&b, 4);
	add32(&b, 0);
	add64(&b, 0);
	add_name(&b, "user.evil");
	add(&b, "evil", 4);
	CHECK_EQUAL(run(&b), EROFS);
	b = req(&s, REMOVEXATTR, node_of(&s, ROOT, "suid"));
	add_name(&b, "security.capability");
	CHECK_EQUAL(run(&b), EROFS);
	b = req(&s, TMPFILE, ROOT);
	add32(&b, 2);
	add32(&b, 0644);
	add64(&b, 0);
	CHECK(run(&b) > 0);
	name_calls(&s, ROOT, "new", 4, 0);
	share_works(&s);
}
