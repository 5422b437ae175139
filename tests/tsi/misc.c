/* socket(2) itself, wrong arguments, ping sockets, interfaces. */
#include "tsi.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/ip_icmp.h>
#include <netinet/icmp6.h>

static char buf[2000];

CASE(socket_kinds)
{
	int p[2];

	FD(socket(AF_INET, SOCK_STREAM, IPPROTO_TCP));
	FD(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
	FD(socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP));
	FD(socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP));
	FD(socket(AF_INET, SOCK_DGRAM, 99));
	FD(socket(AF_INET, SOCK_STREAM, -1));
	FD(socket(AF_INET, SOCK_STREAM, 300));
	FD(socket(AF_INET, 0, 0));
	FD(socket(AF_INET, 77, 0));
	FD(socket(AF_INET, SOCK_SEQPACKET, 0));
	FD(socket(AF_INET, SOCK_RDM, 0));
	FD(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	FD(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
	FD(socket(AF_PACKET, SOCK_DGRAM, 0));
	FD(socket(AF_INET6, SOCK_STREAM, 0));
	FD(socket(AF_INET6, SOCK_DGRAM, IPPROTO_UDP));
	FD(socket(77, SOCK_STREAM, 0));
	FD(socket(-1, SOCK_STREAM, 0));
	FD(socket(AF_UNSPEC, SOCK_STREAM, 0));
	FD(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
	FD(socket(AF_INET, SOCK_STREAM | 0x10, 0));
	R(socketpair(AF_INET, SOCK_STREAM, 0, p));
	R(socketpair(AF_INET, SOCK_DGRAM, 0, p));
	R(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
}

CASE(socket_fresh)
{
	static const int kinds[][2] = {
		{ AF_INET, SOCK_STREAM }, { AF_INET, SOCK_DGRAM }, { AF_INET6, SOCK_STREAM }, { AF_INET6, SOCK_DGRAM },
	};
	size_t i;

	for (i = 0; i < 4; i++) {
		int s = FD(socket(kinds[i][0], kinds[i][1], 0)), n;
		struct ad a = local_of(s);

		T(show(&a));
		R(peer_name(s));
		MASK(s);
		R(recv(s, buf, 1, MSG_DONTWAIT));
		R(send(s, buf, 1, MSG_NOSIGNAL));
		R(read(s, buf, 0));
		R(shutdown(s, SHUT_RD));
		R(shutdown(s, SHUT_RDWR));
		R(accept(s, NULL, NULL));
		R(ioctl(s, FIONREAD, &n));
		R(lseek(s, 0, SEEK_SET));
		R(pread(s, buf, 1, 0));
		R(ftruncate(s, 0));
		R(fsync(s));
		V(so_error(s));
		MASK(s);
		R(close(s));
		R(close(s));
		R(send(s, buf, 1, 0));
	}
}

CASE(socket_files)
{
	int s = FD(socket(AF_INET, SOCK_STREAM, 0));
	struct stat st;
	char path[64];
	long n;

	R(fstat(s, &st));
	B(S_ISSOCK(st.st_mode));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s);
	n = readlink(path, buf, sizeof(buf));
	B(n > 8 && memcmp(buf, "socket:[", 8) == 0);
	FD(open(path, O_RDWR));
	V(fcntl(s, F_GETFL));
	R(fcntl(s, F_SETFL, O_NONBLOCK | O_APPEND));
	V(fcntl(s, F_GETFL));
}

CASE(socket_faults)
{
	struct ad a = at("127.0.0.1", 0);
	int s = FD(socket(AF_INET, SOCK_STREAM, 0)), l = FD(socket(AF_INET, SOCK_STREAM, 0)), t;
	struct iovec iov = { NULL, 10 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	R(BIND(l, a));
	R(listen(l, 1));
	a = local_of(l);
	R(CONNECT(s, a));
	t = FD(accept(l, NULL, NULL));
	R(send(s, NULL, 10, 0));
	R(sendmsg(s, &m, 0));
	R(sendmsg(s, NULL, 0));
	m.msg_iovlen = 2000;
	R(sendmsg(s, &m, 0));
	R(recvmsg(s, NULL, 0));
	R(send(s, "abc", 3, 0));
	await(t, POLLIN);
	R(recv(t, NULL, 10, 0));
	R(recv(t, buf, 10, MSG_DONTWAIT));
	R(send(0, "x", 1, 0));
	R(recv(-1, buf, 1, 0));
	R(listen(0, 1));
	R(accept(-1, NULL, NULL));
	R(shutdown(-1, 0));
	R(getsockname(0, &a.sa, &a.len));
	R(bind(s, (void *)1, 16));
	R(sendto(s, "x", 1, 0, (void *)1, 16));
}

static unsigned short checksum(const void *p, size_t n)
{
	const unsigned char *b = p;
	unsigned sum = 0;
	size_t i;

	for (i = 0; i + 1 < n; i += 2)
		sum += (unsigned)(b[i] << 8 | b[i + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((unsigned short)~sum);
}

CASE(ping_echo4)
{
	const char *to[] = { "127.0.0.1", NULL, "10.66.0.1" };
	size_t i;

	to[1] = peer4;
	for (i = 0; i < 3; i++) {
		struct ad a = at(to[i], 0), from = { .len = sizeof(from.any) };
		int s = FD(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
		struct icmphdr h = { .type = ICMP_ECHO, .un.echo = { .id = 77, .sequence = htons(5) } };
		char packet[64] = { 0 };

		memcpy(packet, &h, sizeof(h));
		h.checksum = checksum(packet, sizeof(packet));
		memcpy(packet, &h, sizeof(h));
		MASK(s);
		if (R(SENDTO(s, packet, sizeof(packet), 0, a)) < 0)
			continue;
		B(await(s, POLLIN));
		R(recvfrom(s, buf, sizeof(buf), MSG_DONTWAIT, &from.sa, &from.len));
		T(show(&from));
		memcpy(&h, buf, sizeof(h));
		V(h.type);
		V(ntohs(h.un.echo.sequence));
		B(ntohs(h.un.echo.id) == port_of(s));
		V(checksum(buf, 64));
		R(CONNECT(s, a));
		R(send(s, packet, sizeof(packet), 0));
		B(await(s, POLLIN));
		R(recv(s, buf, 10, MSG_DONTWAIT));
		R(send(s, packet, 4, 0));
		packet[0] = ICMP_TIMESTAMP;
		R(send(s, packet, sizeof(packet), 0));
	}
}

CASE(ping_echo6)
{
	const char *to[] = { "::1", NULL };
	size_t i;

	to[1] = peer6;
	for (i = 0; i < 2; i++) {
		struct ad a = at(to[i], 0), from = { .len = sizeof(from.any) };
		int s = FD(socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6));
		struct icmp6_hdr h = { .icmp6_type = ICMP6_ECHO_REQUEST };
		char packet[32] = { 0 };

		h.icmp6_seq = htons(9);
		memcpy(packet, &h, sizeof(h));
		R(SENDTO(s, packet, sizeof(packet), 0, a));
		B(await(s, POLLIN));
		R(recvfrom(s, buf, sizeof(buf), MSG_DONTWAIT, &from.sa, &from.len));
		T(show(&from));
		memcpy(&h, buf, sizeof(h));
		V(h.icmp6_type);
		V(ntohs(h.icmp6_seq));
		B(ntohs(h.icmp6_id) == port_of(s));
	}
}

CASE(ping_bound)
{
	struct ad a = at("127.0.0.1", 30001), b;
	int s = FD(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP)), t = FD(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));

	V(get_int(s, SOL_SOCKET, SO_PROTOCOL));
	R(BIND(s, a));
	b = local_of(s);
	T(show(&b));
	R(BIND(t, a));
	FD(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMPV6));
	R(listen(s, 1));
	R(setsockopt(s, SOL_SOCKET, SO_ERROR, NULL, 0));
	R(set_int(s, IPPROTO_IP, IP_TTL, 5));
	V(get_int(s, IPPROTO_IP, IP_TTL));
}

CASE(interfaces_list)
{
	struct ifaddrs *list, *i;

	R(getifaddrs(&list));
	for (i = list; i; i = i->ifa_next) {
		struct ad a = { .len = 0 };

		if (!i->ifa_addr || i->ifa_addr->sa_family == AF_PACKET) {
			say("%s %d", i->ifa_name, if_nametoindex(i->ifa_name));
			continue;
		}
		a.len = i->ifa_addr->sa_family == AF_INET ? sizeof(a.in) : sizeof(a.in6);
		memcpy(&a.any, i->ifa_addr, a.len);
		say("%s %s", i->ifa_name, show(&a));
	}
}

CASE(interfaces_ioctl)
{
	int s = FD(socket(AF_INET, SOCK_DGRAM, 0)), u = FD(socket(AF_UNIX, SOCK_DGRAM, 0));
	struct ifreq r = { .ifr_name = "eth0" };

	R(ioctl(s, SIOCGIFINDEX, &r));
	V(r.ifr_ifindex);
	R(ioctl(s, SIOCGIFMTU, &r));
	V(r.ifr_mtu);
	R(ioctl(u, SIOCGIFADDR, &r));
	R(ioctl(s, SIOCGIFADDR, &r));
	R(ioctl(s, SIOCGIFFLAGS, &r));
	B(r.ifr_flags & IFF_UP);
	B(r.ifr_flags & IFF_RUNNING);
	strcpy(r.ifr_name, "nosuch");
	R(ioctl(s, SIOCGIFINDEX, &r));
}
