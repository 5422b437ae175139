// SPDX-License-Identifier: GPL-2.0
/* The control connection: options, errors and resets of any socket. */
#include <linux/slab.h>

#include "tsi.h"

static DEFINE_MUTEX(tsi_ctl_lock);
static struct tsi_conn *tsi_ctl;

/* tsi_ctl_lock held; a connection that ended is opened again. */
static struct tsi_conn *tsi_ctl_get(void)
{
	struct tsi_hdr h;
	struct tsi_conn *c = tsi_ctl;
	int err;

	if (c && !tsi_conn_broken(c) && !tsi_conn_fin(c))
		return c;
	tsi_ctl = NULL;
	tsi_conn_put(c);
	c = tsi_conn_open(NULL, SOCK_STREAM);
	if (IS_ERR(c))
		return c;
	tsi_hdr_init(&h, c, TSI_CONTROL, TSI_F_NOREPLY, TSI_VERSION, sizeof(h));
	err = tsi_conn_send(c, &h, sizeof(h));
	if (err) {
		tsi_conn_put(c);
		return ERR_PTR(err);
	}
	tsi_ctl = c;
	return c;
}

static int tsi_ctl_call(u32 id, u16 op, u32 value, const void *body, size_t len,
			struct tsi_reply *reply)
{
	struct tsi_conn *c;
	int err;

	if (mutex_lock_killable(&tsi_ctl_lock))
		return -EINTR;
	c = tsi_ctl_get();
	if (IS_ERR(c)) {
		err = PTR_ERR(c);
	} else {
		c->id = id;
		err = tsi_request(NULL, c, op, value, body, len, reply);
	}
	mutex_unlock(&tsi_ctl_lock);
	return err;
}

static void tsi_ctl_post(u32 id, u16 op, const void *body, size_t len)
{
	u8 buf[sizeof(struct tsi_hdr) + sizeof(struct tsi_opt_body) +
	       TSI_OPT_MAX];
	struct tsi_conn *c;

	mutex_lock(&tsi_ctl_lock);
	c = tsi_ctl_get();
	if (!IS_ERR(c)) {
		c->id = id;
		tsi_hdr_init((struct tsi_hdr *)buf, c, op, TSI_F_NOREPLY, 0,
			     sizeof(struct tsi_hdr) + len);
		if (len)
			memcpy(buf + sizeof(struct tsi_hdr), body, len);
		tsi_conn_send(c, buf, sizeof(struct tsi_hdr) + len);
	}
	mutex_unlock(&tsi_ctl_lock);
}

/* Returns the length of the value. */
int tsi_ctl_getsockopt(u32 id, int level, int name, void *buf, int len)
{
	struct tsi_opt_body body = {
		.level = cpu_to_le32(level),
		.name = cpu_to_le32(name),
	};
	struct tsi_reply r = {
		.data = buf,
		.room = min(len, TSI_OPT_MAX),
	};
	int err = tsi_ctl_call(id, TSI_GETSOCKOPT, r.room, &body, sizeof(body),
			       &r);

	return err ? err : r.len;
}

int tsi_ctl_setsockopt(u32 id, int level, int name, const void *buf, int len,
		       bool wait)
{
	u8 body[sizeof(struct tsi_opt_body) + TSI_OPT_MAX];
	struct tsi_opt_body *h = (void *)body;
	struct tsi_reply r = {};

	h->level = cpu_to_le32(level);
	h->name = cpu_to_le32(name);
	memcpy(h + 1, buf, len);
	if (wait)
		return tsi_ctl_call(id, TSI_SETSOCKOPT, 0, body,
				    sizeof(*h) + len, &r);
	tsi_ctl_post(id, TSI_SETSOCKOPT, body, sizeof(*h) + len);
	return 0;
}

void tsi_ctl_abort(u32 id)
{
	tsi_ctl_post(id, TSI_ABORT, NULL, 0);
}
