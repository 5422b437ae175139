#include "fuse.h"

#define REQUEST_BYTES (128 << 10)
#define REPLY_BYTES (64 << 10)

struct session session(u32 nth)
{
	struct session s = {.dev = negotiate(find(FS, nth), F_INDIRECT)};
	s.hiprio = queue(s.dev, 0, SESSION_SIZE);
	s.q = queue(s.dev, 1, SESSION_SIZE);
	s.request = alloc(REQUEST_BYTES, 4096);
	s.reply = alloc(REPLY_BYTES, 4096);
	driver_ok(s.dev);
	return s;
}

struct session mounted(u32 nth)
{
	struct session s = session(nth);
	CHECK_EQUAL(init(&s, 7, 41), 0);
	return s;
}

struct builder req(struct session *s, u32 opcode, u64 node)
{
	static u64 unique;
	struct in_header *h = (void *)s->request;
	memset(h, 0, sizeof(*h));
	h->opcode = opcode;
	h->node = node;
	h->unique = ++unique;
	return (struct builder){.s = s, .len = sizeof(*h), .room = REPLY_BYTES};
}

void add(struct builder *b, const void *p, u64 n)
{
	CHECK(b->len + n <= REQUEST_BYTES);
	memcpy(b->s->request + b->len, p, n);
	b->len += n;
}
void add32(struct builder *b, u32 v) { add(b, &v, 4); }
void add64(struct builder *b, u64 v) { add(b, &v, 8); }
void add_name(struct builder *b, const char *name) { add(b, name, strlen(name) + 1); }

void submit(struct builder *b)
{
	struct session *s = b->s;
	struct in_header *h = (void *)s->request;
	h->len = b->lie ? b->lie : b->len;
	h->uid = h->gid = b->uid;
	u16 i = s->q.added * 2 & (SESSION_SIZE - 1);
	put(&s->q, i, (u64)s->request, b->len, b->room ? NEXT : 0, i + 1);
	put(&s->q, i + 1, (u64)s->reply, b->room, WRITE, 0);
	offer(&s->q, i);
	kick(&s->q);
}

int run(struct builder *b)
{
	struct session *s = b->s;
	struct out_header *o = (void *)s->reply;
	u64 unique = ((struct in_header *)s->request)->unique;
	memset(o, 0, sizeof(*o));
	submit(b);
	wait_used(&s->q, &s->reply_len);
	CHECK(s->reply_len <= b->room);
	if (s->reply_len < sizeof(*o))
		return -1;
	CHECK_EQUAL(o->len, s->reply_len);
	CHECK_EQUAL(o->unique, unique);
	return -o->error;
}

int init(struct session *s, u32 major, u32 minor)
{
	struct builder b = req(s, INIT, 0);
	add32(&b, major);
	add32(&b, minor);
	add32(&b, 1 << 20);
	add32(&b, 0xffffffff); // flags
	add32(&b, 0xffffffff); // flags2
	for (int i = 0; i < 11; i++)
		add32(&b, 0);
	return run(&b);
}

int lookup(struct session *s, u64 dir, const char *name, struct entry *e)
{
	struct builder b = req(s, LOOKUP, dir);
	add_name(&b, name);
	int err = run(&b);
	if (!err && e) {
		CHECK_EQUAL(s->reply_len, sizeof(struct out_header) + sizeof(*e));
		memcpy(e, s->reply + sizeof(struct out_header), sizeof(*e));
		CHECK(e->attr.size != SECRET_SIZE); // nothing outside is ever shown
	}
	return err;
}

u64 node_of(struct session *s, u64 dir, const char *name)
{
	struct entry e;
	CHECK_EQUAL(lookup(s, dir, name, &e), 0);
	return e.node;
}

int open_node(struct session *s, u64 node, u32 flags, u64 *fh)
{
	struct builder b = req(s, flags & 0200000 ? OPENDIR : OPEN, node);
	add32(&b, flags);
	add32(&b, 0);
	int err = run(&b);
	if (!err)
		memcpy(fh, s->reply + sizeof(struct out_header), 8);
	return err;
}

int read_fh(struct session *s, u64 node, u64 fh, u64 offset, u32 size)
{
	struct builder b = req(s, READ, node);
	add64(&b, fh);
	add64(&b, offset);
	add32(&b, size);
	for (int i = 0; i < 5; i++)
		add32(&b, 0);
	return run(&b);
}

int write_fh(struct session *s, u64 node, u64 fh, u64 offset, const void *p, u32 n, u32 write_flags, u32 uid)
{
	struct builder b = req(s, FUSE_WRITE, node);
	b.uid = uid;
	add64(&b, fh);
	add64(&b, offset);
	add32(&b, n);
	add32(&b, write_flags);
	add64(&b, 0); // lock owner
	add32(&b, 1); // O_WRONLY
	add32(&b, 0);
	add(&b, p, n);
	return run(&b);
}

void forget(struct session *s, u64 node, u64 n)
{
	struct builder b = req(s, FORGET, node);
	b.room = 0;
	add64(&b, n);
	run(&b);
}

void share_works(struct session *s)
{
	expect_alive(s->dev);
	u64 node = node_of(s, ROOT, "file"), fh;
	CHECK_EQUAL(open_node(s, node, 0, &fh), 0);
	CHECK_EQUAL(read_fh(s, node, fh, 0, 4096), 0);
	CHECK_EQUAL(s->reply_len, sizeof(struct out_header) + 4096);
	CHECK_EQUAL(s->reply[sizeof(struct out_header)], 'x');
	struct builder b = req(s, RELEASE, node);
	add64(&b, fh);
	add64(&b, 0);
	add64(&b, 0);
	CHECK_EQUAL(run(&b), 0);
}
