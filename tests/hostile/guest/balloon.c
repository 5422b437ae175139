// The balloon: what a guest reports as free, the host takes.
#include "lib.h"

#define F_REPORTING (1ul << 5)
enum { INFLATE, DEFLATE, REPORTING };

static struct queue start(u32 index)
{
	u64 dev = negotiate(find(BALLOON, 0), F_REPORTING);
	struct queue q = {0};
	for (u32 i = INFLATE; i <= REPORTING; i++) {
		struct queue other = queue(dev, i, 64);
		if (i == index)
			q = other;
	}
	driver_ok(dev);
	return q;
}

CASE(report, "free memory is reported: it reads as zero, and can be written", "")
{
	struct queue q = start(REPORTING);
	u32 size = 4 << 20;
	u8 *b = alloc(size, 4096);
	for (int round = 0; round < 4; round++) {
		memset(b, 0x5a, size);
		put(&q, 0, (u64)b, size, WRITE, 0);
		offer(&q, 0);
		kick(&q);
		u32 len;
		CHECK_EQUAL(wait_used(&q, &len), 0);
		CHECK_EQUAL(len, 0);
		for (u32 n = 0; n < size; n += 4096)
			CHECK_EQUAL(b[n], 0);
	}
	rng_works();
}

CASE(parts, "parts of pages are reported: their neighbours stay", "")
{
	struct queue q = start(REPORTING);
	u8 *b = alloc(16 << 10, 4096);
	memset(b, 0x5a, 16 << 10);
	put(&q, 0, (u64)b + 1, 4095, WRITE | NEXT, 1);
	put(&q, 1, (u64)b + 4095, 2, WRITE | NEXT, 2);
	put(&q, 2, (u64)b + 8191, 4098, WRITE, 0);
	offer(&q, 0);
	kick(&q);
	wait_used(&q, 0);
	for (u32 n = 0; n < 16 << 10; n++)
		CHECK_EQUAL(b[n], n >= 8192 && n < 12288 ? 0 : 0x5a);
	rng_works();
}

CASE(own_rings, "the queue's own rings are reported", "")
{
	struct queue q = start(REPORTING);
	u64 first = (u64)q.desc & ~4095ul;
	put(&q, 0, first, 64 << 10, WRITE, 0);
	offer(&q, 0);
	kick(&q);
	sleep_ms(100);
	offer(&q, 0);
	kick(&q);
	sleep_ms(100);
	w32(q.dev + STATUS, 0);
	rng_works();
}

CASE(all_of_it, "100 reports of 60 times the same 16 MiB", "")
{
	struct queue q = start(REPORTING);
	u8 *b = alloc(16 << 20, 4096);
	for (u16 n = 0; n < 60; n++)
		put(&q, n, (u64)b, 16 << 20, n < 59 ? WRITE | NEXT : WRITE, n + 1);
	for (int i = 0; i < 100; i++) {
		offer(&q, 0);
		kick(&q);
		wait_used(&q, 0);
	}
	rng_works();
}

CASE(single_pages, "every other page of 16 MiB is reported, each by itself", "")
{
	struct queue q = start(REPORTING);
	u64 b = (u64)alloc(16 << 20, 4096);
	for (u64 at = 0; at < 16 << 20; at += 64 * 8192) {
		for (u16 n = 0; n < 64; n++)
			put(&q, n, b + at + n * 8192, 4096, n < 63 ? WRITE | NEXT : WRITE, n + 1);
		offer(&q, 0);
		kick(&q);
		wait_used(&q, 0);
	}
	rng_works();
}

CASE(outside, "memory past the end is reported", "")
{
	struct queue q = start(REPORTING);
	put(&q, 0, ram_top() - 4096, 8192, WRITE, 0);
	offer(&q, 0);
	kick(&q);
	expect_broken(q.dev);
	rng_works();
}

CASE(direction, "a readable buffer in a report", "")
{
	struct queue q = start(REPORTING);
	put(&q, 0, (u64)alloc(4096, 4096), 4096, 0, 0);
	offer(&q, 0);
	kick(&q);
	expect_broken(q.dev);
	rng_works();
}

CASE(inflate, "1000 lists of pages that nobody asked for, of any contents", "")
{
	struct queue q = start(INFLATE);
	u32 *pages = alloc(4096, 4096);
	for (int i = 0; i < 1024; i++)
		pages[i] = i % 2 ? random32() : (u32)i;
	put(&q, 0, (u64)pages, 4096, 0, 0);
	for (int i = 0; i < 1000; i++) {
		offer(&q, 0);
		kick(&q);
		wait_used(&q, 0);
	}
	CHECK_EQUAL(r32(q.dev + CONFIG), 0);
	expect_alive(q.dev);
	rng_works();
}

CASE(not_negotiated, "reports without the feature: nobody reads them", "")
{
	u64 dev = negotiate(find(BALLOON, 0), 0);
	struct queue q = queue(dev, REPORTING, 16);
	driver_ok(dev);
	u8 *b = alloc(4096, 4096);
	memset(b, 0x5a, 4096);
	put(&q, 0, (u64)b, 4096, WRITE, 0);
	offer(&q, 0);
	kick(&q);
	CHECK(!has_used(&q));
	CHECK_EQUAL(b[0], 0x5a);
	w32(dev + STATUS, 0);
	rng_works();
}
