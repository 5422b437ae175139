/* bind(2): addresses, ports, conflicts, privileges. */
#include "tsi.h"

static int make(int family, int type) { return socket(family, type, 0); }

static void one(const char *host, int type)
{
	struct ad a = at(host, 0), b;
	int s = make(a.sa.sa_family, type);

	forget_ports();
	T(host);
	R(BIND(s, a));
	b = local_of(s);
	T(show(&b));
	R(BIND(s, a));
	if (type == SOCK_STREAM)
		R(listen(s, 1));
	close(s);
}

CASE(bind_addresses)
{
	const char *hosts[] = {
		"0.0.0.0", "127.0.0.1", "127.1.2.3", peer4, "10.99.99.99", "255.255.255.255", "224.0.0.7",
		"10.9.8.255", "::", "::1", peer6, "fd99::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0",
		"::ffff:10.99.99.99", "ff02::7", "fe80::1234",
	};
	size_t i;

	for (i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
		one(hosts[i], SOCK_STREAM);
		one(hosts[i], SOCK_DGRAM);
	}
}

CASE(bind_errors)
{
	struct ad a = at("127.0.0.1", 0), b = at("::1", 0), c = at("::ffff:127.0.0.1", 0);
	int s = FD(make(AF_INET, SOCK_STREAM)), t = FD(make(AF_INET6, SOCK_STREAM));

	R(bind(s, &a.sa, 0));
	R(bind(s, &a.sa, 15));
	R(bind(s, &a.sa, 129));
	R(bind(s, NULL, 16));
	R(bind(-1, &a.sa, 16));
	R(BIND(s, b));
	R(BIND(t, a));
	R(bind(t, &b.sa, 23));
	R(bind(t, &b.sa, 24));
	R(set_int(t, IPPROTO_IPV6, IPV6_V6ONLY, 1));
	R(BIND(t, c));
	a.sa.sa_family = AF_UNSPEC;
	R(BIND(s, a));
	a = at("0.0.0.0", 0);
	a.sa.sa_family = AF_UNSPEC;
	R(BIND(s, a));
	B(port_of(s) > 0);
	b.sa.sa_family = AF_UNIX;
	R(BIND(t, b));
}

CASE(bind_port_zero)
{
	struct ad a = at("127.0.0.1", 0);
	int s = FD(make(AF_INET, SOCK_STREAM)), t = FD(make(AF_INET, SOCK_STREAM)), c = FD(make(AF_INET, SOCK_STREAM));

	V(port_of(s));
	R(BIND(s, a));
	R(BIND(t, a));
	B(port_of(s) > 1023);
	B(port_of(s) != port_of(t));
	R(listen(s, 1));
	a = local_of(s);
	R(CONNECT(c, a));
	B(port_of(c) != port_of(s));
	s = FD(make(AF_INET, SOCK_DGRAM));
	a = at("0.0.0.0", 0);
	V(port_of(s));
	R(BIND(s, a));
	B(port_of(s) > 1023);
	s = FD(make(AF_INET, SOCK_DGRAM));
	a = at("127.0.0.1", 9);
	R(SENDTO(s, "x", 1, 0, a));
	B(port_of(s) > 1023);
}

/* What options two sockets for one port have, and how far the second gets. */
static void conflict(const char *host, const char *host2, int type, int option, int option2, bool listening)
{
	struct ad a = at(host, 0), b;
	int s = make(a.sa.sa_family, type), t, port;

	say("%s %s, %s, %s, options %d %d", host, host2, type == SOCK_STREAM ? "TCP" : "UDP",
	    listening ? "listening" : "bound", option, option2);
	if (option)
		set_int(s, SOL_SOCKET, option, 1);
	R(BIND(s, a));
	if (listening)
		R(listen(s, 1));
	port = port_of(s);
	b = at(host2, port);
	t = make(b.sa.sa_family, type);
	if (option2)
		set_int(t, SOL_SOCKET, option2, 1);
	if (R(BIND(t, b)) == 0 && type == SOCK_STREAM)
		R(listen(t, 1));
	close(s);
	close(t);
}

CASE(bind_conflicts)
{
	static const int options[] = { 0, SO_REUSEADDR, SO_REUSEPORT };
	static const char *pairs[][2] = {
		{ "127.0.0.1", "127.0.0.1" }, { "0.0.0.0", "127.0.0.1" }, { "127.0.0.1", "0.0.0.0" },
		{ "127.0.0.1", "127.0.0.2" }, { "::", "0.0.0.0" }, { "0.0.0.0", "::" }, { "::1", "127.0.0.1" },
		{ "::1", "::" }, { "::ffff:127.0.0.1", "127.0.0.1" },
	};
	size_t i, o, p;

	for (i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
		for (o = 0; o < 3; o++)
			for (p = 0; p < 3; p++) {
				if (i > 0 && o != p)
					continue;
				conflict(pairs[i][0], pairs[i][1], SOCK_STREAM, options[o], options[p], true);
				if (i == 0)
					conflict(pairs[i][0], pairs[i][1], SOCK_STREAM, options[o], options[p], false);
				conflict(pairs[i][0], pairs[i][1], SOCK_DGRAM, options[o], options[p], false);
			}
}

CASE(bind_v6only)
{
	struct ad a = at("::", 0), b;
	int s = FD(make(AF_INET6, SOCK_STREAM)), t = FD(make(AF_INET, SOCK_STREAM));

	V(get_int(s, IPPROTO_IPV6, IPV6_V6ONLY));
	R(set_int(s, IPPROTO_IPV6, IPV6_V6ONLY, 1));
	R(BIND(s, a));
	R(listen(s, 1));
	b = at("0.0.0.0", port_of(s));
	R(BIND(t, b));
	R(listen(t, 1));
	R(set_int(s, IPPROTO_IPV6, IPV6_V6ONLY, 0));
}

CASE(bind_outside_has_it)
{
	int control = peer_control(peer4), s = FD(make(AF_INET, SOCK_STREAM)), u = FD(make(AF_INET, SOCK_DGRAM)), port;
	struct ad a;

	port = (int)peer_tell(control, "L4");
	a = at("0.0.0.0", port);
	R(BIND(s, a));
	a = at("127.0.0.1", port);
	R(BIND(s, a));
	R(set_int(s, SOL_SOCKET, SO_REUSEADDR, 1));
	R(BIND(s, a));
	R(set_int(s, SOL_SOCKET, SO_REUSEPORT, 1));
	R(BIND(s, a));
	R(peer_tell(control, "G"));
	R(BIND(s, a));
	R(listen(s, 1));
	port = (int)peer_tell(control, "U4");
	a = at("0.0.0.0", port);
	R(BIND(u, a));
	R(peer_tell(control, "X"));
	R(BIND(u, a));
}

CASE(bind_after_use)
{
	struct ad a = at("127.0.0.1", 0);
	int l = FD(make(AF_INET, SOCK_STREAM)), c = FD(make(AF_INET, SOCK_STREAM)), s;

	R(BIND(l, a));
	R(listen(l, 1));
	a = local_of(l);
	R(CONNECT(c, a));
	s = FD(accept(l, NULL, NULL));
	R(close(s));
	settle();
	R(close(c));
	R(close(l));
	settle();
	/* TIME_WAIT keeps the port. */
	l = FD(make(AF_INET, SOCK_STREAM));
	R(BIND(l, a));
	R(set_int(l, SOL_SOCKET, SO_REUSEADDR, 1));
	R(BIND(l, a));
	R(listen(l, 1));
	R(close(l));
	settle();
	l = FD(make(AF_INET, SOCK_STREAM));
	R(BIND(l, a));
}

CASE(bind_low_port)
{
	static const int ports[] = { 79, 1023, 1024 };
	size_t i, user;

	for (user = 0; user < 2; user++) {
		if (user)
			R(setresuid(1000, 1000, 1000));
		for (i = 0; i < 3; i++) {
			struct ad a = at("127.0.0.1", ports[i]), b = at("::1", ports[i]);
			int s = make(AF_INET, SOCK_STREAM), u = make(AF_INET6, SOCK_DGRAM);

			V(ports[i]);
			R(BIND(s, a));
			R(BIND(u, b));
			close(s);
			close(u);
			settle();
		}
	}
}

CASE(bind_listen_race)
{
	struct ad a = at("127.0.0.1", 0);
	int s = FD(make(AF_INET, SOCK_STREAM)), t = FD(make(AF_INET, SOCK_STREAM));

	set_int(s, SOL_SOCKET, SO_REUSEADDR, 1);
	set_int(t, SOL_SOCKET, SO_REUSEADDR, 1);
	R(BIND(s, a));
	a = local_of(s);
	R(BIND(t, a));
	R(listen(s, 1));
	R(listen(t, 1));
	MASK(t);
}

CASE(bind_reuseport_shares)
{
	struct ad a = at("127.0.0.1", 0);
	int l[2], i, good = 0;

	for (i = 0; i < 2; i++) {
		l[i] = FD(make(AF_INET, SOCK_STREAM));
		R(set_int(l[i], SOL_SOCKET, SO_REUSEPORT, 1));
		R(BIND(l[i], a));
		a = local_of(l[i]);
		R(listen(l[i], 64));
		R(nonblock(l[i]));
	}
	for (i = 0; i < 20; i++) {
		int c = make(AF_INET, SOCK_STREAM);

		good += CONNECT(c, a) == 0;
	}
	V(good);
	settle();
	for (good = 0; accept(l[0], NULL, NULL) > 0 || accept(l[1], NULL, NULL) > 0; good++)
		;
	V(good);
}
