/* connect(2) on TCP sockets, mostly where it fails. */
#include "tsi.h"

static int tcp(int family) { return FD(socket(family, SOCK_STREAM, 0)); }

/* A port that nobody listens on, and nobody gets while the case runs. */
static struct ad unused(const char *host)
{
	struct ad a = at(host, 0);
	int fd = socket(a.sa.sa_family, SOCK_STREAM, 0);

	if (BIND(fd, a) < 0)
		exit(3);
	return local_of(fd);
}

static void refused(const char *host, const char *from)
{
	struct ad a = unused(host), b = at(from, 0);
	int s = tcp(a.sa.sa_family);
	char c;

	if (a.sa.sa_family == b.sa.sa_family)
		R(BIND(s, b));
	R(CONNECT(s, a));
	V(so_error(s));
	MASK(s);
	R(peer_name(s));
	R(recv(s, &c, 1, 0));
	R(send(s, &c, 1, MSG_NOSIGNAL));
	R(CONNECT(s, a));
	V(tcp_state(s));
}

CASE(connect_refused4) { refused("127.0.0.1", "127.0.0.1"); }
CASE(connect_refused6) { refused("::1", "::1"); }
CASE(connect_refused_mapped) { refused("::ffff:127.0.0.1", "0.0.0.0"); }
CASE(connect_refused_device4) { refused(peer4, "0.0.0.0"); }
CASE(connect_refused_device6) { refused(peer6, "::"); }

static void refused_later(const char *host)
{
	struct ad a = unused(host);
	int s = tcp(a.sa.sa_family);
	char c;

	R(nonblock(s));
	R(CONNECT(s, a));
	B(await(s, POLLOUT));
	MASK(s);
	V(so_error(s));
	V(so_error(s));
	MASK(s);
	R(peer_name(s));
	R(recv(s, &c, 1, 0));
	R(send(s, &c, 1, MSG_NOSIGNAL));
	R(CONNECT(s, a));
	settle();
	R(CONNECT(s, a));
	settle();
	R(recv(s, &c, 1, 0));
	R(recv(s, &c, 1, 0));
}

CASE(connect_refused_later4) { refused_later("127.0.0.1"); }
CASE(connect_refused_later6) { refused_later("::1"); }
CASE(connect_refused_later_device) { refused_later(peer4); }

static void later(const char *host, int port)
{
	struct ad a = at(host, port);
	int s = tcp(a.sa.sa_family);
	char c;

	R(nonblock(s));
	R(CONNECT(s, a));
	B(await(s, POLLOUT));
	MASK(s);
	V(so_error(s));
	R(CONNECT(s, a));
	R(CONNECT(s, a));
	R(recv(s, &c, 1, 0));
	R(peer_name(s));
}

CASE(connect_later_outside4) { later(peer4, CONTROL_PORT); }
CASE(connect_later_outside6) { later(peer6, CONTROL_PORT); }
CASE(connect_later_outside_loopback) { later("127.0.0.1", CONTROL_PORT); }

CASE(connect_later_local)
{
	struct ad a = at("127.0.0.1", 0);
	int l = tcp(AF_INET);

	R(BIND(l, a));
	R(listen(l, 4));
	later("127.0.0.1", port_of(l));
}

CASE(connect_wildcard)
{
	static const char *hosts[] = { "0.0.0.0", "::", "::ffff:0.0.0.0" };
	size_t i;

	for (i = 0; i < 3; i++) {
		struct ad a = at(hosts[i], CONTROL_PORT), b;
		int s = tcp(a.sa.sa_family);

		R(CONNECT(s, a));
		b = peer_of(s);
		T(show(&b));
		b = local_of(s);
		T(show(&b));
	}
}

/* The namespace has routes that lead nowhere in several ways. */
CASE(connect_no_way)
{
	static const char *hosts[] = {
		"10.66.0.1", "10.67.0.1", "10.68.0.1", "10.69.0.1", "255.255.255.255", "224.0.0.1",
		"240.0.0.1", "fd66::1", "fd67::1", "fd68::1", "fe80::1", "ff02::1", "2001:db8::1",
		"::ffff:10.66.0.1", "127.99.99.99",
	};
	size_t i;

	for (i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
		struct ad a = at(hosts[i], 9);
		int s = socket(a.sa.sa_family, SOCK_STREAM, 0);
		int u = socket(a.sa.sa_family, SOCK_DGRAM, 0);

		T(hosts[i]);
		R(CONNECT(s, a));
		V(so_error(s));
		MASK(s);
		R(CONNECT(u, a));
		R(SENDTO(u, "x", 1, 0, a));
		R(nonblock(s));
		R(CONNECT(s, a));
		V(so_error(s));
		close(s);
		close(u);
	}
}

/* Nobody answers: the peer's queue is full. */
CASE(connect_timeout)
{
	int control = peer_control(peer4), s, i;
	struct ad a = at(peer4, (int)peer_tell(control, "F4"));
	struct timeval tv = { 0, 300000 };

	for (i = 0; i < 2; i++) {
		s = socket(AF_INET, SOCK_STREAM, 0);
		nonblock(s);
		CONNECT(s, a);
	}
	settle();
	s = tcp(AF_INET);
	R(setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)));
	R(CONNECT(s, a));
	R(CONNECT(s, a));
	R(send(s, "x", 1, MSG_NOSIGNAL));
	MASK(s);
	V(tcp_state(s));
	R(shutdown(s, SHUT_WR));
	R(close(s));
	s = tcp(AF_INET);
	R(set_int(s, IPPROTO_TCP, TCP_SYNCNT, 1));
	V(get_int(s, IPPROTO_TCP, TCP_SYNCNT));
	R(nonblock(s));
	R(CONNECT(s, a));
	R(CONNECT(s, a));
	MASK(s);
	R(send(s, "x", 1, MSG_NOSIGNAL));
	B(await(s, POLLOUT));
	V(so_error(s));
	s = tcp(AF_INET);
	R(set_int(s, IPPROTO_TCP, TCP_SYNCNT, 1));
	R(CONNECT(s, a));
	MASK(s);
	s = tcp(AF_INET);
	R(set_int(s, IPPROTO_TCP, TCP_USER_TIMEOUT, 700));
	R(CONNECT(s, a));
}

static void noop(int sig) { (void)sig; }

CASE(connect_interrupted)
{
	int control = peer_control(peer4), s, i;
	struct ad a = at(peer4, (int)peer_tell(control, "F4"));
	struct sigaction sa = { .sa_handler = noop };
	struct itimerspec it = { .it_value = { 0, 300000000 } };
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	timer_t timer;

	for (i = 0; i < 2; i++) {
		s = socket(AF_INET, SOCK_STREAM, 0);
		nonblock(s);
		CONNECT(s, a);
	}
	settle();
	s = tcp(AF_INET);
	sigaction(SIGUSR1, &sa, NULL);
	timer_create(CLOCK_MONOTONIC, &ev, &timer);
	timer_settime(timer, 0, &it, NULL);
	R(CONNECT(s, a));
	MASK(s);
	R(nonblock(s));
	R(CONNECT(s, a));
	R(close(s));
}

CASE(connect_errors)
{
	struct ad a = at("127.0.0.1", 9), b = at("::1", 9), c = at("::ffff:127.0.0.1", 9);
	int s = tcp(AF_INET), t = tcp(AF_INET6), l = tcp(AF_INET), u;

	R(connect(s, &a.sa, 1));
	R(connect(s, &a.sa, 15));
	R(connect(s, &a.sa, 129));
	R(connect(s, NULL, 16));
	R(connect(-1, &a.sa, 16));
	R(connect(0, &a.sa, 16));
	R(CONNECT(s, b));
	R(CONNECT(t, a));
	R(connect(t, &b.sa, 23));
	R(connect(t, &b.sa, 24));
	a.sa.sa_family = 77;
	R(CONNECT(s, a));
	a.sa.sa_family = AF_UNIX;
	R(CONNECT(s, a));
	a.sa.sa_family = AF_UNSPEC;
	R(CONNECT(s, a));
	R(connect(s, &a.sa, 2));
	R(set_int(t, IPPROTO_IPV6, IPV6_V6ONLY, 1));
	R(CONNECT(t, c));
	a = at("127.0.0.1", 0);
	R(CONNECT(l, a));
	u = tcp(AF_INET);
	R(BIND(u, a));
	a = at("10.66.0.1", 9);
	R(CONNECT(u, a));
	a = at("127.0.0.1", 0);
	u = tcp(AF_INET6);
	b = at("::1", 0);
	R(BIND(u, b));
	R(CONNECT(u, c));
}

/* A source address is chosen, and kept. */
CASE(connect_source)
{
	static const char *hosts[] = { "127.0.0.1", "::1", NULL, NULL };
	size_t i;

	hosts[2] = peer4;
	hosts[3] = peer6;
	for (i = 0; i < 4; i++) {
		struct ad a = at(hosts[i], CONTROL_PORT), b = at(a.sa.sa_family == AF_INET ? "0.0.0.0" : "::", 0), c;
		int s = tcp(a.sa.sa_family), port;

		R(BIND(s, b));
		port = port_of(s);
		R(CONNECT(s, a));
		c = local_of(s);
		T(show(&c));
		B(port_of(s) == port);
		R(shutdown(s, SHUT_WR));
		/* The same ends again: refused while the first one lives. */
		s = tcp(a.sa.sa_family);
		R(set_int(s, SOL_SOCKET, SO_REUSEADDR, 1));
		c.len = b.len;
		if (c.sa.sa_family == AF_INET)
			b.in.sin_port = htons(port);
		else
			b.in6.sin6_port = htons(port);
		R(BIND(s, b));
	}
}

CASE(connect_self)
{
	struct ad a = at("127.0.0.1", 0);
	int s = tcp(AF_INET);
	char x[4];

	R(BIND(s, a));
	a = local_of(s);
	R(CONNECT(s, a));
	R(send(s, "abc", 3, 0));
	R(recv_soon(s, x, 4, 0));
}

CASE(connect_twice_bound)
{
	struct ad a = at(peer4, CONTROL_PORT), b = at("0.0.0.0", 0);
	int s = tcp(AF_INET), t = tcp(AF_INET);

	R(BIND(s, b));
	b = local_of(s);
	R(BIND(t, b));
	R(CONNECT(s, a));
	R(BIND(t, b));
}

CASE(connect_epoll_before)
{
	struct ad a = at(peer4, CONTROL_PORT), bad = unused(peer4);
	int ep = epoll_create1(0), s = tcp(AF_INET), t = tcp(AF_INET);
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET }, got;

	R(nonblock(s));
	R(nonblock(t));
	R(epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev));
	R(epoll_wait(ep, &got, 1, 0));
	V(got.events);
	R(CONNECT(s, a));
	settle();
	R(epoll_wait(ep, &got, 1, 10000));
	V(got.events);
	R(epoll_wait(ep, &got, 1, 0));
	R(epoll_ctl(ep, EPOLL_CTL_DEL, s, NULL));
	R(epoll_ctl(ep, EPOLL_CTL_ADD, t, &ev));
	R(epoll_wait(ep, &got, 1, 0));
	R(CONNECT(t, bad));
	settle();
	R(epoll_wait(ep, &got, 1, 10000));
	V(got.events);
}

/* Level-triggered, a thread already waits when connect begins. */
static void *waiter(void *arg)
{
	struct pollfd p = { .fd = *(int *)arg, .events = POLLIN };

	value("poll before connect", poll(&p, 1, 10000));
	value("revents", p.revents);
	return NULL;
}

CASE(connect_wakes_poll)
{
	int control = peer_control(peer4), s = tcp(AF_INET);
	struct ad a = at(peer4, (int)peer_tell(control, "L4"));
	struct epoll_event ev = { .events = EPOLLIN }, got;
	int ep = epoll_create1(0);
	pthread_t t;

	R(epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev));
	R(epoll_wait(ep, &got, 1, 0));
	V(got.events);
	R(CONNECT(s, a));
	R(peer_tell(control, "A"));
	R(epoll_wait(ep, &got, 1, 0));
	pthread_create(&t, NULL, waiter, &s);
	settle();
	peer_tell(control, "S1");
	pthread_join(t, NULL);
	R(epoll_wait(ep, &got, 1, 10000));
	V(got.events);
}

CASE(connect_fastopen)
{
	struct ad a = at(peer4, CONTROL_PORT);
	int s = tcp(AF_INET);

	R(SENDTO(s, "", 0, MSG_FASTOPEN, a));
	R(send(s, "x", 1, MSG_NOSIGNAL));
	s = tcp(AF_INET);
	R(SENDTO(s, "x", 1, MSG_NOSIGNAL, a));
}
