// SPDX-License-Identifier: GPL-2.0
/* Bytes of stream sockets: send, receive, poll, shutdown. */
#include <linux/sched/signal.h>
#include <linux/sockios.h>
#include <linux/virtio_vsock.h>
#include <net/inet_connection_sock.h>
#include <net/tcp.h>
#include <asm/ioctls.h>

#include "tsi.h"

/* The room that makes a socket writable again. */
s64 tsi_space_wanted(struct tsi_conn *c)
{
	struct virtio_vsock_sock *vvs = vsock_sk(c->sock->sk)->trans;
	u32 buf;

	if (!vvs)
		return 1;
	buf = min(READ_ONCE(vvs->peer_buf_alloc), READ_ONCE(vvs->buf_alloc));
	/* A datagram has to fit as a whole. */
	if (c->sock->type != SOCK_STREAM)
		return max(buf / 2, 1U);
	return clamp(buf / 4, 1U, 65536U);
}

static s64 tsi_space(struct tsi_conn *c)
{
	return vsock_stream_has_space(vsock_sk(c->sock->sk));
}

static s64 tsi_unread(struct tsi_conn *c)
{
	return vsock_stream_has_data(vsock_sk(c->sock->sk));
}

/* Another thread has disconnected the socket. */
static bool tsi_gone(struct tsi_sock *t, struct tsi_conn *c)
{
	return rcu_access_pointer(t->conn) != c;
}

/* TCP's CLOSE, as far as the guest can tell. */
bool tsi_stream_closed(struct tsi_sock *t, struct tsi_conn *c)
{
	return READ_ONCE(t->dead) ||
	       (tsi_conn_fin(c) && (READ_ONCE(t->shut) & SEND_SHUTDOWN));
}

static u8 tsi_shutdown_mask(struct tsi_sock *t, struct tsi_conn *c)
{
	u8 mask = READ_ONCE(t->shut);

	if (READ_ONCE(t->dead))
		return SHUTDOWN_MASK;
	return tsi_conn_fin(c) ? mask | RCV_SHUTDOWN : mask;
}

static __poll_t tsi_poll_connected(struct tsi_sock *t, struct tsi_conn *c)
{
	struct socket *sock = t->sk->sk_socket;
	struct sock *sk = t->sk;
	u8 shutdown = tsi_shutdown_mask(t, c);
	__poll_t mask = 0;
	int target;

	if (shutdown == SHUTDOWN_MASK || tsi_stream_closed(t, c))
		mask |= EPOLLHUP;
	if (shutdown & RCV_SHUTDOWN)
		mask |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
	target = min(sock_rcvlowat(sk, 0, INT_MAX), TSI_STREAM_BUF / 2);
	if (tsi_unread(c) >= target)
		mask |= EPOLLIN | EPOLLRDNORM;
	if (shutdown & SEND_SHUTDOWN) {
		mask |= EPOLLOUT | EPOLLWRNORM;
	} else if (tsi_space(c) >= tsi_space_wanted(c)) {
		mask |= EPOLLOUT | EPOLLWRNORM;
	} else {
		sk_set_bit(SOCKWQ_ASYNC_NOSPACE, sk);
		set_bit(SOCK_NOSPACE, &sock->flags);
		smp_mb__after_atomic();
		if (tsi_space(c) >= tsi_space_wanted(c))
			mask |= EPOLLOUT | EPOLLWRNORM;
	}
	if (READ_ONCE(sk->sk_err) ||
	    !skb_queue_empty_lockless(&sk->sk_error_queue))
		mask |= EPOLLERR;
	return mask;
}

__poll_t tsi_stream_poll(struct file *file, struct socket *sock,
			 struct poll_table_struct *wait)
{
	struct tsi_sock *t = sock->tsi;
	struct sock *sk = sock->sk;
	struct tsi_conn *c;
	__poll_t mask;

	if (tsi_is_native(t))
		return tsi_native_ops(sock)->poll(file, sock, wait);
	sock_poll_wait(file, sock, wait);
	switch (smp_load_acquire(&t->state)) {
	case TSI_CONNECTING:
		return READ_ONCE(sk->sk_err) ? EPOLLERR : 0;
	case TSI_LISTENING:
		mask = READ_ONCE(t->npending) ? EPOLLIN | EPOLLRDNORM : 0;
		if (sk->sk_state == TCP_LISTEN)
			mask |= inet_csk_listen_poll(sk);
		if (READ_ONCE(sk->sk_err))
			mask |= EPOLLERR;
		return mask;
	case TSI_CONNECTED:
		c = tsi_conn_get(t);
		if (!c)
			break;
		mask = tsi_poll_connected(t, c);
		tsi_conn_put(c);
		return mask;
	default:
		break;
	}
	return t->native->poll(file, sock, NULL);
}

/*
 * Waits until the socket is no longer connecting. Returns 0 or an error, as
 * sk_stream_wait_connect does.
 */
static int tsi_wait_connected(struct tsi_sock *t, long *timeo)
{
	TSI_SLEEP(sleep, *timeo);
	int err = 0;

	while (!err && smp_load_acquire(&t->state) == TSI_CONNECTING)
		err = tsi_sleep_on(t->sk, &sleep);
	tsi_sleep_end(t->sk, &sleep);
	*timeo = sleep.timeo;
	return err;
}

/* The room is gone: asks to be told of more, and whether to try at once. */
static bool tsi_no_space(struct tsi_sock *t, struct tsi_conn *c)
{
	sk_set_bit(SOCKWQ_ASYNC_NOSPACE, t->sk);
	set_bit(SOCK_NOSPACE, &t->sk->sk_socket->flags);
	smp_mb__after_atomic();
	return tsi_space(c) >= tsi_space_wanted(c) || tsi_conn_broken(c);
}

static int tsi_send_connected(struct tsi_sock *t, struct tsi_conn *c,
			      struct msghdr *msg, size_t len, long timeo)
{
	const struct proto_ops *ops = c->sock->ops;
	TSI_SLEEP(sleep, timeo);
	struct sock *sk = t->sk;
	struct msghdr m = {
		.msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL,
		.msg_iter = msg->msg_iter,
	};
	size_t done = 0;
	int err;

	for (;;) {
		err = -EPIPE;
		if (READ_ONCE(sk->sk_err) || READ_ONCE(t->dead) ||
		    (READ_ONCE(t->shut) & SEND_SHUTDOWN) || tsi_gone(t, c))
			break;
		err = 0;
		if (done == len)
			break;
		err = ops->sendmsg(c->sock, &m, len - done);
		if (err > 0) {
			done += err;
			continue;
		}
		/* The work item finds out why; it wakes us. */
		if (err == -EPIPE || err == -ENOTCONN || err == -ECONNRESET)
			queue_work(tsi_wq, &t->work);
		else if (err != -EAGAIN)
			break;
		else if (tsi_no_space(t, c) && !tsi_conn_broken(c))
			continue;
		err = tsi_sleep_on(sk, &sleep);
		if (err)
			break;
	}
	tsi_sleep_end(sk, &sleep);
	msg->msg_iter = m.msg_iter;
	if (done)
		return done;
	return err < 0 ? sk_stream_error(sk, msg->msg_flags, err) : 0;
}

int tsi_stream_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)
{
	struct tsi_sock *t = sock->tsi;
	struct sock *sk = sock->sk;
	struct sockcm_cookie sockc;
	struct tsi_conn *c;
	long timeo;
	int err;

	if (tsi_is_native(t))
		goto native;
	if (msg->msg_flags & (MSG_FASTOPEN | MSG_OOB))
		return -EOPNOTSUPP;
	timeo = sock_sndtimeo(sk, msg->msg_flags & MSG_DONTWAIT);
	err = tsi_wait_connected(t, &timeo);
	if (err)
		return err;
	if (t->state != TSI_CONNECTED)
		goto native;
	if (msg->msg_controllen) {
		sockcm_init(&sockc, sk);
		err = sock_cmsg_send(sk, msg, &sockc);
		if (err)
			return err;
	}
	c = tsi_conn_get(t);
	if (!c)
		goto native;
	err = tsi_send_connected(t, c, msg, len, timeo);
	tsi_conn_put(c);
	return err;
native:
	return tsi_native_ops(sock)->sendmsg(sock, msg, len);
}

/* One go at what has arrived; 0: nothing. */
static int tsi_recv_some(struct tsi_conn *c, struct msghdr *msg, size_t len,
			 int flags)
{
	const struct proto_ops *ops = c->sock->ops;
	struct msghdr m = {};
	int n;

	if (tsi_unread(c) <= 0)
		return 0;
	if (flags & MSG_TRUNC)
		iov_iter_discard(&m.msg_iter, ITER_DEST, len);
	else
		m.msg_iter = msg->msg_iter;
	n = ops->recvmsg(c->sock, &m, len, (flags & MSG_PEEK) | MSG_DONTWAIT);
	if (!(flags & MSG_TRUNC))
		msg->msg_iter = m.msg_iter;
	if (n == -EFAULT || n == -ENOMEM)
		return n;
	return max(n, 0);
}

static int tsi_recv_connected(struct tsi_sock *t, struct tsi_conn *c,
			      struct msghdr *msg, size_t len, int flags,
			      long timeo)
{
	size_t target = sock_rcvlowat(t->sk, flags & MSG_WAITALL, len);
	TSI_SLEEP(sleep, timeo);
	struct sock *sk = t->sk;
	size_t done = 0;
	bool ended;
	int err = 0, n;

	for (;;) {
		/* Looked at before the data: what is unread comes first. */
		ended = READ_ONCE(t->dead) || tsi_conn_fin(c) ||
			(READ_ONCE(t->shut) & RCV_SHUTDOWN) || tsi_gone(t, c);
		if (!len && tsi_unread(c) > 0)
			break;
		/* A peek starts over, so it waits until there is enough. */
		if (!(flags & MSG_PEEK) || ended || !sleep.timeo ||
		    signal_pending(current) || tsi_unread(c) >=
		    min_t(s64, target, TSI_STREAM_BUF / 2)) {
			n = tsi_recv_some(c, msg, len - done, flags);
			if (n < 0) {
				err = n;
				break;
			}
			done += n;
			if (done >= target || (n && (flags & MSG_PEEK)))
				break;
			if (n)
				continue;
		}
		if (done && (ended || READ_ONCE(sk->sk_err)))
			break;
		if (!done && READ_ONCE(sk->sk_err)) {
			err = sock_error(sk);
			break;
		}
		if (ended)
			break;
		err = tsi_sleep_on(sk, &sleep);
		if (err)
			break;
	}
	tsi_sleep_end(sk, &sleep);
	return done ? done : err;
}

int tsi_stream_recvmsg(struct socket *sock, struct msghdr *msg, size_t len,
		       int flags)
{
	struct tsi_sock *t = sock->tsi;
	struct sock *sk = sock->sk;
	struct tsi_conn *c;
	long timeo;
	int err;

	if (tsi_is_native(t) || (flags & MSG_ERRQUEUE))
		goto native;
	timeo = sock_rcvtimeo(sk, flags & MSG_DONTWAIT);
	err = tsi_wait_connected(t, &timeo);
	if (err)
		return err;
	if (t->state != TSI_CONNECTED)
		goto native;
	if (flags & MSG_OOB)
		return -EINVAL; /* as TCP: no urgent data */
	c = tsi_conn_get(t);
	if (!c)
		goto native;
	err = tsi_recv_connected(t, c, msg, len, flags, timeo);
	tsi_conn_put(c);
	return err;
native:
	return tsi_native_ops(sock)->recvmsg(sock, msg, len, flags);
}

static int tsi_shutdown_connected(struct tsi_sock *t, int how)
{
	struct tsi_conn *c = tsi_conn_get(t);
	struct sock *sk = t->sk;
	bool closed;
	u8 was;

	if (!c)
		return -ENOTCONN;
	closed = tsi_stream_closed(t, c);
	spin_lock_bh(&t->slock);
	was = t->shut;
	WRITE_ONCE(t->shut, was | how);
	spin_unlock_bh(&t->slock);
	/* What the peer still sends may be read, as with TCP. */
	if (!closed && (how & SEND_SHUTDOWN) && !(was & SEND_SHUTDOWN))
		kernel_sock_shutdown(c->sock, SHUT_WR);
	sk->sk_state_change(sk);
	tsi_conn_put(c);
	return closed ? -ENOTCONN : 0;
}

int tsi_stream_shutdown(struct socket *sock, int how)
{
	struct tsi_sock *t = sock->tsi;
	struct sock *sk = sock->sk;
	int err = 0;

	if (tsi_is_native(t) || how < SHUT_RD || how > SHUT_RDWR)
		return tsi_native_ops(sock)->shutdown(sock, how);
	mutex_lock(&t->lock);
	switch (t->state) {
	case TSI_CONNECTED:
		if (sock->state == SS_CONNECTING)
			sock->state = SS_CONNECTED;
		err = tsi_shutdown_connected(t, how + 1);
		break;
	case TSI_CONNECTING:
		tsi_disconnect(t);
		sock->state = SS_UNCONNECTED;
		break;
	case TSI_LISTENING:
		if ((how + 1) & RCV_SHUTDOWN)
			tsi_listen_stop(t);
		if (sk->sk_state == TCP_LISTEN)
			err = t->native->shutdown(sock, how);
		else
			sk->sk_state_change(sk);
		if ((how + 1) & RCV_SHUTDOWN)
			tsi_port_return(t);
		break;
	default:
		err = t->native->shutdown(sock, how);
	}
	mutex_unlock(&t->lock);
	return err;
}

int tsi_stream_ioctl(struct socket *sock, unsigned int cmd, unsigned long arg)
{
	struct tsi_sock *t = sock->tsi;
	struct tsi_conn *c = NULL;
	int val;

	if (!tsi_is_native(t) && t->state == TSI_CONNECTED)
		c = tsi_conn_get(t);
	if (!c)
		return tsi_native_ops(sock)->ioctl(sock, cmd, arg);
	switch (cmd) {
	case SIOCINQ:
		val = min_t(s64, tsi_unread(c), INT_MAX);
		break;
	case SIOCOUTQ:
	case SIOCOUTQNSD:
		val = vsock_sk(c->sock->sk)->transport->unsent_bytes(vsock_sk(c->sock->sk));
		break;
	default:
		tsi_conn_put(c);
		return t->native->ioctl(sock, cmd, arg);
	}
	tsi_conn_put(c);
	return put_user(val, (int __user *)arg);
}

/* The inner connection of a connected socket has changed for the worse. */
void tsi_stream_work(struct tsi_sock *t, struct tsi_conn *c)
{
	struct sock *sk = t->sk;
	int err = 0, n;

	if (!tsi_conn_broken(c) || READ_ONCE(t->dead))
		return;
	/* After a FIN each way the VMM has nothing more to say. */
	if (!tsi_stream_closed(t, c)) {
		n = tsi_ctl_getsockopt(c->id, SOL_SOCKET, SO_ERROR, &err,
				       sizeof(err));
		if (n != sizeof(err) || err < 0 || err >= MAX_ERRNO)
			err = ECONNRESET;
	}
	spin_lock_bh(&t->slock);
	if (rcu_access_pointer(t->conn) == c) {
		if (err)
			WRITE_ONCE(sk->sk_err, err);
		smp_wmb();
		WRITE_ONCE(t->dead, true);
	}
	spin_unlock_bh(&t->slock);
	sk->sk_state_change(sk);
	if (err)
		sk_error_report(sk);
}

/* close(2): what TCP would end with RST is aborted first. */
void tsi_stream_close(struct tsi_sock *t)
{
	struct sock *sk = t->sk;
	struct tsi_conn *c = tsi_conn_get(t);

	if (!c)
		return;
	if (t->state == TSI_CONNECTED && !tsi_stream_closed(t, c) &&
	    (tsi_unread(c) > 0 ||
	     (sock_flag(sk, SOCK_LINGER) && !sk->sk_lingertime)))
		tsi_ctl_abort(c->id);
	tsi_conn_put(c);
}
