/*
 * The peer: a process outside that holds the other end of connections and does
 * as it is told, one line a command, over a control connection.
 */
#include "tsi.h"

#include <stdarg.h>

static unsigned char block[65536];

static void fill(void)
{
	size_t i;

	for (i = 0; i < sizeof(block); i++)
		block[i] = (unsigned char)(i * 7 + i / 251);
}

static long send_all(int fd, size_t n)
{
	size_t done = 0;

	fill();
	while (done < n) {
		size_t part = n - done < sizeof(block) ? n - done : sizeof(block);
		long sent = send(fd, block, part, MSG_NOSIGNAL);

		if (sent < 0)
			return -errno;
		done += (size_t)sent;
	}
	return (long)done;
}

static long recv_all(int fd, size_t n)
{
	size_t done = 0;

	while (done < n) {
		size_t part = n - done < sizeof(block) ? n - done : sizeof(block);
		struct pollfd p = { .fd = fd, .events = POLLIN };
		long got;

		if (poll(&p, 1, 20000) != 1)
			return -ETIMEDOUT;
		got = recv(fd, block, part, 0);
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		done += (size_t)got;
	}
	return (long)done;
}

static void reset(int fd)
{
	struct linger l = { .l_onoff = 1, .l_linger = 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

static int new_socket(int family, int type, int port)
{
	struct ad a = at(family == 4 ? "0.0.0.0" : "::", port);
	int fd = socket(a.sa.sa_family, type, 0);

	if (family == 6)
		set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (fd < 0 || BIND(fd, a) < 0 || (type == SOCK_STREAM && listen(fd, 16) < 0)) {
		perror("tsi peer: socket");
		exit(1);
	}
	return fd;
}

static long accept_one(int listener)
{
	struct pollfd p = { .fd = listener, .events = POLLIN };

	return poll(&p, 1, 20000) == 1 ? accept(listener, NULL, NULL) : -1;
}

/* Sends until the other end has enough. */
static long flood(int fd)
{
	long total = 0, n;

	fill();
	while ((n = send(fd, block, sizeof(block), MSG_NOSIGNAL)) > 0)
		total += n;
	return total;
}

static long echo(int fd)
{
	long total = 0, n;

	set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	while ((n = recv(fd, block, sizeof(block), 0)) > 0)
		total += send(fd, block, (size_t)n, MSG_NOSIGNAL);
	return total;
}

/* Takes connections and ends them, until the one that commands goes away. */
static long refuse(int listener, int control)
{
	struct pollfd p[2] = { { .fd = listener, .events = POLLIN }, { .fd = control, .events = POLLRDHUP } };
	long n = 0;

	while (poll(p, 2, -1) > 0 && !p[1].revents) {
		close(accept(listener, NULL, NULL));
		n++;
	}
	return n;
}

/* Counts datagrams until none has come for a while. */
static long count_datagrams(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	long n = 0;

	while (poll(&p, 1, n ? 1000 : 20000) == 1 && recv(fd, block, sizeof(block), 0) >= 0)
		n++;
	return n;
}

/* The milliseconds this machine's processors have worked: /proc/stat's first line. */
static long cpu_time(void)
{
	long long user, nice, system, idle, iowait, irq, softirq;
	FILE *stat = fopen("/proc/stat", "r");
	int n;

	if (!stat)
		return -errno;
	n = fscanf(stat, "cpu %lld %lld %lld %lld %lld %lld %lld", &user, &nice, &system, &idle, &iowait, &irq, &softirq);
	fclose(stat);
	if (n != 7)
		return -EPROTO;
	return (long)((user + nice + system + irq + softirq) * 1000 / sysconf(_SC_CLK_TCK));
}

/* What the peer of one control connection has. */
struct puppet { int listener, data, udp; struct ad from; };

static long obey(struct puppet *p, const char *line, int control)
{
	char host[64];
	struct ad a = peer_of(control);
	int number = atoi(line + 1), port = 0, size = 0;

	switch (line[0]) {
	case 'L': /* listen, with a family */
		p->listener = new_socket(number, SOCK_STREAM, 0);
		return port_of(p->listener);
	case 'F': /* listen without room for a second connection */
		p->listener = new_socket(number, SOCK_STREAM, 0);
		listen(p->listener, 0);
		return port_of(p->listener);
	case 'A':
		p->data = (int)accept_one(p->listener);
		close(p->listener);
		return p->data < 0 ? -errno : 0;
	case 'C': /* connect to a port of the one that tells */
		p->data = socket(a.sa.sa_family, SOCK_STREAM, 0);
		a.in.sin_port = htons((uint16_t)number);
		return CONNECT(p->data, a) < 0 ? -errno : 0;
	case 'S': return send_all(p->data, (size_t)number);
	case 'R': return recv_all(p->data, (size_t)number);
	case 'E': return recv_all(p->data, SIZE_MAX);
	case 'W': return shutdown(p->data, number) < 0 ? -errno : 0;
	case 'O': return send(p->data, "!", 1, MSG_OOB | MSG_NOSIGNAL);
	case 'K': close(p->data); return 0;
	case 'Z': reset(p->data); return 0;
	case 'U':
		p->udp = new_socket(number, SOCK_DGRAM, 0);
		return port_of(p->udp);
	case 'D': /* take a datagram */
		if (!await(p->udp, POLLIN))
			return -ETIMEDOUT;
		p->from.len = sizeof(p->from.any);
		return recvfrom(p->udp, block, sizeof(block), 0, &p->from.sa, &p->from.len);
	case 'P': /* the port it came from */
		return ntohs(p->from.in.sin_port);
	case 'B': /* send one back */
		fill();
		return SENDTO(p->udp, block, (size_t)number, 0, p->from);
	case 'T': /* send one to an address */
		if (sscanf(line + 1, "%63s %d %d", host, &port, &size) != 3)
			return -EINVAL;
		a = at(host, port);
		fill();
		return SENDTO(p->udp, block, (size_t)size, 0, a);
	case 'I': return flood(p->data);
	case 'J': return cpu_time();
	case 'Q': return echo(p->data);
	case 'N': return refuse(p->listener, control);
	case 'V': return count_datagrams(p->udp);
	case 'X': close(p->udp); return 0;
	case 'G': close(p->listener); return 0;
	}
	return -ENOSYS;
}

static void serve(int control)
{
	struct puppet p = { -1, -1, -1, { .len = 0 } };
	char line[256];
	FILE *in = fdopen(control, "r");

	while (fgets(line, sizeof(line), in)) {
		long r;

		errno = 0;
		r = obey(&p, line, control);
		dprintf(control, "%ld\n", r);
	}
}

int peer_main(int argc, char **argv)
{
	int fd[2], i;

	(void)argc, (void)argv;
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	fd[0] = new_socket(4, SOCK_STREAM, CONTROL_PORT);
	fd[1] = new_socket(6, SOCK_STREAM, CONTROL_PORT);
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct pollfd p[2] = { { .fd = fd[0], .events = POLLIN }, { .fd = fd[1], .events = POLLIN } };

		poll(p, 2, -1);
		for (i = 0; i < 2; i++) {
			int c = p[i].revents ? accept(fd[i], NULL, NULL) : -1;

			if (c < 0)
				continue;
			if (fork() == 0) {
				signal(SIGCHLD, SIG_DFL);
				serve(c);
				_exit(0);
			}
			close(c);
		}
	}
}

int peer_control(const char *host)
{
	struct ad a = at(host, CONTROL_PORT);
	int fd = socket(a.sa.sa_family, SOCK_STREAM, 0);

	if (fd < 0 || CONNECT(fd, a) < 0) {
		say("no peer: %s", strerrorname_np(errno));
		exit(3);
	}
	return fd;
}

long peer_tell(int control, const char *format, ...)
{
	char line[256];
	size_t n = 0;
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	strcat(line, "\n");
	if (send(control, line, strlen(line), MSG_NOSIGNAL) < 0) {
		say("the peer is gone: %s", strerrorname_np(errno));
		exit(3);
	}
	while (n < sizeof(line) - 1) {
		long got = recv(control, line + n, 1, 0);

		if (got <= 0) {
			say("the peer is gone: %s", got ? strerrorname_np(errno) : "EOF");
			exit(3);
		}
		if (line[n++] == '\n')
			break;
	}
	line[n] = 0;
	return atol(line);
}

long end_send(struct end *e, size_t n)
{
	return e->fd < 0 ? peer_tell(e->control, "S%zu", n) : send_all(e->fd, n);
}

long end_recv(struct end *e, size_t n)
{
	return e->fd < 0 ? peer_tell(e->control, "R%zu", n) : recv_all(e->fd, n);
}

long end_drain(struct end *e)
{
	return e->fd < 0 ? peer_tell(e->control, "E") : recv_all(e->fd, SIZE_MAX);
}

void end_shutdown(struct end *e, int how)
{
	if (e->fd < 0)
		peer_tell(e->control, "W%d", how);
	else
		shutdown(e->fd, how);
}

void end_close(struct end *e)
{
	if (e->fd < 0)
		peer_tell(e->control, "K");
	else
		close(e->fd);
}

void end_reset(struct end *e)
{
	if (e->fd < 0)
		peer_tell(e->control, "Z");
	else
		reset(e->fd);
}

void end_urgent(struct end *e)
{
	if (e->fd < 0)
		peer_tell(e->control, "O");
	else
		send(e->fd, "!", 1, MSG_OOB);
}

/* Lets go of our copy, in a child that does not use it. */
void end_release(struct end *e)
{
	close(e->fd < 0 ? e->control : e->fd);
}

static void need(const char *what, long ret)
{
	if (ret < 0) {
		say("no connection: %s: %s", what, strerrorname_np(errno));
		exit(3);
	}
}

int connection(struct end *e)
{
	const struct topology *t = topology;
	struct ad a = at(t->host, 0);
	int one = socket(t->family, SOCK_STREAM, 0), two, listener = -1;

	need("socket", one);
	e->control = t->outside ? peer_control(t->host) : -1;
	e->fd = -1;
	if (t->outside && !t->passive) {
		a = at(t->host, (int)peer_tell(e->control, "L%d", t->family == AF_INET ? 4 : 6));
		need("connect", CONNECT(one, a));
		if (peer_tell(e->control, "A") < 0)
			need("accept outside", -1);
		return one;
	}
	need("bind", BIND(one, a));
	need("listen", listen(one, 8));
	listener = one;
	a = at(t->host, port_of(listener));
	if (t->outside) {
		if (peer_tell(e->control, "C%d", port_of(listener)) < 0)
			need("connect outside", -1);
		need("accept", one = accept(listener, NULL, NULL));
	} else {
		need("socket", two = socket(t->family, SOCK_STREAM, 0));
		need("connect", CONNECT(two, a));
		need("accept", one = accept(listener, NULL, NULL));
		e->fd = t->passive ? two : one;
		one = t->passive ? one : two;
	}
	close(listener);
	return one;
}
