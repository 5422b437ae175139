/* Listening sockets and what comes out of them. */
#include "tsi.h"

static struct ad self;

static int listener(int backlog)
{
	int l = socket(AF_INET, SOCK_STREAM, 0);

	self = at("127.0.0.1", 0);
	if (BIND(l, self) < 0 || listen(l, backlog) < 0) {
		say("no listener: %s", strerrorname_np(errno));
		exit(3);
	}
	self = local_of(l);
	return l;
}

static int dial(void)
{
	int c = socket(AF_INET, SOCK_STREAM, 0);

	R(CONNECT(c, self));
	return c;
}

CASE(listen_states)
{
	int l = FD(socket(AF_INET, SOCK_STREAM, 0)), n;
	struct ad a = at("127.0.0.1", 0);
	char c;

	MASK(l);
	R(accept(l, NULL, NULL));
	R(BIND(l, a));
	MASK(l);
	V(get_int(l, SOL_SOCKET, SO_ACCEPTCONN));
	R(listen(l, 5));
	V(get_int(l, SOL_SOCKET, SO_ACCEPTCONN));
	V(tcp_state(l));
	R(listen(l, 0));
	R(listen(l, -1));
	MASK(l);
	R(send(l, "x", 1, MSG_NOSIGNAL));
	R(recv(l, &c, 1, 0));
	R(getpeername(l, &a.sa, &a.len));
	self = local_of(l);
	R(CONNECT(l, self));
	R(BIND(l, self));
	R(ioctl(l, FIONREAD, &n));
	R(shutdown(l, SHUT_WR));
	MASK(l);
	R(shutdown(l, SHUT_RD));
	MASK(l);
	R(accept(l, NULL, NULL));
	R(listen(l, 5));
	MASK(l);
	B(port_of(l) == ntohs(self.in.sin_port));
}

CASE(listen_unbound)
{
	int l = FD(socket(AF_INET, SOCK_STREAM, 0)), c;
	struct ad a;

	R(listen(l, 3));
	a = local_of(l);
	T(show(&a));
	B(port_of(l) > 0);
	a = at("127.0.0.1", port_of(l));
	c = FD(socket(AF_INET, SOCK_STREAM, 0));
	R(CONNECT(c, a));
	B(accept(l, NULL, NULL) > 0);
}

CASE(listen_accept)
{
	int l = listener(8), c, s;
	struct ad a = { .len = sizeof(a.any) }, b;
	char x[4];

	R(nonblock(l));
	R(accept(l, NULL, NULL));
	c = dial();
	B(await(l, POLLIN));
	MASK(l);
	s = FD(accept(l, &a.sa, &a.len));
	b = local_of(c);
	B(strcmp(show(&a), show(&b)) == 0);
	b = local_of(s);
	B(strcmp(show(&b), show(&self)) == 0);
	V(fcntl(s, F_GETFL) & O_NONBLOCK);
	V(fcntl(s, F_GETFD));
	R(accept(l, NULL, NULL));
	MASK(l);
	dial();
	await(l, POLLIN);
	s = FD(accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
	B(fcntl(s, F_GETFL) & O_NONBLOCK);
	V(fcntl(s, F_GETFD));
	R(recv(s, x, 1, 0));
	dial();
	await(l, POLLIN);
	a.len = 4;
	s = FD(accept(l, &a.sa, &a.len));
	V(a.len);
	dial();
	await(l, POLLIN);
	a.len = (socklen_t)-1;
	R(accept(l, &a.sa, &a.len));
	R(accept(l, NULL, NULL));
	R(accept4(l, NULL, NULL, 0x1000000));
	dial();
	await(l, POLLIN);
	R(accept(l, &a.sa, NULL));
	R(close(l));
	R(recv(s, x, 1, MSG_DONTWAIT));
}

CASE(listen_inherit)
{
	int l = socket(AF_INET, SOCK_STREAM, 0), s, c;

	self = at("127.0.0.1", 0);
	R(set_int(l, IPPROTO_TCP, TCP_NODELAY, 1));
	R(set_int(l, SOL_SOCKET, SO_KEEPALIVE, 1));
	R(set_int(l, IPPROTO_TCP, TCP_KEEPIDLE, 77));
	R(set_int(l, SOL_SOCKET, SO_RCVBUF, 8192));
	R(set_int(l, SOL_SOCKET, SO_PRIORITY, 3));
	R(set_int(l, IPPROTO_IP, IP_TOS, 0x10));
	R(BIND(l, self));
	R(listen(l, 1));
	self = local_of(l);
	c = dial();
	(void)c;
	s = FD(accept(l, NULL, NULL));
	V(get_int(s, IPPROTO_TCP, TCP_NODELAY));
	V(get_int(s, SOL_SOCKET, SO_KEEPALIVE));
	V(get_int(s, IPPROTO_TCP, TCP_KEEPIDLE));
	V(get_int(s, SOL_SOCKET, SO_RCVBUF));
	V(get_int(s, SOL_SOCKET, SO_PRIORITY));
	V(get_int(s, IPPROTO_IP, IP_TOS));
	V(get_int(s, SOL_SOCKET, SO_REUSEADDR));
	V(get_int(s, SOL_SOCKET, SO_ACCEPTCONN));
}

CASE(listen_closed_before_accept)
{
	int l = listener(8), c = dial(), s;
	char x[8];

	R(send(c, "abc", 3, 0));
	R(close(c));
	settle();
	MASK(l);
	s = FD(accept(l, NULL, NULL));
	R(recv(s, x, 8, MSG_WAITALL));
	R(recv(s, x, 8, 0));
}

CASE(listen_reset_before_accept)
{
	int l = listener(8), c = dial(), s;
	struct linger g = { 1, 0 };
	struct ad a = { .len = sizeof(a.any) };
	char x[8];

	setsockopt(c, SOL_SOCKET, SO_LINGER, &g, sizeof(g));
	R(close(c));
	settle();
	MASK(l);
	R(nonblock(l));
	s = FD(accept(l, &a.sa, &a.len));
	R(recv(s, x, 8, 0));
	R(getpeername(s, &a.sa, &a.len));
}

CASE(listen_close_resets)
{
	int l = listener(8), c = dial();
	char x;

	R(close(l));
	settle();
	MASK(c);
	R(recv(c, &x, 1, 0));
	c = socket(AF_INET, SOCK_STREAM, 0);
	R(CONNECT(c, self));
}

static void *accepting(void *arg)
{
	int l = *(int *)arg;

	R(accept(l, NULL, NULL));
	return NULL;
}

CASE(listen_shutdown_wakes)
{
	int l = listener(8);
	pthread_t t;

	pthread_create(&t, NULL, accepting, &l);
	settle();
	shutdown(l, SHUT_RDWR);
	pthread_join(t, NULL);
}

CASE(listen_timeout)
{
	int l = listener(8);
	struct timeval tv = { 0, 200000 };
	long long before = now_ms();

	R(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	R(accept(l, NULL, NULL));
	B(now_ms() - before >= 190);
}

static void noop(int sig) { (void)sig; }

CASE(listen_interrupted)
{
	int l = listener(8);
	struct sigaction sa = { .sa_handler = noop };
	struct itimerspec it = { .it_value = { 0, 300000000 } };
	timer_t timer;
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };

	sigaction(SIGUSR1, &sa, NULL);
	timer_create(CLOCK_MONOTONIC, &ev, &timer);
	timer_settime(timer, 0, &it, NULL);
	R(accept(l, NULL, NULL));
}

CASE(listen_epoll)
{
	int l = listener(8), ep = epoll_create1(0), c;
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET }, got = { 0 };

	R(nonblock(l));
	R(epoll_ctl(ep, EPOLL_CTL_ADD, l, &ev));
	R(epoll_wait(ep, &got, 1, 0));
	c = dial();
	R(epoll_wait(ep, &got, 1, 10000));
	V(got.events);
	R(epoll_wait(ep, &got, 1, 0));
	c = dial();
	(void)c;
	R(epoll_wait(ep, &got, 1, 10000));
	FD(accept(l, NULL, NULL));
	FD(accept(l, NULL, NULL));
	R(accept(l, NULL, NULL));
	R(epoll_wait(ep, &got, 1, 0));
}

CASE(listen_many)
{
	int l = listener(64), i, good = 0;

	for (i = 0; i < 40; i++) {
		int c = socket(AF_INET, SOCK_STREAM, 0);

		good += CONNECT(c, self) == 0;
	}
	V(good);
	good = 0;
	for (i = 0; i < 40; i++)
		good += accept(l, NULL, NULL) > 0;
	V(good);
	R(nonblock(l));
	R(accept(l, NULL, NULL));
}

CASE(listen_outside_dials)
{
	static const char *hosts[] = { "0.0.0.0", "::", NULL };
	int i;

	for (i = 0; hosts[i]; i++) {
		struct ad a = at(hosts[i], 0);
		int l = FD(socket(a.sa.sa_family, SOCK_STREAM, 0)), s;
		int control = peer_control(i ? peer6 : peer4), four = peer_control(peer4);
		char x[8];

		R(BIND(l, a));
		R(listen(l, 4));
		R(peer_tell(control, "C%d", port_of(l)));
		a.len = sizeof(a.any);
		s = FD(accept(l, &a.sa, &a.len));
		T(show(&a));
		a = local_of(s);
		T(show(&a));
		R(peer_tell(control, "S3"));
		R(recv(s, x, 3, MSG_WAITALL));
		R(peer_tell(four, "C%d", port_of(l)));
		a.len = sizeof(a.any);
		s = FD(accept(l, &a.sa, &a.len));
		T(show(&a));
		a = local_of(s);
		T(show(&a));
		R(close(l));
		settle();
		R(peer_tell(control, "C%d", ntohs(a.in.sin_port)));
	}
}
