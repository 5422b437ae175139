/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Transparent socket impersonation: an INET socket of the initial network
 * namespace is a socket of the VMM's network namespace.
 *
 * The native socket stays: it holds the options, answers what is local to the
 * guest, and owns the wait queue. Calls that concern the outside go to the VMM
 * over an inner vsock connection, whose callbacks wake the native socket's
 * waiters.
 */
#ifndef _NET_TSI_H
#define _NET_TSI_H

#include <linux/net.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <net/af_vsock.h>
#include <net/inet_sock.h>
#include <net/sock.h>

#include "hook.h"
#include "proto.h"

/* How long the VMM may take for what needs no network. */
#define TSI_VMM_TIMEOUT	(10 * HZ)
/* Receive buffers of the inner sockets. */
#define TSI_STREAM_BUF	(1 << 20)
#define TSI_DGRAM_BUF	(256 << 10)

enum tsi_state {
	TSI_NEW,	/* neither connected nor listening */
	TSI_CONNECTING,
	TSI_CONNECTED,	/* the inner connection carries the bytes */
	TSI_LISTENING,
	TSI_NATIVE,	/* the guest's own for good */
};

struct tsi_reply {
	u32		err;
	u32		flags;
	struct tsi_addr	local;
	struct tsi_addr	peer;
	u8		*data;		/* what follows the addresses */
	size_t		room;
	size_t		len;
};

/*
 * An inner connection. Its users hold references, because connect(AF_UNSPEC)
 * and shutdown() may replace it while others block on it.
 */
struct tsi_conn {
	refcount_t		ref;
	struct rcu_head		rcu;
	struct socket		*sock;
	struct tsi_sock		*t;	/* sk_callback_lock; NULL: detached */
	u32			id;
	bool			raw;	/* no longer framed */
	bool			fin;	/* the peer's FIN has come */
	bool			started;/* CONNECT takes time */
	bool			async;	/* the work item reads the frames */

	wait_queue_head_t	wait;	/* for replies */
	struct mutex		pump;	/* one reader of frames */
	struct mutex		tx;	/* one writer of messages */
	u16			want;	/* reply waited for, pump */
	bool			got;
	struct tsi_reply	*reply;

	void			(*data_ready)(struct sock *sk);
	void			(*write_space)(struct sock *sk);
	void			(*state_change)(struct sock *sk);
	void			(*error_report)(struct sock *sk);
};

struct tsi_opt {
	struct list_head	link;
	int			level;
	int			name;
	unsigned int		len;
	u8			value[];
};

/* A connection the VMM has accepted. */
struct tsi_pending {
	struct list_head	link;
	u32			token;
	struct tsi_addr		local;
	struct tsi_addr		peer;
};

struct tsi_sock {
	struct sock		*sk;
	const struct proto_ops	*native;
	struct mutex		lock;	/* calls that change the socket */
	spinlock_t		slock;	/* conn, state, addresses, pending */
	struct tsi_conn __rcu	*conn;
	enum tsi_state		state;
	u8			shut;	/* by this side */
	bool			dead;	/* the connection broke */
	bool			hbound;	/* bound in the namespace */
	bool			bound;	/* by bind(2): again when remade */
	bool			chosen;	/* the program named the port */
	bool			nbound;	/* the native socket is bound alike */
	bool			linked;	/* datagrams: has a peer outside */
	bool			nlinked;/* datagrams: has a native peer */
	bool			throttled;/* datagrams: receive queue is full */
	bool			proven;	/* datagrams: one was sent without an error */
	__be16			echo_id;/* raw: of the last request */
	struct tsi_addr		local;
	struct tsi_addr		peer;
	struct tsi_addr		want;	/* address of bind(2) */
	int			backlog;
	struct list_head	pending;
	unsigned int		npending;
	struct list_head	opts;	/* lock */
	unsigned int		nopts;
	unsigned long		remade;	/* jiffies */
	struct work_struct	work;
};

extern struct workqueue_struct *tsi_wq;

static inline bool tsi_is_native(const struct tsi_sock *t)
{
	return !t || READ_ONCE(t->state) == TSI_NATIVE;
}

static inline bool tsi_is_stream(const struct tsi_sock *t)
{
	return t->sk->sk_type == SOCK_STREAM;
}

static inline bool tsi_is_udp(const struct sock *sk)
{
	return sk->sk_protocol == IPPROTO_UDP;
}

/*
 * A raw socket of ICMP or ICMPv6 is an echo socket on the host, which is what
 * ping wants one for.
 */
static inline bool tsi_is_raw(const struct sock *sk)
{
	return sk->sk_type == SOCK_RAW;
}

/* The native socket's port; that of a raw one is its protocol. */
static inline u16 tsi_num(const struct sock *sk)
{
	return tsi_is_raw(sk) ? 0 : inet_sk(sk)->inet_num;
}

/* main.c */
const struct proto_ops *tsi_native_ops(struct socket *sock);

/* addr.c */
void tsi_addr_any(struct tsi_addr *a, int family, u16 port);
int tsi_addr_get(struct tsi_addr *a, struct sock *sk, const struct sockaddr *sa,
		 int len);
int tsi_addr_put(const struct tsi_addr *a, struct sock *sk, struct sockaddr *sa);
bool tsi_addr_valid(const struct tsi_addr *a, bool may_be_none);
bool tsi_addr_v4(const struct tsi_addr *a, __be32 *v4);
bool tsi_addr_is_local(const struct tsi_addr *a);
bool tsi_addr_is_inside(const struct tsi_addr *a);
bool tsi_listener_exists(struct sock *sk, const struct tsi_addr *a);
bool tsi_udp_receiver_exists(struct sock *sk, const struct tsi_addr *a);
bool tsi_addr_broadcast(const struct tsi_addr *a);

/* conn.c */
struct tsi_conn *tsi_conn_open(struct tsi_sock *t, int type);
struct tsi_conn *tsi_conn_get(struct tsi_sock *t);
void tsi_conn_put(struct tsi_conn *c);
void tsi_conn_attach(struct tsi_sock *t, struct tsi_conn *c);
void tsi_conn_detach(struct tsi_conn *c);
void tsi_conn_drop(struct tsi_sock *t);
bool tsi_conn_broken(const struct tsi_conn *c);
bool tsi_conn_fin(const struct tsi_conn *c);
void tsi_signals_block(sigset_t *old);
void tsi_signals_restore(const sigset_t *old);
int tsi_conn_recv(struct tsi_conn *c, void *buf, size_t len, int flags);
int tsi_conn_send(struct tsi_conn *c, void *buf, size_t len);

/* call.c: requests and their replies */
void tsi_pump(struct tsi_sock *t, struct tsi_conn *c);
int tsi_wait_reply(struct tsi_sock *t, struct tsi_conn *c);
void tsi_want(struct tsi_conn *c, u16 op, struct tsi_reply *reply);
void tsi_unwant(struct tsi_conn *c);
int tsi_request(struct tsi_sock *t, struct tsi_conn *c, u16 op, u32 value,
		const void *body, size_t len, struct tsi_reply *reply);
int tsi_send_first(struct tsi_sock *t, struct tsi_conn *c, u16 op, u32 value,
		   const void *body, size_t len);
int tsi_make(struct tsi_sock *t, struct tsi_conn **cp);
int tsi_errno(u32 err);
void tsi_protocol_error(struct tsi_conn *c);
bool tsi_take_reply(struct tsi_conn *c, const struct tsi_hdr *h,
		    const u8 *body, size_t len);
void tsi_hdr_init(struct tsi_hdr *h, struct tsi_conn *c, u16 op, u16 flags,
		  u32 value, size_t len);

/* ctl.c: the control connection */
int tsi_ctl_getsockopt(u32 id, int level, int name, void *buf, int len);
int tsi_ctl_setsockopt(u32 id, int level, int name, const void *buf, int len,
		       bool wait);
void tsi_ctl_abort(u32 id);

/* sleep.c: waiting as the native code does */
struct tsi_sleep {
	struct wait_queue_entry	wait;
	bool			queued;
	long			timeo;
};

int tsi_sleep_on(struct sock *sk, struct tsi_sleep *s);
void tsi_sleep_end(struct sock *sk, struct tsi_sleep *s);

#define TSI_SLEEP(name, timeout)					\
	struct tsi_sleep name = {					\
		.wait = {						\
			.private = current,				\
			.func = woken_wake_function,			\
			.entry = LIST_HEAD_INIT(name.wait.entry),	\
		},							\
		.timeo = (timeout),					\
	}

/* opts.c */
int tsi_setsockopt(struct socket *sock, int level, int name, sockptr_t optval,
		   unsigned int optlen);
int tsi_getsockopt(struct socket *sock, int level, int name,
		   char __user *optval, int __user *optlen);
void tsi_opts_free(struct tsi_sock *t);

/* optable.c */
enum tsi_opt_kind {
	TSI_OPT_NATIVE,	/* the guest's alone */
	TSI_OPT_BOTH,	/* the guest checks it, the host follows */
	TSI_OPT_SYNC,	/* the guest checks it, the host may refuse it */
	TSI_OPT_HOST,	/* the host alone */
	TSI_OPT_REFUSE,	/* with an errno */
};
enum tsi_opt_kind tsi_opt_kind(struct sock *sk, int level, int name, int val,
			       unsigned int len, int *err);
bool tsi_opt_live(struct sock *sk, int level, int name);
bool tsi_opt_late(struct tsi_sock *t, int level, int name);
bool tsi_opt_hidden(struct sock *sk, int level, int name);

/* stream.c */
int tsi_stream_sendmsg(struct socket *sock, struct msghdr *msg, size_t len);
int tsi_stream_recvmsg(struct socket *sock, struct msghdr *msg, size_t len,
		       int flags);
__poll_t tsi_stream_poll(struct file *file, struct socket *sock,
			 struct poll_table_struct *wait);
int tsi_stream_shutdown(struct socket *sock, int how);
int tsi_stream_ioctl(struct socket *sock, unsigned int cmd, unsigned long arg);
bool tsi_stream_closed(struct tsi_sock *t, struct tsi_conn *c);
void tsi_stream_work(struct tsi_sock *t, struct tsi_conn *c);
void tsi_stream_close(struct tsi_sock *t);
s64 tsi_space_wanted(struct tsi_conn *c);

/* connect.c */
int tsi_stream_connect(struct socket *sock, struct sockaddr *addr, int len,
		       int flags);
void tsi_connect_done(struct tsi_sock *t, struct tsi_conn *c,
		      const struct tsi_reply *r);
void tsi_connect_failed(struct tsi_sock *t, struct tsi_conn *c, int err,
			bool drop);
int tsi_disconnect(struct tsi_sock *t);

/* listen.c */
int tsi_bind(struct socket *sock, struct sockaddr *addr, int len);
int tsi_bind_host(struct tsi_sock *t, const struct tsi_addr *a);
int tsi_native_bind(struct tsi_sock *t, const struct tsi_addr *a, bool chosen);
void tsi_port_return(struct tsi_sock *t);
int tsi_listen(struct socket *sock, int backlog);
int tsi_accept(struct socket *sock, struct socket *newsock,
	       struct proto_accept_arg *arg);
void tsi_listen_event(struct tsi_sock *t, u32 token,
		      const struct tsi_addr *local, const struct tsi_addr *peer);
void tsi_listen_work(struct tsi_sock *t, struct tsi_conn *c);
void tsi_listen_stop(struct tsi_sock *t);

/* dgram.c */
int tsi_dgram_connect(struct socket *sock, struct sockaddr *addr, int len,
		      int flags);
int tsi_dgram_sendmsg(struct socket *sock, struct msghdr *msg, size_t len);
int tsi_dgram_shutdown(struct socket *sock, int how);

/* dgram_cmsg.c */
int tsi_dgram_cmsgs(struct sock *sk, struct msghdr *msg,
		    struct tsi_data_msg *d);

/* dgram_rx.c */
int tsi_dgram_recvmsg(struct socket *sock, struct msghdr *msg, size_t len,
		      int flags);
void tsi_dgram_pump(struct tsi_sock *t, struct tsi_conn *c);
void tsi_dgram_work(struct tsi_sock *t, struct tsi_conn *c);

#endif
