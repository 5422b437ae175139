// SPDX-License-Identifier: GPL-2.0
/* bind(2), listen(2) and accept(2). */
#include <linux/cred.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <net/inet_connection_sock.h>
#include <net/inet_hashtables.h>
#include <net/ip.h>
#include <net/ipv6.h>

#include "tsi.h"

/* At most this many connections wait for accept(2), says the protocol. */
#define TSI_PENDING_MAX	64

/*
 * Binds the native socket like the host's, so that the guest finds it; chosen
 * if the program named the port, rather than the host.
 */
int tsi_native_bind(struct tsi_sock *t, const struct tsi_addr *a, bool chosen)
{
	struct sockaddr_storage ss = {};
	struct sock *sk = t->sk;
	int err, len;

	if (inet_sk(sk)->inet_num) {
		t->nbound = inet_sk(sk)->inet_num == le16_to_cpu(a->port);
		return 0;
	}
	len = tsi_addr_put(a, sk, (struct sockaddr *)&ss);
	err = t->native->bind(sk->sk_socket, (struct sockaddr *)&ss, len);
	t->nbound = !err;
	if (!err && !chosen) {
		lock_sock(sk);
		sk->sk_userlocks &= ~SOCK_BINDPORT_LOCK;
		release_sock(sk);
	}
	return err;
}

/*
 * The socket is neither connected nor listening any more, and not bound in the
 * namespace: a port that nobody chose goes, as in tcp_set_state (t->lock held).
 */
void tsi_port_return(struct tsi_sock *t)
{
	struct sock *sk = t->sk;

	t->hbound = false;
	if (t->chosen)
		return;
	t->want.port = 0;
	lock_sock(sk);
	if (sk->sk_state == TCP_CLOSE && inet_csk(sk)->icsk_bind_hash &&
	    !(sk->sk_userlocks & SOCK_BINDPORT_LOCK)) {
		inet_put_port(sk);
		t->nbound = false;
	}
	release_sock(sk);
}

/* t->lock held */
int tsi_bind_host(struct tsi_sock *t, const struct tsi_addr *a)
{
	struct tsi_reply r = {};
	struct tsi_conn *c;
	int err;

	err = tsi_make(t, &c);
	if (err)
		return err;
	err = tsi_request(t, c, TSI_BIND, 0, a, sizeof(*a), &r);
	tsi_conn_put(c);
	if (err)
		return err;
	if (r.flags & TSI_F_LOCAL)
		return 1;
	spin_lock_bh(&t->slock);
	t->local = r.local;
	t->hbound = true;
	spin_unlock_bh(&t->slock);
	if (t->bound) /* at another port, if the one it had was returned */
		t->want.port = t->local.port;
	return 0;
}

static int tsi_bind_check(struct sock *sk, const struct sockaddr *sa, int len,
			  struct tsi_addr *a)
{
	const struct sockaddr_in *sin = (const void *)sa;
	struct net *net = sock_net(sk);
	struct in6_addr in6;
	__be32 v4;
	int err;
	u16 port;

	if (sk->sk_family == AF_INET && len >= (int)sizeof(*sin) &&
	    sin->sin_family == AF_UNSPEC && !sin->sin_addr.s_addr) {
		/* An old habit the native stack allows. */
		tsi_addr_any(a, AF_INET, ntohs(sin->sin_port));
	} else {
		err = tsi_addr_get(a, sk, sa, len);
		if (err)
			return err;
	}
	if (a->family == cpu_to_le16(AF_INET6)) {
		memcpy(&in6, a->addr, sizeof(in6));
		if (sk->sk_type == SOCK_STREAM && ipv6_addr_is_multicast(&in6))
			return -EINVAL;
		if (tsi_addr_v4(a, &v4) && ipv6_only_sock(sk))
			return -EINVAL;
	}
	port = le16_to_cpu(a->port);
	if (port && sk->sk_protocol != IPPROTO_ICMP &&
	    sk->sk_protocol != IPPROTO_ICMPV6 &&
	    inet_port_requires_bind_service(net, port) &&
	    !ns_capable(net->user_ns, CAP_NET_BIND_SERVICE))
		return -EACCES;
	return 0;
}

int tsi_bind(struct socket *sock, struct sockaddr *addr, int len)
{
	struct tsi_sock *t = sock->tsi;
	struct sock *sk = sock->sk;
	struct tsi_addr a;
	bool chosen;
	int err;

	if (tsi_is_native(t))
		return tsi_native_ops(sock)->bind(sock, addr, len);
	err = tsi_bind_check(sk, addr, len, &a);
	if (err)
		return err;
	chosen = a.port;
	mutex_lock(&t->lock);
	err = -EINVAL;
	if (t->state != TSI_NEW || sk->sk_state != TCP_CLOSE || t->hbound ||
	    tsi_num(sk))
		goto out;
	err = tsi_bind_host(t, &a);
	/*
	 * Kept inside by policy, an address only the guest has, or no VMM to
	 * ask: the guest's stack alone.
	 */
	if (err == 1 || (err == -EADDRNOTAVAIL && tsi_addr_is_local(&a)) ||
	    err == -ENETUNREACH) {
		err = t->native->bind(sock, addr, len);
		goto out;
	}
	if (err)
		goto out;
	a.port = t->local.port;
	t->want = a;
	t->bound = true;
	t->chosen = chosen;
	/* The guest's own part may be in use where the host's is not. */
	err = tsi_native_bind(t, &a, chosen);
	if (err == -EADDRINUSE && chosen) {
		tsi_conn_drop(t);
		t->hbound = false;
		t->bound = false;
		t->chosen = false;
		goto out;
	}
	err = 0;
out:
	mutex_unlock(&t->lock);
	return err;
}

static void tsi_pending_free(struct tsi_sock *t)
{
	struct tsi_pending *p, *next;
	LIST_HEAD(list);

	spin_lock_bh(&t->slock);
	list_splice_init(&t->pending, &list);
	t->npending = 0;
	spin_unlock_bh(&t->slock);
	list_for_each_entry_safe(p, next, &list, link)
		kfree(p);
}

/* t->lock held, or the socket is going */
void tsi_listen_stop(struct tsi_sock *t)
{
	spin_lock_bh(&t->slock);
	WRITE_ONCE(t->state, TSI_NEW);
	spin_unlock_bh(&t->slock);
	tsi_conn_drop(t);
	t->hbound = false;
	tsi_pending_free(t);
}

/* t->lock held */
static int tsi_listen_host(struct tsi_sock *t, int backlog)
{
	struct tsi_reply r = {};
	struct tsi_conn *c;
	int err;

	err = tsi_make(t, &c);
	if (!err && t->bound && !t->hbound)
		err = tsi_bind_host(t, &t->want);
	if (!err) {
		WRITE_ONCE(c->async, true);
		err = tsi_request(t, c, TSI_LISTEN, backlog, NULL, 0, &r);
		tsi_conn_put(c);
	}
	if (!err && !(r.flags & TSI_F_LOCAL)) {
		spin_lock_bh(&t->slock);
		t->local = r.local;
		t->hbound = true;
		spin_unlock_bh(&t->slock);
	}
	return err < 0 ? err : 0;
}

int tsi_listen(struct socket *sock, int backlog)
{
	struct tsi_sock *t = sock->tsi;
	struct sock *sk = sock->sk;
	struct tsi_addr a;
	int err;

	if (tsi_is_native(t) || !tsi_is_stream(t))
		return tsi_native_ops(sock)->listen(sock, backlog);
	mutex_lock(&t->lock);
	err = -EINVAL;
	if (sock->state != SS_UNCONNECTED ||
	    (t->state != TSI_NEW && t->state != TSI_LISTENING))
		goto out;
	/* Bound where only the guest is. */
	if (inet_sk(sk)->inet_num && !t->bound && !t->hbound) {
		smp_store_release(&t->state, TSI_NATIVE);
		err = t->native->listen(sock, backlog);
		goto out;
	}
	err = tsi_listen_host(t, backlog);
	if (err == -ENETUNREACH) { /* nobody to ask */
		smp_store_release(&t->state, TSI_NATIVE);
		err = t->native->listen(sock, backlog);
		goto out;
	}
	if (err)
		goto out;
	t->backlog = backlog;
	spin_lock_bh(&t->slock);
	WRITE_ONCE(t->state, TSI_LISTENING);
	spin_unlock_bh(&t->slock);
	if (!inet_sk(sk)->inet_num) {
		tsi_addr_any(&a, sk->sk_family, 0);
		if (t->bound)
			a = t->want;
		a.port = t->local.port;
		tsi_native_bind(t, &a, false);
	}
	if (t->nbound)
		t->native->listen(sock, backlog);
out:
	mutex_unlock(&t->lock);
	return err;
}

/* An announcement (pump held). */
void tsi_listen_event(struct tsi_sock *t, u32 token,
		      const struct tsi_addr *local, const struct tsi_addr *peer)
{
	struct tsi_pending *p = kmalloc(sizeof(*p), GFP_KERNEL);
	bool full;

	if (!p)
		return; /* the VMM resets it when the listener closes */
	p->token = token;
	p->local = *local;
	p->peer = *peer;
	spin_lock_bh(&t->slock);
	full = t->npending >= 2 * TSI_PENDING_MAX;
	if (!full) {
		list_add_tail(&p->link, &t->pending);
		t->npending++;
	}
	spin_unlock_bh(&t->slock);
	if (full) {
		kfree(p);
		net_warn_ratelimited("tsi: too many connections announced\n");
		return;
	}
	t->sk->sk_data_ready(t->sk);
}

static struct tsi_pending *tsi_pending_take(struct tsi_sock *t)
{
	struct tsi_pending *p;

	spin_lock_bh(&t->slock);
	p = list_first_entry_or_null(&t->pending, struct tsi_pending, link);
	if (p) {
		list_del(&p->link);
		t->npending--;
	}
	spin_unlock_bh(&t->slock);
	return p;
}

/* What an accepted socket has from its listener. */
static void tsi_inherit(struct socket *sock, struct tsi_sock *from)
{
	struct sock *sk = sock->sk, *psk = from->sk;
	struct tsi_opt *o;

	mutex_lock(&from->lock);
	list_for_each_entry(o, &from->opts, link) {
		if (o->level == SOL_SOCKET)
			sock_setsockopt(sock, o->level, o->name,
					KERNEL_SOCKPTR(o->value), o->len);
		else
			from->native->setsockopt(sock, o->level, o->name,
						 KERNEL_SOCKPTR(o->value),
						 o->len);
	}
	mutex_unlock(&from->lock);
	sk->sk_rcvtimeo = psk->sk_rcvtimeo;
	sk->sk_sndtimeo = psk->sk_sndtimeo;
	sk->sk_rcvlowat = psk->sk_rcvlowat;
	sk->sk_priority = psk->sk_priority;
}

/* Takes the announced connection over into newsock. */
static int tsi_accept_host(struct tsi_sock *t, struct tsi_pending *p,
			   struct socket *newsock)
{
	struct tsi_reply r = {};
	struct tsi_conn *c;
	struct tsi_sock *nt;
	struct socket *tmp;
	int err;

	c = tsi_conn_open(NULL, SOCK_STREAM);
	if (IS_ERR(c))
		return PTR_ERR(c);
	err = tsi_request(NULL, c, TSI_ATTACH, p->token, NULL, 0, &r);
	if (err)
		goto out;
	err = __sock_create(&init_net, t->sk->sk_family, SOCK_STREAM,
			    IPPROTO_TCP, &tmp, 0);
	if (err) {
		tsi_ctl_abort(c->id);
		goto out;
	}
	tsi_inherit(tmp, t);
	nt = tmp->tsi;
	nt->local = r.local.family ? r.local : p->local;
	nt->peer = r.peer.family ? r.peer : p->peer;
	nt->state = TSI_CONNECTED;
	tmp->tsi = NULL;
	sock_graft(tmp->sk, newsock);
	tmp->sk = NULL;
	sock_release(tmp);
	newsock->tsi = nt;
	newsock->state = SS_CONNECTED;
	set_bit(SOCK_CUSTOM_SOCKOPT, &newsock->flags);
	tsi_conn_attach(nt, c);
	return 0;
out:
	tsi_conn_put(c);
	return err;
}

/* -EAGAIN: the connection was another thread's. */
static int tsi_accept_native(struct tsi_sock *t, struct socket *sock,
			     struct socket *newsock,
			     struct proto_accept_arg *arg)
{
	struct proto_accept_arg a = *arg;
	const struct proto_ops *ops = newsock->ops;
	int err;

	a.flags |= O_NONBLOCK;
	newsock->ops = t->native;
	err = t->native->accept(sock, newsock, &a);
	if (err)
		newsock->ops = ops;
	arg->is_empty = a.is_empty;
	return err;
}

/* Takes what is there: 0, an error, or -EAGAIN when there is nothing. */
static int tsi_accept_one(struct tsi_sock *t, struct socket *sock,
			  struct socket *newsock, struct proto_accept_arg *arg)
{
	struct tsi_pending *p;
	int err;

	while ((p = tsi_pending_take(t))) {
		err = tsi_accept_host(t, p, newsock);
		kfree(p);
		if (!err || err == -ENOMEM || err == -ENFILE ||
		    fatal_signal_pending(current))
			return err;
		/* It is gone already: the next one. */
	}
	if (t->sk->sk_state == TCP_LISTEN &&
	    !reqsk_queue_empty(&inet_csk(t->sk)->icsk_accept_queue))
		return tsi_accept_native(t, sock, newsock, arg);
	return -EAGAIN;
}

int tsi_accept(struct socket *sock, struct socket *newsock,
	       struct proto_accept_arg *arg)
{
	struct tsi_sock *t = sock->tsi;
	struct sock *sk = sock->sk;
	DEFINE_WAIT_FUNC(wait, woken_wake_function);
	long timeo;
	int err;

	if (tsi_is_native(t) || !tsi_is_stream(t) ||
	    t->state != TSI_LISTENING) {
		newsock->ops = tsi_native_ops(sock);
		return newsock->ops->accept(sock, newsock, arg);
	}
	timeo = sock_rcvtimeo(sk, arg->flags & O_NONBLOCK);
	err = tsi_accept_one(t, sock, newsock, arg);
	if (err != -EAGAIN || !timeo)
		return err;
	add_wait_queue_exclusive(sk_sleep(sk), &wait);
	for (;;) {
		err = tsi_accept_one(t, sock, newsock, arg);
		if (err != -EAGAIN)
			break;
		err = -EINVAL;
		if (READ_ONCE(t->state) != TSI_LISTENING)
			break;
		err = -EAGAIN;
		if (!timeo)
			break;
		err = sock_intr_errno(timeo);
		if (signal_pending(current))
			break;
		timeo = wait_woken(&wait, TASK_INTERRUPTIBLE, timeo);
	}
	remove_wait_queue(sk_sleep(sk), &wait);
	return err;
}

/*
 * The listener's connection ended: the VMM was restored from a snapshot, or
 * refused what it was told. Listening starts over, once a second at most.
 */
void tsi_listen_work(struct tsi_sock *t, struct tsi_conn *c)
{
	struct sock *sk = t->sk;
	int err;

	tsi_pump(t, c);
	if (!tsi_conn_broken(c) && !tsi_conn_fin(c))
		return;
	mutex_lock(&t->lock);
	if (t->state != TSI_LISTENING || rcu_access_pointer(t->conn) != c)
		goto out;
	tsi_conn_drop(t);
	t->hbound = false;
	tsi_pending_free(t);
	err = -ENETDOWN;
	if (!t->remade || time_after(jiffies, t->remade + HZ)) {
		t->remade = jiffies ?: 1;
		/* Its port is its name, even if nobody chose it. */
		if (!t->bound) {
			tsi_addr_any(&t->want, sk->sk_family,
				     le16_to_cpu(t->local.port));
			t->bound = true;
		}
		err = tsi_listen_host(t, t->backlog);
	}
	if (err) {
		WRITE_ONCE(sk->sk_err, -err);
		sk_error_report(sk);
	}
out:
	mutex_unlock(&t->lock);
}
