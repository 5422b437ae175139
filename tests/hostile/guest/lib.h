// What the guests of this directory share: a virtio driver without manners,
// and the way to report to the test. See ../README.md.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define PACKED __attribute__((packed))
#define LEN(a) (sizeof(a) / sizeof((a)[0]))

// A case is a function that attacks and checks what came of it. The test finds
// it by its name, and has its description and options from the source.
struct test_case {
	const char *name; // with its file's
	void (*run)(void);
};
#define CASE(id, what, options)                                                      \
	static void case_##id(void);                                                 \
	static const struct test_case entry_##id                                     \
		__attribute__((used, section("cases"), aligned(8))) = {__FILE_NAME__ "/" #id, case_##id}; \
	static void case_##id(void)

// Memory and registers.
static inline u8 r8(u64 a) { return *(volatile u8 *)a; }
static inline u16 r16(u64 a) { return *(volatile u16 *)a; }
static inline u32 r32(u64 a) { return *(volatile u32 *)a; }
static inline u64 r64(u64 a) { return *(volatile u64 *)a; }
static inline void w8(u64 a, u8 v) { *(volatile u8 *)a = v; }
static inline void w16(u64 a, u16 v) { *(volatile u16 *)a = v; }
static inline void w32(u64 a, u32 v) { *(volatile u32 *)a = v; }
static inline void w64(u64 a, u64 v) { *(volatile u64 *)a = v; }
static inline void barrier(void) { __asm__ volatile("" ::: "memory"); }
static inline void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port)); }
static inline u8 inb(u16 port)
{
	u8 v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

void *memset(void *p, int c, u64 n);
void *memcpy(void *to, const void *from, u64 n);
int memcmp(const void *a, const void *b, u64 n);
u64 strlen(const char *s);
u32 random32(void); // the same sequence every time

// Reports. A failed check ends the case.
void say(const char *s);
void say_number(u64 n);
void fail(const char *file, u32 line, const char *what) __attribute__((noreturn));
#define CHECK(x)                                         \
	do {                                             \
		if (!(x))                                \
			fail(__FILE__, __LINE__, #x);    \
	} while (0)
#define CHECK_EQUAL(got, want)                                                                       \
	do {                                                                                         \
		u64 got_ = (u64)(got), want_ = (u64)(want);                                          \
		if (got_ != want_) {                                                                 \
			say(#got " is ");                                                            \
			say_number(got_);                                                            \
			say(", want ");                                                              \
			say_number(want_);                                                           \
			fail(__FILE__, __LINE__, "");                                                \
		}                                                                                    \
	} while (0)

// What the test's own device does on request.
enum {
	ASK_DIAL = 1,	// dial guest port 5000, and send for as long as it is taken
	ASK_DIAL_BUSY,	// whether that still goes on
	ASK_DIALLED,	// whether it was ever established
	ASK_HANG_UP,	// close that
	ASK_SWAP,	// swap a directory of the share and a link out of it, until SWAP_STOP
	ASK_SWAP_STOP,	// and how often it was swapped
	ASK_RECEIVED,	// bytes that the host's vsock listener has read
	ASK_CONSOLE,	// bytes that port 0 of the console has written
	ASK_RESET_EVENT, // have the vsock device send its event
	ASK_RAM_TOP,	// where the memory below the gap ends, in MiB
	ASK_SUID_MODE,	// mode bits of the share's file "suid"
	ASK_SUID_CAPS,	// whether the share's file "suid" has capabilities
	ASK_NODES,	// device nodes and FIFOs in the share
	ASK_ECHO_PORT,	// where the host's network namespace answers the guest's sockets
	ASK_TRAP_PORT,	// where it listens, and policy forbids to go
	ASK_TRAPPED,	// how often somebody came there
	ASK_SOCKETS,	// sockets that the guest has on the host
	ASK_VISIT,	// connect to the host's port in the higher bits: asked(ASK_VISIT, port)
};
u32 ask(u32 what);
static inline u32 asked(u32 what, u32 argument) { return ask(what | argument << 8); }
void sleep_ms(u32 ms);
// Starts the other processor of a case with vcpus=2, which calls f once. What f
// may not use is the test's own device: say, ask, CHECK.
void second(void (*f)(void));
int second_ended(void); // whether f has returned
void finish(void) __attribute__((noreturn)); // the case has passed: report and reset

// Memory that is never given back.
void *alloc(u64 size, u64 align);
u64 ram_top(void);

// Registers of virtio-mmio (virtio 1.2, section 4.2.2).
enum {
	MAGIC = 0x00, VERSION = 0x04, DEVICE_ID = 0x08,
	DEVICE_FEATURES = 0x10, DEVICE_FEATURES_SEL = 0x14,
	DRIVER_FEATURES = 0x20, DRIVER_FEATURES_SEL = 0x24,
	QUEUE_SEL = 0x30, QUEUE_NUM_MAX = 0x34, QUEUE_NUM = 0x38, QUEUE_READY = 0x44, QUEUE_NOTIFY = 0x50,
	INTERRUPT_STATUS = 0x60, INTERRUPT_ACK = 0x64, STATUS = 0x70,
	QUEUE_DESC = 0x80, QUEUE_DRIVER = 0x90, QUEUE_DEVICE = 0xa0,
	SHM_SEL = 0xac, SHM_LEN = 0xb0, SHM_BASE = 0xb8, CONFIG_GENERATION = 0xfc, CONFIG = 0x100,
};
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64, FAILED = 128 };
#define F_INDIRECT (1ul << 28)
#define F_EVENT_IDX (1ul << 29)
#define F_VERSION_1 (1ul << 32)

enum { CONSOLE = 3, RNG = 4, BALLOON = 5, VSOCK = 19, FS = 26, MONITOR = 0x7ffe };

#define NEXT 1
#define WRITE 2
#define INDIRECT 4
struct desc {
	u64 addr;
	u32 len;
	u16 flags, next;
} PACKED;

struct queue {
	u64 dev;
	u32 index;
	u16 size, added, seen;
	volatile struct desc *desc;
	volatile u16 *avail; // flags, idx, ring, used_event
	volatile u16 *used;  // flags, idx, ring (id and len, 32 bits each), avail_event
};

u64 find(u32 id, u32 nth); // the registers of a device
u64 negotiate(u64 dev, u64 features); // reset, up to FEATURES_OK
void set_queue(u64 dev, u32 index, u32 size, u64 desc, u64 driver, u64 device); // up to QueueReady
struct queue queue(u64 dev, u32 index, u16 size); // the same with rings as they should be
void driver_ok(u64 dev);
u32 status(u64 dev);

void put(struct queue *q, u16 i, u64 addr, u32 len, u16 flags, u16 next);
void offer(struct queue *q, u16 head);
void kick(struct queue *q);
u32 used_len(struct queue *q, u16 nth);
// Waits for the next used element; dies if there is none for ten seconds.
u32 wait_used(struct queue *q, u32 *len);
int has_used(struct queue *q); // whether there is one within 20 ms
// What becomes of a device whose driver broke a rule: it says so and is dead,
// and serves again after a reset.
void expect_broken(u64 dev);
void expect_alive(u64 dev);

// One request on the entropy device as it should be.
void rng_works(void);
struct queue rng_start(u64 features);
