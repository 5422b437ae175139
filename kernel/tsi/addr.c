// SPDX-License-Identifier: GPL-2.0
/* Addresses, and what of them is the guest's own. */
#include <linux/inetdevice.h>
#include <net/addrconf.h>
#include <net/inet6_hashtables.h>
#include <net/inet_hashtables.h>
#include <net/ip6_route.h>
#include <net/ip_fib.h>
#include <net/ipv6.h>
#include <net/route.h>
#include <net/rtnetlink.h>
#include <net/tcp.h>
#include <net/udp.h>

#include "tsi.h"

void tsi_addr_any(struct tsi_addr *a, int family, u16 port)
{
	memset(a, 0, sizeof(*a));
	a->family = cpu_to_le16(family);
	a->port = cpu_to_le16(port);
}

static void tsi_addr_set4(struct tsi_addr *a, __be32 addr, __be16 port)
{
	tsi_addr_any(a, AF_INET, ntohs(port));
	memcpy(a->addr, &addr, sizeof(addr));
}

/*
 * Takes an address of a program, with the checks and errors all calls share;
 * the caller has dealt with AF_UNSPEC.
 */
int tsi_addr_get(struct tsi_addr *a, struct sock *sk, const struct sockaddr *sa,
		 int len)
{
	const struct sockaddr_in6 *sin6 = (const void *)sa;
	const struct sockaddr_in *sin = (const void *)sa;

	if (sk->sk_family == AF_INET) {
		if (len < (int)sizeof(*sin))
			return -EINVAL;
		if (sin->sin_family != AF_INET)
			return -EAFNOSUPPORT;
		tsi_addr_set4(a, sin->sin_addr.s_addr,
			      tsi_is_raw(sk) ? 0 : sin->sin_port);
		return 0;
	}
	if (len < SIN6_LEN_RFC2133)
		return -EINVAL;
	if (sin6->sin6_family != AF_INET6)
		return -EAFNOSUPPORT;
	tsi_addr_any(a, AF_INET6, tsi_is_raw(sk) ? 0 : ntohs(sin6->sin6_port));
	memcpy(a->addr, &sin6->sin6_addr, sizeof(a->addr));
	a->flowinfo = cpu_to_le32(ntohl(sin6->sin6_flowinfo));
	if (len >= (int)sizeof(*sin6))
		a->scope_id = cpu_to_le32(sin6->sin6_scope_id);
	return 0;
}

/* Whether the address is IPv4, mapped or not; *v4 gets it. */
bool tsi_addr_v4(const struct tsi_addr *a, __be32 *v4)
{
	struct in6_addr in6;

	if (a->family == cpu_to_le16(AF_INET)) {
		memcpy(v4, a->addr, sizeof(*v4));
		return true;
	}
	memcpy(&in6, a->addr, sizeof(in6));
	if (!ipv6_addr_v4mapped(&in6))
		return false;
	*v4 = in6.s6_addr32[3];
	return true;
}

/* Writes the address as the socket's family shows it; returns its length. */
int tsi_addr_put(const struct tsi_addr *a, struct sock *sk, struct sockaddr *sa)
{
	struct sockaddr_in6 *sin6 = (void *)sa;
	struct sockaddr_in *sin = (void *)sa;
	__be32 v4 = 0;

	if (sk->sk_family == AF_INET) {
		tsi_addr_v4(a, &v4);
		memset(sin, 0, sizeof(*sin));
		sin->sin_family = AF_INET;
		sin->sin_port = htons(le16_to_cpu(a->port));
		sin->sin_addr.s_addr = v4;
		return sizeof(*sin);
	}
	memset(sin6, 0, sizeof(*sin6));
	sin6->sin6_family = AF_INET6;
	sin6->sin6_port = htons(le16_to_cpu(a->port));
	if (a->family == cpu_to_le16(AF_INET)) {
		memcpy(&v4, a->addr, sizeof(v4));
		ipv6_addr_set_v4mapped(v4, &sin6->sin6_addr);
		return sizeof(*sin6);
	}
	memcpy(&sin6->sin6_addr, a->addr, sizeof(sin6->sin6_addr));
	if (__ipv6_addr_needs_scope_id(ipv6_addr_type(&sin6->sin6_addr)))
		sin6->sin6_scope_id = le32_to_cpu(a->scope_id);
	return sizeof(*sin6);
}

/* The VMM's addresses are checked like anybody's. */
bool tsi_addr_valid(const struct tsi_addr *a, bool may_be_none)
{
	switch (le16_to_cpu(a->family)) {
	case 0:
		return may_be_none;
	case AF_INET:
	case AF_INET6:
		return true;
	}
	return false;
}

/* Whether a packet to this address would not leave the guest. */
bool tsi_addr_is_local(const struct tsi_addr *a)
{
	struct in6_addr in6;
	__be32 v4;

	if (tsi_addr_v4(a, &v4))
		return !v4 || inet_addr_type(&init_net, v4) == RTN_LOCAL;
	memcpy(&in6, a->addr, sizeof(in6));
	return ipv6_addr_any(&in6) || ipv6_addr_loopback(&in6) ||
	       ipv6_chk_addr(&init_net, &in6, NULL, 0);
}

/*
 * Whether the guest has made the device for itself. Those that look like the
 * namespace's are dummies, with nothing behind them.
 */
static bool tsi_dev_is_own(const struct net_device *dev)
{
	const struct rtnl_link_ops *ops = dev->rtnl_link_ops;

	return !(dev->flags & IFF_LOOPBACK) &&
	       !(ops && !strcmp(ops->kind, "dummy"));
}

/*
 * Whether the guest's own way to the address is a device of its own, such as a
 * bridge with containers: the namespace outside knows nothing of it.
 */
bool tsi_addr_is_inside(const struct tsi_addr *a)
{
	struct flowi6 fl6 = {};
	struct flowi4 fl4 = {};
	struct dst_entry *dst;
	struct rtable *rt;
	bool inside;

	if (tsi_addr_v4(a, &fl4.daddr)) {
		rt = ip_route_output_key(&init_net, &fl4);
		if (IS_ERR(rt))
			return false;
		inside = rt->rt_type != RTN_MULTICAST &&
			 tsi_dev_is_own(rt->dst.dev);
		ip_rt_put(rt);
		return inside;
	}
	memcpy(&fl6.daddr, a->addr, sizeof(fl6.daddr));
	if (ipv6_addr_is_multicast(&fl6.daddr))
		return false;
	fl6.flowi6_oif = le32_to_cpu(a->scope_id);
	dst = ip6_route_output(&init_net, NULL, &fl6);
	inside = !dst->error && tsi_dev_is_own(dst->dev);
	dst_release(dst);
	return inside;
}

bool tsi_addr_broadcast(const struct tsi_addr *a)
{
	__be32 v4;

	return tsi_addr_v4(a, &v4) && v4 &&
	       (ipv4_is_lbcast(v4) ||
		inet_addr_type(&init_net, v4) == RTN_BROADCAST);
}

/* Whether a native socket listens where a connection to the address would go. */
bool tsi_listener_exists(struct sock *sk, const struct tsi_addr *a)
{
	struct inet_hashinfo *hash = init_net.ipv4.tcp_death_row.hashinfo;
	u16 port = le16_to_cpu(a->port);
	struct in6_addr in6;
	struct sock *found;
	__be32 v4;

	rcu_read_lock();
	if (tsi_addr_v4(a, &v4)) {
		if (!v4)
			v4 = htonl(INADDR_LOOPBACK);
		found = __inet_lookup_listener(&init_net, hash, NULL, 0, v4, 0,
					       v4, port, LOOPBACK_IFINDEX, 0);
	} else {
		memcpy(&in6, a->addr, sizeof(in6));
		if (ipv6_addr_any(&in6))
			in6 = in6addr_loopback;
		found = inet6_lookup_listener(&init_net, hash, NULL, 0, &in6, 0,
					      &in6, port, LOOPBACK_IFINDEX, 0);
	}
	rcu_read_unlock();
	return found;
}

/*
 * Whether a native socket other than the sender itself would get a datagram
 * to the address.
 */
bool tsi_udp_receiver_exists(struct sock *sk, const struct tsi_addr *a)
{
	struct inet_sock *inet = inet_sk(sk);
	__be16 port = htons(le16_to_cpu(a->port));
	struct in6_addr in6;
	struct sock *found;
	__be32 v4;

	rcu_read_lock();
	if (tsi_addr_v4(a, &v4)) {
		if (!v4)
			v4 = htonl(INADDR_LOOPBACK);
		found = __udp4_lib_lookup(&init_net, v4, inet->inet_sport, v4,
					  port, LOOPBACK_IFINDEX, 0,
					  init_net.ipv4.udp_table, NULL);
	} else {
		memcpy(&in6, a->addr, sizeof(in6));
		if (ipv6_addr_any(&in6))
			in6 = in6addr_loopback;
		found = __udp6_lib_lookup(&init_net, &in6, inet->inet_sport,
					  &in6, port, LOOPBACK_IFINDEX, 0,
					  init_net.ipv4.udp_table, NULL);
	}
	rcu_read_unlock();
	return found;
}
