// SPDX-License-Identifier: GPL-2.0
/* Ancillary data of datagrams to the host. */
#include <net/ip.h>
#include <net/ipv6.h>

#include "tsi.h"

static int tsi_cmsg_int(struct cmsghdr *cmsg, int min, int max, __le32 *out)
{
	int val;

	if (cmsg->cmsg_len == CMSG_LEN(sizeof(int)))
		val = *(int *)CMSG_DATA(cmsg);
	else if (cmsg->cmsg_len == CMSG_LEN(sizeof(u8)))
		val = *(u8 *)CMSG_DATA(cmsg);
	else
		return -EINVAL;
	if (val < min || val > max)
		return -EINVAL;
	*out = cpu_to_le32(val < 0 ? TSI_UNSET : val);
	return 0;
}

static int tsi_cmsg_pktinfo(struct sock *sk, struct cmsghdr *cmsg,
			    struct tsi_data_msg *d)
{
	struct in6_pktinfo *i6 = (void *)CMSG_DATA(cmsg);
	struct in_pktinfo *i4 = (void *)CMSG_DATA(cmsg);
	struct in6_addr src;

	if (cmsg->cmsg_level == SOL_IP) {
		if (cmsg->cmsg_len != CMSG_LEN(sizeof(*i4)))
			return -EINVAL;
		if (!i4->ipi_spec_dst.s_addr)
			return 0;
		ipv6_addr_set_v4mapped(i4->ipi_spec_dst.s_addr, &src);
	} else {
		if (cmsg->cmsg_len < CMSG_LEN(sizeof(*i6)))
			return -EINVAL;
		if (ipv6_addr_any(&i6->ipi6_addr))
			return 0;
		src = i6->ipi6_addr;
	}
	if (sk->sk_family == AF_INET) {
		tsi_addr_any(&d->local, AF_INET, 0);
		memcpy(d->local.addr, &src.s6_addr32[3], 4);
	} else {
		tsi_addr_any(&d->local, AF_INET6, 0);
		memcpy(d->local.addr, &src, sizeof(src));
	}
	return 0;
}

/* Ancillary data of a datagram to the host. */
int tsi_dgram_cmsgs(struct sock *sk, struct msghdr *msg, struct tsi_data_msg *d)
{
	struct cmsghdr *cmsg;
	int err = 0;

	for_each_cmsghdr(cmsg, msg) {
		if (!CMSG_OK(msg, cmsg))
			return -EINVAL;
		switch (cmsg->cmsg_level) {
		case SOL_SOCKET:
			/* SO_MARK, SO_TXTIME and time stamps do not travel. */
			if (cmsg->cmsg_type != SCM_RIGHTS &&
			    cmsg->cmsg_type != SCM_CREDENTIALS)
				err = -EOPNOTSUPP;
			break;
		case SOL_UDP:
			/* What a device without segmentation offload says. */
			if (tsi_is_udp(sk))
				err = cmsg->cmsg_type == UDP_SEGMENT ? -EIO :
								       -EINVAL;
			break;
		case SOL_IP:
			if (cmsg->cmsg_type == IP_TOS)
				err = tsi_cmsg_int(cmsg, 0, 255, &d->tos);
			else if (cmsg->cmsg_type == IP_TTL)
				err = tsi_cmsg_int(cmsg, 1, 255, &d->ttl);
			else if (cmsg->cmsg_type == IP_PKTINFO)
				err = tsi_cmsg_pktinfo(sk, cmsg, d);
			else
				err = cmsg->cmsg_type == IP_RETOPTS ?
				      -EOPNOTSUPP : -EINVAL;
			break;
		case SOL_IPV6:
			if (sk->sk_family != AF_INET6)
				break;
			if (cmsg->cmsg_type == IPV6_TCLASS)
				err = tsi_cmsg_int(cmsg, -1, 255, &d->tos);
			else if (cmsg->cmsg_type == IPV6_HOPLIMIT)
				err = tsi_cmsg_int(cmsg, -1, 255, &d->ttl);
			else if (cmsg->cmsg_type == IPV6_PKTINFO)
				err = tsi_cmsg_pktinfo(sk, cmsg, d);
			else
				err = -EOPNOTSUPP;
			break;
		}
		if (err)
			return err;
	}
	return 0;
}
