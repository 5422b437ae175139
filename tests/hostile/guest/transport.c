// The MMIO transport: registers, the status machine, and where rings may be.
#include "lib.h"

static u64 rng(void) { return find(RNG, 0); }

// ring_refused has a queue set up with these rings, which must not become ready.
static void ring_refused(u32 size, u64 desc, u64 driver, u64 device)
{
	u64 dev = negotiate(rng(), 0);
	set_queue(dev, 0, size, desc, driver, device);
	CHECK_EQUAL(r32(dev + QUEUE_READY), 0);
	rng_works();
}

CASE(size_zero, "a queue of no entries", "")
{
	u64 dev = negotiate(rng(), 0);
	w32(dev + QUEUE_SEL, 0);
	w32(dev + QUEUE_NUM, 0);
	expect_broken(dev);
	ring_refused(0, 0x900000, 0x901000, 0x902000);
}

CASE(size_odd, "a queue of 12 entries", "") { ring_refused(12, 0x900000, 0x901000, 0x902000); }
CASE(size_over, "a queue of more entries than the device has", "")
{
	ring_refused(0x10000, 0x900000, 0xa01000, 0xb02000);
	ring_refused(0xffffffff, 0x900000, 0xa01000, 0xb02000);
}

CASE(size_changed, "the size is changed after DRIVER_OK", "")
{
	struct queue q = rng_start(0);
	w32(q.dev + QUEUE_SEL, 0);
	w32(q.dev + QUEUE_NUM, 0);
	expect_broken(q.dev);
	rng_works();
}

CASE(rings_moved, "the rings are moved after DRIVER_OK", "")
{
	struct queue q = rng_start(0);
	w32(q.dev + QUEUE_SEL, 0);
	w32(q.dev + QUEUE_DESC, -1u);
	expect_broken(q.dev);
	rng_works();
}

CASE(rings_moved_ready, "the rings are moved while the queue is ready, before DRIVER_OK", "")
{
	u64 dev = negotiate(rng(), 0);
	queue(dev, 0, 16);
	w32(dev + QUEUE_DEVICE, 0xfffff000);
	expect_broken(dev);
	rng_works();
}

CASE(rings_withdrawn, "QueueReady 0 after DRIVER_OK, then other rings", "")
{
	struct queue q = rng_start(0);
	w32(q.dev + QUEUE_SEL, 0);
	w32(q.dev + QUEUE_READY, 0);
	set_queue(q.dev, 0, 16, 0xfffff000, 0xfffff000, 0xfffff000);
	expect_broken(q.dev);
	rng_works();
}

CASE(misaligned, "rings that are not aligned", "")
{
	ring_refused(16, 0x900008, 0x901000, 0x902000);
	ring_refused(16, 0x900000, 0x901001, 0x902000);
	ring_refused(16, 0x900000, 0x901000, 0x902002);
}

CASE(overlapping, "rings that overlap", "")
{
	ring_refused(16, 0x900000, 0x900000, 0x902000);
	ring_refused(16, 0x900000, 0x901000, 0x901010);
	ring_refused(16, 0x900000, 0x901000, 0x9000f0);
}

CASE(outside, "rings outside of the memory", "")
{
	ring_refused(16, ram_top() - 16, 0x901000, 0x902000);
	ring_refused(16, 0x900000, ram_top() - 2, 0x902000);
	ring_refused(16, 0x900000, 0x901000, ram_top() - 8);
	ring_refused(16, -16ul, 0x901000, 0x902000);
	ring_refused(16, 0x900000, -2ul, 0x902000);
	ring_refused(16, 0x900000, 0x901000, -4ul);
	ring_refused(16, rng(), 0x901000, 0x902000);
}

CASE(across_gap, "rings that reach into the gap at 3 GiB, or span it", "mem=3136")
{
	ring_refused(16, (3ul << 30) - 16, 0x901000, 0x902000);
	ring_refused(16, 0x900000, (3ul << 30) - 2, 0x902000);
	ring_refused(16, 0x900000, 0x901000, (3ul << 30) - 8);
	ring_refused(16, (4ul << 30) - 16, 0x901000, 0x902000);
}

CASE(no_version_1, "negotiation without VIRTIO_F_VERSION_1", "")
{
	u64 dev = rng();
	w32(dev + STATUS, 0);
	w32(dev + STATUS, ACKNOWLEDGE);
	w32(dev + STATUS, ACKNOWLEDGE | DRIVER);
	w32(dev + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	CHECK_EQUAL(status(dev) & FEATURES_OK, 0);
	rng_works();
}

CASE(all_features, "every feature bit is accepted, and then some", "")
{
	u64 dev = rng();
	w32(dev + STATUS, 0);
	w32(dev + STATUS, ACKNOWLEDGE);
	w32(dev + STATUS, ACKNOWLEDGE | DRIVER);
	for (u32 sel = 0; sel < 5; sel++) {
		w32(dev + DRIVER_FEATURES_SEL, sel);
		w32(dev + DRIVER_FEATURES, -1u);
	}
	w32(dev + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	CHECK_EQUAL(status(dev) & FEATURES_OK, 0);
	rng_works();
}

CASE(late_features, "features are changed after FEATURES_OK", "")
{
	u64 dev = negotiate(rng(), 0);
	w32(dev + DRIVER_FEATURES_SEL, 0);
	w32(dev + DRIVER_FEATURES, -1u);
	struct queue q = queue(dev, 0, 16);
	driver_ok(dev);
	put(&q, 0, (u64)alloc(64, 64), 16, INDIRECT, 0);
	offer(&q, 0);
	kick(&q);
	expect_broken(dev);
}

CASE(status_backwards, "bits of the status are taken back, one by one", "")
{
	struct queue q = rng_start(0);
	w32(q.dev + STATUS, ACKNOWLEDGE);
	expect_broken(q.dev);
	rng_works();
	w32(q.dev + STATUS, 0xffffffff);
	expect_broken(q.dev);
	rng_works();
}

CASE(driver_ok_first, "DRIVER_OK on a device that was never set up", "")
{
	u64 dev = rng();
	w32(dev + STATUS, 0);
	w32(dev + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	w32(dev + QUEUE_NOTIFY, 0);
	rng_works();
}

CASE(no_queues, "DRIVER_OK on every device without a queue", "")
{
	static const u32 ids[] = {RNG, CONSOLE, FS, VSOCK, BALLOON};
	for (u32 i = 0; i < LEN(ids); i++) {
		u64 dev = negotiate(find(ids[i], 0), 0);
		w32(dev + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
		for (u32 n = 0; n < 16; n++)
			w32(dev + QUEUE_NOTIFY, n);
		w32(dev + STATUS, 0);
	}
	rng_works();
}

CASE(reset_in_flight, "reset at once after each of 100 requests; the memory is used again", "")
{
	u8 *b = alloc(64 << 10, 4096);
	for (int i = 0; i < 100; i++) {
		struct queue q = rng_start(0);
		for (u16 n = 0; n < 16; n++) {
			put(&q, n, (u64)b, 64 << 10, WRITE, 0);
			offer(&q, n);
		}
		kick(&q);
		w32(q.dev + STATUS, 0);
		memset(b, 0x5a, 64 << 10);
		if (i % 10 == 0)
			sleep_ms(1);
		for (u32 n = 0; n < 64 << 10; n += 4096)
			CHECK_EQUAL(b[n], 0x5a);
	}
	rng_works();
}

CASE(reset_storm, "every device is reset and started 30 times", "")
{
	static const u32 ids[] = {RNG, CONSOLE, FS, VSOCK, BALLOON};
	for (int n = 0; n < 30; n++)
		for (u32 i = 0; i < LEN(ids); i++) {
			u64 dev = negotiate(find(ids[i], 0), 0);
			u32 sizes[] = {16, 16, 16};
			for (u32 k = 0; k < LEN(sizes); k++) {
				w32(dev + QUEUE_SEL, k);
				if (r32(dev + QUEUE_NUM_MAX))
					queue(dev, k, 2);
			}
			driver_ok(dev);
			w32(dev + QUEUE_NOTIFY, 1);
		}
	rng_works();
}

CASE(notify_nothing, "3000 notifications of queues that are not there", "")
{
	struct queue q = rng_start(0);
	for (int i = 0; i < 1000; i++) {
		w32(q.dev + QUEUE_NOTIFY, 1);
		w32(q.dev + QUEUE_NOTIFY, 0xffff);
		w32(q.dev + QUEUE_NOTIFY, 0x80000000u + i);
	}
	expect_alive(q.dev);
	rng_works();
}

CASE(widths, "registers of all devices in every width and at odd offsets", "")
{
	static const u32 ids[] = {RNG, CONSOLE, FS, VSOCK, BALLOON};
	for (u32 i = 0; i < LEN(ids); i++) {
		u64 dev = find(ids[i], 0);
		for (u32 off = 0; off < 0x120; off++) {
			if (off + 8 <= 0x120 || off % 4 == 0) {
				r8(dev + off);
				r16(dev + off);
				r64(dev + off);
			}
			if (off % 4)
				r32(dev + off);
			w8(dev + off, 0xff);
			w16(dev + off, 0xffff);
			w64(dev + off, -1ul);
			if (off % 4)
				w32(dev + off, -1u);
		}
		r64(dev + 0xffc); // into the next device's page
		w64(dev + 0xffc, -1ul);
		r32(dev + 0xffe);
		w32(dev + 0xffd, -1u);
	}
	rng_works();
}

CASE(every_register, "random values in every register, 4000 times", "")
{
	static const u32 ids[] = {RNG, CONSOLE, FS, VSOCK, BALLOON};
	for (int i = 0; i < 4000; i++) {
		u64 dev = find(ids[random32() % LEN(ids)], 0);
		u32 v = random32();
		w32(dev + (random32() % 0x48) * 4, random32() & 1 ? v : v & 15);
		if (i % 7 == 0)
			negotiate(dev, 0);
		if (i % 16 == 0)
			queue(negotiate(rng(), 0), 0, 16);
	}
	rng_works();
}

CASE(selectors, "selectors far out of range", "")
{
	u64 dev = negotiate(rng(), 0);
	static const u32 far[] = {1, 0x7fff, 0x10000, 0x80000000, 0xffffffff};
	for (u32 i = 0; i < LEN(far); i++) {
		w32(dev + QUEUE_SEL, far[i]);
		CHECK_EQUAL(r32(dev + QUEUE_NUM_MAX), 0);
		CHECK_EQUAL(r32(dev + QUEUE_READY), 0);
		w32(dev + QUEUE_NUM, 16);
		w32(dev + QUEUE_READY, 1);
		w32(dev + DEVICE_FEATURES_SEL, far[i] + 1);
		r32(dev + DEVICE_FEATURES);
		w32(dev + SHM_SEL, far[i]);
		CHECK_EQUAL(r32(dev + SHM_LEN), 0xffffffff);
		CHECK_EQUAL(r32(dev + SHM_BASE), 0xffffffff);
	}
	rng_works();
}

CASE(config_space, "all of the configuration space of all devices is written and read", "")
{
	static const u32 ids[] = {RNG, CONSOLE, FS, VSOCK, BALLOON};
	for (u32 i = 0; i < LEN(ids); i++) {
		u64 dev = find(ids[i], 0);
		for (u32 off = CONFIG; off < 0x1000; off += off < 0x140 ? 1 : 61) {
			w8(dev + off, 0xff);
			w32(dev + off, -1u);
			w64(dev + off, -1ul);
			r8(dev + off);
			r32(dev + off);
			r64(dev + off);
		}
	}
	rng_works();
}

CASE(nowhere, "addresses where nothing is, and the ends of what is", "")
{
	u64 a[] = {0xc0000000, 0xcffffffc, 0xd001f000, 0xe0000000, 0xfec00ffc, 0xfec01000, 0xfed00000, 0xfffffff8};
	for (u32 i = 0; i < LEN(a); i++) {
		w64(a[i], 0);
		CHECK(r8(a[i]) == 0xff || a[i] >> 12 == 0xfec00);
		r32(a[i] + 1);
		w32(a[i] + 2, 7);
	}
	rng_works();
}

CASE(ioapic, "every register of the IOAPIC with random values, 3000 times", "")
{
	for (int i = 0; i < 3000; i++) {
		w32(0xfec00000, random32() & 0x7f);
		w32(0xfec00010, i % 50 ? random32() | 1 << 16 : random32());
		r32(0xfec00010);
		w8(0xfec00000 + random32() % 64, i);
		r64(0xfec00000 + random32() % 64);
	}
	rng_works();
}
