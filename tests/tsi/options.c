/* Socket options: what is set, what it then is, what is refused. */
#include "tsi.h"

#include <linux/filter.h>
#include <netinet/udp.h>

struct option { int level, name, set; const char *text; bool defaults; };

#define O(level, name, value) { level, name, value, #name, true }
/* The default depends on the machine. */
#define O_(level, name, value) { level, name, value, #name, false }

static const struct option both[] = {
	O(SOL_SOCKET, SO_REUSEADDR, 1), O(SOL_SOCKET, SO_REUSEPORT, 1), O(SOL_SOCKET, SO_KEEPALIVE, 1),
	O(SOL_SOCKET, SO_BROADCAST, 1), O(SOL_SOCKET, SO_DONTROUTE, 1), O(SOL_SOCKET, SO_OOBINLINE, 1),
	O(SOL_SOCKET, SO_PRIORITY, 5), O(SOL_SOCKET, SO_PRIORITY, 7), O_(SOL_SOCKET, SO_RCVBUF, 20000),
	O_(SOL_SOCKET, SO_SNDBUF, 20000), O_(SOL_SOCKET, SO_RCVBUF, 1), O_(SOL_SOCKET, SO_SNDBUF, 0),
	O_(SOL_SOCKET, SO_SNDBUF, 1 << 30), O(SOL_SOCKET, SO_RCVBUFFORCE, 10000), O(SOL_SOCKET, SO_RCVLOWAT, 10),
	O(SOL_SOCKET, SO_SNDLOWAT, 10), O(SOL_SOCKET, SO_TIMESTAMP, 1), O(SOL_SOCKET, SO_TIMESTAMPNS, 1),
	O(SOL_SOCKET, SO_MARK, 7), O(SOL_SOCKET, SO_TYPE, 1), O(SOL_SOCKET, SO_ERROR, 1),
	O(SOL_SOCKET, SO_PROTOCOL, 1), O(SOL_SOCKET, SO_DOMAIN, 1), O(SOL_SOCKET, SO_ACCEPTCONN, 1),
	O(SOL_SOCKET, SO_NO_CHECK, 1), O(SOL_SOCKET, SO_PASSCRED, 1), O(SOL_SOCKET, SO_LOCK_FILTER, 0),
	O(SOL_SOCKET, SO_BUSY_POLL, 0), O(SOL_SOCKET, SO_MAX_PACING_RATE, 1 << 20), O(SOL_SOCKET, SO_ZEROCOPY, 1),
	O(SOL_SOCKET, SO_TXREHASH, 1), O(SOL_SOCKET, 9999, 1),
	O(SOL_SOCKET, SO_DEBUG, 0), O(SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1), O(SOL_SOCKET, SO_PEEK_OFF, 2),
	O(4711, 1, 1),
};

static const struct option v4[] = {
	O(IPPROTO_IP, IP_TOS, 0x28), O(IPPROTO_IP, IP_TTL, 17), O(IPPROTO_IP, IP_TTL, 256), O(IPPROTO_IP, IP_TTL, -1),
	O(IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO), O(IPPROTO_IP, IP_MTU_DISCOVER, 77),
	O(IPPROTO_IP, IP_RECVERR, 1), O(IPPROTO_IP, IP_PKTINFO, 1), O(IPPROTO_IP, IP_RECVTOS, 1),
	O(IPPROTO_IP, IP_RECVTTL, 1), O(IPPROTO_IP, IP_FREEBIND, 1), O(IPPROTO_IP, IP_TRANSPARENT, 1),
	O(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1), O(IPPROTO_IP, IP_MULTICAST_TTL, 3), O(IPPROTO_IP, IP_MULTICAST_LOOP, 0),
	O(IPPROTO_IP, IP_MINTTL, 4), O(IPPROTO_IP, IP_MTU, 1), O(IPPROTO_IP, IP_HDRINCL, 1), O(IPPROTO_IP, 999, 1),
};

static const struct option v6[] = {
	O(IPPROTO_IPV6, IPV6_V6ONLY, 1), O(IPPROTO_IPV6, IPV6_V6ONLY, 0), O(IPPROTO_IPV6, IPV6_TCLASS, 0x28),
	O(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 17), O(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 256), O(IPPROTO_IPV6, IPV6_MTU_DISCOVER, 2),
	O(IPPROTO_IPV6, IPV6_RECVERR, 1), O(IPPROTO_IPV6, IPV6_RECVPKTINFO, 1), O(IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1),
	O(IPPROTO_IPV6, IPV6_RECVTCLASS, 1), O(IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 3), O(IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0),
	O(IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 1), O(IPPROTO_IPV6, IPV6_FREEBIND, 1), O(IPPROTO_IPV6, IPV6_TRANSPARENT, 1),
	O(IPPROTO_IPV6, IPV6_MTU, 1400), O(IPPROTO_IPV6, IPV6_DONTFRAG, 1), O(IPPROTO_IPV6, 999, 1),
	O(IPPROTO_IP, IP_TOS, 0x28), O(IPPROTO_IP, IP_TTL, 17), O(IPPROTO_IP, IP_PKTINFO, 1),
};

static const struct option tcp[] = {
	O(IPPROTO_TCP, TCP_NODELAY, 1), O(IPPROTO_TCP, TCP_CORK, 1), O(IPPROTO_TCP, TCP_KEEPIDLE, 100),
	O(IPPROTO_TCP, TCP_KEEPINTVL, 10), O(IPPROTO_TCP, TCP_KEEPCNT, 3), O(IPPROTO_TCP, TCP_KEEPCNT, 1000),
	O(IPPROTO_TCP, TCP_SYNCNT, 2), O(IPPROTO_TCP, TCP_SYNCNT, 500), O(IPPROTO_TCP, TCP_LINGER2, 5),
	O(IPPROTO_TCP, TCP_DEFER_ACCEPT, 5), O(IPPROTO_TCP, TCP_WINDOW_CLAMP, 5000), O(IPPROTO_TCP, TCP_QUICKACK, 0),
	O(IPPROTO_TCP, TCP_USER_TIMEOUT, 3000), O(IPPROTO_TCP, TCP_FASTOPEN, 5), O(IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1),
	O(IPPROTO_TCP, TCP_MAXSEG, 1000), O(IPPROTO_TCP, TCP_MAXSEG, 1), O(IPPROTO_TCP, TCP_NOTSENT_LOWAT, 10000),
	O(IPPROTO_TCP, TCP_INQ, 1), O(IPPROTO_TCP, TCP_SAVE_SYN, 1),
	O(IPPROTO_TCP, TCP_REPAIR, 1), O(IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1), O(IPPROTO_TCP, 999, 1),
	O(IPPROTO_UDP, UDP_CORK, 1),
};

static const struct option udp[] = {
	O(IPPROTO_UDP, UDP_CORK, 1), O(IPPROTO_UDP, UDP_SEGMENT, 1000), O(IPPROTO_UDP, UDP_GRO, 1),
	O(IPPROTO_UDP, UDP_NO_CHECK6_TX, 1), O(IPPROTO_UDP, 999, 1), O(IPPROTO_TCP, TCP_NODELAY, 1),
};

/* One call on an option, by its name. */
static void step(const struct option *o, const char *what, long ret)
{
	int err = errno;
	char text[96];

	snprintf(text, sizeof(text), "%s %s %d", what, o->text, o->set);
	errno = err;
	result(text, ret);
}

static void set_and_get(int fd, const struct option *o)
{
	errno = 0;
	step(o, "set", set_int(fd, o->level, o->name, o->set));
	errno = 0;
	step(o, "get after set", get_int(fd, o->level, o->name));
}

static void try_options(int family, int type, const struct option *o, size_t n, const char *host)
{
	size_t i;

	for (i = 0; i < n; i++) {
		int fd = socket(family, type, 0);

		if (host) {
			struct ad a = at(host, 0);

			BIND(fd, a);
			if (type == SOCK_STREAM)
				listen(fd, 1);
		}
		errno = 0;
		if (o[i].defaults)
			step(&o[i], "get before set", get_int(fd, o[i].level, o[i].name));
		set_and_get(fd, &o[i]);
		close(fd);
	}
}

#define TRY(family, type, list, host) try_options(family, type, list, sizeof(list) / sizeof(list[0]), host)

CASE(options_tcp4) { TRY(AF_INET, SOCK_STREAM, both, NULL); TRY(AF_INET, SOCK_STREAM, v4, NULL); TRY(AF_INET, SOCK_STREAM, tcp, NULL); }
CASE(options_tcp6) { TRY(AF_INET6, SOCK_STREAM, both, NULL); TRY(AF_INET6, SOCK_STREAM, v6, NULL); TRY(AF_INET6, SOCK_STREAM, tcp, NULL); }
CASE(options_udp4) { TRY(AF_INET, SOCK_DGRAM, both, NULL); TRY(AF_INET, SOCK_DGRAM, v4, NULL); TRY(AF_INET, SOCK_DGRAM, udp, NULL); }
CASE(options_udp6) { TRY(AF_INET6, SOCK_DGRAM, both, NULL); TRY(AF_INET6, SOCK_DGRAM, v6, NULL); TRY(AF_INET6, SOCK_DGRAM, udp, NULL); }
CASE(options_listening) { TRY(AF_INET, SOCK_STREAM, both, "127.0.0.1"); TRY(AF_INET, SOCK_STREAM, v4, "127.0.0.1"); TRY(AF_INET, SOCK_STREAM, tcp, "127.0.0.1"); }
CASE(options_bound_udp) { TRY(AF_INET, SOCK_DGRAM, both, "127.0.0.1"); TRY(AF_INET6, SOCK_DGRAM, v6, "::1"); }

static void connected(int s)
{
	static const struct option some[] = {
		O(SOL_SOCKET, SO_KEEPALIVE, 1), O(SOL_SOCKET, SO_RCVBUF, 30000), O(SOL_SOCKET, SO_PRIORITY, 2),
		O(SOL_SOCKET, SO_RCVLOWAT, 5), O(IPPROTO_TCP, TCP_NODELAY, 1), O(IPPROTO_TCP, TCP_CORK, 1),
		O(IPPROTO_TCP, TCP_KEEPIDLE, 60), O(IPPROTO_TCP, TCP_USER_TIMEOUT, 1000), O(IPPROTO_TCP, TCP_QUICKACK, 1),
		O(IPPROTO_TCP, TCP_NOTSENT_LOWAT, 5000), O(IPPROTO_TCP, TCP_FASTOPEN, 5), O(IPPROTO_TCP, TCP_DEFER_ACCEPT, 5),
		O(IPPROTO_TCP, TCP_SYNCNT, 5), O(SOL_SOCKET, SO_REUSEPORT, 1), O(SOL_SOCKET, SO_ZEROCOPY, 1),
	};
	size_t i;

	for (i = 0; i < sizeof(some) / sizeof(some[0]); i++)
		set_and_get(s, &some[i]);
}

TCP_CASE(options_connected)
{
	struct end e;
	int s = connection(&e);
	char name[32];
	socklen_t len = sizeof(name);

	connected(s);
	V(get_int(s, topology->family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, topology->family == AF_INET ? IP_MTU : IPV6_MTU));
	R(getsockopt(s, IPPROTO_TCP, TCP_CONGESTION, name, &len));
	V(len);
	V(get_int(s, IPPROTO_TCP, TCP_MAXSEG) > 500);
	V(tcp_state(s));
}

CASE(options_arguments)
{
	int s = FD(socket(AF_INET, SOCK_STREAM, 0)), v = 1;
	struct timeval tv = { -1, 0 };
	struct linger l = { 1, 3 };
	char c = 1, name[40] = "eth0", big[600];
	socklen_t len = 1;

	R(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &c, 1));
	R(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &v, 0));
	R(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, NULL, 4));
	R(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &v, (socklen_t)-1));
	R(setsockopt(s, IPPROTO_IP, IP_TOS, &c, 1));
	R(setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &c, 1));
	R(getsockopt(s, SOL_SOCKET, SO_REUSEADDR, &v, &len));
	V(len);
	len = 1;
	R(getsockopt(s, IPPROTO_IP, IP_TTL, &v, &len));
	V(len);
	len = 100;
	R(getsockopt(s, IPPROTO_TCP, TCP_NODELAY, big, &len));
	V(len);
	len = (socklen_t)-1;
	R(getsockopt(s, IPPROTO_TCP, TCP_NODELAY, big, &len));
	R(getsockopt(s, SOL_SOCKET, SO_REUSEADDR, NULL, &len));
	len = 4;
	R(getsockopt(s, SOL_SOCKET, SO_REUSEADDR, NULL, &len));
	R(getsockopt(s, SOL_SOCKET, SO_REUSEADDR, &v, NULL));
	R(getsockopt(-1, SOL_SOCKET, SO_REUSEADDR, &v, &len));
	R(getsockopt(0, SOL_SOCKET, SO_REUSEADDR, &v, &len));
	R(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	tv = (struct timeval){ 0, 2000000 };
	R(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	R(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, 4));
	R(setsockopt(s, SOL_SOCKET, SO_LINGER, &l, sizeof(l)));
	R(setsockopt(s, SOL_SOCKET, SO_LINGER, &l, 4));
	len = sizeof(big);
	R(getsockopt(s, SOL_SOCKET, SO_LINGER, big, &len));
	V(len);
	R(setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, name, 5));
	len = sizeof(name);
	R(getsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, name, &len));
	V(len);
	R(setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "nosuch", 6));
	R(setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "nosuch", 6));
	R(setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
	len = sizeof(big);
	R(getsockopt(s, IPPROTO_TCP, TCP_CONGESTION, big, &len));
	T(big);
	len = sizeof(big);
	R(getsockopt(s, SOL_SOCKET, SO_PEERNAME, big, &len));
	len = sizeof(big);
	R(getsockopt(s, SOL_SOCKET, SO_PEERCRED, big, &len));
	R(setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &v, 4));
	R(setsockopt(s, 41, 26, &v, 4));
}

CASE(options_kept)
{
	struct ad a = at("127.0.0.1", 0), b = at(peer4, CONTROL_PORT);
	int s = FD(socket(AF_INET, SOCK_STREAM, 0));

	R(set_int(s, IPPROTO_TCP, TCP_NODELAY, 1));
	R(set_int(s, SOL_SOCKET, SO_KEEPALIVE, 1));
	R(set_int(s, IPPROTO_TCP, TCP_KEEPIDLE, 88));
	R(set_int(s, SOL_SOCKET, SO_SNDBUF, 40000));
	R(set_int(s, IPPROTO_IP, IP_TOS, 0x20));
	a = at("0.0.0.0", 0);
	R(BIND(s, a));
	R(CONNECT(s, b));
	V(get_int(s, IPPROTO_TCP, TCP_NODELAY));
	V(get_int(s, SOL_SOCKET, SO_KEEPALIVE));
	V(get_int(s, IPPROTO_TCP, TCP_KEEPIDLE));
	V(get_int(s, SOL_SOCKET, SO_SNDBUF));
	V(get_int(s, IPPROTO_IP, IP_TOS));
}

CASE(options_multicast)
{
	int s = FD(socket(AF_INET, SOCK_DGRAM, 0)), t = FD(socket(AF_INET6, SOCK_DGRAM, 0));
	struct ip_mreqn m = { .imr_ifindex = 1 };
	struct ipv6_mreq m6 = { .ipv6mr_interface = 1 };
	struct in_addr a;

	inet_pton(AF_INET, "239.1.2.3", &m.imr_multiaddr);
	R(setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof(m)));
	R(setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof(m)));
	R(setsockopt(s, IPPROTO_IP, IP_DROP_MEMBERSHIP, &m, sizeof(m)));
	R(setsockopt(s, IPPROTO_IP, IP_DROP_MEMBERSHIP, &m, sizeof(m)));
	inet_pton(AF_INET, "127.0.0.1", &a);
	R(setsockopt(s, IPPROTO_IP, IP_MULTICAST_IF, &a, sizeof(a)));
	inet_pton(AF_INET6, "ff05::7", &m6.ipv6mr_multiaddr);
	R(setsockopt(t, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &m6, sizeof(m6)));
	R(setsockopt(t, IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP, &m6, sizeof(m6)));
	R(set_int(t, IPPROTO_IPV6, IPV6_MULTICAST_IF, 1));
	V(get_int(t, IPPROTO_IPV6, IPV6_MULTICAST_IF));
}

CASE(options_filter)
{
	int s = FD(socket(AF_INET, SOCK_DGRAM, 0));
	struct sock_filter none[] = { { BPF_RET | BPF_K, 0, 0, 0 } };
	struct sock_fprog f = { 1, none };
	struct ad a = at("127.0.0.1", 0);
	char c;

	R(BIND(s, a));
	a = local_of(s);
	R(setsockopt(s, SOL_SOCKET, SO_ATTACH_FILTER, &f, sizeof(f)));
	R(SENDTO(s, "x", 1, 0, a));
	settle();
	R(recv(s, &c, 1, MSG_DONTWAIT));
	R(set_int(s, SOL_SOCKET, SO_DETACH_FILTER, 0));
	R(SENDTO(s, "x", 1, 0, a));
	R(recv_soon(s, &c, 1, 0));
}
