// SPDX-License-Identifier: GPL-2.0
/* Requests to the VMM and the messages it sends back. */
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "tsi.h"

/* The VMM's errno, if it is one. */
int tsi_errno(u32 err)
{
	return err < MAX_ERRNO ? -(int)err : -EIO;
}

void tsi_hdr_init(struct tsi_hdr *h, struct tsi_conn *c, u16 op, u16 flags,
		  u32 value, size_t len)
{
	h->len = cpu_to_le32(len);
	h->op = cpu_to_le16(op);
	h->flags = cpu_to_le16(flags);
	h->id = cpu_to_le32(c->id);
	h->value = cpu_to_le32(value);
}

/* A VMM that does not keep to the protocol loses the connection. */
void tsi_protocol_error(struct tsi_conn *c)
{
	net_warn_ratelimited("tsi: a message of the VMM makes no sense\n");
	kernel_sock_shutdown(c->sock, SHUT_RDWR);
	lock_sock(c->sock->sk);
	c->sock->sk->sk_err = EPROTO;
	release_sock(c->sock->sk);
	sk_error_report(c->sock->sk);
}

/* pump held */
bool tsi_take_reply(struct tsi_conn *c, const struct tsi_hdr *h,
			   const u8 *body, size_t len)
{
	struct tsi_reply *r = c->reply;
	u16 op = le16_to_cpu(h->op);

	if (!r || c->got || op != c->want || len < 2 * sizeof(struct tsi_addr))
		return false;
	r->err = le32_to_cpu(h->value);
	r->flags = le16_to_cpu(h->flags);
	memcpy(&r->local, body, sizeof(r->local));
	memcpy(&r->peer, body + sizeof(r->local), sizeof(r->peer));
	if (!tsi_addr_valid(&r->local, true) || !tsi_addr_valid(&r->peer, true))
		return false;
	body += 2 * sizeof(struct tsi_addr);
	len -= 2 * sizeof(struct tsi_addr);
	if (len > r->room)
		return false;
	r->len = len;
	if (len)
		memcpy(r->data, body, len);
	c->got = true;
	wake_up(&c->wait);
	return true;
}

static bool tsi_stream_message(struct tsi_sock *t, struct tsi_conn *c,
			       const struct tsi_hdr *h, const u8 *body,
			       size_t len)
{
	u16 op = le16_to_cpu(h->op);
	const struct tsi_addr *a = (const void *)body;
	struct tsi_reply r = {};

	if (op == (TSI_CONNECT | TSI_REPLY) && t && c->want != op) {
		if (len != 2 * sizeof(*a) || !tsi_addr_valid(&a[0], true) ||
		    !tsi_addr_valid(&a[1], true))
			return false;
		r.err = le32_to_cpu(h->value);
		r.local = a[0];
		r.peer = a[1];
		tsi_connect_done(t, c, &r);
		return true;
	}
	if (op & TSI_REPLY) {
		if (!tsi_take_reply(c, h, body, len))
			return false;
		/* What follows a successful ATTACH is the program's. */
		if (op == (TSI_ATTACH | TSI_REPLY) && !h->value)
			WRITE_ONCE(c->raw, true);
		return true;
	}
	if (op == TSI_ACCEPT && t) {
		if (len != 2 * sizeof(*a) || !tsi_addr_valid(&a[0], false) ||
		    !tsi_addr_valid(&a[1], false))
			return false;
		tsi_listen_event(t, le32_to_cpu(h->value), &a[0], &a[1]);
		return true;
	}
	return false;
}

static void tsi_pump_stream(struct tsi_sock *t, struct tsi_conn *c)
{
	struct tsi_hdr h;
	size_t len;
	u8 *buf;
	int n;

	while (!c->raw) {
		n = tsi_conn_recv(c, &h, sizeof(h), MSG_PEEK | MSG_DONTWAIT);
		if (n < (int)sizeof(h))
			return;
		len = le32_to_cpu(h.len);
		if (len < sizeof(h) || len > TSI_MSG_MAX) {
			tsi_protocol_error(c);
			return;
		}
		if (vsock_stream_has_data(vsock_sk(c->sock->sk)) < len)
			return;
		buf = kmalloc(len, GFP_KERNEL);
		if (!buf)
			return;
		n = tsi_conn_recv(c, buf, len, MSG_DONTWAIT);
		if (n != len ||
		    !tsi_stream_message(t, c, (struct tsi_hdr *)buf,
					buf + sizeof(h), len - sizeof(h))) {
			kfree(buf);
			tsi_protocol_error(c);
			return;
		}
		kfree(buf);
	}
}

/* Handles what messages have arrived on a stream that is still framed. */
void tsi_pump(struct tsi_sock *t, struct tsi_conn *c)
{
	mutex_lock(&c->pump);
	tsi_pump_stream(t, c);
	mutex_unlock(&c->pump);
}

/* Lets the messages of the connection in while its caller waits. */
static void tsi_pump_any(struct tsi_sock *t, struct tsi_conn *c)
{
	if (c->sock->type == SOCK_STREAM)
		tsi_pump(t, c);
	else
		tsi_dgram_pump(t, c);
}

/* No reply is expected, and none will be written to where it was to go. */
void tsi_unwant(struct tsi_conn *c)
{
	mutex_lock(&c->pump);
	c->reply = NULL;
	mutex_unlock(&c->pump);
}

/* Waits for the reply c->want names. */
int tsi_wait_reply(struct tsi_sock *t, struct tsi_conn *c)
{
	DEFINE_WAIT_FUNC(wait, woken_wake_function);
	long timeout = TSI_VMM_TIMEOUT;
	int err = 0;

	add_wait_queue(&c->wait, &wait);
	for (;;) {
		tsi_pump_any(t, c);
		if (READ_ONCE(c->got))
			break;
		if (tsi_conn_broken(c) || tsi_conn_fin(c)) {
			/* The reply may have come with the end. */
			tsi_pump_any(t, c);
			if (!READ_ONCE(c->got))
				err = -ENETDOWN;
			break;
		}
		if (!timeout || fatal_signal_pending(current)) {
			err = timeout ? -EINTR : -ENETDOWN;
			break;
		}
		timeout = wait_woken(&wait, TASK_KILLABLE, timeout);
	}
	remove_wait_queue(&c->wait, &wait);
	tsi_unwant(c);
	return err;
}

/* Expects the reply to a request that is about to be sent. */
void tsi_want(struct tsi_conn *c, u16 op, struct tsi_reply *reply)
{
	mutex_lock(&c->pump);
	c->want = op | TSI_REPLY;
	c->got = false;
	c->reply = reply;
	mutex_unlock(&c->pump);
}

/*
 * Sends a request and waits for its reply, whose errno is returned. The caller
 * makes sure that there is one at a time. A connection on which a request got
 * no reply is of no further use.
 */
int tsi_request(struct tsi_sock *t, struct tsi_conn *c, u16 op, u32 value,
		const void *body, size_t len, struct tsi_reply *reply)
{
	size_t total = sizeof(struct tsi_hdr) + len;
	struct tsi_hdr *h;
	int err;

	h = kmalloc(total, GFP_KERNEL);
	if (!h)
		return -ENOMEM;
	tsi_hdr_init(h, c, op, 0, value, total);
	if (len)
		memcpy(h + 1, body, len);
	tsi_want(c, op, reply);
	err = tsi_conn_send(c, h, total);
	kfree(h);
	if (!err)
		err = tsi_wait_reply(t, c);
	if (err) {
		tsi_unwant(c);
		kernel_sock_shutdown(c->sock, SHUT_RDWR);
		return err;
	}
	return tsi_errno(reply->err);
}

static u8 *tsi_append(u8 *p, struct tsi_conn *c, u16 op, u16 flags, u32 value,
		      const void *body, size_t len)
{
	tsi_hdr_init((struct tsi_hdr *)p, c, op, flags, value,
		     sizeof(struct tsi_hdr) + len);
	if (len)
		memcpy(p + sizeof(struct tsi_hdr), body, len);
	return p + sizeof(struct tsi_hdr) + len;
}

/*
 * Sends what makes the socket on the host, with the options set so far, and,
 * unless op is 0, a first request, whose reply is the caller's to wait for.
 */
int tsi_send_first(struct tsi_sock *t, struct tsi_conn *c, u16 op, u32 value,
		   const void *body, size_t len)
{
	struct tsi_socket_body sb = {
		.family = cpu_to_le16(t->sk->sk_family),
		.type = cpu_to_le16(tsi_is_raw(t->sk) ? SOCK_DGRAM :
							t->sk->sk_type),
	};
	size_t total = 2 * sizeof(struct tsi_hdr) + sizeof(sb) + len;
	u8 ob[sizeof(struct tsi_opt_body) + TSI_OPT_MAX];
	struct tsi_opt_body *h = (void *)ob;
	struct tsi_opt *o;
	u8 *buf, *p;
	int err;

	list_for_each_entry(o, &t->opts, link)
		total += sizeof(struct tsi_hdr) + sizeof(*h) + o->len;
	buf = kvmalloc(total, GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	p = tsi_append(buf, c, TSI_SOCKET, TSI_F_NOREPLY, t->sk->sk_protocol,
		       &sb, sizeof(sb));
	list_for_each_entry(o, &t->opts, link) {
		h->level = cpu_to_le32(o->level);
		h->name = cpu_to_le32(o->name);
		memcpy(h + 1, o->value, o->len);
		p = tsi_append(p, c, TSI_SETSOCKOPT, TSI_F_NOREPLY, 0, ob,
			       sizeof(*h) + o->len);
	}
	if (op)
		p = tsi_append(p, c, op, 0, value, body, len);
	err = tsi_conn_send(c, buf, p - buf);
	kvfree(buf);
	return err;
}

/*
 * Gives the socket's connection, made if there is none (t->lock held); sets
 * *cp to a reference of the caller's.
 */
int tsi_make(struct tsi_sock *t, struct tsi_conn **cp)
{
	struct tsi_conn *c = tsi_conn_get(t);
	int err;

	if (c && !tsi_conn_broken(c)) {
		*cp = c;
		return 0;
	}
	if (c) {
		tsi_conn_put(c);
		tsi_conn_drop(t);
		t->hbound = false;
	}
	c = tsi_conn_open(t, tsi_is_stream(t) ? SOCK_STREAM : SOCK_SEQPACKET);
	if (IS_ERR(c))
		return PTR_ERR(c);
	if (!tsi_is_stream(t))
		c->async = true;
	err = tsi_send_first(t, c, 0, 0, NULL, 0);
	if (err) {
		tsi_conn_put(c);
		return err;
	}
	refcount_inc(&c->ref);
	tsi_conn_attach(t, c);
	*cp = c;
	return 0;
}
