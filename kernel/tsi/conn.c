// SPDX-License-Identifier: GPL-2.0
/* Inner vsock connections. */
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vm_sockets.h>

#include "tsi.h"

static atomic_t tsi_next_id;

/* Calls that never fail with EINTR wait for the VMM with all but SIGKILL off. */
void tsi_signals_block(sigset_t *old)
{
	sigset_t set;

	siginitsetinv(&set, sigmask(SIGKILL));
	sigprocmask(SIG_SETMASK, &set, old);
}

void tsi_signals_restore(const sigset_t *old)
{
	sigset_t set = *old;

	sigprocmask(SIG_SETMASK, &set, NULL);
}

/* No more data, or none that would arrive: RST, or the VMM reads no more. */
bool tsi_conn_broken(const struct tsi_conn *c)
{
	struct sock *sk = c->sock->sk;

	return (READ_ONCE(vsock_sk(sk)->peer_shutdown) & RCV_SHUTDOWN) ||
	       READ_ONCE(sk->sk_err) || READ_ONCE(sk->sk_state) == TCP_CLOSE;
}

/* The peer's FIN has arrived, whatever came later. */
bool tsi_conn_fin(const struct tsi_conn *c)
{
	return READ_ONCE(c->fin);
}

/* Callbacks run with sk_callback_lock held, some in atomic context. */
static void tsi_conn_kick(struct tsi_conn *c)
{
	wake_up(&c->wait);
	if (READ_ONCE(c->async))
		queue_work(tsi_wq, &c->t->work);
}

static void tsi_data_ready(struct sock *sk)
{
	struct tsi_conn *c;
	struct sock *outer;

	read_lock_bh(&sk->sk_callback_lock);
	c = sk->sk_user_data;
	if (c) {
		if (READ_ONCE(c->raw) && c->t) {
			outer = c->t->sk;
			outer->sk_data_ready(outer);
		} else if (c->t) {
			tsi_conn_kick(c);
		} else {
			wake_up(&c->wait);
		}
	}
	read_unlock_bh(&sk->sk_callback_lock);
}

static void tsi_write_space(struct sock *sk)
{
	struct socket *sock;
	struct tsi_conn *c;
	struct sock *outer;

	read_lock_bh(&sk->sk_callback_lock);
	c = sk->sk_user_data;
	if (c) {
		c->write_space(sk);
		if (c->t) {
			outer = c->t->sk;
			sock = READ_ONCE(outer->sk_socket);
			if (sock && test_bit(SOCK_NOSPACE, &sock->flags) &&
			    vsock_stream_has_space(vsock_sk(sk)) >=
			    tsi_space_wanted(c)) {
				clear_bit(SOCK_NOSPACE, &sock->flags);
				outer->sk_write_space(outer);
			}
		}
	}
	read_unlock_bh(&sk->sk_callback_lock);
}

static void tsi_changed(struct sock *sk, bool error)
{
	struct tsi_conn *c;
	struct sock *outer;

	read_lock_bh(&sk->sk_callback_lock);
	c = sk->sk_user_data;
	if (c) {
		if (READ_ONCE(vsock_sk(sk)->peer_shutdown) == SEND_SHUTDOWN)
			WRITE_ONCE(c->fin, true);
		if (error)
			c->error_report(sk);
		else
			c->state_change(sk);
		wake_up(&c->wait);
		if (c->t && READ_ONCE(c->raw) && !tsi_conn_broken(c)) {
			outer = c->t->sk;
			outer->sk_state_change(outer);
		} else if (c->t) {
			/* It asks for the errno before anyone is told. */
			queue_work(tsi_wq, &c->t->work);
		}
	}
	read_unlock_bh(&sk->sk_callback_lock);
}

static void tsi_state_change(struct sock *sk)
{
	tsi_changed(sk, false);
}

static void tsi_error_report(struct sock *sk)
{
	tsi_changed(sk, true);
}

static void tsi_conn_hook(struct tsi_conn *c)
{
	struct sock *sk = c->sock->sk;

	write_lock_bh(&sk->sk_callback_lock);
	c->data_ready = sk->sk_data_ready;
	c->write_space = sk->sk_write_space;
	c->state_change = sk->sk_state_change;
	c->error_report = sk->sk_error_report;
	sk->sk_user_data = c;
	sk->sk_data_ready = tsi_data_ready;
	sk->sk_write_space = tsi_write_space;
	sk->sk_state_change = tsi_state_change;
	sk->sk_error_report = tsi_error_report;
	write_unlock_bh(&sk->sk_callback_lock);
}

static void tsi_conn_unhook(struct tsi_conn *c)
{
	struct sock *sk = c->sock->sk;

	write_lock_bh(&sk->sk_callback_lock);
	sk->sk_user_data = NULL;
	sk->sk_data_ready = c->data_ready;
	sk->sk_write_space = c->write_space;
	sk->sk_state_change = c->state_change;
	sk->sk_error_report = c->error_report;
	write_unlock_bh(&sk->sk_callback_lock);
}

/* In process context only: releasing a vsock socket sleeps. */
void tsi_conn_put(struct tsi_conn *c)
{
	if (!c || !refcount_dec_and_test(&c->ref))
		return;
	tsi_conn_unhook(c);
	sock_release(c->sock);
	kfree_rcu(c, rcu);
}

struct tsi_conn *tsi_conn_get(struct tsi_sock *t)
{
	struct tsi_conn *c;

	rcu_read_lock();
	c = rcu_dereference(t->conn);
	if (c && !refcount_inc_not_zero(&c->ref))
		c = NULL;
	rcu_read_unlock();
	return c;
}

static int tsi_vsock_errno(int err)
{
	switch (err) {
	case -ENOMEM:
	case -ENOBUFS:
	case -ERESTARTSYS:
		return err;
	case -EINTR:
		return -ERESTARTSYS;
	}
	return -ENETUNREACH; /* the VMM impersonates nothing */
}

/* Connects to the VMM; t is NULL for the control connection. */
struct tsi_conn *tsi_conn_open(struct tsi_sock *t, int type)
{
	struct sockaddr_vm addr = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_HOST,
		.svm_port = TSI_PORT,
	};
	struct tsi_conn *c;
	sigset_t old;
	int err;

	c = kzalloc(sizeof(*c), GFP_KERNEL);
	if (!c)
		return ERR_PTR(-ENOMEM);
	refcount_set(&c->ref, 1);
	init_waitqueue_head(&c->wait);
	mutex_init(&c->pump);
	mutex_init(&c->tx);
	do {
		c->id = atomic_inc_return(&tsi_next_id);
	} while (!c->id);

	err = sock_create_kern(&init_net, AF_VSOCK, type, 0, &c->sock);
	if (err) {
		kfree(c);
		return ERR_PTR(tsi_vsock_errno(err));
	}
	if (type == SOCK_STREAM) {
		struct vsock_sock *vsk = vsock_sk(c->sock->sk);

		vsk->buffer_max_size = TSI_STREAM_BUF;
		vsk->buffer_size = TSI_STREAM_BUF;
	} else {
		struct vsock_sock *vsk = vsock_sk(c->sock->sk);

		vsk->buffer_max_size = TSI_DGRAM_BUF;
		vsk->buffer_size = TSI_DGRAM_BUF;
	}
	vsock_sk(c->sock->sk)->connect_timeout = TSI_VMM_TIMEOUT;
	tsi_conn_hook(c);

	tsi_signals_block(&old);
	err = kernel_connect(c->sock, (struct sockaddr *)&addr, sizeof(addr), 0);
	tsi_signals_restore(&old);
	if (err) {
		tsi_conn_put(c);
		return ERR_PTR(tsi_vsock_errno(err));
	}
	return c;
}

/* Makes c the socket's connection; the reference becomes the socket's. */
void tsi_conn_attach(struct tsi_sock *t, struct tsi_conn *c)
{
	struct sock *sk = c->sock->sk;

	write_lock_bh(&sk->sk_callback_lock);
	c->t = t;
	write_unlock_bh(&sk->sk_callback_lock);
	spin_lock_bh(&t->slock);
	rcu_assign_pointer(t->conn, c);
	spin_unlock_bh(&t->slock);
	/* What happened before c->t was set woke nobody. */
	if (tsi_conn_broken(c))
		queue_work(tsi_wq, &t->work);
}

/* From here on the connection's callbacks do not touch the socket. */
void tsi_conn_detach(struct tsi_conn *c)
{
	struct sock *sk = c->sock->sk;

	write_lock_bh(&sk->sk_callback_lock);
	c->t = NULL;
	write_unlock_bh(&sk->sk_callback_lock);
	wake_up_all(&c->wait);
}

/* Parts with the connection; those who still use it see it shut down. */
void tsi_conn_drop(struct tsi_sock *t)
{
	struct tsi_conn *c;

	spin_lock_bh(&t->slock);
	c = rcu_dereference_protected(t->conn, lockdep_is_held(&t->slock));
	RCU_INIT_POINTER(t->conn, NULL);
	spin_unlock_bh(&t->slock);
	if (!c)
		return;
	tsi_conn_detach(c);
	if (refcount_read(&c->ref) > 1)
		kernel_sock_shutdown(c->sock, SHUT_RDWR);
	tsi_conn_put(c);
}

int tsi_conn_recv(struct tsi_conn *c, void *buf, size_t len, int flags)
{
	struct msghdr msg = {};
	struct kvec vec = { .iov_base = buf, .iov_len = len };

	return kernel_recvmsg(c->sock, &msg, &vec, 1, len, flags);
}

/*
 * Writes messages, whole or not at all: on a stream in one go, else one at a
 * time. There is room for them unless the VMM stands still.
 */
int tsi_conn_send(struct tsi_conn *c, void *buf, size_t len)
{
	struct msghdr msg = { .msg_flags = MSG_NOSIGNAL };
	bool stream = c->sock->type == SOCK_STREAM;
	size_t done = 0, n;
	struct kvec vec;
	sigset_t old;
	int err = 0;

	tsi_signals_block(&old);
	mutex_lock(&c->tx);
	WRITE_ONCE(c->sock->sk->sk_sndtimeo, TSI_VMM_TIMEOUT);
	while (done < len) {
		n = len - done;
		if (!stream)
			n = le32_to_cpu(((struct tsi_hdr *)(buf + done))->len);
		vec.iov_base = buf + done;
		vec.iov_len = n;
		err = kernel_sendmsg(c->sock, &msg, &vec, 1, n);
		if (err != n) {
			/* Half a message makes the rest unreadable. */
			kernel_sock_shutdown(c->sock, SHUT_RDWR);
			err = -ENETDOWN;
			break;
		}
		done += n;
		err = 0;
	}
	mutex_unlock(&c->tx);
	tsi_signals_restore(&old);
	return err;
}
