/* SPDX-License-Identifier: GPL-2.0 */
/* The wire format; PROTOCOL.md says what it means. */
#ifndef _NET_TSI_PROTO_H
#define _NET_TSI_PROTO_H

#include <linux/types.h>

#define TSI_PORT	1026
#define TSI_VERSION	1

enum {
	TSI_SOCKET	= 1,
	TSI_BIND	= 2,
	TSI_LISTEN	= 3,
	TSI_CONNECT	= 4,
	TSI_SETSOCKOPT	= 5,
	TSI_GETSOCKOPT	= 6,
	TSI_ATTACH	= 7,
	TSI_SHUTDOWN	= 8,
	TSI_ABORT	= 9,
	TSI_CONTROL	= 10,
	TSI_DATA	= 16,
	TSI_ACCEPT	= 0x4001,
	TSI_ERROR	= 0x4002,
	TSI_REPLY	= 0x8000,	/* or-ed to the request */
};

#define TSI_F_NOREPLY	1
#define TSI_F_LOCAL	2
#define TSI_F_CONFIRM	4

/* A message on a stream is never longer. */
#define TSI_MSG_MAX	4096
/* The longest option value, both ways. */
#define TSI_OPT_MAX	512

struct tsi_hdr {
	__le32	len;
	__le16	op;
	__le16	flags;
	__le32	id;
	__le32	value;
};

struct tsi_addr {
	__le16	family;
	__le16	port;
	__le32	scope_id;
	__le32	flowinfo;
	u8	addr[16];
	__le32	zero;
};

struct tsi_socket_body {
	__le16	family;
	__le16	type;
	__le32	zero;
};

struct tsi_opt_body {
	__le32	level;
	__le32	name;
};

struct tsi_reply_msg {
	struct tsi_hdr	hdr;
	struct tsi_addr	local;
	struct tsi_addr	peer;
};

struct tsi_data_msg {
	struct tsi_hdr	hdr;
	struct tsi_addr	remote;
	struct tsi_addr	local;
	__le32		tos;
	__le32		ttl;
};

#define TSI_UNSET	0xffffffffu

static_assert(sizeof(struct tsi_hdr) == 16);
static_assert(sizeof(struct tsi_addr) == 32);
static_assert(sizeof(struct tsi_data_msg) == 88);

#endif
