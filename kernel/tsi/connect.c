// SPDX-License-Identifier: GPL-2.0
/* connect(2) of stream sockets. */
#include <linux/sched/signal.h>
#include <net/inet_sock.h>
#include <net/ipv6.h>

#include "tsi.h"

/* How long a call that does not block waits for the VMM's first word. */
#define TSI_CONNECT_START	(HZ / 4)

/* The connection request has its answer, which is none: err. */
void tsi_connect_failed(struct tsi_sock *t, struct tsi_conn *c, int err,
			bool drop)
{
	struct sock *sk = t->sk;
	bool mine;

	spin_lock_bh(&t->slock);
	mine = t->state == TSI_CONNECTING &&
	       rcu_access_pointer(t->conn) == c;
	if (mine) {
		WRITE_ONCE(sk->sk_err, -err);
		/* What the native code goes by when nothing is left. */
		WRITE_ONCE(sk->sk_shutdown, SHUTDOWN_MASK);
		smp_store_release(&t->state, TSI_NEW);
	}
	spin_unlock_bh(&t->slock);
	if (!mine)
		return;
	if (drop) {
		tsi_conn_drop(t);
		t->hbound = false;
	}
	wake_up(&c->wait);
	sk->sk_state_change(sk);
	sk_error_report(sk);
}

/* pump held: nothing reads the connection while it turns raw. */
void tsi_connect_done(struct tsi_sock *t, struct tsi_conn *c,
		      const struct tsi_reply *r)
{
	struct sock *sk = t->sk;
	bool mine;

	if (r->err == EINPROGRESS) { /* another reply follows */
		WRITE_ONCE(c->started, true);
		wake_up(&c->wait);
		return;
	}
	if (r->err) {
		tsi_connect_failed(t, c, tsi_errno(r->err), false);
		return;
	}
	spin_lock_bh(&t->slock);
	WRITE_ONCE(c->raw, true);
	mine = t->state == TSI_CONNECTING &&
	       rcu_access_pointer(t->conn) == c;
	if (mine) {
		t->local = r->local;
		t->peer = r->peer;
		smp_store_release(&t->state, TSI_CONNECTED);
	}
	spin_unlock_bh(&t->slock);
	if (!mine)
		return;
	wake_up(&c->wait);
	sk->sk_state_change(sk);
	sk_wake_async(sk, SOCK_WAKE_IO, POLL_OUT);
	if (tsi_conn_broken(c))
		queue_work(tsi_wq, &t->work);
}

/* The native socket looks like a fresh one (t->lock held). */
static void tsi_freshen(struct sock *sk)
{
	WRITE_ONCE(sk->sk_shutdown, 0);
}

/* From now on the socket is the guest's own (t->lock held). */
static void tsi_go_native(struct tsi_sock *t)
{
	tsi_conn_drop(t);
	t->hbound = false;
	smp_store_release(&t->state, TSI_NATIVE);
}

/* t->lock held; 1: the native stack takes over. */
static int tsi_connect_start(struct socket *sock, struct tsi_sock *t,
			     const struct sockaddr *sa, int len)
{
	struct sock *sk = sock->sk;
	struct tsi_msg {
		struct tsi_hdr	h;
		struct tsi_addr	a;
	} m = {};
	struct tsi_conn *c;
	__be32 v4;
	int err;

	if (t->state != TSI_NEW || sk->sk_state != TCP_CLOSE)
		return -EISCONN;
	err = tsi_addr_get(&m.a, sk, sa, len);
	if (err)
		return err;
	if (sk->sk_family == AF_INET6 && ipv6_only_sock(sk) &&
	    tsi_addr_v4(&m.a, &v4))
		return -ENETUNREACH;
	if (tsi_addr_is_local(&m.a) ? tsi_listener_exists(sk, &m.a) :
				      tsi_addr_is_inside(&m.a)) {
		tsi_go_native(t);
		return 1;
	}
	err = tsi_make(t, &c);
	if (err)
		return err;
	if (t->bound && !t->hbound)
		err = tsi_bind_host(t, &t->want);
	if (err)
		goto out;
	tsi_hdr_init(&m.h, c, TSI_CONNECT, 0, 0, sizeof(m));
	/* Errors of an attempt before are not this one's. */
	WRITE_ONCE(sk->sk_err, 0);
	tsi_freshen(sk);
	spin_lock_bh(&t->slock);
	WRITE_ONCE(t->state, TSI_CONNECTING);
	t->shut = 0;
	t->dead = false;
	spin_unlock_bh(&t->slock);
	WRITE_ONCE(c->async, false);
	WRITE_ONCE(c->started, false);
	sock->state = SS_CONNECTING;
	err = tsi_conn_send(c, &m, sizeof(m));
	if (err)
		tsi_connect_failed(t, c, -ENETDOWN, true);
	err = 0;
out:
	tsi_conn_put(c);
	return err;
}

/*
 * Waits for the end of the attempt, or, if only started is asked for, until it
 * is one that takes time; returns what is left of the timeout.
 */
static long tsi_connect_wait(struct tsi_sock *t, long timeo, bool started)
{
	DEFINE_WAIT_FUNC(wait, woken_wake_function);
	struct tsi_conn *c = tsi_conn_get(t);

	if (!c)
		return timeo;
	add_wait_queue(&c->wait, &wait);
	for (;;) {
		tsi_pump(t, c);
		if (READ_ONCE(t->state) != TSI_CONNECTING ||
		    (started && READ_ONCE(c->started)))
			break;
		if (tsi_conn_broken(c) || tsi_conn_fin(c)) {
			tsi_pump(t, c);
			tsi_connect_failed(t, c, -ENETDOWN, true);
			break;
		}
		if (!timeo ||
		    (started ? fatal_signal_pending(current) :
			       signal_pending(current)))
			break;
		timeo = wait_woken(&wait, started ? TASK_KILLABLE :
						    TASK_INTERRUPTIBLE, timeo);
	}
	remove_wait_queue(&c->wait, &wait);
	if (READ_ONCE(t->state) == TSI_CONNECTING) {
		/* It goes on without this thread. */
		WRITE_ONCE(c->async, true);
		queue_work(tsi_wq, &t->work);
	}
	tsi_conn_put(c);
	return timeo;
}

/*
 * Whether the attempt ended with what connect(2) itself returns even if it
 * does not block: there is no way, rather than nobody at its end.
 */
static bool tsi_connect_sync(struct tsi_sock *t)
{
	switch (READ_ONCE(t->sk->sk_err)) {
	case 0:
	case ECONNREFUSED:
	case ECONNRESET:
	case ETIMEDOUT:
		return false;
	}
	return true;
}

static bool tsi_was_open(struct tsi_sock *t)
{
	struct tsi_conn *c = tsi_conn_get(t);
	bool open = c && t->state == TSI_CONNECTED && !tsi_stream_closed(t, c);

	tsi_conn_put(c);
	return open;
}

/* t->lock held; as tcp_disconnect does. */
int tsi_disconnect(struct tsi_sock *t)
{
	struct sock *sk = t->sk;
	struct tsi_conn *c;
	int err = 0;

	switch (t->state) {
	case TSI_CONNECTED:
		if (tsi_was_open(t)) {
			c = tsi_conn_get(t);
			if (c)
				tsi_ctl_abort(c->id);
			tsi_conn_put(c);
			err = ECONNRESET;
		}
		break;
	case TSI_CONNECTING:
		err = ECONNRESET;
		break;
	case TSI_LISTENING:
		tsi_listen_stop(t);
		break;
	default:
		return 0;
	}
	spin_lock_bh(&t->slock);
	WRITE_ONCE(t->state, TSI_NEW);
	t->shut = 0;
	t->dead = false;
	memset(&t->peer, 0, sizeof(t->peer));
	spin_unlock_bh(&t->slock);
	tsi_conn_drop(t);
	tsi_port_return(t);
	if (err)
		WRITE_ONCE(sk->sk_err, err);
	sk->sk_state_change(sk);
	sk_error_report(sk);
	return 0;
}

int tsi_stream_connect(struct socket *sock, struct sockaddr *addr, int len,
		       int flags)
{
	struct tsi_sock *t = sock->tsi;
	struct sock *sk = sock->sk;
	long timeo;
	int err;

	if (tsi_is_native(t))
		return tsi_native_ops(sock)->connect(sock, addr, len, flags);
	if (len < (int)sizeof(addr->sa_family))
		return -EINVAL;

	mutex_lock(&t->lock);
	if (tsi_is_native(t))
		goto native;
	if (addr->sa_family == AF_UNSPEC) {
		err = tsi_disconnect(t);
		goto native;
	}
	switch (sock->state) {
	case SS_CONNECTED:
		err = -EISCONN;
		goto out;
	case SS_CONNECTING:
		err = -EALREADY;
		break;
	case SS_UNCONNECTED:
		err = tsi_connect_start(sock, t, addr, len);
		if (err > 0)
			goto native;
		if (err)
			goto out;
		err = -EINPROGRESS;
		if (!sock_sndtimeo(sk, flags & O_NONBLOCK)) {
			tsi_connect_wait(t, TSI_CONNECT_START, true);
			if (READ_ONCE(t->state) == TSI_CONNECTING ||
			    !tsi_connect_sync(t))
				goto out;
		}
		break;
	default:
		err = -EINVAL;
		goto out;
	}

	timeo = sock_sndtimeo(sk, flags & O_NONBLOCK);
	if (READ_ONCE(t->state) == TSI_CONNECTING) {
		if (!timeo)
			goto out;
		mutex_unlock(&t->lock);
		timeo = tsi_connect_wait(t, timeo, false);
		mutex_lock(&t->lock);
		if (READ_ONCE(t->state) == TSI_CONNECTING) {
			if (timeo)
				err = sock_intr_errno(timeo);
			goto out;
		}
	}
	if (t->state == TSI_CONNECTED) {
		sock->state = SS_CONNECTED;
		err = 0;
	} else {
		err = sock_error(sk) ?: -ECONNABORTED;
		sock->state = SS_UNCONNECTED;
		tsi_freshen(sk);
	}
out:
	mutex_unlock(&t->lock);
	return err;
native:
	mutex_unlock(&t->lock);
	return t->native->connect(sock, addr, len, flags);
}
