// SPDX-License-Identifier: GPL-2.0
/*
 * Which socket options concern the guest's socket, the host's, or both. What
 * is named nowhere is the guest's alone: how it reports to the program.
 */
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/netfilter_ipv4.h>
#include <linux/socket.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <net/udp.h>

#include "tsi.h"

static enum tsi_opt_kind tsi_refuse(int *err, int with)
{
	*err = with;
	return TSI_OPT_REFUSE;
}

static enum tsi_opt_kind tsi_kind_socket(struct sock *sk, int name, int val,
					 int *err)
{
	bool stream = sk->sk_type == SOCK_STREAM;

	switch (name) {
	case SO_REUSEADDR:
	case SO_REUSEPORT:
	case SO_KEEPALIVE:
	case SO_LINGER:
	case SO_BROADCAST:
	case SO_DONTROUTE:
	case SO_PRIORITY:
	case SO_SNDBUF:
	case SO_RCVBUF:
	case SO_MAX_PACING_RATE:
		return TSI_OPT_BOTH;
	case SO_MARK:
		return TSI_OPT_SYNC;
	case SO_BINDTODEVICE:
		/* The namespace's devices. */
		return val ? TSI_OPT_HOST : TSI_OPT_NATIVE;
	case SO_BINDTOIFINDEX:
	case SO_ZEROCOPY:
	case SO_TXTIME:
	case SO_TIMESTAMPING_OLD:
	case SO_TIMESTAMPING_NEW:
		/* No buffers the host would give back, no hardware. */
		return val ? tsi_refuse(err, -EOPNOTSUPP) : TSI_OPT_NATIVE;
	case SO_ATTACH_REUSEPORT_CBPF:
	case SO_ATTACH_REUSEPORT_EBPF:
		return tsi_refuse(err, -EOPNOTSUPP);
	case SO_ATTACH_FILTER:
	case SO_ATTACH_BPF:
		/* Filters of datagrams run in the guest. */
		return stream ? tsi_refuse(err, -EOPNOTSUPP) : TSI_OPT_NATIVE;
	case SO_PEEK_OFF:
		return stream && val >= 0 ? tsi_refuse(err, -EOPNOTSUPP) :
					    TSI_OPT_NATIVE;
	}
	return TSI_OPT_NATIVE;
}

static enum tsi_opt_kind tsi_kind_tcp(int name, int val, int *err)
{
	switch (name) {
	case TCP_NODELAY:
	case TCP_MAXSEG:
	case TCP_CORK:
	case TCP_KEEPIDLE:
	case TCP_KEEPINTVL:
	case TCP_KEEPCNT:
	case TCP_SYNCNT:
	case TCP_LINGER2:
	case TCP_DEFER_ACCEPT:
	case TCP_WINDOW_CLAMP:
	case TCP_QUICKACK:
	case TCP_THIN_LINEAR_TIMEOUTS:
	case TCP_USER_TIMEOUT:
	case TCP_NOTSENT_LOWAT:
	case TCP_FASTOPEN:
		return TSI_OPT_BOTH;
	case TCP_CONGESTION:
		return TSI_OPT_HOST;
	case TCP_INQ:
	case TCP_FASTOPEN_CONNECT:
	case TCP_FASTOPEN_NO_COOKIE:
	case TCP_SAVE_SYN:
	case TCP_TX_DELAY:
	case TCP_THIN_DUPACK:
		return val ? tsi_refuse(err, -EOPNOTSUPP) : TSI_OPT_NATIVE;
	}
	/* TCP_ULP, TCP_REPAIR, TCP_MD5SIG, TCP_AO... */
	return tsi_refuse(err, -ENOPROTOOPT);
}

static enum tsi_opt_kind tsi_kind_udp(int name, int val, int *err)
{
	switch (name) {
	case UDP_CORK:
	case UDP_ENCAP:
		return val ? tsi_refuse(err, -EOPNOTSUPP) : TSI_OPT_NATIVE;
	case UDP_SEGMENT:
	case UDP_GRO:
		return tsi_refuse(err, -ENOPROTOOPT);
	}
	return TSI_OPT_NATIVE;
}

static enum tsi_opt_kind tsi_kind_ip(int name, unsigned int len, int *err)
{
	switch (name) {
	case IP_TOS:
	case IP_TTL:
	case IP_MTU_DISCOVER:
	case IP_RECVERR:
	case IP_FREEBIND:
	case IP_BIND_ADDRESS_NO_PORT:
	case IP_LOCAL_PORT_RANGE:
	case IP_MULTICAST_TTL:
	case IP_MULTICAST_LOOP:
	case IP_MULTICAST_ALL:
	case IP_MINTTL:
		return TSI_OPT_BOTH;
	case IP_TRANSPARENT:
		return TSI_OPT_SYNC;
	case IP_MULTICAST_IF:
	case IP_ADD_MEMBERSHIP:
	case IP_DROP_MEMBERSHIP:
	case IP_ADD_SOURCE_MEMBERSHIP:
	case IP_DROP_SOURCE_MEMBERSHIP:
	case MCAST_JOIN_GROUP:
	case MCAST_LEAVE_GROUP:
	case MCAST_JOIN_SOURCE_GROUP:
	case MCAST_LEAVE_SOURCE_GROUP:
		return TSI_OPT_HOST;
	case IP_OPTIONS:
		return len ? tsi_refuse(err, -EOPNOTSUPP) : TSI_OPT_NATIVE;
	case IP_UNICAST_IF:
	case IP_BLOCK_SOURCE:
	case IP_UNBLOCK_SOURCE:
	case IP_MSFILTER:
	case MCAST_BLOCK_SOURCE:
	case MCAST_UNBLOCK_SOURCE:
	case MCAST_MSFILTER:
	case IP_ORIGDSTADDR:
	case IP_IPSEC_POLICY:
	case IP_XFRM_POLICY:
		return tsi_refuse(err, -EOPNOTSUPP);
	}
	return TSI_OPT_NATIVE;
}

static enum tsi_opt_kind tsi_kind_ipv6(int name, unsigned int len, int *err)
{
	switch (name) {
	case IPV6_V6ONLY:
	case IPV6_UNICAST_HOPS:
	case IPV6_MULTICAST_HOPS:
	case IPV6_MULTICAST_LOOP:
	case IPV6_TCLASS:
	case IPV6_DONTFRAG:
	case IPV6_MTU_DISCOVER:
	case IPV6_MTU:
	case IPV6_RECVERR:
	case IPV6_AUTOFLOWLABEL:
	case IPV6_FREEBIND:
	case IPV6_ADDR_PREFERENCES:
		return TSI_OPT_BOTH;
	case IPV6_TRANSPARENT:
		return TSI_OPT_SYNC;
	case IPV6_MULTICAST_IF:
	case IPV6_ADD_MEMBERSHIP:
	case IPV6_DROP_MEMBERSHIP:
	case MCAST_JOIN_GROUP:
	case MCAST_LEAVE_GROUP:
	case MCAST_JOIN_SOURCE_GROUP:
	case MCAST_LEAVE_SOURCE_GROUP:
		return TSI_OPT_HOST;
	case IPV6_PKTINFO:
	case IPV6_HOPOPTS:
	case IPV6_RTHDR:
	case IPV6_RTHDRDSTOPTS:
	case IPV6_DSTOPTS:
	case IPV6_2292PKTOPTIONS:
		return len ? tsi_refuse(err, -EOPNOTSUPP) : TSI_OPT_NATIVE;
	case IPV6_ADDRFORM:
	case IPV6_UNICAST_IF:
	case IPV6_JOIN_ANYCAST:
	case IPV6_LEAVE_ANYCAST:
	case IPV6_FLOWLABEL_MGR:
	case IPV6_ORIGDSTADDR:
	case IPV6_MINHOPCOUNT:
	case IPV6_IPSEC_POLICY:
	case IPV6_XFRM_POLICY:
	case MCAST_BLOCK_SOURCE:
	case MCAST_UNBLOCK_SOURCE:
	case MCAST_MSFILTER:
		return tsi_refuse(err, -EOPNOTSUPP);
	}
	return TSI_OPT_NATIVE;
}

/* What to do with setsockopt(2); *err is the errno of TSI_OPT_REFUSE. */
enum tsi_opt_kind tsi_opt_kind(struct sock *sk, int level, int name, int val,
			       unsigned int len, int *err)
{
	switch (level) {
	case SOL_SOCKET:
		return tsi_kind_socket(sk, name, val, err);
	case SOL_TCP:
		if (sk->sk_protocol == IPPROTO_TCP)
			return tsi_kind_tcp(name, val, err);
		break;
	case SOL_UDP:
		if (sk->sk_protocol == IPPROTO_UDP)
			return tsi_kind_udp(name, val, err);
		break;
	case SOL_IP:
		return tsi_kind_ip(name, len, err);
	case SOL_IPV6:
		if (sk->sk_family == AF_INET6)
			return tsi_kind_ipv6(name, len, err);
		break;
	}
	return TSI_OPT_NATIVE;
}

/* Whether getsockopt(2) asks the host, once there is a socket. */
bool tsi_opt_live(struct sock *sk, int level, int name)
{
	switch (level) {
	case SOL_TCP:
		return name == TCP_INFO || name == TCP_MAXSEG ||
		       name == TCP_CC_INFO || name == TCP_CONGESTION;
	case SOL_IP:
		return name == IP_MTU || name == SO_ORIGINAL_DST ||
		       name == IP_MULTICAST_IF;
	case SOL_IPV6:
		return name == IPV6_MTU || name == IPV6_PATHMTU ||
		       name == IPV6_MULTICAST_IF;
	}
	return false;
}

/*
 * Whether it is too late for an option, which the native socket, that neither
 * connects nor has the port, cannot know (t->lock held).
 */
bool tsi_opt_late(struct tsi_sock *t, int level, int name)
{
	bool connected = t->state == TSI_CONNECTING ||
			 t->state == TSI_CONNECTED;

	if (level == SOL_TCP && name == TCP_FASTOPEN)
		return connected;
	if (level == SOL_IPV6 && name == IPV6_V6ONLY)
		return connected || t->hbound || t->linked;
	return false;
}

/* Options whose mere presence promises what cannot be kept. */
bool tsi_opt_hidden(struct sock *sk, int level, int name)
{
	return level == SOL_UDP && (name == UDP_SEGMENT || name == UDP_GRO);
}
