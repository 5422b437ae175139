/* UDP sockets. */
#include "tsi.h"

#include <linux/errqueue.h>

static char buf[70000];

static const char *const hosts[] = { "127.0.0.1", "::1", "::ffff:127.0.0.1" };

static int bound(const char *host, struct ad *a)
{
	int fd;

	*a = at(host, 0);
	fd = FD(socket(a->sa.sa_family, SOCK_DGRAM, 0));
	R(BIND(fd, *a));
	*a = local_of(fd);
	return fd;
}

static long receive(int fd, size_t n, int flags, struct ad *from)
{
	long got;

	from->len = sizeof(from->any);
	await(fd, POLLIN);
	got = recvfrom(fd, buf, n, flags | MSG_DONTWAIT, &from->sa, &from->len);
	if (got < 0)
		from->len = 0;
	return got;
}

CASE(dgram_exchange)
{
	size_t i;

	for (i = 0; i < 3; i++) {
		struct ad a, b, from;
		int s = bound(hosts[i], &a), t = bound(hosts[i], &b), n;

		MASK(s);
		R(recv(s, buf, 1, MSG_DONTWAIT));
		R(SENDTO(s, "hello", 5, 0, b));
		R(receive(t, 100, 0, &from));
		B(strcmp(show(&from), show(&a)) == 0);
		R(SENDTO(t, "", 0, 0, from));
		R(receive(s, 100, 0, &from));
		R(SENDTO(s, "12345", 5, 0, b));
		R(SENDTO(s, "678", 3, 0, b));
		B(await(t, POLLIN));
		settle();
		R(ioctl(t, FIONREAD, &n));
		V(n);
		R(receive(t, 2, MSG_PEEK, &from));
		R(receive(t, 2, MSG_PEEK | MSG_TRUNC, &from));
		R(receive(t, 2, 0, &from));
		R(receive(t, 2, MSG_TRUNC, &from));
		R(recv(t, buf, 1, MSG_DONTWAIT));
		MASK(t);
		T(show(&from));
	}
}

CASE(dgram_outside)
{
	const char *to[] = { "127.0.0.1", NULL, NULL };
	size_t i;

	to[1] = peer4;
	to[2] = peer6;
	for (i = 0; i < 3; i++) {
		struct ad a = at(to[i], 0), from, self;
		int s = FD(socket(a.sa.sa_family, SOCK_DGRAM, 0)), control = peer_control(to[i]);

		a = at(to[i], (int)peer_tell(control, "U%d", a.sa.sa_family == AF_INET ? 4 : 6));
		R(SENDTO(s, "hello", 5, 0, a));
		R(peer_tell(control, "D"));
		self = local_of(s);
		T(show(&self));
		B(peer_tell(control, "P") == port_of(s));
		R(peer_tell(control, "B7"));
		R(receive(s, 100, 0, &from));
		T(show(&from));
		B(from.len == a.len && memcmp(&from.any, &a.any, a.len) == 0);
		R(peer_tell(control, "B0"));
		R(receive(s, 100, 0, &from));
		R(CONNECT(s, a));
		self = local_of(s);
		T(show(&self));
		R(send(s, "x", 1, 0));
		R(peer_tell(control, "D"));
		R(peer_tell(control, "X"));
		R(send(s, "x", 1, 0));
		settle();
		MASK(s);
		R(recv(s, buf, 1, MSG_DONTWAIT));
		MASK(s);
	}
}

CASE(dgram_connected)
{
	struct ad a, b, c, none = { .len = sizeof(none.in) }, from;
	int s = bound("127.0.0.1", &a), t = bound("127.0.0.1", &b), u = bound("127.0.0.1", &c);

	none.sa.sa_family = AF_UNSPEC;
	R(peer_name(s));
	R(send(s, "x", 1, 0));
	R(sendto(s, "x", 1, 0, NULL, 0));
	R(SENDTO(u, "early", 5, 0, a));
	settle();
	R(CONNECT(s, b));
	from = peer_of(s);
	B(strcmp(show(&from), show(&b)) == 0);
	R(receive(s, 100, 0, &from));
	R(SENDTO(u, "filtered", 8, 0, a));
	R(SENDTO(t, "passed", 6, 0, a));
	R(receive(s, 100, 0, &from));
	R(recv(s, buf, 1, MSG_DONTWAIT));
	R(send(s, "abc", 3, 0));
	R(receive(t, 100, 0, &from));
	R(SENDTO(s, "other", 5, 0, c));
	R(receive(u, 100, 0, &from));
	R(CONNECT(s, c));
	R(send(s, "abc", 3, 0));
	R(receive(u, 100, 0, &from));
	R(CONNECT(s, none));
	R(peer_name(s));
	R(send(s, "x", 1, 0));
	B(port_of(s) == ntohs(a.in.sin_port));
	R(SENDTO(u, "again", 5, 0, a));
	R(receive(s, 100, 0, &from));
	R(connect(s, &b.sa, 3));
	none.sa.sa_family = AF_UNIX;
	R(CONNECT(s, none));
	b.in.sin_port = 0;
	R(CONNECT(s, b));
	R(SENDTO(s, "x", 1, 0, b));
}

CASE(dgram_source_of_connect)
{
	const char *to[] = { "127.0.0.1", NULL, "::1", NULL, "0.0.0.0", "::" };
	size_t i;

	to[1] = peer4;
	to[3] = peer6;
	for (i = 0; i < 6; i++) {
		struct ad a = at(to[i], 9), self, none = { .len = 16 };
		int s = FD(socket(a.sa.sa_family, SOCK_DGRAM, 0));

		R(CONNECT(s, a));
		self = local_of(s);
		T(show(&self));
		self = peer_of(s);
		T(show(&self));
		R(CONNECT(s, none));
		self = local_of(s);
		T(show(&self));
	}
}

CASE(dgram_refused)
{
	const char *to[] = { "127.0.0.1", NULL, "::1", NULL, "::ffff:127.0.0.1" };
	size_t i;

	to[1] = peer4;
	to[3] = peer6;
	for (i = 0; i < 5; i++) {
		struct ad a, self;
		int t = bound(to[i], &a), s = FD(socket(a.sa.sa_family, SOCK_DGRAM, 0));

		close(t);
		settle();
		R(CONNECT(s, a));
		R(send(s, "x", 1, 0));
		MASK(s);
		R(send(s, "x", 1, 0));
		settle();
		V(so_error(s));
		V(so_error(s));
		MASK(s);
		R(send(s, "x", 1, 0));
		settle();
		R(recv(s, buf, 1, MSG_DONTWAIT));
		R(recv(s, buf, 1, MSG_DONTWAIT));
		R(send(s, "x", 1, 0));
		settle();
		R(write(s, "x", 1));
		close(s);
		/* Not connected: nobody is told. */
		s = FD(socket(a.sa.sa_family, SOCK_DGRAM, 0));
		R(SENDTO(s, "x", 1, 0, a));
		MASK(s);
		R(SENDTO(s, "x", 1, 0, a));
		V(so_error(s));
		self = local_of(s);
		T(show(&self));
	}
}

CASE(dgram_error_queue)
{
	size_t i;

	for (i = 0; i < 2; i++) {
		struct ad a, name = { .len = sizeof(name.any) };
		int t = bound(hosts[i], &a), s = FD(socket(a.sa.sa_family, SOCK_DGRAM, 0));
		char control[512];
		struct iovec iov = { buf, 100 };
		struct msghdr m = {
			.msg_name = &name.any, .msg_namelen = sizeof(name.any), .msg_iov = &iov, .msg_iovlen = 1,
			.msg_control = control, .msg_controllen = sizeof(control),
		};
		struct cmsghdr *c;

		close(t);
		R(set_int(s, i ? IPPROTO_IPV6 : IPPROTO_IP, i ? IPV6_RECVERR : IP_RECVERR, 1));
		R(SENDTO(s, "payload", 7, 0, a));
		MASK(s);
		R(recvmsg(s, &m, MSG_ERRQUEUE | MSG_DONTWAIT));
		V(m.msg_flags);
		name.len = m.msg_namelen;
		B(strcmp(show(&name), show(&a)) == 0);
		for (c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
			struct sock_extended_err err;

			V(c->cmsg_level);
			V(c->cmsg_type);
			memcpy(&err, CMSG_DATA(c), sizeof(err));
			V(err.ee_errno);
			V(err.ee_origin);
			V(err.ee_type);
			V(err.ee_code);
		}
		m.msg_controllen = sizeof(control);
		R(recvmsg(s, &m, MSG_ERRQUEUE | MSG_DONTWAIT));
		MASK(s);
	}
}

CASE(dgram_sizes)
{
	static const int sizes[] = { 1, 1472, 1473, 8000, 32768, 65507, 65508, 65535 };
	size_t i, j;

	for (j = 0; j < 2; j++) {
		struct ad a, b, from;
		int s = bound(hosts[j], &a), t = bound(hosts[j], &b);

		for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
			V(sizes[i]);
			memset(buf, (int)i, sizeof(buf));
			if (R(SENDTO(s, buf, (size_t)sizes[i], 0, b)) > 0) {
				buf[0] = buf[sizes[i] - 1] = 99;
				R(receive(t, sizeof(buf), 0, &from));
				B(buf[0] == (char)i && buf[sizes[i] - 1] == (char)i);
			}
		}
	}
}

CASE(dgram_big_outside)
{
	struct ad a, from;
	int s = FD(socket(AF_INET, SOCK_DGRAM, 0)), control = peer_control(peer4);

	a = at(peer4, (int)peer_tell(control, "U4"));
	R(SENDTO(s, buf, 65507, 0, a));
	R(peer_tell(control, "D"));
	R(peer_tell(control, "B65507"));
	R(receive(s, sizeof(buf), 0, &from));
	R(SENDTO(s, buf, 65508, 0, a));
	R(CONNECT(s, a));
	R(send(s, buf, 65508, 0));
	R(send(s, buf, 60000, 0));
	R(peer_tell(control, "D"));
}

CASE(dgram_many)
{
	struct ad a, b;
	int s = bound("127.0.0.1", &a), t = bound("127.0.0.1", &b), i;
	struct iovec iov[8];
	struct mmsghdr m[8];
	struct timespec tv = { 0, 0 };

	memset(m, 0, sizeof(m));
	for (i = 0; i < 8; i++) {
		iov[i] = (struct iovec){ buf + 100 * i, (size_t)i };
		m[i].msg_hdr = (struct msghdr){ .msg_name = &b.any, .msg_namelen = b.len, .msg_iov = &iov[i], .msg_iovlen = 1 };
	}
	R(sendmmsg(s, m, 8, 0));
	V(m[5].msg_len);
	settle();
	for (i = 0; i < 8; i++)
		iov[i].iov_len = 100;
	R(recvmmsg(t, m, 5, MSG_DONTWAIT, NULL));
	V(m[4].msg_len);
	V(m[4].msg_hdr.msg_namelen);
	R(recvmmsg(t, m, 8, MSG_WAITFORONE, &tv));
	R(recvmmsg(t, m, 8, MSG_DONTWAIT, NULL));
	R(sendmmsg(s, m, 0, 0));
}

CASE(dgram_order)
{
	struct ad a, b;
	int s = bound("127.0.0.1", &a), t = bound("127.0.0.1", &b), i, good = 0;

	for (i = 0; i < 50; i++)
		good += SENDTO(s, &i, sizeof(i), 0, b) == sizeof(i);
	V(good);
	for (good = 0, i = 0; i < 50; i++) {
		int got = -1;

		if (recv_soon(t, &got, sizeof(got), 0) == sizeof(got))
			good += got == i;
	}
	V(good);
}

static void show_control(struct msghdr *m)
{
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		int level = c->cmsg_level, type = c->cmsg_type, number = 0;
		char host[INET6_ADDRSTRLEN] = "";

		if (level == SOL_SOCKET) {
			say("control %d %d", level, type);
			continue;
		}
		if (level == IPPROTO_IP && type == IP_PKTINFO) {
			struct in_pktinfo *p = (void *)CMSG_DATA(c);

			inet_ntop(AF_INET, &p->ipi_addr, host, sizeof(host));
			number = p->ipi_ifindex;
		} else if (level == IPPROTO_IPV6 && type == IPV6_PKTINFO) {
			struct in6_pktinfo *p = (void *)CMSG_DATA(c);

			inet_ntop(AF_INET6, &p->ipi6_addr, host, sizeof(host));
			number = (int)p->ipi6_ifindex;
		} else {
			memcpy(&number, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0) < 4 ? 1 : 4);
		}
		say("control %d %d: %d %s", level, type, number, host);
	}
}

static void ancillary(const char *host, int level, const int *receive_options, int tos, int ttl, bool outside)
{
	struct ad a = at(host, 0), b;
	int s = FD(socket(a.sa.sa_family, SOCK_DGRAM, 0)), t;
	char control[256] = { 0 };
	struct iovec iov = { buf, 100 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int i, v, ctl;

	t = bound(a.sa.sa_family == AF_INET ? "0.0.0.0" : "::", &b);
	for (i = 0; receive_options[i]; i++)
		R(set_int(t, level, receive_options[i], 1));
	R(set_int(t, SOL_SOCKET, SO_TIMESTAMP, 1));
	b = at(host, port_of(t));
	if (outside) {
		ctl = peer_control(host);
		B(peer_tell(ctl, "U%d", level == IPPROTO_IP ? 4 : 6) > 0);
		R(peer_tell(ctl, "T%s %d 4", host, port_of(t)) >= 0);
	} else {
		R(set_int(s, level, level == IPPROTO_IP ? IP_TTL : IPV6_UNICAST_HOPS, 33));
		c->cmsg_level = level;
		c->cmsg_type = tos;
		c->cmsg_len = CMSG_LEN(sizeof(v));
		v = 0x20;
		memcpy(CMSG_DATA(c), &v, sizeof(v));
		c = CMSG_NXTHDR(&m, c);
		c->cmsg_level = level;
		c->cmsg_type = ttl;
		c->cmsg_len = CMSG_LEN(sizeof(v));
		v = 44;
		memcpy(CMSG_DATA(c), &v, sizeof(v));
		m.msg_name = &b.any;
		m.msg_namelen = b.len;
		m.msg_controllen = CMSG_SPACE(sizeof(v));
		iov.iov_len = 4;
		R(sendmsg(s, &m, 0));
		m.msg_controllen = 2 * CMSG_SPACE(sizeof(v));
		R(sendmsg(s, &m, 0));
		await(t, POLLIN);
		m.msg_controllen = sizeof(control);
		iov.iov_len = 100;
		R(recvmsg(t, &m, MSG_DONTWAIT));
		show_control(&m);
	}
	await(t, POLLIN);
	m.msg_controllen = sizeof(control);
	iov.iov_len = 100;
	R(recvmsg(t, &m, MSG_DONTWAIT));
	V(m.msg_flags);
	show_control(&m);
	B(SENDTO(s, "x", 1, 0, b) == 1);
	await(t, POLLIN);
	m.msg_controllen = 8;
	R(recvmsg(t, &m, MSG_DONTWAIT));
	V(m.msg_flags);
}

CASE(dgram_ancillary)
{
	static const int v4[] = { IP_PKTINFO, IP_RECVTTL, IP_RECVTOS, 0 };
	static const int v6[] = { IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, 0 };

	ancillary("127.0.0.1", IPPROTO_IP, v4, IP_TOS, IP_TTL, false);
	ancillary("::1", IPPROTO_IPV6, v6, IPV6_TCLASS, IPV6_HOPLIMIT, false);
	ancillary(peer4, IPPROTO_IP, v4, IP_TOS, IP_TTL, true);
	ancillary(peer6, IPPROTO_IPV6, v6, IPV6_TCLASS, IPV6_HOPLIMIT, true);
}

CASE(dgram_source_by_pktinfo)
{
	struct ad a, from;
	int t = bound("127.0.0.1", &a), s = FD(socket(AF_INET, SOCK_DGRAM, 0));
	char control[CMSG_SPACE(sizeof(struct in_pktinfo))] = { 0 };
	struct iovec iov = { "hey", 3 };
	struct msghdr m = {
		.msg_name = &a.any, .msg_namelen = a.len, .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	struct in_pktinfo *p = (void *)CMSG_DATA(c);

	c->cmsg_level = IPPROTO_IP;
	c->cmsg_type = IP_PKTINFO;
	c->cmsg_len = CMSG_LEN(sizeof(*p));
	inet_pton(AF_INET, "127.0.0.5", &p->ipi_spec_dst);
	R(sendmsg(s, &m, 0));
	R(receive(t, 100, 0, &from));
	T(show(&from));
	inet_pton(AF_INET, "10.99.99.99", &p->ipi_spec_dst);
	R(sendmsg(s, &m, 0));
	c->cmsg_level = 12345;
	R(sendmsg(s, &m, 0));
	c->cmsg_level = IPPROTO_IP;
	c->cmsg_len = 3;
	R(sendmsg(s, &m, 0));
	c->cmsg_type = 99;
	c->cmsg_len = CMSG_LEN(4);
	R(sendmsg(s, &m, 0));
}

CASE(dgram_shutdown)
{
	struct ad a, b, from;
	int s = bound("127.0.0.1", &a), t = bound("127.0.0.1", &b);

	R(shutdown(s, SHUT_RDWR));
	R(CONNECT(s, b));
	R(shutdown(s, SHUT_WR));
	MASK(s);
	R(send(s, "x", 1, MSG_NOSIGNAL));
	R(SENDTO(t, "abc", 3, 0, a));
	R(receive(s, 10, 0, &from));
	R(shutdown(s, SHUT_RD));
	MASK(s);
	R(recv(s, buf, 1, 0));
	R(shutdown(s, 7));
}

static void *shutter(void *arg)
{
	settle();
	shutdown(*(int *)arg, SHUT_RD);
	return NULL;
}

CASE(dgram_blocked)
{
	struct ad a, b;
	int s = bound("127.0.0.1", &a), t = bound("127.0.0.1", &b);
	struct timeval tv = { 0, 200000 };
	pthread_t thread;
	pid_t pid;

	if ((pid = fork()) == 0) {
		settle();
		SENDTO(t, "late", 4, 0, a);
		_exit(0);
	}
	R(recv(s, buf, 10, 0));
	waitpid(pid, NULL, 0);
	R(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	R(recv(s, buf, 10, 0));
	tv.tv_usec = 0;
	R(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	R(CONNECT(s, b));
	pthread_create(&thread, NULL, shutter, &s);
	R(recv(s, buf, 10, 0));
	pthread_join(thread, NULL);
}

CASE(dgram_epoll)
{
	struct ad a, b;
	int s = bound("127.0.0.1", &a), t = bound("127.0.0.1", &b), ep = epoll_create1(0);
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLET }, got;

	R(epoll_ctl(ep, EPOLL_CTL_ADD, t, &ev));
	R(epoll_wait(ep, &got, 1, 0));
	V(got.events);
	R(epoll_wait(ep, &got, 1, 0));
	R(SENDTO(s, "x", 1, 0, b));
	settle();
	R(epoll_wait(ep, &got, 1, 10000));
	V(got.events);
	R(epoll_wait(ep, &got, 1, 0));
	R(recv(t, buf, 1, 0));
	ev.events = EPOLLIN;
	R(epoll_ctl(ep, EPOLL_CTL_MOD, t, &ev));
	R(epoll_wait(ep, &got, 1, 0));
	R(SENDTO(s, "x", 1, 0, b));
	R(epoll_wait(ep, &got, 1, 10000));
	R(epoll_wait(ep, &got, 1, 0));
}

CASE(dgram_errors)
{
	struct ad a, b, c = at("::1", 9);
	int s = bound("127.0.0.1", &a), t = FD(socket(AF_INET6, SOCK_DGRAM, 0)), n;

	R(listen(s, 1));
	R(accept(s, NULL, NULL));
	R(send(s, "x", 1, MSG_OOB));
	R(SENDTO(s, "x", 1, MSG_OOB, a));
	R(recv(s, buf, 1, MSG_OOB | MSG_DONTWAIT));
	R(SENDTO(s, "x", 1, 0, c));
	R(SENDTO(t, "x", 1, 0, a));
	R(sendto(s, "x", 1, 0, &a.sa, 8));
	R(sendto(s, "x", 1, 0, &a.sa, 200));
	R(sendto(s, NULL, 10, 0, &a.sa, a.len));
	b = at("10.9.8.255", 9);
	R(SENDTO(s, "x", 1, 0, b));
	b = at("255.255.255.255", 9);
	R(SENDTO(s, "x", 1, 0, b));
	R(CONNECT(s, b));
	R(set_int(s, SOL_SOCKET, SO_BROADCAST, 1));
	V(get_int(s, SOL_SOCKET, SO_BROADCAST));
	R(BIND(s, a));
	R(ioctl(s, FIONREAD, &n));
	V(n);
	R(ioctl(s, 0x1234, &n));
	R(recv(s, buf, 1, MSG_ERRQUEUE | MSG_DONTWAIT));
}

CASE(dgram_v6_to_v4)
{
	struct ad any = at("::", 0), b, from, to;
	int s = FD(socket(AF_INET6, SOCK_DGRAM, 0)), t = bound("127.0.0.1", &b);

	R(BIND(s, any));
	to = at("::ffff:127.0.0.1", ntohs(b.in.sin_port));
	R(SENDTO(s, "abc", 3, 0, to));
	R(receive(t, 10, 0, &from));
	T(show(&from));
	R(SENDTO(t, "abcd", 4, 0, from));
	R(receive(s, 10, 0, &from));
	T(show(&from));
	R(CONNECT(s, to));
	from = local_of(s);
	T(show(&from));
	R(set_int(s, IPPROTO_IPV6, IPV6_V6ONLY, 1));
	s = FD(socket(AF_INET6, SOCK_DGRAM, 0));
	R(set_int(s, IPPROTO_IPV6, IPV6_V6ONLY, 1));
	R(SENDTO(s, "abc", 3, 0, to));
}

CASE(dgram_cork)
{
	struct ad a, b, from;
	int s = bound("127.0.0.1", &a), t = bound("127.0.0.1", &b);

	R(SENDTO(s, "one", 3, MSG_MORE, b));
	R(SENDTO(s, "two", 3, 0, b));
	R(receive(t, 100, 0, &from));
}
