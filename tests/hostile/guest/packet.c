#include "packet.h"

struct vsock vs;

void vsock_start(u64 features)
{
	vs.dev = negotiate(find(VSOCK, 0), features);
	vs.rx = queue(vs.dev, 0, RX_SIZE);
	vs.tx = queue(vs.dev, 1, TX_SIZE);
	vs.event = queue(vs.dev, 2, 16);
	vs.rx_data = alloc(RX_SIZE * RX_BYTES, 4096);
	vs.tx_data = alloc(TX_BYTES, 4096);
	driver_ok(vs.dev);
}

void give(void)
{
	for (u16 i = 0; i < RX_SIZE; i++) {
		put(&vs.rx, i, (u64)vs.rx_data + i * RX_BYTES, RX_BYTES, WRITE, 0);
		offer(&vs.rx, i);
	}
	kick(&vs.rx);
}

void give_one(void)
{
	put(&vs.rx, 0, (u64)vs.rx_data, RX_BYTES, WRITE, 0);
	offer(&vs.rx, 0);
	kick(&vs.rx);
}

struct header *received(void)
{
	u32 id = wait_used(&vs.rx, 0);
	CHECK(id < RX_SIZE);
	return (void *)(vs.rx_data + id * RX_BYTES);
}

void back(struct header *h)
{
	offer(&vs.rx, ((u8 *)h - vs.rx_data) / RX_BYTES);
	kick(&vs.rx);
}

struct header packet(u16 op, u32 src, u32 dst)
{
	return (struct header){GUEST, HOST, src, dst, 0, STREAM, op, 0, 256 << 10, 0};
}

void send(struct header h, u32 n)
{
	memcpy(vs.tx_data, &h, sizeof(h));
	put(&vs.tx, 0, (u64)vs.tx_data, sizeof(h) + n, 0, 0);
	offer(&vs.tx, 0);
	kick(&vs.tx);
	wait_used(&vs.tx, 0);
}

struct header *expect(u16 op)
{
	struct header *h = received();
	CHECK_EQUAL(h->op, op);
	CHECK_EQUAL(h->src_cid, HOST);
	CHECK_EQUAL(h->dst_cid, GUEST);
	return h;
}
