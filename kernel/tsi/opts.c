// SPDX-License-Identifier: GPL-2.0
/* setsockopt(2) and getsockopt(2). */
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "tsi.h"

/* More options than there are, memberships of groups included. */
#define TSI_OPTS_MAX	128

void tsi_opts_free(struct tsi_sock *t)
{
	struct tsi_opt *o, *next;

	list_for_each_entry_safe(o, next, &t->opts, link)
		kfree(o);
	INIT_LIST_HEAD(&t->opts);
	t->nopts = 0;
}

/* Options that add up, rather than replace what was set before. */
static bool tsi_opt_adds(int level, int name)
{
	if ((level == SOL_IP || level == SOL_IPV6) &&
	    name >= MCAST_JOIN_GROUP && name <= MCAST_LEAVE_SOURCE_GROUP)
		return true;
	switch (level) {
	case SOL_IP:
		return name == IP_ADD_MEMBERSHIP ||
		       name == IP_DROP_MEMBERSHIP ||
		       name == IP_ADD_SOURCE_MEMBERSHIP ||
		       name == IP_DROP_SOURCE_MEMBERSHIP;
	case SOL_IPV6:
		return name == IPV6_ADD_MEMBERSHIP || name == IPV6_DROP_MEMBERSHIP;
	}
	return false;
}

/* Remembers an option for the socket the host will make (t->lock held). */
static int tsi_opt_record(struct tsi_sock *t, int level, int name,
			  const void *value, unsigned int len)
{
	struct tsi_opt *o, *old;

	list_for_each_entry(old, &t->opts, link) {
		if (old->level != level || old->name != name)
			continue;
		if (tsi_opt_adds(level, name) &&
		    (old->len != len || memcmp(old->value, value, len)))
			continue;
		list_del(&old->link);
		kfree(old);
		t->nopts--;
		break;
	}
	if (t->nopts >= TSI_OPTS_MAX)
		return -ENOBUFS;
	o = kmalloc(struct_size(o, value, len), GFP_KERNEL_ACCOUNT);
	if (!o)
		return -ENOMEM;
	o->level = level;
	o->name = name;
	o->len = len;
	memcpy(o->value, value, len);
	list_add_tail(&o->link, &t->opts);
	t->nopts++;
	return 0;
}

static int tsi_native_setsockopt(struct socket *sock, int level, int name,
				 sockptr_t optval, unsigned int optlen)
{
	if (level == SOL_SOCKET)
		return sock_setsockopt(sock, level, name, optval, optlen);
	return tsi_native_ops(sock)->setsockopt(sock, level, name, optval,
						optlen);
}

/*
 * Sets an option by the socket's own connection, behind what makes the socket:
 * the control connection may be faster.
 */
static int tsi_set_framed(struct tsi_sock *t, struct tsi_conn *c, int level,
			  int name, const void *value, unsigned int len)
{
	u8 body[sizeof(struct tsi_opt_body) + TSI_OPT_MAX];
	struct tsi_opt_body *h = (void *)body;
	struct tsi_reply r = {};

	h->level = cpu_to_le32(level);
	h->name = cpu_to_le32(name);
	memcpy(h + 1, value, len);
	return tsi_request(t, c, TSI_SETSOCKOPT, 0, body, sizeof(*h) + len, &r);
}

/* t->lock held */
static int tsi_set_host(struct tsi_sock *t, enum tsi_opt_kind kind, int level,
			int name, const void *value, unsigned int len)
{
	bool wait = kind != TSI_OPT_BOTH;
	struct tsi_conn *c = NULL;
	int err = 0;

	if (wait && t->state == TSI_NEW) {
		err = tsi_make(t, &c);
		if (err)
			return err;
	} else {
		c = tsi_conn_get(t);
	}
	if (c && wait && t->state == TSI_NEW)
		err = tsi_set_framed(t, c, level, name, value, len);
	else if (c && !READ_ONCE(t->dead))
		err = tsi_ctl_setsockopt(c->id, level, name, value, len, wait);
	tsi_conn_put(c);
	return err;
}

int tsi_setsockopt(struct socket *sock, int level, int name, sockptr_t optval,
		   unsigned int optlen)
{
	struct tsi_sock *t = sock->tsi;
	enum tsi_opt_kind kind;
	int err = 0, val = 0;
	void *value;

	if (tsi_is_native(t))
		goto native;
	if (optlen > TSI_OPT_MAX)
		goto native; /* none of those that travel */
	value = kzalloc(max_t(unsigned int, optlen, sizeof(val)), GFP_KERNEL);
	if (!value)
		return -ENOMEM;
	if (copy_from_sockptr(value, optval, optlen)) {
		kfree(value);
		return -EFAULT;
	}
	memcpy(&val, value, sizeof(val));
	kind = tsi_opt_kind(sock->sk, level, name, val, optlen, &err);
	if (kind == TSI_OPT_REFUSE || kind == TSI_OPT_NATIVE) {
		kfree(value);
		if (kind == TSI_OPT_NATIVE)
			goto native;
		return err;
	}
	mutex_lock(&t->lock);
	if (tsi_opt_late(t, level, name))
		err = -EINVAL;
	else if (kind != TSI_OPT_HOST)
		err = tsi_native_setsockopt(sock, level, name,
					    KERNEL_SOCKPTR(value), optlen);
	if (!err)
		err = tsi_set_host(t, kind, level, name, value, optlen);
	if (!err)
		err = tsi_opt_record(t, level, name, value, optlen);
	mutex_unlock(&t->lock);
	kfree(value);
	return err;
native:
	return tsi_native_setsockopt(sock, level, name, optval, optlen);
}

int tsi_getsockopt(struct socket *sock, int level, int name,
		   char __user *optval, int __user *optlen)
{
	struct tsi_sock *t = sock->tsi;
	struct tsi_conn *c = NULL;
	u8 buf[TSI_OPT_MAX];
	int len, n;

	if (!tsi_is_native(t)) {
		if (tsi_opt_hidden(sock->sk, level, name))
			return -ENOPROTOOPT;
		if (tsi_opt_live(sock->sk, level, name) && !READ_ONCE(t->dead))
			c = tsi_conn_get(t);
	}
	if (!c)
		return tsi_native_ops(sock)->getsockopt(sock, level, name,
							optval, optlen);
	n = -EFAULT;
	if (get_user(len, optlen))
		goto out;
	n = -EINVAL;
	if (len < 0)
		goto out;
	n = tsi_ctl_getsockopt(c->id, level, name, buf, len);
	if (n < 0)
		goto out;
	len = min(len, n);
	n = 0;
	if (put_user(len, optlen) || copy_to_user(optval, buf, len))
		n = -EFAULT;
out:
	tsi_conn_put(c);
	return n;
}
