// SPDX-License-Identifier: GPL-2.0
/*
 * Datagrams from the host. Each becomes a packet in the native socket's
 * receive queue, so that all of recvmsg(2) is the native code.
 */
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/inetdevice.h>
#include <linux/slab.h>
#include <net/addrconf.h>
#include <net/checksum.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/udp.h>

#include "tsi.h"

/* Room for the headers of either family. */
#define TSI_RX_HEADROOM	(sizeof(struct ipv6hdr) + sizeof(struct udphdr))

/* The device that has the address, for IP_PKTINFO. */
static int tsi_ifindex4(__be32 addr)
{
	struct net_device *dev;
	int index = LOOPBACK_IFINDEX;

	rcu_read_lock();
	dev = __ip_dev_find(&init_net, addr, false);
	if (dev)
		index = dev->ifindex;
	rcu_read_unlock();
	return index;
}

static int tsi_ifindex6(const struct in6_addr *addr)
{
	struct net_device *dev;
	int index = LOOPBACK_IFINDEX;

	rcu_read_lock();
	dev = ipv6_dev_find(&init_net, addr, NULL);
	if (dev)
		index = dev->ifindex;
	rcu_read_unlock();
	return index;
}

static u32 tsi_given(__le32 v, u32 otherwise)
{
	return v == cpu_to_le32(TSI_UNSET) ? otherwise : le32_to_cpu(v) & 0xff;
}

static void tsi_header4(struct sock *sk, struct sk_buff *skb,
			const struct tsi_data_msg *d, __be32 saddr,
			__be32 daddr)
{
	struct in_pktinfo *info = PKTINFO_SKB_CB(skb);
	struct iphdr *h = __skb_push(skb, sizeof(*h));

	skb_reset_network_header(skb);
	memset(h, 0, sizeof(*h));
	h->version = 4;
	h->ihl = 5;
	h->tot_len = htons(min_t(u32, skb->len, 0xffff));
	h->protocol = sk->sk_protocol;
	h->tos = tsi_given(d->tos, 0);
	h->ttl = tsi_given(d->ttl, 64);
	h->saddr = saddr;
	h->daddr = daddr;
	skb->protocol = htons(ETH_P_IP);
	if (inet_test_bit(PKTINFO, sk) || sk->sk_family == AF_INET6) {
		info->ipi_ifindex = tsi_ifindex4(daddr);
		info->ipi_spec_dst.s_addr = daddr;
	}
	if (tsi_is_raw(sk))
		ip_send_check(h); /* part of what is received */
	else
		__skb_pull(skb, sizeof(*h));
}

static void tsi_header6(struct sock *sk, struct sk_buff *skb,
			const struct tsi_data_msg *d)
{
	struct ipv6hdr *h = __skb_push(skb, sizeof(*h));

	skb_reset_network_header(skb);
	memset(h, 0, sizeof(*h));
	ip6_flow_hdr(h, tsi_given(d->tos, 0), 0);
	h->payload_len = htons(min_t(u32, skb->len - sizeof(*h), 0xffff));
	h->nexthdr = sk->sk_protocol;
	h->hop_limit = tsi_given(d->ttl, 64);
	memcpy(&h->saddr, d->remote.addr, sizeof(h->saddr));
	memcpy(&h->daddr, d->local.addr, sizeof(h->daddr));
	skb->protocol = htons(ETH_P_IPV6);
	if (inet6_sk(sk)->rxopt.all)
		IP6CB(skb)->iif = tsi_ifindex6(&h->daddr);
	/* The scope of a link-local sender is that of its device. */
	if (d->remote.scope_id)
		IP6CB(skb)->iif = le32_to_cpu(d->remote.scope_id);
	__skb_pull(skb, sizeof(*h));
}

/* Gives an echo reply the identifier that the program's request had. */
static void tsi_echo_id(struct sk_buff *skb, __be16 id)
{
	struct icmphdr *h = (struct icmphdr *)skb->data;

	if (skb->len < sizeof(*h) ||
	    (h->type != ICMP_ECHOREPLY && h->type != ICMPV6_ECHO_REPLY))
		return;
	csum_replace2(&h->checksum, h->un.echo.id, id);
	h->un.echo.id = id;
}

/* Makes the payload in skb a packet and queues it; takes the skb. */
static void tsi_queue(struct tsi_sock *t, struct sk_buff *skb,
		      const struct tsi_data_msg *d)
{
	enum skb_drop_reason reason;
	struct sock *sk = t->sk;
	__be32 saddr, daddr = 0;
	struct udphdr *uh;
	int err;

	memset(skb->cb, 0, sizeof(skb->cb));
	skb->ip_summed = CHECKSUM_UNNECESSARY;
	if (sk->sk_protocol == IPPROTO_UDP) {
		uh = __skb_push(skb, sizeof(*uh));
		uh->source = htons(le16_to_cpu(d->remote.port));
		uh->dest = htons(le16_to_cpu(d->local.port));
		uh->len = htons(min_t(u32, skb->len, 0xffff));
		uh->check = 0;
	} else if (tsi_is_raw(sk)) {
		tsi_echo_id(skb, READ_ONCE(t->echo_id));
	}
	skb_reset_transport_header(skb);
	if (tsi_addr_v4(&d->remote, &saddr)) {
		if (d->local.family)
			tsi_addr_v4(&d->local, &daddr);
		tsi_header4(sk, skb, d, saddr, daddr);
	} else if (sk->sk_family == AF_INET6) {
		tsi_header6(sk, skb, d);
	} else {
		goto drop;
	}
	if (sk->sk_protocol != IPPROTO_UDP) {
		if (sock_queue_rcv_skb_reason(sk, skb, &reason) < 0)
			goto drop;
		return;
	}
	if (sk_filter_trim_cap(sk, skb, sizeof(*uh))) {
		atomic_inc(&sk->sk_drops);
		goto drop;
	}
	__skb_pull(skb, sizeof(*uh));
	UDP_SKB_CB(skb)->cscov = skb->len;
	local_bh_disable();
	err = __udp_enqueue_schedule_skb(sk, skb);
	local_bh_enable();
	if (!err)
		return;
drop:
	kfree_skb(skb);
}

/* Reads a DATA message of n bytes. */
static bool tsi_data(struct tsi_sock *t, struct tsi_conn *c, size_t n)
{
	size_t len = n - sizeof(struct tsi_data_msg);
	struct msghdr msg = {};
	struct tsi_data_msg d;
	struct sk_buff *skb;
	struct kvec vec[2];
	int got;

	skb = alloc_skb(TSI_RX_HEADROOM + len, GFP_KERNEL | __GFP_NOWARN);
	if (!skb) {
		atomic_inc(&t->sk->sk_drops);
		iov_iter_discard(&msg.msg_iter, ITER_DEST, n);
		sock_recvmsg(c->sock, &msg, MSG_DONTWAIT);
		return true;
	}
	skb_reserve(skb, TSI_RX_HEADROOM);
	vec[0].iov_base = &d;
	vec[0].iov_len = sizeof(d);
	vec[1].iov_base = skb_put(skb, len);
	vec[1].iov_len = len;
	got = kernel_recvmsg(c->sock, &msg, vec, 2, n, MSG_DONTWAIT);
	if (got != n || !tsi_addr_valid(&d.remote, false) ||
	    !tsi_addr_valid(&d.local, true)) {
		kfree_skb(skb);
		return false;
	}
	/* Who has a peer in the guest hears nobody else. */
	if ((t->sk->sk_shutdown & RCV_SHUTDOWN) || READ_ONCE(t->nlinked))
		kfree_skb(skb);
	else
		tsi_queue(t, skb, &d);
	return true;
}

/* Puts an error into the queue that IP_RECVERR and IPV6_RECVERR ask for. */
static void tsi_queue_error(struct sock *sk, int err, u16 icmp,
			    const struct tsi_addr *peer)
{
	struct sock_exterr_skb *serr;
	struct sk_buff *skb;
	struct ipv6hdr *h6;
	struct iphdr *h4;
	bool is4;
	__be32 v4;

	is4 = tsi_addr_v4(peer, &v4);
	skb = alloc_skb(sizeof(*h6), GFP_KERNEL);
	if (!skb)
		return;
	serr = SKB_EXT_ERR(skb);
	memset(serr, 0, sizeof(*serr));
	serr->ee.ee_errno = err;
	serr->ee.ee_origin = SO_EE_ORIGIN_LOCAL;
	serr->port = htons(le16_to_cpu(peer->port));
	if (icmp) {
		serr->ee.ee_origin = is4 ? SO_EE_ORIGIN_ICMP :
					   SO_EE_ORIGIN_ICMP6;
		serr->ee.ee_type = icmp >> 8;
		serr->ee.ee_code = icmp & 0xff;
	}
	skb_reset_network_header(skb);
	/* Who refuses a port is who was asked; of others nothing is known. */
	if (is4) {
		h4 = skb_put_zero(skb, sizeof(*h4));
		h4->daddr = v4;
		h4->saddr = err == ECONNREFUSED ? v4 : 0;
		serr->addr_offset = offsetof(struct iphdr, daddr);
		skb->protocol = htons(ETH_P_IP);
	} else {
		h6 = skb_put_zero(skb, sizeof(*h6));
		memcpy(&h6->daddr, peer->addr, sizeof(h6->daddr));
		if (err == ECONNREFUSED)
			h6->saddr = h6->daddr;
		serr->addr_offset = offsetof(struct ipv6hdr, daddr);
		skb->protocol = htons(ETH_P_IPV6);
	}
	__skb_pull(skb, skb->len);
	skb_reset_transport_header(skb);
	if (sock_queue_err_skb(sk, skb))
		kfree_skb(skb);
}

/* An ICMP error, or one of sending. */
static void tsi_error(struct tsi_sock *t, u32 value, u16 icmp,
		      const struct tsi_addr *peer)
{
	struct sock *sk = t->sk;
	int err = -tsi_errno(value);

	if (!err)
		return;
	if (!peer->family)
		peer = &t->peer;
	if (peer->family && (inet_test_bit(RECVERR, sk) ||
			     (sk->sk_family == AF_INET6 &&
			      inet6_test_bit(RECVERR6, sk))))
		tsi_queue_error(sk, err, icmp, peer);
	WRITE_ONCE(sk->sk_err, err);
	sk_error_report(sk);
}

/* A message other than DATA. */
static bool tsi_message(struct tsi_sock *t, struct tsi_conn *c, size_t n)
{
	struct tsi_addr *a;
	struct tsi_hdr *h;
	bool ok = false;

	if (n > TSI_MSG_MAX)
		return false;
	h = kmalloc(n, GFP_KERNEL);
	if (!h)
		return false;
	if (tsi_conn_recv(c, h, n, MSG_DONTWAIT) == n) {
		a = (void *)(h + 1);
		n -= sizeof(*h);
		if (le16_to_cpu(h->op) & TSI_REPLY) {
			ok = tsi_take_reply(c, h, (u8 *)a, n);
		} else if (le16_to_cpu(h->op) == TSI_ERROR) {
			ok = n == 2 * sizeof(*a) &&
			     tsi_addr_valid(&a[0], true) &&
			     tsi_addr_valid(&a[1], true);
			if (ok)
				tsi_error(t, le32_to_cpu(h->value),
					  le16_to_cpu(h->flags), &a[1]);
		}
	}
	kfree(h);
	return ok;
}

static bool tsi_rx_full(struct sock *sk)
{
	return atomic_read(&sk->sk_rmem_alloc) >= READ_ONCE(sk->sk_rcvbuf);
}

/*
 * Reads what the host has sent. While the receive queue is full it stays where
 * it is, and the VMM runs out of credit; unless a reply is behind it.
 */
void tsi_dgram_pump(struct tsi_sock *t, struct tsi_conn *c)
{
	struct tsi_hdr h;
	int n;

	mutex_lock(&c->pump);
	for (;;) {
		if (tsi_rx_full(t->sk) && !c->reply) {
			WRITE_ONCE(t->throttled, true);
			smp_mb();
			if (tsi_rx_full(t->sk))
				break;
			WRITE_ONCE(t->throttled, false);
		}
		n = tsi_conn_recv(c, &h, sizeof(h),
				  MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
		if (n <= 0)
			break;
		if (n < (int)sizeof(h) || le32_to_cpu(h.len) != n ||
		    n > (int)sizeof(struct tsi_data_msg) + 0xffff) {
			tsi_protocol_error(c);
			break;
		}
		if (le16_to_cpu(h.op) == TSI_DATA ?
		    n < (int)sizeof(struct tsi_data_msg) || !tsi_data(t, c, n) :
		    !tsi_message(t, c, n)) {
			tsi_protocol_error(c);
			break;
		}
		cond_resched();
	}
	mutex_unlock(&c->pump);
}

/*
 * The connection ended, as when the VMM was restored from a snapshot: a bound
 * socket gets a new one, at most once a second; others when they next send.
 */
static void tsi_dgram_remake(struct tsi_sock *t, struct tsi_conn *c)
{
	int err = ECONNRESET;

	mutex_lock(&t->lock);
	if (rcu_access_pointer(t->conn) != c || t->state == TSI_NATIVE)
		goto out;
	tsi_conn_drop(t);
	t->hbound = false;
	if (t->bound && !t->linked &&
	    (!t->remade || time_after(jiffies, t->remade + HZ))) {
		t->remade = jiffies ?: 1;
		err = -tsi_bind_host(t, &t->want);
	}
	spin_lock_bh(&t->slock);
	t->linked = false;
	spin_unlock_bh(&t->slock);
	if (err > 0) {
		WRITE_ONCE(t->sk->sk_err, err);
		sk_error_report(t->sk);
	}
out:
	mutex_unlock(&t->lock);
}

void tsi_dgram_work(struct tsi_sock *t, struct tsi_conn *c)
{
	tsi_dgram_pump(t, c);
	if (tsi_conn_broken(c) || tsi_conn_fin(c))
		tsi_dgram_remake(t, c);
}

int tsi_dgram_recvmsg(struct socket *sock, struct msghdr *msg, size_t len,
		      int flags)
{
	struct tsi_sock *t = sock->tsi;
	struct sock *sk = sock->sk;
	int err;

	err = tsi_native_ops(sock)->recvmsg(sock, msg, len, flags);
	if (t && READ_ONCE(t->throttled) &&
	    atomic_read(&sk->sk_rmem_alloc) <= READ_ONCE(sk->sk_rcvbuf) / 2) {
		WRITE_ONCE(t->throttled, false);
		queue_work(tsi_wq, &t->work);
	}
	return err;
}
