// SPDX-License-Identifier: GPL-2.0
/* Datagram sockets, UDP and ICMP echo: connect, send, shutdown. */
#include <linux/icmp.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <net/inet_sock.h>
#include <net/ip.h>
#include <net/ipv6.h>

#include "tsi.h"

/* Whether a datagram to the address stays in the guest. */
static bool tsi_dgram_local(struct sock *sk, const struct tsi_addr *a)
{
	if (tsi_addr_is_local(a))
		return !tsi_is_udp(sk) || tsi_udp_receiver_exists(sk, a);
	return tsi_addr_is_inside(a);
}

/*
 * Makes the socket exist on the host, bound as a first send would bind it
 * (t->lock held).
 */
static int tsi_dgram_up(struct tsi_sock *t)
{
	struct sock *sk = t->sk;
	struct tsi_addr a;
	struct tsi_conn *c;
	int err;

	err = tsi_make(t, &c); /* forgets hbound if it starts over */
	if (err)
		return err;
	tsi_conn_put(c);
	if (t->hbound || t->linked)
		return 0;
	if (t->bound)
		a = t->want;
	else
		tsi_addr_any(&a, sk->sk_family, tsi_num(sk));
	err = tsi_bind_host(t, &a);
	if (err == -EADDRINUSE && !t->bound) {
		/* The guest has the port, but for itself. */
		a.port = 0;
		err = tsi_bind_host(t, &a);
	}
	if (err)
		return err < 0 ? err : 0;
	a.port = t->local.port;
	tsi_native_bind(t, &a, false);
	return 0;
}

static int tsi_dgram_addr(struct sock *sk, struct tsi_addr *a,
			  const struct sockaddr *sa, int len)
{
	const struct sockaddr_in *sin = (const void *)sa;
	struct in6_addr mapped;

	if (sk->sk_family == AF_INET6 && len >= (int)sizeof(*sin) &&
	    sa->sa_family == AF_INET) {
		if (ipv6_only_sock(sk))
			return -EAFNOSUPPORT;
		ipv6_addr_set_v4mapped(sin->sin_addr.s_addr, &mapped);
		tsi_addr_any(a, AF_INET6, ntohs(sin->sin_port));
		memcpy(a->addr, &mapped, sizeof(a->addr));
		return 0;
	}
	return tsi_addr_get(a, sk, sa, len);
}

/* Disconnects; a port nobody chose is given back, if asked for (t->lock held). */
static int tsi_dgram_unlink(struct tsi_sock *t, bool give_back)
{
	struct tsi_addr none = {};
	struct tsi_reply r = {};
	struct tsi_conn *c;
	int err = 0;

	if (!t->linked && !(give_back && t->hbound))
		return 0;
	c = tsi_conn_get(t);
	if (c)
		err = tsi_request(t, c, TSI_CONNECT, 0, &none, sizeof(none),
				  &r);
	spin_lock_bh(&t->slock);
	t->linked = false;
	memset(&t->peer, 0, sizeof(t->peer));
	if (!err && r.local.family) {
		t->local = r.local;
		t->hbound = r.local.port;
	}
	spin_unlock_bh(&t->slock);
	if (give_back && !t->chosen)
		t->want.port = 0;
	tsi_conn_put(c);
	return 0;
}

/* t->lock held */
static int tsi_dgram_link(struct tsi_sock *t, const struct tsi_addr *a)
{
	struct tsi_reply r = {};
	struct tsi_conn *c;
	int err;

	err = tsi_make(t, &c);
	if (err)
		return err;
	if (t->bound && !t->hbound)
		err = tsi_bind_host(t, &t->want);
	if (err >= 0)
		err = tsi_request(t, c, TSI_CONNECT, 0, a, sizeof(*a), &r);
	tsi_conn_put(c);
	spin_lock_bh(&t->slock);
	if (r.local.port) {
		/* Even if it failed: it binds first. */
		t->local = r.local;
		t->hbound = true;
	}
	if (!err) {
		t->local = r.local;
		t->peer = r.peer.family ? r.peer : *a;
		t->linked = true;
	}
	spin_unlock_bh(&t->slock);
	return err;
}

int tsi_dgram_connect(struct socket *sock, struct sockaddr *addr, int len,
		      int flags)
{
	struct sockaddr unspec = { .sa_family = AF_UNSPEC };
	struct tsi_sock *t = sock->tsi;
	struct sock *sk = sock->sk;
	struct tsi_addr a;
	int err;

	if (tsi_is_native(t))
		return tsi_native_ops(sock)->connect(sock, addr, len, flags);
	if (len < (int)sizeof(addr->sa_family))
		return -EINVAL;
	if (addr->sa_family == AF_UNSPEC) {
		mutex_lock(&t->lock);
		err = tsi_dgram_unlink(t, true);
		if (!err)
			err = t->native->connect(sock, addr, len, flags);
		WRITE_ONCE(t->nlinked, false);
		t->nbound = t->nbound && inet_sk(sk)->inet_num;
		mutex_unlock(&t->lock);
		return err;
	}
	err = tsi_dgram_addr(sk, &a, addr, len);
	if (err)
		return err;
	mutex_lock(&t->lock);
	if (tsi_dgram_local(sk, &a)) {
		err = t->native->connect(sock, addr, len, flags);
		if (!err) {
			tsi_dgram_unlink(t, false);
			WRITE_ONCE(t->nlinked, true);
		}
	} else {
		err = tsi_dgram_link(t, &a);
		if (!err && t->nlinked) {
			t->native->connect(sock, &unspec, sizeof(unspec), 0);
			WRITE_ONCE(t->nlinked, false);
		}
	}
	mutex_unlock(&t->lock);
	return err;
}

int tsi_dgram_shutdown(struct socket *sock, int how)
{
	struct tsi_sock *t = sock->tsi;
	struct sock *sk = sock->sk;
	struct tsi_reply r = {};
	struct tsi_conn *c;

	if (tsi_is_native(t) || !t->linked || how < SHUT_RD || how > SHUT_RDWR)
		return tsi_native_ops(sock)->shutdown(sock, how);
	mutex_lock(&t->lock);
	c = tsi_conn_get(t);
	if (c)
		tsi_request(t, c, TSI_SHUTDOWN, how, NULL, 0, &r);
	tsi_conn_put(c);
	WRITE_ONCE(sk->sk_shutdown, sk->sk_shutdown | (how + 1));
	sk->sk_state_change(sk);
	mutex_unlock(&t->lock);
	return 0;
}

static bool tsi_dgram_room(struct tsi_conn *c, size_t len)
{
	return vsock_stream_has_space(vsock_sk(c->sock->sk)) >= (s64)len;
}

/* Sends one message if there is room for all of it; 0: there is none. */
static int tsi_dgram_try(struct tsi_sock *t, struct tsi_conn *c, void *buf,
			 size_t len)
{
	struct msghdr m = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
	struct kvec vec = { .iov_base = buf, .iov_len = len };
	int err = 0;

	mutex_lock(&c->tx);
	if (tsi_dgram_room(c, len) || tsi_conn_broken(c)) {
		err = kernel_sendmsg(c->sock, &m, &vec, 1, len);
		if (err != len && err != -ENOMEM && err != -EMSGSIZE) {
			kernel_sock_shutdown(c->sock, SHUT_RDWR);
			err = -ENETDOWN;
		}
	}
	mutex_unlock(&c->tx);
	return err;
}

/* As tsi_dgram_try, but it returns what the VMM says became of the datagram. */
static int tsi_dgram_confirmed(struct tsi_sock *t, struct tsi_conn *c,
			       struct tsi_data_msg *d, size_t len)
{
	struct tsi_reply r = {};
	int err;

	d->hdr.flags = cpu_to_le16(TSI_F_CONFIRM);
	mutex_lock(&t->lock);
	tsi_want(c, TSI_DATA, &r);
	err = tsi_dgram_try(t, c, d, len);
	if (err <= 0) {
		tsi_unwant(c);
		goto out;
	}
	err = tsi_wait_reply(t, c);
	if (err)
		kernel_sock_shutdown(c->sock, SHUT_RDWR);
	else
		err = tsi_errno(r.err);
	if (!err) {
		WRITE_ONCE(t->proven, true);
		err = len;
	}
out:
	mutex_unlock(&t->lock);
	return err;
}

/* Sends one message when there is room for it. */
static int tsi_dgram_xmit(struct tsi_sock *t, struct tsi_conn *c,
			  struct tsi_data_msg *d, size_t len, bool confirm,
			  long timeo)
{
	TSI_SLEEP(sleep, timeo);
	struct sock *sk = t->sk;
	int err;

	for (;;) {
		err = confirm ? tsi_dgram_confirmed(t, c, d, len) :
				tsi_dgram_try(t, c, d, len);
		if (err)
			break;
		sk_set_bit(SOCKWQ_ASYNC_NOSPACE, sk);
		set_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
		smp_mb__after_atomic();
		if (tsi_dgram_room(c, len) || tsi_conn_broken(c))
			continue;
		err = tsi_sleep_on(sk, &sleep);
		if (err)
			break;
	}
	tsi_sleep_end(sk, &sleep);
	return err;
}

/*
 * Whether the VMM is asked what became of a datagram. Otherwise an error is
 * that of a later call, which is soon enough for all but a socket's first one:
 * programs learn from it that there is no way.
 */
static bool tsi_dgram_confirm(struct tsi_sock *t, const struct tsi_addr *to)
{
	struct sock *sk = t->sk;

	if (!tsi_is_udp(sk))
		return true;
	if (!to->family)
		return false; /* connect(2) has found a way */
	return !READ_ONCE(t->proven) || (tsi_addr_broadcast(to) &&
					 !sock_flag(sk, SOCK_BROADCAST));
}

/* Checks a destination as udp_sendmsg and ping_v4_sendmsg do. */
static int tsi_dgram_dest(struct sock *sk, struct msghdr *msg,
			  struct tsi_addr *a)
{
	const struct sockaddr *sa = msg->msg_name;
	const struct sockaddr_in *sin = msg->msg_name;
	int err;

	if (sk->sk_family == AF_INET) {
		if (msg->msg_namelen < (int)sizeof(*sin))
			return -EINVAL;
		if (sa->sa_family == AF_UNSPEC && tsi_is_udp(sk)) {
			tsi_addr_any(a, AF_INET, ntohs(sin->sin_port));
			memcpy(a->addr, &sin->sin_addr, 4);
			err = 0;
		} else {
			err = tsi_addr_get(a, sk, sa, msg->msg_namelen);
		}
	} else {
		if (msg->msg_namelen < (int)offsetof(struct sockaddr, sa_data))
			return -EINVAL;
		if (sa->sa_family == AF_UNSPEC)
			return 0; /* to the peer */
		if (sa->sa_family != AF_INET6 && sa->sa_family != AF_INET)
			return -EINVAL;
		if (sa->sa_family == AF_INET && ipv6_only_sock(sk))
			return -ENETUNREACH;
		err = tsi_dgram_addr(sk, a, sa, msg->msg_namelen);
	}
	if (!err && tsi_is_udp(sk) && !a->port)
		err = -EINVAL;
	return err;
}

static size_t tsi_dgram_max(struct sock *sk, const struct tsi_addr *a)
{
	size_t max = 65535;
	__be32 v4;

	if (tsi_is_udp(sk))
		max -= sizeof(struct udphdr);
	if (sk->sk_family == AF_INET || (a->family && tsi_addr_v4(a, &v4)))
		max -= sizeof(struct iphdr);
	return max;
}

int tsi_dgram_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)
{
	struct tsi_sock *t = sock->tsi;
	struct sock *sk = sock->sk;
	struct tsi_data_msg *d;
	struct tsi_addr to = {};
	struct tsi_conn *c;
	int err;

	if (tsi_is_native(t) || (!msg->msg_name && t->nlinked))
		goto native;
	if (len > 0xffff)
		return -EMSGSIZE;
	if (msg->msg_flags & (MSG_OOB | MSG_MORE))
		return -EOPNOTSUPP;
	if (!tsi_is_udp(sk) && len < sizeof(struct icmphdr))
		return -EINVAL;
	if (tsi_is_raw(sk) && inet_test_bit(HDRINCL, sk))
		return -EOPNOTSUPP;
	if (msg->msg_name) {
		err = tsi_dgram_dest(sk, msg, &to);
		if (err)
			return err;
	}
	if (to.family) {
		if (tsi_dgram_local(sk, &to))
			goto native;
	} else if (!t->linked) {
		if (t->nlinked)
			goto native;
		return -EDESTADDRREQ;
	}
	if (len > tsi_dgram_max(sk, to.family ? &to : &t->peer))
		return -EMSGSIZE;
	err = sock_error(sk);
	if (err)
		return err;
	if (sk->sk_shutdown & SEND_SHUTDOWN)
		return -EPIPE;

	c = tsi_conn_get(t);
	if (!c || tsi_conn_broken(c) || !(t->hbound || t->linked)) {
		tsi_conn_put(c);
		mutex_lock(&t->lock);
		err = tsi_dgram_up(t);
		c = err ? NULL : tsi_conn_get(t);
		mutex_unlock(&t->lock);
		if (!c)
			return err ?: -ENETDOWN;
	}
	d = kvmalloc(sizeof(*d) + len, GFP_KERNEL);
	err = -ENOMEM;
	if (!d)
		goto out;
	memset(d, 0, sizeof(*d));
	tsi_hdr_init(&d->hdr, c, TSI_DATA, 0, 0, sizeof(*d) + len);
	d->remote = to;
	d->tos = cpu_to_le32(TSI_UNSET);
	d->ttl = cpu_to_le32(TSI_UNSET);
	err = msg->msg_controllen ? tsi_dgram_cmsgs(sk, msg, d) : 0;
	if (!err && !copy_from_iter_full(d + 1, len, &msg->msg_iter))
		err = -EFAULT;
	if (!err && tsi_is_raw(sk)) /* the host's socket has one of its own */
		WRITE_ONCE(t->echo_id,
			   ((struct icmphdr *)(d + 1))->un.echo.id);
	if (!err)
		err = tsi_dgram_xmit(t, c, d, sizeof(*d) + len,
				     tsi_dgram_confirm(t, &to),
				     sock_sndtimeo(sk, msg->msg_flags &
						   MSG_DONTWAIT));
	kvfree(d);
out:
	tsi_conn_put(c);
	return err < 0 ? err : len;
native:
	return tsi_native_ops(sock)->sendmsg(sock, msg, len);
}
