/* The harness of the conformance program: see main.c. */
#ifndef TSI_H
#define TSI_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* An address with its length. */
struct ad {
	socklen_t len;
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_storage any;
	};
};

struct ad at(const char *host, int port);
struct ad local_of(int fd);
struct ad peer_of(int fd);
int port_of(int fd);
int peer_name(int fd); /* getpeername, but for the name */

/* An address as text; ports that the kernel chose have names: p1, p2... */
const char *show(const struct ad *a);
void forget_ports(void);

/* What a step came to. The text of the call is what is printed. */
long result(const char *step, long ret);
int descriptor(const char *step, int fd);
void value(const char *step, long long v);
void text(const char *step, const char *v);
void truth(const char *step, bool v);
void mask(const char *step, int fd);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define R(call) result(#call, (errno = 0, (long)(call)))
#define FD(call) descriptor(#call, (errno = 0, (call)))
#define V(expr) value(#expr, (long long)(expr))
#define B(expr) truth(#expr, (expr))
#define MASK(fd) mask("poll(" #fd ")", fd)
#define T(expr) text(#expr, (expr))

#define BIND(fd, a) bind(fd, &(a).sa, (a).len)
#define CONNECT(fd, a) connect(fd, &(a).sa, (a).len)
#define SENDTO(fd, p, n, flags, a) sendto(fd, p, n, flags, &(a).sa, (a).len)

/* Waits until what the other end did has arrived. */
void settle(void);
/* Waits for an event; true if it came. */
bool await(int fd, short events);
/* As poll and recv, but waits first, a few seconds at most. */
long recv_soon(int fd, void *p, size_t n, int flags);

/* How many sockets of programs the kernel has in this network namespace. */
int sockets_alive(void);
/* Prints how many are left when what is closing has closed. */
void leftover(int before);

int set_int(int fd, int level, int name, int v);
int get_int(int fd, int level, int name);
int so_error(int fd);
int tcp_state(int fd);
int nonblock(int fd);
long long now_ms(void);

/*
 * The other end of a connection: in this program, or in the peer, a process
 * outside that does as it is told.
 */
struct end {
	int fd;      /* -1: the peer's */
	int control; /* the connection to the peer */
};

long end_send(struct end *e, size_t n);
/* Reads n bytes or up to EOF: the count, or minus the errno. */
long end_recv(struct end *e, size_t n);
long end_drain(struct end *e); /* up to EOF */
void end_shutdown(struct end *e, int how);
void end_close(struct end *e);
void end_reset(struct end *e);
void end_urgent(struct end *e);
void end_release(struct end *e);

/* How the two ends of a TCP connection come to be. */
struct topology {
	const char *name;
	const char *host; /* the address of the listener */
	int family;       /* of our sockets */
	bool outside;     /* the other end is the peer's */
	bool passive;     /* ours is the accepted end */
};

extern const struct topology *topology;

/* Makes a connection in the way of the topology; exits without one. */
int connection(struct end *e);

/* The peer. */
extern const char *peer4, *peer6;
int peer_main(int argc, char **argv);
int peer_control(const char *host);
long peer_tell(int control, const char *format, ...) __attribute__((format(printf, 2, 3)));

struct testcase {
	const char *name;
	void (*run)(void);
	bool tcp; /* once for every topology */
	struct testcase *next;
};
void add_case(struct testcase *c);

#define DEFINE_CASE(id, per_topology)                                                   \
	static void id(void);                                                           \
	__attribute__((constructor)) static void add_##id(void)                        \
	{                                                                               \
		static struct testcase c = { .name = #id, .run = id, .tcp = per_topology }; \
		add_case(&c);                                                           \
	}                                                                               \
	static void id(void)

#define CASE(id) DEFINE_CASE(id, false)
#define TCP_CASE(id) DEFINE_CASE(id, true)

/* Ports of the peer that no other listener has. */
enum { CONTROL_PORT = 47100 };

#endif
