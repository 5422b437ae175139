// Virtqueues: descriptors and indices that break the rules of section 2.7.
#include "lib.h"

// attack offers the chain at descriptor 0 to the entropy device, which must not
// serve it, and serves again after a reset.
static void attack(struct queue *q)
{
	offer(q, 0);
	kick(q);
	expect_broken(q->dev);
	CHECK_EQUAL(q->used[1], 0);
	rng_works();
}

CASE(cycle, "two descriptors that are each other's next", "")
{
	struct queue q = rng_start(0);
	u64 b = (u64)alloc(64, 64);
	put(&q, 0, b, 16, WRITE | NEXT, 1);
	put(&q, 1, b, 16, WRITE | NEXT, 0);
	attack(&q);
}

CASE(self, "a descriptor that is its own next", "")
{
	struct queue q = rng_start(0);
	put(&q, 0, (u64)alloc(64, 64), 16, WRITE | NEXT, 0);
	attack(&q);
}

CASE(next_past_end, "next is the queue's size", "")
{
	// What follows the table would be a descriptor as it should be.
	u64 dev = negotiate(find(RNG, 0), 0), b = (u64)alloc(64, 64);
	u8 *rings = alloc(3 * 4096, 4096);
	memset(rings, 0, 3 * 4096);
	struct queue q = {.dev = dev, .size = 16};
	q.desc = (void *)rings;
	q.avail = (void *)(rings + 4096);
	q.used = (void *)(rings + 8192);
	set_queue(dev, 0, 16, (u64)q.desc, (u64)q.avail, (u64)q.used);
	driver_ok(dev);
	put(&q, 0, b, 16, WRITE | NEXT, 16);
	put(&q, 16, b, 16, WRITE, 0);
	attack(&q);
}

CASE(head_past_end, "an available head past the table", "")
{
	struct queue q = rng_start(0);
	offer(&q, 0x4000);
	kick(&q);
	expect_broken(q.dev);
	rng_works();
}

CASE(head_twice, "one chain available twice while it is in flight", "")
{
	u64 dev = negotiate(find(VSOCK, 0), 0);
	queue(dev, 0, 16);
	queue(dev, 1, 16);
	struct queue q = queue(dev, 2, 16); // the device keeps event buffers
	driver_ok(dev);
	put(&q, 0, (u64)alloc(64, 64), 16, WRITE, 0);
	offer(&q, 0);
	offer(&q, 0);
	kick(&q);
	expect_broken(dev);
}

CASE(index_jump, "the available index jumps by more than the size", "")
{
	struct queue q = rng_start(0);
	q.avail[1] = 17;
	kick(&q);
	expect_broken(q.dev);
	rng_works();
}

CASE(index_back, "the available index goes back", "")
{
	struct queue q = rng_start(0);
	put(&q, 0, (u64)alloc(64, 64), 16, WRITE, 0);
	offer(&q, 0);
	kick(&q);
	wait_used(&q, 0);
	q.avail[1] = 0;
	kick(&q);
	expect_broken(q.dev);
	rng_works();
}

CASE(wrap, "address and length wrap around 2^64", "")
{
	struct queue q = rng_start(0);
	put(&q, 0, -8ul, 16, WRITE, 0);
	attack(&q);
}

CASE(past_ram, "a buffer that ends 8 bytes past the memory", "")
{
	struct queue q = rng_start(0);
	put(&q, 0, ram_top() - 8, 16, WRITE, 0);
	attack(&q);
}

CASE(gap, "a buffer from below the gap at 3 GiB into it", "mem=3136")
{
	CHECK_EQUAL(ram_top(), 3ul << 30);
	struct queue q = rng_start(0);
	put(&q, 0, (3ul << 30) - 8, 16, WRITE, 0);
	attack(&q);
}

CASE(gap_span, "a buffer that spans the gap from memory to memory", "mem=3136")
{
	struct queue q = rng_start(0);
	put(&q, 0, (3ul << 30) - 4096, (1u << 30) + 8192, WRITE, 0);
	attack(&q);
}

CASE(registers, "a buffer in the registers of a device", "")
{
	struct queue q = rng_start(0);
	put(&q, 0, q.dev, 64, WRITE, 0);
	attack(&q);
}

CASE(huge_length, "one buffer of 4 GiB - 1", "")
{
	struct queue q = rng_start(0);
	put(&q, 0, (u64)alloc(64, 64), 0xffffffff, WRITE, 0);
	attack(&q);
}

CASE(huge_chain, "sixteen buffers of 256 MiB: 4 GiB in all", "mem=512")
{
	struct queue q = rng_start(0);
	for (u16 i = 0; i < 16; i++)
		put(&q, i, 0x1000000, 256 << 20, WRITE | (i < 15 ? NEXT : 0), i + 1);
	attack(&q);
}

CASE(zero_length, "a chain of empty buffers", "")
{
	struct queue q = rng_start(0);
	for (u16 i = 0; i < 16; i++)
		put(&q, i, -1ul, 0, WRITE | (i < 15 ? NEXT : 0), i + 1);
	offer(&q, 0);
	kick(&q);
	u32 len;
	wait_used(&q, &len);
	CHECK_EQUAL(len, 0);
	rng_works();
}

CASE(direction, "a readable buffer where only writable ones belong", "")
{
	struct queue q = rng_start(0);
	put(&q, 0, (u64)alloc(64, 64), 16, 0, 0);
	attack(&q);
}

CASE(order, "a readable buffer after a writable one", "")
{
	struct queue q = rng_start(0);
	u64 b = (u64)alloc(64, 64);
	put(&q, 0, b, 16, WRITE | NEXT, 1);
	put(&q, 1, b, 16, 0, 0);
	attack(&q);
}

// indirect is a queue whose descriptor 0 refers to the returned table.
static volatile struct desc *indirect(struct queue *q, u32 len, u16 flags)
{
	*q = rng_start(F_INDIRECT);
	volatile struct desc *t = alloc(4096, 4096);
	put(q, 0, (u64)t, len, INDIRECT | flags, 1);
	u64 b = (u64)alloc(64, 64);
	put(q, 1, b, 16, WRITE, 0);
	for (int i = 0; i < 16; i++)
		t[i] = (struct desc){b, 16, WRITE, 0};
	return t;
}

CASE(indirect_works, "an indirect table as it should be", "")
{
	struct queue q;
	indirect(&q, 16, 0);
	offer(&q, 0);
	kick(&q);
	u32 len;
	wait_used(&q, &len);
	CHECK_EQUAL(len, 16);
}

CASE(indirect_nested, "an indirect descriptor in an indirect table", "")
{
	struct queue q;
	volatile struct desc *t = indirect(&q, 32, 0);
	t[0] = (struct desc){(u64)(t + 1), 16, INDIRECT, 0};
	attack(&q);
}

CASE(indirect_self, "an indirect table that refers to itself", "")
{
	struct queue q;
	volatile struct desc *t = indirect(&q, 16, 0);
	t[0] = (struct desc){(u64)t, 16, INDIRECT, 0};
	attack(&q);
}

CASE(indirect_cycle, "a cycle in an indirect table", "")
{
	struct queue q;
	volatile struct desc *t = indirect(&q, 32, 0);
	t[0].flags = t[1].flags = WRITE | NEXT;
	t[0].next = 1;
	attack(&q);
}

CASE(indirect_next, "an indirect descriptor with a next one", "")
{
	struct queue q;
	indirect(&q, 16, NEXT);
	attack(&q);
}

CASE(indirect_next_past_end, "next past the end of an indirect table", "")
{
	struct queue q;
	volatile struct desc *t = indirect(&q, 32, 0);
	t[0].flags = WRITE | NEXT;
	t[0].next = 2;
	attack(&q);
}

CASE(indirect_odd, "an indirect table of 17 bytes", "")
{
	struct queue q;
	indirect(&q, 17, 0);
	attack(&q);
}

CASE(indirect_empty, "an indirect table of no bytes", "")
{
	struct queue q;
	indirect(&q, 0, 0);
	attack(&q);
}

CASE(indirect_huge, "an indirect table of 4 GiB - 16", "")
{
	struct queue q;
	indirect(&q, 0xfffffff0, 0);
	attack(&q);
}

CASE(indirect_wrap, "an indirect table that wraps around 2^64", "")
{
	struct queue q;
	indirect(&q, 32, 0);
	q.desc[0].addr = -16ul;
	attack(&q);
}

CASE(indirect_past_ram, "an indirect table that ends past the memory", "")
{
	struct queue q;
	indirect(&q, 32, 0);
	q.desc[0].addr = ram_top() - 16;
	attack(&q);
}

CASE(indirect_refused, "an indirect descriptor without the feature", "")
{
	struct queue q = rng_start(0);
	put(&q, 0, (u64)alloc(64, 64), 16, INDIRECT, 0);
	attack(&q);
}

CASE(rings_as_buffer, "the device's random bytes go over the queue's own rings", "")
{
	for (int i = 0; i < 50; i++) {
		struct queue q = rng_start(0);
		put(&q, 0, (u64)q.desc, 16 * 16 + 64, WRITE, 0);
		offer(&q, 0);
		kick(&q);
		for (int n = 0; n < 50; n++)
			kick(&q);
	}
	rng_works();
}

CASE(scribble, "the rings are overwritten while the device works", "")
{
	for (int i = 0; i < 30; i++) {
		struct queue q = rng_start(i & 1 ? F_EVENT_IDX | F_INDIRECT : 0);
		u64 b = (u64)alloc(4096, 64);
		for (u16 d = 0; d < 16; d++)
			put(&q, d, b, 4096, WRITE, 0);
		for (int n = 0; n < 40; n++) {
			offer(&q, n & 15);
			kick(&q);
			w32((u64)q.desc + (random32() % 440 & ~3u), random32());
			q.avail[1 + random32() % 20] = random32();
		}
	}
	rng_works();
}

CASE(flip_length, "a descriptor's length and address change while it is used", "")
{
	u64 top = ram_top();
	for (int i = 0; i < 20; i++) {
		struct queue q = rng_start(0);
		u64 b = (u64)alloc(4096, 64);
		for (u16 d = 0; d < 16; d++)
			put(&q, d, b, 4096, WRITE, 0);
		for (u16 d = 0; d < 16; d++)
			offer(&q, d);
		kick(&q);
		for (int n = 0; n < 200; n++) {
			u16 d = n & 15;
			q.desc[d].len = 0xffffffff;
			q.desc[d].addr = top - 8;
			q.desc[d].addr = b;
			q.desc[d].len = 4096;
		}
	}
	rng_works();
}

CASE(kick_storm, "2000 notifications without a buffer", "")
{
	struct queue q = rng_start(0);
	for (int i = 0; i < 2000; i++)
		kick(&q);
	expect_alive(q.dev);
	rng_works();
}
