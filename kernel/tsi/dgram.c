// SPDX-License-Identifier: GPL-2.0
/* Datagram sockets, UDP and ICMP echo: connect, send, shutdown. */
#include <linux/icmp.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <net/inet_sock.h>
#include <net/ip.h>
#include <net/ipv6.h>

#include "tsi.h"

static bool tsi_is_udp(const struct sock *sk)
{
	return sk->sk_protocol == IPPROTO_UDP;
}

/* Whether a datagram to the address stays in the guest. */
static bool tsi_dgram_local(struct sock *sk, const struct tsi_addr *a)
{
	return tsi_addr_is_local(a) &&
	       (!tsi_is_udp(sk) || tsi_udp_receiver_exists(sk, a));
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
		tsi_addr_any(&a, sk->sk_family, inet_sk(sk)->inet_num);
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

/* t->lock held */
static int tsi_dgram_unlink(struct tsi_sock *t)
{
	struct tsi_addr none = {};
	struct tsi_reply r = {};
	struct tsi_conn *c;
	int err = 0;

	if (!t->linked)
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
		/* A port nobody chose is given back. */
		t->hbound = r.local.port;
	}
	spin_unlock_bh(&t->slock);
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
		err = tsi_dgram_unlink(t);
		if (!err)
			err = t->native->connect(sock, addr, len, flags);
		t->nlinked = false;
		mutex_unlock(&t->lock);
		return err;
	}
	err = tsi_dgram_addr(sk, &a, addr, len);
	if (err)
		return err;
	if (tsi_addr_broadcast(&a) && !sock_flag(sk, SOCK_BROADCAST))
		return -EACCES;
	mutex_lock(&t->lock);
	if (tsi_dgram_local(sk, &a)) {
		err = t->native->connect(sock, addr, len, flags);
		if (!err) {
			tsi_dgram_unlink(t);
			t->nlinked = true;
		}
	} else {
		err = tsi_dgram_link(t, &a);
		if (!err && t->nlinked) {
			t->native->connect(sock, &unspec, sizeof(unspec), 0);
			t->nlinked = false;
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
static int tsi_dgram_cmsgs(struct sock *sk, struct msghdr *msg,
			   struct tsi_data_msg *d)
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

static bool tsi_dgram_room(struct tsi_conn *c, size_t len)
{
	return vsock_stream_has_space(vsock_sk(c->sock->sk)) >= (s64)len;
}

/* Sends one message when there is room for all of it. */
static int tsi_dgram_xmit(struct tsi_sock *t, struct tsi_conn *c, void *buf,
			  size_t len, long timeo)
{
	DEFINE_WAIT_FUNC(wait, woken_wake_function);
	struct sock *sk = t->sk;
	bool waiting = false;
	int err;

	for (;;) {
		mutex_lock(&c->tx);
		if (tsi_dgram_room(c, len) || tsi_conn_broken(c)) {
			struct msghdr m = { .msg_flags = MSG_DONTWAIT |
							 MSG_NOSIGNAL };
			struct kvec vec = { .iov_base = buf, .iov_len = len };

			err = kernel_sendmsg(c->sock, &m, &vec, 1, len);
			if (err != len && err != -ENOMEM && err != -EMSGSIZE) {
				kernel_sock_shutdown(c->sock, SHUT_RDWR);
				err = -ENETDOWN;
			}
			mutex_unlock(&c->tx);
			break;
		}
		mutex_unlock(&c->tx);
		sk_set_bit(SOCKWQ_ASYNC_NOSPACE, sk);
		set_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
		smp_mb__after_atomic();
		if (tsi_dgram_room(c, len))
			continue;
		err = -EAGAIN;
		if (!timeo)
			break;
		if (signal_pending(current)) {
			err = sock_intr_errno(timeo);
			break;
		}
		if (!waiting) {
			add_wait_queue(sk_sleep(sk), &wait);
			waiting = true;
			continue;
		}
		timeo = wait_woken(&wait, TASK_INTERRUPTIBLE, timeo);
	}
	if (waiting)
		remove_wait_queue(sk_sleep(sk), &wait);
	return err;
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
	if (msg->msg_name) {
		err = tsi_dgram_dest(sk, msg, &to);
		if (err)
			return err;
	}
	if (to.family) {
		if (tsi_dgram_local(sk, &to))
			goto native;
		if (tsi_addr_broadcast(&to) && !sock_flag(sk, SOCK_BROADCAST))
			return -EACCES;
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
	if (!err)
		err = tsi_dgram_xmit(t, c, d, sizeof(*d) + len,
				     sock_sndtimeo(sk, msg->msg_flags &
						   MSG_DONTWAIT));
	kvfree(d);
out:
	tsi_conn_put(c);
	return err < 0 ? err : len;
native:
	return tsi_native_ops(sock)->sendmsg(sock, msg, len);
}
