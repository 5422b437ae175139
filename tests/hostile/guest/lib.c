#include "lib.h"

// Registers of the test's own device, in its configuration space.
enum { M_SAY = 0, M_RESULT = 4, M_ASK = 8, M_SLEEP = 12, M_GO = 16, M_PING = 20 };
#define DEVICES 0xd0000000ul
#define CMDLINE 0x20000ul
#define HEAP 0x800000ul

static u64 monitor_regs;
static u64 heap = HEAP;

void *memset(void *p, int c, u64 n)
{
	void *d = p;
	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return p;
}

void *memcpy(void *to, const void *from, u64 n)
{
	void *d = to;
	__asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n)::"memory");
	return to;
}

int memcmp(const void *a, const void *b, u64 n)
{
	const u8 *p = a, *q = b;
	for (; n; n--, p++, q++)
		if (*p != *q)
			return *p - *q;
	return 0;
}

u64 strlen(const char *s)
{
	u64 n = 0;
	while (s[n])
		n++;
	return n;
}

u32 random32(void)
{
	static u32 x = 2463534242u;
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x;
}

void say(const char *s)
{
	for (; *s; s++)
		w32(monitor_regs + CONFIG + M_SAY, (u8)*s);
}

void say_number(u64 n)
{
	char b[19] = "0x";
	int i = 2;
	for (int shift = 60; shift >= 0; shift -= 4) {
		u32 digit = n >> shift & 15;
		if (digit || i > 2 || shift == 0)
			b[i++] = "0123456789abcdef"[digit];
	}
	b[i] = 0;
	say(b);
}

static void reset(void)
{
	for (;;)
		outb(0x64, 0xfe);
}

void fail(const char *file, u32 line, const char *what)
{
	say(file);
	say(":");
	char b[11];
	int i = 10;
	b[i] = 0;
	do
		b[--i] = '0' + line % 10;
	while (line /= 10);
	say(b + i);
	say(": ");
	say(what);
	w32(monitor_regs + CONFIG + M_RESULT, 2);
	reset();
	__builtin_unreachable();
}

void finish(void)
{
	w32(monitor_regs + CONFIG + M_RESULT, 1);
	r32(monitor_regs + CONFIG + M_GO); // returns when the test has looked around
	reset();
	__builtin_unreachable();
}

u32 ask(u32 what)
{
	w32(monitor_regs + CONFIG + M_ASK, what);
	return r32(monitor_regs + CONFIG + M_ASK);
}

void sleep_ms(u32 ms)
{
	while (ms--)
		r32(monitor_regs + CONFIG + M_SLEEP);
}

u64 ram_top(void) { return (u64)ask(ASK_RAM_TOP) << 20; }

void *alloc(u64 size, u64 align)
{
	heap = (heap + align - 1) & ~(align - 1);
	u64 p = heap;
	heap += size;
	CHECK(heap <= ram_top());
	return (void *)p;
}

u64 find(u32 id, u32 nth)
{
	for (u64 dev = DEVICES; dev < DEVICES + 0x20000; dev += 0x1000)
		if (r32(dev + MAGIC) == 0x74726976 && r32(dev + DEVICE_ID) == id && nth-- == 0)
			return dev;
	fail(__FILE__, __LINE__, "device not found");
}

u32 status(u64 dev) { return r32(dev + STATUS); }

u64 negotiate(u64 dev, u64 features)
{
	w32(dev + STATUS, 0);
	w32(dev + STATUS, ACKNOWLEDGE);
	w32(dev + STATUS, ACKNOWLEDGE | DRIVER);
	features |= F_VERSION_1;
	w32(dev + DRIVER_FEATURES_SEL, 0);
	w32(dev + DRIVER_FEATURES, (u32)features);
	w32(dev + DRIVER_FEATURES_SEL, 1);
	w32(dev + DRIVER_FEATURES, features >> 32);
	w32(dev + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	CHECK_EQUAL(status(dev), ACKNOWLEDGE | DRIVER | FEATURES_OK);
	return dev;
}

static void set64(u64 reg, u64 v)
{
	w32(reg, (u32)v);
	w32(reg + 4, v >> 32);
}

void set_queue(u64 dev, u32 index, u32 size, u64 desc, u64 driver, u64 device)
{
	w32(dev + QUEUE_SEL, index);
	w32(dev + QUEUE_NUM, size);
	set64(dev + QUEUE_DESC, desc);
	set64(dev + QUEUE_DRIVER, driver);
	set64(dev + QUEUE_DEVICE, device);
	w32(dev + QUEUE_READY, 1);
}

struct queue queue(u64 dev, u32 index, u16 size)
{
	struct queue q = {.dev = dev, .index = index, .size = size};
	u64 n = size;
	u8 *p = alloc(16 * n + 4 + 2 * n + 2 + 6 + 4 + 8 * n + 2, 4096);
	memset(p, 0, 16 * n + 10 * n + 32);
	q.desc = (void *)p;
	q.avail = (void *)(p + 16 * n);
	q.used = (void *)(((u64)p + 16 * n + 4 + 2 * n + 2 + 3) & ~3ul);
	set_queue(dev, index, size, (u64)q.desc, (u64)q.avail, (u64)q.used);
	CHECK_EQUAL(r32(dev + QUEUE_READY), 1);
	return q;
}

void driver_ok(u64 dev)
{
	w32(dev + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	CHECK_EQUAL(status(dev), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

void put(struct queue *q, u16 i, u64 addr, u32 len, u16 flags, u16 next)
{
	q->desc[i].addr = addr;
	q->desc[i].len = len;
	q->desc[i].flags = flags;
	q->desc[i].next = next;
}

void offer(struct queue *q, u16 head)
{
	q->avail[2 + (q->added & (q->size - 1))] = head;
	barrier();
	q->avail[1] = ++q->added;
}

void kick(struct queue *q) { w32(q->dev + QUEUE_NOTIFY, q->index); }

u32 wait_used(struct queue *q, u32 *len)
{
	for (int i = 0; q->used[1] == q->seen; i++) {
		if (i > 100)
			sleep_ms(1);
		if (i == 10000) {
			say("status ");
			say_number(status(q->dev));
			fail(__FILE__, __LINE__, " the device does not answer");
		}
	}
	volatile u32 *e = (volatile u32 *)(q->used + 2) + 2 * (q->seen++ & (q->size - 1));
	if (len)
		*len = e[1];
	return e[0];
}

int has_used(struct queue *q)
{
	for (int i = 0; i < 20; i++) {
		if (q->used[1] != q->seen)
			return 1;
		sleep_ms(1);
	}
	return 0;
}

void expect_broken(u64 dev)
{
	for (int i = 0; !(status(dev) & NEEDS_RESET); i++) {
		CHECK(i < 10000); // the device accepts what it must not
		sleep_ms(1);
	}
}

void expect_alive(u64 dev) { CHECK_EQUAL(status(dev) & NEEDS_RESET, 0); }

struct queue rng_start(u64 features)
{
	u64 dev = negotiate(find(RNG, 0), features);
	struct queue q = queue(dev, 0, 16);
	driver_ok(dev);
	return q;
}

void rng_works(void)
{
	struct queue q = rng_start(0);
	u8 *b = alloc(64, 64);
	memset(b, 0, 64);
	put(&q, 0, (u64)b, 64, WRITE, 0);
	offer(&q, 0);
	kick(&q);
	u32 len;
	CHECK_EQUAL(wait_used(&q, &len), 0);
	CHECK_EQUAL(len, 64);
	static const u8 zero[64];
	CHECK(memcmp(b, zero, 64) != 0);
}

// neighbour answers the test until that has enough, with a request each time.
CASE(neighbour, "", "hidden")
{
	struct queue q = rng_start(0);
	u8 *b = alloc(64, 64);
	put(&q, 0, (u64)b, 64, WRITE, 0);
	while (r32(monitor_regs + CONFIG + M_PING)) {
		offer(&q, 0);
		kick(&q);
		CHECK_EQUAL(wait_used(&q, 0), 0);
		w32(monitor_regs + CONFIG + M_PING, 1);
	}
}

extern const struct test_case __start_cases[], __stop_cases[];

void main(void)
{
	monitor_regs = DEVICES; // the first
	static const char key[] = " case=";
	const char *cmdline = (const char *)CMDLINE, *name = 0;
	for (; *cmdline; cmdline++)
		if (!memcmp(cmdline, key, sizeof(key) - 1))
			name = cmdline + sizeof(key) - 1;
	CHECK(name);
	for (const struct test_case *c = __start_cases; c < __stop_cases; c++)
		if (!memcmp(c->name, name, strlen(c->name) + 1)) {
			c->run();
			finish();
		}
	fail(__FILE__, __LINE__, "no such case");
}

// The second processor.
#define TRAMPOLINE 0x50000ul
#define APIC 0xfee00000ul
enum { APIC_SPURIOUS = 0xf0, APIC_COMMAND = 0x300, APIC_COMMAND_HIGH = 0x310, APIC_INIT = 0x4500, APIC_STARTUP = 0x4600 };

extern u8 second_begin[], second_end[], second_cr0[], second_cr3[], second_cr4[], second_far[], second_gdt[], second_gdt_at[];
extern u8 second_start[];
static void (*volatile second_call)(void);
static volatile u32 second_state; // 1: it runs, 2: it has ended

void second_main(void)
{
	second_state = 1;
	second_call();
	second_state = 2;
}

int second_ended(void) { return second_state == 2; }

static void fill(const u8 *where, u64 v) { w32(TRAMPOLINE + (u64)(where - second_begin), (u32)v); }

void second(void (*f)(void))
{
	u64 cr0, cr3, cr4;

	__asm__ volatile("movq %%cr0, %0; movq %%cr3, %1; movq %%cr4, %2" : "=r"(cr0), "=r"(cr3), "=r"(cr4));
	second_call = f;
	memcpy((void *)TRAMPOLINE, second_begin, (u64)(second_end - second_begin));
	fill(second_cr0, cr0);
	fill(second_cr3, cr3);
	fill(second_cr4, cr4);
	fill(second_far, (u64)second_start);
	fill(second_gdt_at, TRAMPOLINE + (u64)(second_gdt - second_begin));
	w32(APIC + APIC_SPURIOUS, 0x1ff);
	w32(APIC + APIC_COMMAND_HIGH, 1u << 24);
	w32(APIC + APIC_COMMAND, APIC_INIT);
	sleep_ms(10);
	w32(APIC + APIC_COMMAND_HIGH, 1u << 24);
	w32(APIC + APIC_COMMAND, APIC_STARTUP | TRAMPOLINE >> 12);
	for (u32 i = 0; i < 1000 && !second_state; i++)
		sleep_ms(10);
	CHECK(second_state);
}
