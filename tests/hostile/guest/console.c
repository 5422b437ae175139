// The console: floods, readers that stall, ports and sizes that do not exist.
#include "lib.h"

#define F_SIZE 1
#define F_MULTIPORT 2
// Queues: port 0, control, ports 1 and 2.
enum { RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1, RX2, TX2, QUEUES };
enum { DEVICE_READY = 0, PORT_READY = 3, PORT_OPEN = 6 };
#define SIZE 64

static struct queue q[QUEUES];
static u8 *page;

static u64 start(u64 features)
{
	u64 dev = negotiate(find(CONSOLE, 0), features);
	for (u32 i = 0; i < QUEUES; i++)
		q[i] = queue(dev, i, SIZE);
	page = alloc(4096, 4096);
	driver_ok(dev);
	return dev;
}

// send offers n bytes at p on a queue; it does not wait.
static void send(struct queue *q, const void *p, u32 n)
{
	u16 i = q->added & (SIZE - 1);
	put(q, i, (u64)p, n, 0, 0);
	offer(q, i);
	kick(q);
}

static void receive(struct queue *q, void *p, u32 n)
{
	u16 i = q->added & (SIZE - 1);
	put(q, i, (u64)p, n, WRITE, 0);
	offer(q, i);
	kick(q);
}

static void control(u32 port, u16 event, u16 value)
{
	struct {
		u32 id;
		u16 event, value;
	} *m = alloc(8, 8);
	m->id = port;
	m->event = event;
	m->value = value;
	send(&q[CONTROL_TX], m, 8);
}

// works writes a line on port 0 and sees that the host got it.
static void works(void)
{
	start(0);
	u32 before = ask(ASK_CONSOLE);
	send(&q[TX0], "hello", 5);
	wait_used(&q[TX0], 0);
	for (int i = 0; ask(ASK_CONSOLE) < before + 5; i++) {
		CHECK(i < 5000);
		sleep_ms(1);
	}
}

CASE(flood, "8 MiB of output as fast as it is taken", "")
{
	u64 dev = start(0);
	u8 *b = alloc(64 << 10, 4096);
	for (int i = 0; i < 128; i++) {
		send(&q[TX0], b, 64 << 10);
		wait_used(&q[TX0], 0);
	}
	expect_alive(dev);
	works();
}

CASE(flood_repeat, "one chain of 128 MiB made of 1024 times the same buffer", "")
{
	u64 dev = negotiate(find(CONSOLE, 0), F_INDIRECT);
	struct queue tx;
	queue(dev, 0, 16);
	tx = queue(dev, 1, 16);
	driver_ok(dev);
	struct desc *t = alloc(1024 * 16, 4096);
	u64 b = (u64)alloc(128 << 10, 4096);
	for (int i = 0; i < 1024; i++)
		t[i] = (struct desc){b, 128 << 10, i < 1023 ? NEXT : 0, i + 1};
	put(&tx, 0, (u64)t, 1024 * 16, INDIRECT, 0);
	offer(&tx, 0);
	kick(&tx);
	wait_used(&tx, 0);
	expect_alive(dev);
}

CASE(stalled, "output that nobody takes, on two ports, then a reset", "stalled")
{
	u64 dev = start(F_MULTIPORT);
	control(1, PORT_OPEN, 1);
	u8 *b = alloc(64 << 10, 4096);
	for (int i = 0; i < 32; i++) {
		send(&q[TX0], b, 64 << 10);
		send(&q[TX1], b, 64 << 10);
	}
	has_used(&q[TX0]);
	CHECK((u16)(q[TX0].used[1]) <= 2); // held back
	expect_alive(dev);
	for (int i = 0; i < 5; i++) {
		w32(dev + STATUS, 0);
		start(F_MULTIPORT);
		send(&q[TX0], b, 64 << 10);
		send(&q[TX1], b, 64 << 10);
	}
}

CASE(emergency, "5000 emergency characters", "")
{
	u64 dev = start(0);
	for (int i = 0; i < 5000; i++)
		w32(dev + CONFIG + 8, i);
	expect_alive(dev);
	works();
}

CASE(emergency_stalled, "5000 emergency characters that nobody takes", "stalled")
{
	u64 dev = start(0);
	for (int i = 0; i < 5000; i++)
		w8(dev + CONFIG + 8, i);
	expect_alive(dev);
}

CASE(bogus_port, "control messages for ports that do not exist", "")
{
	static const u32 ports[] = {3, 16, 0x7fffffff, 0xffffffff};
	for (u32 i = 0; i < LEN(ports); i++) {
		u64 dev = start(F_MULTIPORT);
		control(ports[i], i & 1 ? PORT_OPEN : PORT_READY, 1);
		expect_broken(dev);
	}
	works();
}

CASE(bogus_event, "all 65536 events, in steps", "")
{
	u64 dev = start(F_MULTIPORT);
	for (u32 e = 8; e < 0x10000; e += 331) {
		control(0, e, 0xffff);
		wait_used(&q[CONTROL_TX], 0);
	}
	expect_alive(dev);
	works();
}

CASE(control_short, "a control message of 7 bytes", "")
{
	u64 dev = start(F_MULTIPORT);
	send(&q[CONTROL_TX], page, 7);
	expect_broken(dev);
	works();
}

CASE(control_long, "a control message of 64 KiB", "")
{
	u64 dev = start(F_MULTIPORT);
	u8 *b = alloc(64 << 10, 4096);
	memset(b, 0, 64 << 10);
	b[4] = PORT_READY;
	send(&q[CONTROL_TX], b, 64 << 10);
	wait_used(&q[CONTROL_TX], 0);
	expect_alive(dev);
	works();
}

CASE(control_unread, "3000 questions whose answers are never taken", "")
{
	u64 dev = start(F_MULTIPORT);
	for (u32 i = 0; i < 3000; i++) {
		control(i % 3, i & 4 ? PORT_READY : DEVICE_READY, 1);
		wait_used(&q[CONTROL_TX], 0);
	}
	expect_alive(dev);
	works();
}

CASE(control_tiny_buffer, "one byte of room for an answer", "")
{
	u64 dev = start(F_MULTIPORT);
	receive(&q[CONTROL_RX], page, 1);
	control(0, DEVICE_READY, 1);
	expect_broken(dev);
	works();
}

CASE(control_wrong_way, "a writable message, and a readable buffer for the answer", "")
{
	u64 dev = start(F_MULTIPORT);
	receive(&q[CONTROL_TX], page, 64);
	expect_broken(dev);
	dev = start(F_MULTIPORT);
	send(&q[CONTROL_RX], page, 64);
	control(0, DEVICE_READY, 1);
	expect_broken(dev);
	works();
}

CASE(writable_output, "output in a writable buffer", "")
{
	u64 dev = start(0);
	receive(&q[TX0], page, 64);
	expect_broken(dev);
	works();
}

CASE(open_close, "a port with endless input is opened and closed 500 times", "")
{
	u64 dev = start(F_MULTIPORT);
	for (int i = 0; i < 500; i++) {
		control(2, PORT_OPEN, ~i & 1);
		if (i % 16 == 0)
			receive(&q[RX2], page, 4096);
		wait_used(&q[CONTROL_TX], 0);
	}
	expect_alive(dev);
	works();
}

CASE(input_flood, "endless input into buffers that overlap the ring", "")
{
	u64 dev = start(F_MULTIPORT);
	control(2, PORT_OPEN, 1);
	for (int i = 0; i < SIZE; i++)
		receive(&q[RX2], i & 1 ? (void *)q[RX2].desc : page, 4096);
	sleep_ms(20);
	(void)dev; // dead or not: it overwrote its own ring
	works();
}

CASE(input_empty_buffers, "buffers without a byte for endless input", "")
{
	u64 dev = start(F_MULTIPORT);
	control(2, PORT_OPEN, 1);
	for (int i = 0; i < SIZE - 1; i++)
		receive(&q[RX2], page, 0);
	sleep_ms(20);
	expect_alive(dev);
	works();
}

CASE(no_multiport, "queues of ports that were not negotiated", "")
{
	u64 dev = start(0);
	for (u32 i = CONTROL_RX; i < QUEUES; i++) {
		send(&q[i], page, 64);
		receive(&q[i], page, 64);
	}
	expect_alive(dev);
	send(&q[TX0], "x", 1);
	wait_used(&q[TX0], 0);
}

CASE(no_control, "multiport without control queues", "")
{
	u64 dev = negotiate(find(CONSOLE, 0), F_MULTIPORT);
	queue(dev, 0, 16);
	queue(dev, 1, 16);
	w32(dev + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	expect_broken(dev);
	works();
}
