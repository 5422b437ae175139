// vsock: packets that lie about who they are from and what they hold, credit
// that is none, connections by the thousand, and buffers that never come.
#include "packet.h"

#define LISTENER 1024 // the host reads
#define BACKLOG 1025  // the host never accepts

static u32 established(u32 port)
{
	send(packet(REQUEST, port, LISTENER), 0);
	struct header *h = expect(RESPONSE);
	u32 window = h->buf_alloc;
	back(h);
	return window;
}

// works connects and sends a few bytes.
static void works(void)
{
	vsock_start(0);
	give();
	established(7000);
	u32 before = ask(ASK_RECEIVED);
	struct header h = packet(RW, 7000, LISTENER);
	h.len = 5;
	send(h, 5);
	for (int i = 0; ask(ASK_RECEIVED) != before + 5; i++) {
		CHECK(i < 10000);
		sleep_ms(1);
	}
}

CASE(spoofed, "packets from and to other CIDs", "")
{
	vsock_start(0);
	give();
	static const u64 cids[] = {0, 1, 2, 4, 0xffffffff, 0x100000003, -1ul};
	for (u16 op = REQUEST; op <= CREDIT_REQUEST; op++)
		for (u32 i = 0; i < LEN(cids); i++) {
			struct header h = packet(op, 6000, LISTENER);
			h.src_cid = cids[i]; // no answer, to anyone
			send(h, 0);
		}
	CHECK_EQUAL(has_used(&vs.rx), 0);
	for (u32 i = 0; i < LEN(cids); i++) {
		if (cids[i] == HOST)
			continue;
		struct header h = packet(REQUEST, 6000, LISTENER);
		h.dst_cid = cids[i];
		send(h, 0);
		struct header *r = received();
		CHECK_EQUAL(r->op, RST);
		CHECK_EQUAL(r->src_cid, cids[i]);
		CHECK_EQUAL(r->dst_cid, GUEST);
		back(r);
	}
	works();
}

CASE(lengths, "lengths beyond the buffer, and payload where none belongs", "")
{
	vsock_start(0);
	give();
	static const u32 lens[] = {1, 100, 0x10000, 0x7fffffff, 0xffffffff};
	for (u16 op = REQUEST; op <= CREDIT_REQUEST; op++)
		for (u32 i = 0; i < LEN(lens); i++) {
			struct header h = packet(op, 6000 + i, LISTENER);
			h.len = lens[i];
			send(h, 0);
			if (op != RST)
				back(expect(RST));
		}
	// In the middle of a connection.
	static const u32 more[] = {17, 100, 0x10000, 0xffffffff};
	for (u32 i = 0; i < LEN(more); i++) {
		established(6500 + i);
		struct header h = packet(RW, 6500 + i, LISTENER);
		h.len = more[i];
		send(h, 16);
		back(expect(RST));
	}
	works();
}

CASE(short_packets, "packets of 0 to 43 bytes, and without payload", "")
{
	vsock_start(0);
	give();
	struct header h = packet(REQUEST, 6000, LISTENER);
	memcpy(vs.tx_data, &h, sizeof(h));
	for (u32 n = 0; n < sizeof(h); n++) {
		put(&vs.tx, 0, (u64)vs.tx_data, n, 0, 0);
		offer(&vs.tx, 0);
		kick(&vs.tx);
		wait_used(&vs.tx, 0);
	}
	CHECK_EQUAL(has_used(&vs.rx), 0);
	expect_alive(vs.dev);
	works();
}

CASE(types, "socket types and operations that do not exist", "")
{
	vsock_start(0);
	give();
	for (u32 type = 0; type < 0x10000; type += type < 8 ? 1 : 4099)
		for (u32 op = 0; op < 0x10000; op += op < 12 ? 1 : 8191) {
			struct header h = packet(op, 6000, LISTENER);
			h.type = type;
			if (type == 1 && op >= REQUEST && op <= CREDIT_REQUEST)
				continue;
			send(h, 0);
			if (op != RST)
				back(expect(RST));
		}
	works();
}

CASE(nobody, "every operation for connections that do not exist", "")
{
	vsock_start(0);
	give();
	for (u32 i = 0; i < 300; i++) {
		u16 op = REQUEST + i % 7;
		struct header h = packet(op, 6000 + i, i & 8 ? 0xffffffff - i : i);
		send(h, 0);
		if (op != RST)
			back(expect(RST));
	}
	works();
}

CASE(half_open, "1000 connections that the host does not accept", "")
{
	vsock_start(0);
	give();
	int open = 0, refused = 0;
	for (u32 i = 0; i < 1000; i++) {
		send(packet(REQUEST, 10000 + i, BACKLOG), 0);
		struct header *h = received();
		open += h->op == RESPONSE;
		refused += h->op == RST;
		back(h);
	}
	CHECK(open > 0 && open <= 64);
	CHECK_EQUAL(open + refused, 1000);
	works();
}

CASE(flood_accepted, "1000 connections to a listener, with a byte each", "")
{
	vsock_start(0);
	give();
	int open = 0;
	for (u32 i = 0; i < 1000; i++) {
		send(packet(REQUEST, 10000 + i, LISTENER), 0);
		struct header *h = received();
		int ok = h->op == RESPONSE;
		back(h);
		if (ok) {
			open++;
			struct header rw = packet(RW, 10000 + i, LISTENER);
			rw.len = 1;
			send(rw, 1);
		}
	}
	CHECK(open > 0 && open <= 64);
	works();
}

CASE(no_buffers, "3000 packets that want an answer, and no buffer for one", "")
{
	vsock_start(0);
	u32 taken = 0;
	struct header h = packet(REQUEST, 6000, 1);
	memcpy(vs.tx_data, &h, sizeof(h));
	for (u32 i = 0; i < 3000; i++) {
		put(&vs.tx, i & 63, (u64)vs.tx_data, sizeof(h), 0, 0);
		offer(&vs.tx, i & 63);
		kick(&vs.tx);
		if (!has_used(&vs.tx)) {
			taken = i;
			break;
		}
		wait_used(&vs.tx, 0);
	}
	CHECK(taken > 0 && taken < 1500); // it was held back
	expect_alive(vs.dev);
	give();
	has_used(&vs.tx);
	works();
}

CASE(tiny_buffers, "receive buffers of 43 bytes", "")
{
	vsock_start(0);
	put(&vs.rx, 0, (u64)vs.rx_data, 43, WRITE, 0);
	offer(&vs.rx, 0);
	kick(&vs.rx);
	send(packet(REQUEST, 6000, 1), 0);
	expect_broken(vs.dev);
	works();
}

CASE(wrong_direction, "a readable receive buffer, and a writable packet", "")
{
	vsock_start(0);
	put(&vs.rx, 0, (u64)vs.rx_data, 4096, 0, 0);
	offer(&vs.rx, 0);
	kick(&vs.rx);
	send(packet(REQUEST, 6000, 1), 0);
	expect_broken(vs.dev);
	vsock_start(0);
	put(&vs.tx, 0, (u64)vs.tx_data, 4096, WRITE, 0);
	offer(&vs.tx, 0);
	kick(&vs.tx);
	expect_broken(vs.dev);
	works();
}

CASE(over_credit, "more data than the host has given credit for", "")
{
	vsock_start(0);
	give();
	send(packet(REQUEST, 6000, BACKLOG), 0); // nobody reads
	struct header *r = expect(RESPONSE);
	u32 window = r->buf_alloc;
	back(r);
	CHECK(window > 0 && window <= 1 << 20);
	int reset = 0;
	for (u32 sent = 0; sent < 2 * window && !reset; sent += 64 << 10) {
		struct header h = packet(RW, 6000, BACKLOG);
		h.len = 64 << 10;
		send(h, 64 << 10);
		while (has_used(&vs.rx)) {
			struct header *a = received();
			reset |= a->op == RST;
			back(a);
		}
	}
	CHECK(reset);
	works();
}

// answer accepts the connection that the host dials, with the credit given.
static struct header dialled(u32 buf_alloc)
{
	ask(ASK_DIAL);
	struct header *r = expect(REQUEST);
	CHECK_EQUAL(r->dst_port, 5000);
	struct header h = packet(RESPONSE, 5000, r->src_port);
	h.buf_alloc = buf_alloc;
	back(r);
	send(h, 0);
	for (int i = 0; !ask(ASK_DIALLED); i++) {
		CHECK(i < 1000);
		sleep_ms(1);
	}
	return h;
}

static void until_idle(void)
{
	for (int i = 0; ask(ASK_DIAL_BUSY); i++) {
		CHECK(i < 10000);
		while (has_used(&vs.rx))
			back(received());
	}
}

CASE(no_answer, "the host dials and gets no answer", "")
{
	vsock_start(0);
	give();
	ask(ASK_DIAL);
	expect(REQUEST);
	until_idle();
	CHECK_EQUAL(ask(ASK_DIALLED), 0);
	works();
}

CASE(no_buffers_dial, "the host dials a guest that gives no buffers", "")
{
	vsock_start(0);
	ask(ASK_DIAL);
	for (int i = 0; ask(ASK_DIAL_BUSY); i++) {
		CHECK(i < 20000);
		sleep_ms(1);
	}
	CHECK_EQUAL(ask(ASK_DIALLED), 0);
	works();
}

CASE(wrong_answers, "a dial is answered by every operation but a response", "")
{
	static const u16 ops[] = {0, REQUEST, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST, 99};
	for (u32 i = 0; i < LEN(ops); i++) {
		vsock_start(0);
		give();
		ask(ASK_DIAL);
		struct header *r = expect(REQUEST);
		struct header h = packet(ops[i], 5000, r->src_port);
		send(h, 0);
		until_idle();
		CHECK_EQUAL(ask(ASK_DIALLED), 0);
	}
	works();
}

CASE(credit_none, "a connection without credit, then the host gives up", "")
{
	vsock_start(0);
	give();
	dialled(0);
	for (int i = 0; i < 50; i++)
		while (has_used(&vs.rx)) {
			struct header *h = received();
			CHECK(h->op != RW);
			back(h);
		}
	ask(ASK_HANG_UP);
	until_idle();
	works();
}

CASE(credit_enormous, "4 GiB - 1 of credit, and counters that run backwards", "")
{
	vsock_start(0);
	give();
	struct header h = dialled(0xffffffff);
	for (int i = 0; i < 500; i++) {
		struct header c = h;
		c.op = i & 1 ? CREDIT_UPDATE : CREDIT_REQUEST;
		c.buf_alloc = random32();
		c.fwd_cnt = random32();
		send(c, 0);
		if (has_used(&vs.rx))
			back(received());
	}
	ask(ASK_HANG_UP);
	until_idle();
	works();
}

CASE(credit_shrinks, "credit that shrinks to nothing while the host sends", "")
{
	vsock_start(0);
	give();
	struct header h = dialled(64 << 10);
	for (u32 size = 64 << 10; size; size /= 2) {
		struct header c = h;
		c.op = CREDIT_UPDATE;
		c.buf_alloc = size;
		send(c, 0);
		while (has_used(&vs.rx))
			back(received());
	}
	ask(ASK_HANG_UP);
	until_idle();
	works();
}

CASE(credit_requests, "2000 requests for credit and no buffer for an answer", "")
{
	vsock_start(0);
	give_one(); // for the response only
	send(packet(REQUEST, 6000, LISTENER), 0);
	expect(RESPONSE);
	for (int i = 0; i < 2000; i++)
		send(packet(CREDIT_REQUEST, 6000, LISTENER), 0);
	expect_alive(vs.dev);
	works();
}

CASE(after_shutdown, "data after a shutdown, shutdowns of every kind, twice", "")
{
	vsock_start(0);
	give();
	for (u32 flags = 0; flags < 5; flags++) {
		established(6000 + flags);
		for (int i = 0; i < 2; i++) {
			struct header h = packet(SHUTDOWN, 6000 + flags, LISTENER);
			h.flags = flags == 4 ? 0xffffffff : flags;
			send(h, 0);
			h = packet(RW, 6000 + flags, LISTENER);
			h.len = 10;
			send(h, 10);
		}
		while (has_used(&vs.rx))
			back(received());
	}
	expect_alive(vs.dev);
	works();
}

CASE(twice, "the same connection is requested again and again", "")
{
	vsock_start(0);
	give();
	for (int i = 0; i < 300; i++) {
		send(packet(REQUEST, 6000, LISTENER), 0);
		back(received());
	}
	expect_alive(vs.dev);
	works();
}

CASE(seqpacket, "2000 messages of one byte or none", "")
{
	vsock_start(F_SEQPACKET);
	give();
	for (int i = 0; i < 2000; i++) {
		struct header h = packet(i ? RW : REQUEST, 6000, LISTENER);
		h.type = 2;
		h.flags = i & 3;
		h.len = i & 1;
		send(h, h.len);
		while (vs.rx.used[1] != vs.rx.seen)
			back(received());
	}
	expect_alive(vs.dev);
	works();
}

CASE(event_tiny, "an event has a buffer of 3 bytes", "")
{
	vsock_start(0);
	put(&vs.event, 0, (u64)vs.rx_data, 3, WRITE, 0);
	offer(&vs.event, 0);
	kick(&vs.event);
	ask(ASK_RESET_EVENT);
	expect_broken(vs.dev);
	works();
}

CASE(event_flood, "event buffers are offered, not offered and offered again under events", "")
{
	vsock_start(0);
	give();
	for (int i = 0; i < 200; i++) {
		put(&vs.event, i & 15, (u64)vs.rx_data, 8, WRITE, 0);
		if (i & 1) {
			offer(&vs.event, i & 15);
			kick(&vs.event);
		}
		ask(ASK_RESET_EVENT);
	}
	(void)status(vs.dev);
	works();
}

CASE(flip_header, "the length and ports of packets change while they are taken", "")
{
	vsock_start(0);
	give();
	established(6000);
	struct header h = packet(RW, 6000, LISTENER);
	h.len = 4096;
	for (int i = 0; i < 200; i++) {
		volatile struct header *p = (void *)vs.tx_data;
		memcpy(vs.tx_data, &h, sizeof(h));
		put(&vs.tx, 0, (u64)vs.tx_data, sizeof(h) + 4096, 0, 0);
		offer(&vs.tx, 0);
		kick(&vs.tx);
		for (int n = 0; n < 50; n++) {
			p->len = 0xffffffff;
			p->src_cid = -1ul;
			p->len = 4096;
			p->src_cid = GUEST;
		}
		wait_used(&vs.tx, 0);
		while (vs.rx.used[1] != vs.rx.seen)
			back(received());
	}
	expect_alive(vs.dev);
	works();
}

CASE(reset_in_flight, "reset while the host sends and receives; the memory is used again", "")
{
	for (int i = 0; i < 20; i++) {
		vsock_start(0);
		give();
		dialled(0xffffffff);
		w32(vs.dev + STATUS, 0);
		memset(vs.rx_data, 0x5a, RX_SIZE * RX_BYTES);
		until_idle();
		for (u32 n = 0; n < RX_SIZE * RX_BYTES; n += 1024)
			CHECK_EQUAL(vs.rx_data[n], 0x5a);
	}
	works();
}
