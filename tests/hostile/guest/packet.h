// virtio-vsock packets by hand (virtio 1.2, section 5.10), for the guests that
// attack the socket device and what serves its ports.
#pragma once
#include "lib.h"

enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };
enum { STREAM = 1, SEQPACKET = 2 };
enum { SEQ_EOM = 1, SEQ_EOR = 2 };
#define HOST 2
#define GUEST 3
#define F_SEQPACKET 2

struct header {
	u64 src_cid, dst_cid;
	u32 src_port, dst_port, len;
	u16 type, op;
	u32 flags, buf_alloc, fwd_cnt;
} PACKED;

#define RX_SIZE 64
#define TX_SIZE 64
#define RX_BYTES 4096
#define TX_BYTES (128 << 10)

// The device, its queues and their buffers, after vsock_start().
struct vsock {
	u64 dev;
	struct queue rx, tx, event;
	u8 *rx_data; // RX_SIZE buffers of RX_BYTES
	u8 *tx_data; // TX_BYTES: a packet
};
extern struct vsock vs;

void vsock_start(u64 features); // up to DRIVER_OK
void give(void);	  // offers all receive buffers
void give_one(void);	  // offers one, for a single packet
struct header *received(void); // waits for a packet
void back(struct header *h);   // returns its buffer
struct header packet(u16 op, u32 src, u32 dst); // of a STREAM
// send sends h and the n bytes that are behind it in tx_data, and waits until
// the device has taken it.
void send(struct header h, u32 n);
struct header *expect(u16 op); // the next packet is this
