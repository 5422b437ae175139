// virtio-fs: the FUSE protocol's lengths, sessions, ids, handles and limits.
#include "fuse.h"

#define OUT sizeof(struct out_header)

CASE(before_init, "every request before INIT", "")
{
	struct session s = session(0);
	for (u32 op = 1; op < 53; op++) {
		if (op == INIT || op == FORGET || op == INTERRUPT || op == BATCH_FORGET)
			continue;
		struct builder b = req(&s, op, ROOT);
		for (int i = 0; i < 25; i++)
			add32(&b, 0);
		CHECK(run(&b) > 0);
	}
	CHECK_EQUAL(init(&s, 7, 41), 0);
	share_works(&s);
}

CASE(init_twice, "INIT twice, of old and of absurd versions, and again after DESTROY", "")
{
	struct session s = session(0);
	CHECK_EQUAL(init(&s, 6, 41), EPROTO);
	CHECK_EQUAL(init(&s, 7, 8), EPROTO);
	CHECK_EQUAL(init(&s, 0xffffffff, 0xffffffff), EPROTO);
	CHECK_EQUAL(init(&s, 7, 0xffffffff), 0);
	CHECK_EQUAL(init(&s, 7, 41), EINVAL);
	share_works(&s);
	u64 node = node_of(&s, ROOT, "file"), fh;
	CHECK_EQUAL(open_node(&s, node, 0, &fh), 0);
	struct builder b = req(&s, DESTROY, 0);
	CHECK_EQUAL(run(&b), 0);
	CHECK_EQUAL(read_fh(&s, node, fh, 0, 10), ENOTCONN);
	CHECK_EQUAL(init(&s, 7, 41), 0);
	CHECK_EQUAL(read_fh(&s, node, fh, 0, 10), EBADF);
	CHECK_EQUAL(lookup(&s, node, "x", 0), ESTALE);
	share_works(&s);
}

CASE(lying_lengths, "header lengths that are not those of the request", "")
{
	struct session s = mounted(0);
	static const u32 lies[] = {1, 16, 39, 40, 44, 46, 4096, 0x7fffffff, 0x80000000, 0xffffffff};
	static const u32 ops[] = {LOOKUP, GETATTR, READ, FUSE_WRITE, SETXATTR, RENAME2, READDIR, IOCTL};
	for (u32 i = 0; i < LEN(lies); i++)
		for (u32 k = 0; k < LEN(ops); k++) {
			struct builder b = req(&s, ops[k], ROOT);
			add_name(&b, "file");
			b.lie = lies[i];
			CHECK(run(&b) > 0);
		}
	// Extensions that are not there.
	struct builder b = req(&s, GETATTR, ROOT);
	((struct in_header *)s.request)->extlen = 0xffff;
	add64(&b, 0);
	add64(&b, 0);
	CHECK(run(&b) > 0);
	share_works(&s);
}

CASE(cut_short, "every opcode with every length up to 136 bytes", "")
{
	struct session s = mounted(0);
	for (u32 op = 0; op < 60; op++)
		for (u32 n = 0; n <= 96; n += 8) {
			if (op == INIT || op == DESTROY || op == UNLINK || op == RMDIR)
				continue;
			struct builder b = req(&s, op, ROOT);
			for (u32 i = 0; i < n; i += 4)
				add32(&b, 0);
			run(&b);
			CHECK(s.reply_len == 0 || s.reply_len >= OUT);
		}
	expect_alive(s.dev);
	s = mounted(0);
	share_works(&s);
}

CASE(no_header, "requests of 0 to 39 bytes", "")
{
	struct session s = mounted(0);
	for (u32 n = 0; n < 40; n += 3) {
		struct builder b = req(&s, GETATTR, ROOT);
		b.len = n;
		CHECK_EQUAL(run(&b), -1);
		CHECK_EQUAL(s.reply_len, 0);
	}
	share_works(&s);
}

CASE(no_room, "replies without, or with too little, room", "")
{
	struct session s = mounted(0);
	static const u32 ops[] = {LOOKUP, GETATTR, STATFS, OPENDIR, READLINK, GETXATTR, STATX, CREATE};
	static const u32 rooms[] = {0, 1, 15, 16, 17, 40};
	for (u32 i = 0; i < LEN(ops); i++)
		for (u32 k = 0; k < LEN(rooms); k++) {
			struct builder b = req(&s, ops[i], ROOT);
			add64(&b, 0);
			add64(&b, 0);
			add_name(&b, "file");
			b.room = rooms[k];
			run(&b);
			CHECK(s.reply_len <= rooms[k]);
		}
	share_works(&s);
}

CASE(fragments, "a request and its reply in buffers of one byte each", "")
{
	struct session s = mounted(0);
	struct builder b = req(&s, LOOKUP, ROOT);
	add_name(&b, "file");
	struct in_header *h = (void *)s.request;
	h->len = b.len;
	struct desc *t = alloc(16 * 256, 4096);
	u32 n = 0;
	for (; n < b.len; n++)
		t[n] = (struct desc){(u64)s.request + n, 1, NEXT, n + 1};
	for (u32 i = 0; i < OUT + sizeof(struct entry); i++, n++)
		t[n] = (struct desc){(u64)s.reply + i, 1, WRITE | NEXT, n + 1};
	t[n - 1].flags = WRITE;
	put(&s.q, 0, (u64)t, n * 16, INDIRECT, 0);
	s.q.added = s.q.seen;
	offer(&s.q, 0);
	kick(&s.q);
	u32 len;
	wait_used(&s.q, &len);
	CHECK_EQUAL(len, OUT + sizeof(struct entry));
	CHECK_EQUAL(((struct out_header *)s.reply)->error, 0);
	share_works(&s);
}

CASE(opcodes, "opcodes that do not exist, IOCTL, and those of DAX", "")
{
	struct session s = mounted(0);
	static const u32 ops[] = {0, 7, 19, 31, 32, 33, 34, 37, 40, 41, SETUPMAPPING, REMOVEMAPPING, 53, 100, 4096, 0x7fffffff, 0xffffffff};
	for (u32 i = 0; i < LEN(ops); i++) {
		struct builder b = req(&s, ops[i], ROOT);
		for (int k = 0; k < 10; k++)
			add64(&b, -1ul);
		CHECK(run(&b) > 0);
	}
	u64 node = node_of(&s, ROOT, "file"), fh;
	CHECK_EQUAL(open_node(&s, node, 2, &fh), 0);
	static const u32 commands[] = {0x5401, 0x80086601, 0x40086602, 0xc0185879, 0x4004667f};
	for (u32 i = 0; i < LEN(commands); i++) {
		struct builder b = req(&s, IOCTL, node);
		add64(&b, fh);
		add32(&b, 1);
		add32(&b, commands[i]);
		add64(&b, (u64)s.reply);
		add32(&b, 64);
		add32(&b, 64);
		CHECK(run(&b) > 0);
	}
	// DAX: a mapping whose offset and length overflow.
	struct builder b = req(&s, SETUPMAPPING, node);
	add64(&b, fh);
	add64(&b, -4096ul);
	add64(&b, 1ul << 40);
	add64(&b, 3);
	add64(&b, -4096ul);
	CHECK_EQUAL(run(&b), ENOSYS);
	share_works(&s);
}

CASE(forged_nodes, "node ids that were never given out", "")
{
	struct session s = mounted(0);
	u64 ids[] = {0, 2, 3, 1000, -1ul, -2ul, 1ul << 63, (1ul << 63) + 2, 0xffff888000000000, (u64)s.request};
	static const u32 ops[] = {GETATTR, SETATTR, READLINK, MKDIR, OPEN, OPENDIR, LOOKUP, STATFS, SYNCFS, STATX, LISTXATTR};
	for (u32 i = 0; i < LEN(ids); i++)
		for (u32 k = 0; k < LEN(ops); k++) {
			struct builder b = req(&s, ops[k], ids[i]);
			for (int n = 0; n < 11; n++)
				add64(&b, 0);
			CHECK(run(&b) > 0);
		}
	for (u32 i = 0; i < LEN(ids); i++) {
		struct builder b = req(&s, LINK, ROOT);
		add64(&b, ids[i]);
		add_name(&b, "forged");
		CHECK(run(&b) > 0);
		b = req(&s, RENAME, ROOT);
		add64(&b, ids[i]);
		add_name(&b, "file");
		add_name(&b, "forged");
		CHECK(run(&b) > 0);
	}
	share_works(&s);
}

// handle_calls uses a handle in every way, for a node it is not of.
static void handle_calls(struct session *s, u64 node, u64 fh)
{
	static const u32 ops[] = {FSYNC, FSYNCDIR, FLUSH, READDIR, READDIRPLUS, FALLOCATE, LSEEK, RELEASE, RELEASEDIR, COPY_FILE_RANGE};
	CHECK_EQUAL(read_fh(s, node, fh, 0, 100), EBADF);
	CHECK_EQUAL(write_fh(s, node, fh, 0, "evil", 4, 0, 0), EBADF);
	for (u32 i = 0; i < LEN(ops); i++) {
		struct builder b = req(s, ops[i], node);
		add64(&b, fh);
		for (int n = 0; n < 6; n++)
			add64(&b, 1);
		int err = run(&b);
		CHECK(err > 0 || ops[i] == RELEASE || ops[i] == RELEASEDIR);
	}
}

CASE(forged_handles, "handles that were never given out, or are another node's", "")
{
	struct session s = mounted(0);
	u64 file = node_of(&s, ROOT, "file"), suid = node_of(&s, ROOT, "suid"), fh, dh;
	CHECK_EQUAL(open_node(&s, file, 2, &fh), 0);
	CHECK_EQUAL(open_node(&s, ROOT, 0200000, &dh), 0);
	u64 forged[] = {0, fh + 2, 3, 1000, -1ul, 1ul << 63, (u64)s.request};
	for (u32 i = 0; i < LEN(forged); i++)
		handle_calls(&s, file, forged[i] == fh || forged[i] == dh ? 999 : forged[i]);
	handle_calls(&s, suid, fh); // another file's
	handle_calls(&s, ROOT, fh);
	handle_calls(&s, file, dh); // a directory's
	CHECK_EQUAL(read_fh(&s, file, fh, 0, 100), 0); // none of that closed it
	share_works(&s);
}

CASE(after_release, "a handle and a node are used after they were given back", "")
{
	struct session s = mounted(0);
	u64 node = node_of(&s, ROOT, "file"), fh;
	CHECK_EQUAL(open_node(&s, node, 2, &fh), 0);
	for (int i = 0; i < 3; i++) {
		struct builder b = req(&s, RELEASE, node);
		add64(&b, fh);
		add64(&b, 0);
		add64(&b, 0);
		run(&b);
		handle_calls(&s, node, fh);
	}
	CHECK_EQUAL(open_node(&s, node, 2, &fh), 0);
	forget(&s, node, 1); // while it is open
	CHECK_EQUAL(read_fh(&s, node, fh, 0, 100), 0);
	CHECK_EQUAL(open_node(&s, node, 0, &fh), ESTALE);
	CHECK_EQUAL(lookup(&s, node, "x", 0), ESTALE);
	share_works(&s);
}

CASE(forget_underflow, "FORGET of more than was looked up, of the root, and of nothing", "")
{
	struct session s = mounted(0);
	u64 node = node_of(&s, ROOT, "file");
	forget(&s, node, 1);
	forget(&s, node, 1);
	forget(&s, node_of(&s, ROOT, "dir"), -1ul);
	forget(&s, node_of(&s, ROOT, "dir"), 1ul << 63);
	static const u64 ids[] = {ROOT, 1ul << 63 | 1, 0, -1ul, 12345};
	for (u32 i = 0; i < LEN(ids); i++) {
		forget(&s, ids[i], 1);
		forget(&s, ids[i], -1ul);
	}
	static const u32 counts[] = {0, 1, 3, 0x10000, 0x7fffffff, 0xffffffff};
	for (u32 i = 0; i < LEN(counts); i++) {
		struct builder b = req(&s, BATCH_FORGET, 0);
		b.room = 0;
		add32(&b, counts[i]);
		add32(&b, 0);
		add64(&b, node);
		add64(&b, -1ul);
		add64(&b, ROOT);
		add64(&b, -1ul);
		add(&b, "tail", 4);
		run(&b);
	}
	share_works(&s);
}

CASE(huge_reads, "READ, READDIR, GETXATTR and LISTXATTR of 4 GiB - 1, anywhere in the file", "")
{
	struct session s = mounted(0);
	u64 node = node_of(&s, ROOT, "file"), fh, dh;
	CHECK_EQUAL(open_node(&s, node, 0, &fh), 0);
	CHECK_EQUAL(open_node(&s, ROOT, 0200000, &dh), 0);
	static const u64 offsets[] = {0, 1ul << 62, (1ul << 63) - 1, 1ul << 63, -1ul, -4096ul};
	for (u32 i = 0; i < LEN(offsets); i++) {
		read_fh(&s, node, fh, offsets[i], 0xffffffff);
		for (u32 op = READDIR; op <= READDIRPLUS; op += READDIRPLUS - READDIR) {
			struct builder b = req(&s, op, ROOT);
			add64(&b, dh);
			add64(&b, offsets[i]);
			add32(&b, 0xffffffff);
			for (int k = 0; k < 5; k++)
				add32(&b, 0);
			run(&b);
		}
		struct builder b = req(&s, LSEEK, node);
		add64(&b, fh);
		add64(&b, offsets[i]);
		add32(&b, i);
		add32(&b, 0);
		run(&b);
	}
	static const u32 ops[] = {GETXATTR, LISTXATTR};
	for (u32 i = 0; i < LEN(ops); i++) {
		struct builder b = req(&s, ops[i], node_of(&s, ROOT, "suid"));
		add32(&b, 0xffffffff);
		add32(&b, 0);
		add_name(&b, "security.capability");
		run(&b);
	}
	share_works(&s);
}

CASE(huge_writes, "sizes and offsets past the largest file, and lengths that lie", "")
{
	struct session s = mounted(0);
	struct builder b = req(&s, CREATE, ROOT);
	add32(&b, 0102);
	add32(&b, 0644);
	add64(&b, 0);
	add_name(&b, "huge");
	CHECK_EQUAL(run(&b), 0);
	struct entry e;
	u64 fh;
	memcpy(&e, s.reply + OUT, sizeof(e));
	memcpy(&fh, s.reply + OUT + sizeof(e), 8);
	static const u64 offsets[] = {(1ul << 63) - 4, 1ul << 63, -1ul, -4ul};
	for (u32 i = 0; i < LEN(offsets); i++) {
		CHECK(write_fh(&s, e.node, fh, offsets[i], "evil", 4, 0, 0) > 0);
		b = req(&s, FALLOCATE, e.node);
		add64(&b, fh);
		add64(&b, offsets[i]);
		add64(&b, offsets[i]);
		add32(&b, i);
		add32(&b, 0);
		CHECK(run(&b) > 0);
		b = req(&s, COPY_FILE_RANGE, e.node);
		add64(&b, fh);
		add64(&b, offsets[i]);
		add64(&b, e.node);
		add64(&b, fh);
		add64(&b, offsets[i]);
		add64(&b, -1ul);
		add64(&b, 0);
		run(&b);
		b = req(&s, SETATTR, e.node);
		add32(&b, 1 << 3); // FATTR_SIZE
		add32(&b, 0);
		add64(&b, 0);
		add64(&b, offsets[i]);
		for (int k = 0; k < 16; k++)
			add32(&b, 0);
		run(&b);
	}
	static const u32 lies[] = {0, 3, 5, 0x7fffffff, 0xffffffff};
	for (u32 i = 0; i < LEN(lies); i++) {
		b = req(&s, FUSE_WRITE, e.node);
		add64(&b, fh);
		add64(&b, 0);
		add32(&b, lies[i]);
		for (int k = 0; k < 5; k++)
			add32(&b, 0);
		add(&b, "evil", 4);
		CHECK_EQUAL(run(&b), EINVAL);
	}
	CHECK_EQUAL(lookup(&s, ROOT, "huge", &e), 0);
	CHECK(e.attr.blocks < 64); // no space was taken
	share_works(&s);
}

CASE(lookup_flood, "1100 directories are made and looked up without a FORGET", "")
{
	struct session s = mounted(0);
	int full = 0;
	char name[] = "new0000";
	for (int i = 0; i < 1100; i++) {
		lookup(&s, ROOT, "file", 0);
		for (int k = 0; k < 4; k++)
			name[3 + k] = '0' + (i / (k == 0 ? 1000 : k == 1 ? 100 : k == 2 ? 10 : 1)) % 10;
		struct builder b = req(&s, MKDIR, ROOT);
		add32(&b, 0755);
		add32(&b, 0);
		add_name(&b, name);
		int err = run(&b);
		CHECK(err == 0 || err == ENFILE);
		full += err == ENFILE;
	}
	CHECK(full > 0); // the bound was met
	s = mounted(0);	 // and a new session has room again
	share_works(&s);
}

CASE(open_flood, "a file is opened 2000 times and never closed", "")
{
	struct session s = mounted(0);
	u64 node = node_of(&s, ROOT, "file"), fh;
	int full = 0;
	for (int i = 0; i < 2000; i++) {
		int err = open_node(&s, node, 0, &fh);
		CHECK(err == 0 || err == ENFILE);
		full += err == ENFILE;
	}
	CHECK(full > 0);
	s = mounted(0);
	share_works(&s);
}

CASE(hiprio, "requests that have a reply on the queue for FORGET, and 1000 INTERRUPTs", "")
{
	struct session s = mounted(0);
	struct builder b = req(&s, GETATTR, ROOT);
	add64(&b, 0);
	add64(&b, 0);
	((struct in_header *)s.request)->len = b.len;
	put(&s.hiprio, 0, (u64)s.request, b.len, NEXT, 1);
	put(&s.hiprio, 1, (u64)s.reply, 4096, WRITE, 0);
	offer(&s.hiprio, 0);
	kick(&s.hiprio);
	wait_used(&s.hiprio, 0);
	for (int i = 0; i < 1000; i++) {
		b = req(&s, i & 1 ? INTERRUPT : FORGET, ROOT);
		add64(&b, i);
		((struct in_header *)s.request)->len = b.len;
		put(&s.hiprio, 0, (u64)s.request, b.len, 0, 0);
		offer(&s.hiprio, 0);
		kick(&s.hiprio);
		wait_used(&s.hiprio, 0);
	}
	share_works(&s);
}

CASE(flip_header, "the length, opcode and size of requests change while they are served", "")
{
	for (int i = 0; i < 20; i++) {
		struct session s = mounted(0);
		u64 node = node_of(&s, ROOT, "file"), fh;
		CHECK_EQUAL(open_node(&s, node, 0, &fh), 0);
		struct builder b = req(&s, READ, node);
		add64(&b, fh);
		add64(&b, 0);
		add32(&b, 4096);
		for (int k = 0; k < 5; k++)
			add32(&b, 0);
		volatile struct in_header *h = (void *)s.request;
		volatile u32 *size = (void *)(s.request + 56);
		submit(&b);
		for (int n = 0; n < 400; n++) {
			h->len = 0xffffffff;
			h->opcode = n & 1 ? READDIRPLUS : SETXATTR;
			*size = 0xffffffff;
			h->node = -1ul;
			h->len = b.len;
			h->opcode = READ;
			*size = 4096;
			h->node = node;
		}
		wait_used(&s.q, 0);
		expect_alive(s.dev);
		share_works(&s);
	}
}

CASE(rings_as_data, "a file is read into the queue's own rings", "")
{
	for (int i = 0; i < 10; i++) {
		struct session s = mounted(0);
		u64 node = node_of(&s, ROOT, "file"), fh;
		CHECK_EQUAL(open_node(&s, node, 0, &fh), 0);
		struct builder b = req(&s, READ, node);
		add64(&b, fh);
		add64(&b, 0);
		add32(&b, 4096);
		for (int k = 0; k < 5; k++)
			add32(&b, 0);
		b.room = 4096;
		s.reply = (u8 *)s.q.desc;
		submit(&b);
		sleep_ms(2);
		kick(&s.q);
		sleep_ms(2);
	}
	struct session s = mounted(0);
	share_works(&s);
}

CASE(reset_in_flight, "reset while 30 reads and writes are under way; the memory is used again", "")
{
	for (int i = 0; i < 20; i++) {
		struct session s = mounted(0);
		u64 node = node_of(&s, ROOT, "file"), fh;
		CHECK_EQUAL(open_node(&s, node, 0, &fh), 0);
		struct builder b = req(&s, READ, node);
		add64(&b, fh);
		add64(&b, 0);
		add32(&b, 60 << 10);
		for (int k = 0; k < 5; k++)
			add32(&b, 0);
		for (int n = 0; n < 14; n++)
			submit(&b); // over and over the same buffers
		w32(s.dev + STATUS, 0);
		memset(s.reply, 0x5a, 60 << 10);
		sleep_ms(1);
		for (u32 n = 0; n < 60 << 10; n += 512)
			CHECK_EQUAL(s.reply[n], 0x5a);
	}
	struct session s = mounted(0);
	share_works(&s);
}

CASE(attributes, "extended attributes with names and values of any size and namespace", "")
{
	struct session s = mounted(0);
	u64 node = node_of(&s, ROOT, "file");
	u8 *value = alloc(70000, 16);
	memset(value, 'v', 70000);
	static const char *const names[] = {"", "user.", "trusted.overlay.opaque", "security.selinux", "system.posix_acl_access", "nonsense", "../user.x"};
	static const u32 sizes[] = {0, 1, 65536, 65537, 69000};
	for (u32 i = 0; i < LEN(names); i++)
		for (u32 k = 0; k < LEN(sizes); k++) {
			struct builder b = req(&s, SETXATTR, node);
			add32(&b, sizes[k]);
			add32(&b, k);
			add64(&b, 0);
			add_name(&b, names[i]);
			add(&b, value, sizes[k]);
			run(&b);
			b = req(&s, SETXATTR, node); // a size that lies
			add32(&b, 0xffffffff - k);
			add32(&b, 0);
			add64(&b, 0);
			add_name(&b, names[i]);
			add(&b, value, 10);
			CHECK(run(&b) > 0);
		}
	share_works(&s);
}
