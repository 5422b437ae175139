// Two processors at the same device: what one driver does, another undoes.
#include "lib.h"

enum { ROUNDS = 3000 };

static u64 shared_dev;
static struct queue shared_queues[4], shared_queue; // all, and the one that is used
static u32 shared_count;
static volatile u32 stop;

// How often the first processor does something while the second one works.
static void until_ended(void (*f)(void))
{
	for (u32 i = 0; i < ROUNDS && !second_ended(); i++)
		f();
	stop = 1;
	for (u32 i = 0; i < 1000 && !second_ended(); i++)
		sleep_ms(20);
	CHECK(second_ended());
}

static void reset_often(void)
{
	for (u32 i = 0; i < ROUNDS && !stop; i++) {
		w32(shared_dev + STATUS, 0);
		for (volatile u32 n = 0; n < i % 64 * 100; n++) // at another moment each time
			;
	}
}

static void set_up(void)
{
	u64 dev = shared_dev;

	w32(dev + STATUS, ACKNOWLEDGE);
	w32(dev + STATUS, ACKNOWLEDGE | DRIVER);
	w32(dev + DRIVER_FEATURES_SEL, 1);
	w32(dev + DRIVER_FEATURES, 1);
	w32(dev + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	for (u32 i = 0; i < shared_count; i++) {
		struct queue *q = &shared_queues[i];
		set_queue(dev, i, q->size, (u64)q->desc, (u64)q->avail, (u64)q->used);
	}
	shared_queue.avail[1] = 0;
	w32(dev + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	shared_queue.avail[1] = 1;
	w32(dev + QUEUE_NOTIFY, shared_queue.index);
}

// All queues of a device, of which one has a chain: a buffer to read and one to
// write to.
static void share(u32 id, u32 count, u32 index)
{
	shared_dev = find(id, 0);
	negotiate(shared_dev, F_VERSION_1);
	shared_count = count;
	for (u32 i = 0; i < count; i++)
		shared_queues[i] = queue(shared_dev, i, 8);
	shared_queue = shared_queues[index];
	u64 b = (u64)alloc(4096, 4096);
	memset((void *)b, 0, 4096);
	put(&shared_queue, 0, b, 64, NEXT, 1);
	put(&shared_queue, 1, b + 1024, 64, WRITE, 0);
	stop = 0;
}

CASE(reset_rng, "resets of the entropy device while the other processor sets it up", "vcpus=2")
{
	share(RNG, 1, 0);
	second(reset_often);
	until_ended(set_up);
	rng_works();
}

CASE(reset_fs, "resets of the share while the other processor sets it up and sends", "vcpus=2")
{
	share(FS, 2, 1);
	second(reset_often);
	until_ended(set_up);
	w32(shared_dev + STATUS, 0);
	rng_works();
}

CASE(reset_vsock, "resets of vsock while the other processor sets it up and sends", "vcpus=2")
{
	share(VSOCK, 3, 1);
	second(reset_often);
	until_ended(set_up);
	w32(shared_dev + STATUS, 0);
	rng_works();
}

CASE(reset_console, "resets of the console while the other processor sets it up and writes", "vcpus=2")
{
	share(CONSOLE, 2, 1);
	second(reset_often);
	until_ended(set_up);
	w32(shared_dev + STATUS, 0);
	rng_works();
}

static void change_descriptors(void)
{
	static const u64 addr[] = {0x1000000, ~0ul, 0xcffff000, 0xd0000000, 0};
	static const u32 len[] = {64, 0xffffffff, 0, 4096, 1 << 31};

	for (u32 i = 0; i < 400000 && !stop; i++) {
		volatile struct desc *d = &shared_queue.desc[i & 1];
		d->addr = addr[i % LEN(addr)];
		d->len = len[i / 3 % LEN(len)];
		d->flags = (u16)(i / 7 & 7);
		d->next = (u16)(i / 5 & 3);
	}
}

static void kick_again(void)
{
	if (shared_queue.used[1] == shared_queue.avail[1])
		shared_queue.avail[1]++;
	w32(shared_dev + QUEUE_NOTIFY, shared_queue.index);
	if (status(shared_dev) & NEEDS_RESET) {
		w32(shared_dev + STATUS, 0);
		set_up();
	}
}

static void change(u32 id, u32 count, u32 index)
{
	share(id, count, index);
	driver_ok(shared_dev);
	second(change_descriptors);
	until_ended(kick_again);
	w32(shared_dev + STATUS, 0);
	rng_works();
}

CASE(change_fs, "descriptors of the share change while it reads them", "vcpus=2") { change(FS, 2, 1); }
CASE(change_vsock, "descriptors of vsock change while it reads them", "vcpus=2") { change(VSOCK, 3, 1); }
CASE(change_console, "descriptors of the console change while it reads them", "vcpus=2") { change(CONSOLE, 2, 1); }
CASE(change_balloon, "descriptors of the balloon change while it reads them", "vcpus=2") { change(BALLOON, 3, 0); }

static void touch_registers(void)
{
	for (u32 i = 0; i < ROUNDS && !stop; i++)
		for (u32 r = 0; r < 0x108; r += 4)
			if (r != STATUS)
				w32(shared_dev + r, i * r);
}

static void touch_too(void)
{
	for (u32 r = 0; r < 0x108; r += 4)
		r32(shared_dev + r);
	w32(shared_dev + QUEUE_SEL, 1);
	w32(shared_dev + INTERRUPT_ACK, 3);
}

CASE(registers, "both processors write and read all registers of the share", "vcpus=2")
{
	share(FS, 2, 1);
	second(touch_registers);
	until_ended(touch_too);
	w32(shared_dev + STATUS, 0);
	rng_works();
}

static void fault(void) { __asm__ volatile("ud2"); }

CASE(fault, "the second processor faults while the first one works", "vcpus=2 exit=shutdown")
{
	share(RNG, 1, 0);
	driver_ok(shared_dev);
	second(fault);
	for (;;)
		kick_again();
}

static void halt(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

CASE(halted, "the second processor is halted for good, and the first one ends", "vcpus=2")
{
	second(halt);
	rng_works();
}

static void init_again(void)
{
	while (!stop)
		__asm__ volatile("pause");
}

CASE(init_storm, "the second processor is sent INIT and start-up again and again", "vcpus=2")
{
	stop = 0;
	second(init_again);
	for (u32 i = 0; i < 2000; i++) {
		w32(0xfee00310, 1u << 24);
		w32(0xfee00300, i & 1 ? 0x4650 : 0x4500);
	}
	stop = 1; // for the last start
	rng_works();
}
