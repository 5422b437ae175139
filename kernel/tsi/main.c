// SPDX-License-Identifier: GPL-2.0
/* Which sockets are impersonated, and their operations. */
#include <linux/init.h>
#include <linux/slab.h>
#include <net/inet_common.h>
#include <net/ipv6.h>
#include <net/tcp.h>
#include <net/udp.h>

#include "tsi.h"

struct workqueue_struct *tsi_wq;
static struct kmem_cache *tsi_cache;

static const struct proto_ops tsi_stream_ops, tsi_stream6_ops;
static const struct proto_ops tsi_dgram_ops, tsi_dgram6_ops;

/* The operations a socket has without impersonation. */
const struct proto_ops *tsi_native_ops(struct socket *sock)
{
	if (sock->tsi)
		return sock->tsi->native;
	if (sock->ops != &tsi_stream_ops && sock->ops != &tsi_stream6_ops &&
	    sock->ops != &tsi_dgram_ops && sock->ops != &tsi_dgram6_ops)
		return sock->ops; /* accepted within the guest */
	return sock->ops->family == PF_INET6 ? &inet6_stream_ops :
					       &inet_stream_ops;
}

static void tsi_work(struct work_struct *work)
{
	struct tsi_sock *t = container_of(work, struct tsi_sock, work);
	struct tsi_conn *c = tsi_conn_get(t);

	if (!c)
		return;
	if (!tsi_is_stream(t)) {
		tsi_dgram_work(t, c);
		goto out;
	}
	if (READ_ONCE(t->state) == TSI_CONNECTING && READ_ONCE(c->async)) {
		tsi_pump(t, c);
		if (READ_ONCE(t->state) == TSI_CONNECTING &&
		    (tsi_conn_broken(c) || tsi_conn_fin(c))) {
			tsi_pump(t, c);
			tsi_connect_failed(t, c, -ENETDOWN, true);
		}
	}
	if (READ_ONCE(t->state) == TSI_LISTENING)
		tsi_listen_work(t, c);
	if (READ_ONCE(t->state) == TSI_CONNECTED)
		tsi_stream_work(t, c);
out:
	tsi_conn_put(c);
}

static struct tsi_sock *tsi_sock_alloc(struct socket *sock)
{
	struct tsi_sock *t = kmem_cache_zalloc(tsi_cache, GFP_KERNEL_ACCOUNT);

	if (!t)
		return NULL;
	t->sk = sock->sk;
	t->native = sock->ops;
	mutex_init(&t->lock);
	spin_lock_init(&t->slock);
	INIT_LIST_HEAD(&t->pending);
	INIT_LIST_HEAD(&t->opts);
	INIT_WORK(&t->work, tsi_work);
	return t;
}

static bool tsi_is_echo(const struct sock *sk)
{
	switch (sk->sk_family) {
	case AF_INET:
		return sk->sk_protocol == IPPROTO_ICMP;
	case AF_INET6:
		return sk->sk_protocol == IPPROTO_ICMPV6;
	}
	return false;
}

/* Called for every new socket: makes it one of ours if it is of our kind. */
int tsi_adopt(struct net *net, struct socket *sock, int kern)
{
	const struct proto_ops *ops;
	struct sock *sk = sock->sk;
	struct tsi_sock *t;

	if (kern || !net_eq(net, &init_net) || !tsi_cache)
		return 0;
	if (sock->ops == &inet_stream_ops && sk->sk_protocol == IPPROTO_TCP)
		ops = &tsi_stream_ops;
	else if (sock->ops == &inet6_stream_ops &&
		 sk->sk_protocol == IPPROTO_TCP)
		ops = &tsi_stream6_ops;
	else if (sock->type != SOCK_DGRAM &&
		 !(tsi_is_raw(sk) && tsi_is_echo(sk)))
		return 0;
	else if (sk->sk_protocol != IPPROTO_UDP && !tsi_is_echo(sk))
		return 0;
	else if (sk->sk_family == AF_INET)
		ops = &tsi_dgram_ops;
	else if (sk->sk_family == AF_INET6)
		ops = &tsi_dgram6_ops;
	else
		return 0;
	t = tsi_sock_alloc(sock);
	if (!t)
		return -ENOMEM;
	sock->tsi = t;
	/* No MSG_ZEROCOPY; and we see the options of SOL_SOCKET. */
	clear_bit(SOCK_SUPPORT_ZC, &sock->flags);
	set_bit(SOCK_CUSTOM_SOCKOPT, &sock->flags);
	WRITE_ONCE(sock->ops, ops);
	return 0;
}

static int tsi_release(struct socket *sock)
{
	struct tsi_sock *t = sock->tsi;
	const struct proto_ops *native;

	if (!t) /* accept(2) failed, or gave its socket away */
		return sock->sk ? tsi_native_ops(sock)->release(sock) : 0;
	native = t->native;
	tsi_stream_close(t);
	/* The work item starts nothing over from here on. */
	mutex_lock(&t->lock);
	WRITE_ONCE(t->state, TSI_NATIVE);
	mutex_unlock(&t->lock);
	tsi_conn_drop(t);
	cancel_work_sync(&t->work);
	tsi_listen_stop(t);
	tsi_opts_free(t);
	sock->tsi = NULL;
	WRITE_ONCE(sock->ops, native);
	kmem_cache_free(tsi_cache, t);
	return native->release(sock);
}

/* 0: the native answer is the right one */
static int tsi_name(struct tsi_sock *t, struct sockaddr *addr, int peer)
{
	struct tsi_conn *c;
	bool closed = false;
	int len = 0;

	if (tsi_is_stream(t) && t->state == TSI_CONNECTED && peer == 1) {
		c = tsi_conn_get(t);
		closed = !c || tsi_stream_closed(t, c);
		tsi_conn_put(c);
	}
	spin_lock_bh(&t->slock);
	if (peer) {
		if (closed)
			len = -ENOTCONN;
		else if (t->linked || t->state == TSI_CONNECTED)
			len = tsi_addr_put(&t->peer, t->sk, addr);
	} else if (t->local.family && !t->nlinked &&
		   (t->hbound || t->linked || t->state == TSI_CONNECTED)) {
		len = tsi_addr_put(&t->local, t->sk, addr);
	}
	spin_unlock_bh(&t->slock);
	return len;
}

static int tsi_getname(struct socket *sock, struct sockaddr *addr, int peer)
{
	struct tsi_sock *t = sock->tsi;
	int len = 0;

	if (!tsi_is_native(t))
		len = tsi_name(t, addr, peer);
	return len ?: tsi_native_ops(sock)->getname(sock, addr, peer);
}

/* The native answer, but for room to send, which the VMM gives. */
static __poll_t tsi_dgram_poll(struct file *file, struct socket *sock,
			       struct poll_table_struct *wait)
{
	__poll_t mask = tsi_native_ops(sock)->poll(file, sock, wait);
	struct tsi_sock *t = sock->tsi;
	struct tsi_conn *c;
	s64 room;

	if (tsi_is_native(t) || !(mask & EPOLLOUT))
		return mask;
	c = tsi_conn_get(t);
	if (!c)
		return mask;
	room = tsi_space_wanted(c);
	if (vsock_stream_has_space(vsock_sk(c->sock->sk)) < room) {
		sk_set_bit(SOCKWQ_ASYNC_NOSPACE, sock->sk);
		set_bit(SOCK_NOSPACE, &sock->flags);
		smp_mb__after_atomic();
		if (vsock_stream_has_space(vsock_sk(c->sock->sk)) < room &&
		    !tsi_conn_broken(c))
			mask &= ~(EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND);
	}
	tsi_conn_put(c);
	return mask;
}

static int tsi_dgram_ioctl(struct socket *sock, unsigned int cmd,
			   unsigned long arg)
{
	return tsi_native_ops(sock)->ioctl(sock, cmd, arg);
}

static int tsi_set_peek_off(struct sock *sk, int val)
{
	if (sk->sk_protocol != IPPROTO_UDP)
		return -EOPNOTSUPP;
	return udp_set_peek_off(sk, val);
}

#define TSI_OPS(fam)							\
	.family		= fam,						\
	.owner		= THIS_MODULE,					\
	.release	= tsi_release,					\
	.bind		= tsi_bind,					\
	.socketpair	= sock_no_socketpair,				\
	.getname	= tsi_getname,					\
	.gettstamp	= sock_gettstamp,				\
	.setsockopt	= tsi_setsockopt,				\
	.getsockopt	= tsi_getsockopt,				\
	.mmap		= sock_no_mmap

#define TSI_STREAM_OPS(fam)						\
	TSI_OPS(fam),							\
	.connect	= tsi_stream_connect,				\
	.accept		= tsi_accept,					\
	.poll		= tsi_stream_poll,				\
	.ioctl		= tsi_stream_ioctl,				\
	.listen		= tsi_listen,					\
	.shutdown	= tsi_stream_shutdown,				\
	.sendmsg	= tsi_stream_sendmsg,				\
	.recvmsg	= tsi_stream_recvmsg,				\
	.set_rcvlowat	= tcp_set_rcvlowat

#define TSI_DGRAM_OPS(fam)						\
	TSI_OPS(fam),							\
	.connect	= tsi_dgram_connect,				\
	.accept		= sock_no_accept,				\
	.poll		= tsi_dgram_poll,				\
	.ioctl		= tsi_dgram_ioctl,				\
	.listen		= sock_no_listen,				\
	.shutdown	= tsi_dgram_shutdown,				\
	.sendmsg	= tsi_dgram_sendmsg,				\
	.recvmsg	= tsi_dgram_recvmsg,				\
	.set_peek_off	= tsi_set_peek_off

static const struct proto_ops tsi_stream_ops = { TSI_STREAM_OPS(PF_INET) };
static const struct proto_ops tsi_stream6_ops = { TSI_STREAM_OPS(PF_INET6) };
static const struct proto_ops tsi_dgram_ops = { TSI_DGRAM_OPS(PF_INET) };
static const struct proto_ops tsi_dgram6_ops = { TSI_DGRAM_OPS(PF_INET6) };

static int __init tsi_init(void)
{
	tsi_wq = alloc_workqueue("tsi", WQ_UNBOUND, 0);
	if (!tsi_wq)
		return -ENOMEM;
	tsi_cache = KMEM_CACHE(tsi_sock, SLAB_ACCOUNT);
	return tsi_cache ? 0 : -ENOMEM;
}
late_initcall(tsi_init);
