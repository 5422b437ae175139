/*
 * Short connections of every kind, for as long as one likes:
 *
 *   tsi mix OWN-PORT PEER-PORT ADDR SECONDS
 *
 * Two of these at one address talk to each other: each serves the other on its
 * own port, and its workers connect to the other's. How a connection goes is
 * drawn by who connects, and said in its first bytes. After each tenth of
 * the time there is a line with counts, and one with what is left at the end.
 */
#include "tsi.h"

enum { WORKERS = 6, PATIENCE = 60, MOST = 40000 };

enum way {
	WHOLE,		/* all comes back, and both ends close */
	HALF,		/* the server has sent all and closes its half before it reads */
	SERVER_RESETS,	/* in the middle of what it reads */
	CLIENT_RESETS,	/* in the middle of what it sends */
	UNREAD,		/* the server closes with bytes unread */
	NOTHING,	/* the client closes at once */
	REFUSED,	/* nobody listens */
	DATAGRAM,	/* one there and one back */
	WAYS,
};

struct start { uint32_t way, bytes; };

static struct ad server, nobody;
static long done[WAYS], failed;
static long long until;
static int alive_before;

static void *fail(enum way way, const char *step, long ret)
{
	if (__atomic_add_fetch(&failed, 1, __ATOMIC_RELAXED) <= 20) {
		printf("mix: way %d: %s -> %ld %s\n", way, step, ret, strerrorname_np(errno));
		fflush(stdout);
	}
	return NULL;
}

static void patient(int fd)
{
	struct timeval t = { .tv_sec = PATIENCE };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
}

static void reset_close(int fd)
{
	struct linger l = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

static unsigned char byte_at(uint32_t i) { return (unsigned char)(i * 31 + (i >> 8)); }

static long put(int fd, uint32_t n)
{
	unsigned char b[4096];
	uint32_t sent = 0, i;

	while (sent < n) {
		uint32_t part = n - sent < sizeof(b) ? n - sent : (uint32_t)sizeof(b);
		long r;

		for (i = 0; i < part; i++)
			b[i] = byte_at(sent + i);
		r = send(fd, b, part, MSG_NOSIGNAL);
		if (r <= 0)
			return -1;
		sent += (uint32_t)r;
	}
	return sent;
}

/* Reads n bytes or to the end; -2: they are not what was sent. */
static long get(int fd, uint32_t n)
{
	unsigned char b[4096];
	uint32_t got = 0;
	long r, i;

	while (got < n) {
		r = recv(fd, b, n - got < sizeof(b) ? n - got : sizeof(b), 0);
		if (r < 0)
			return -1;
		if (r == 0)
			break;
		for (i = 0; i < r; i++)
			if (b[i] != byte_at(got + (uint32_t)i))
				return -2;
		got += (uint32_t)r;
	}
	return got;
}

static void *answer(void *arg)
{
	int fd = (int)(long)arg;
	struct start s;

	patient(fd);
	if (recv(fd, &s, sizeof(s), MSG_WAITALL) != sizeof(s) || s.bytes > MOST) {
		close(fd);
		return NULL;
	}
	switch (s.way) {
	case WHOLE:
		get(fd, s.bytes);
		put(fd, s.bytes);
		break;
	case HALF:
		put(fd, s.bytes);
		shutdown(fd, SHUT_WR);
		get(fd, s.bytes + 1);
		break;
	case SERVER_RESETS:
		get(fd, s.bytes / 2);
		reset_close(fd);
		return NULL;
	case CLIENT_RESETS:
		get(fd, s.bytes);
		break;
	case UNREAD:
		usleep(1000);
		break;
	}
	close(fd);
	return NULL;
}

static void *serve(void *arg)
{
	int l = *(int *)arg, fd;
	pthread_attr_t small;
	pthread_t t;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 64 << 10);
	pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
	for (;;) {
		fd = accept(l, NULL, NULL);
		if (fd >= 0 && pthread_create(&t, &small, answer, (void *)(long)fd) != 0)
			close(fd);
		else if (fd < 0 && errno != EINTR && errno != ECONNABORTED)
			return fail(WAYS, "accept", fd);
	}
}

static void *serve_datagrams(void *arg)
{
	int fd = *(int *)arg;
	unsigned char b[2048];

	for (;;) {
		struct ad from = { .len = sizeof(from.any) };
		long n = recvfrom(fd, b, sizeof(b), 0, &from.sa, &from.len);

		if (n >= 0)
			SENDTO(fd, b, (size_t)n, 0, from);
		else if (errno != EINTR && errno != ECONNREFUSED)
			return fail(DATAGRAM, "recvfrom", n);
	}
}

static void *datagram(uint32_t bytes)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0), try;
	unsigned char b[2048] = { 0 };
	struct timeval t = { .tv_sec = 5 };
	long n = -1;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	if (fd < 0 || CONNECT(fd, server) < 0)
		return fail(DATAGRAM, "connect", fd);
	bytes %= sizeof(b);
	for (try = 0; try < 5 && n != (long)bytes; try++) { /* one may be lost */
		send(fd, b, bytes, 0);
		n = recv(fd, b, sizeof(b), 0);
	}
	close(fd);
	return n == (long)bytes ? NULL : fail(DATAGRAM, "recv", n);
}

static void *talk(enum way way, uint32_t bytes)
{
	struct start s = { .way = way, .bytes = bytes };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	long n = 0;

	if (fd < 0)
		return fail(way, "socket", fd);
	patient(fd);
	if (way == REFUSED) {
		n = CONNECT(fd, nobody);
		if (n == 0 || errno != ECONNREFUSED)
			fail(way, "connect", n);
		close(fd);
		return NULL;
	}
	if (CONNECT(fd, server) < 0) {
		fail(way, "connect", -1);
		close(fd);
		return NULL;
	}
	if (way != NOTHING && send(fd, &s, sizeof(s), MSG_NOSIGNAL) != sizeof(s))
		fail(way, "send", -1);
	switch (way) {
	case WHOLE:
		if (put(fd, bytes) < 0 || (n = get(fd, bytes)) != (long)bytes)
			fail(way, "exchange", n);
		break;
	case HALF:
		n = get(fd, bytes + 1);
		if (n != (long)bytes)
			fail(way, "recv", n);
		else if (put(fd, bytes) < 0)
			fail(way, "send after FIN", -1);
		break;
	case SERVER_RESETS:
	case UNREAD:
		put(fd, bytes);
		n = get(fd, 1);
		if (n != 0 && !(n == -1 && (errno == ECONNRESET || errno == EPIPE)))
			fail(way, "recv", n);
		break;
	case CLIENT_RESETS:
		put(fd, bytes / 2);
		reset_close(fd);
		return NULL;
	default:
		break;
	}
	close(fd);
	return NULL;
}

static void *work(void *arg)
{
	unsigned seed = (unsigned)(long)arg;

	while (now_ms() < until) {
		enum way way = (enum way)(rand_r(&seed) % WAYS);
		uint32_t bytes = (uint32_t)(rand_r(&seed) % (rand_r(&seed) % 4 ? 2000 : MOST));

		if (way == DATAGRAM)
			datagram(bytes);
		else
			talk(way, bytes);
		__atomic_add_fetch(&done[way], 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static long total(void)
{
	long n = 0;
	int i;

	for (i = 0; i < WAYS; i++)
		n += __atomic_load_n(&done[i], __ATOMIC_RELAXED);
	return n;
}

/* The kernel's memory that is not a cache, in KiB. */
static long kernel_memory(void)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[128];
	long n = -1;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "SUnreclaim: %ld", &n) == 1)
			break;
	if (f)
		fclose(f);
	return n;
}

static int open_socket(int type, int port)
{
	struct ad a = at("0.0.0.0", port);
	int fd = socket(AF_INET, type, 0);

	set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (fd < 0 || BIND(fd, a) < 0 || (type == SOCK_STREAM && listen(fd, 128) < 0)) {
		perror("tsi mix");
		exit(1);
	}
	return fd;
}

/* Waits until the other one serves. */
static void await_peer(void)
{
	int i;

	for (i = 0; i < 600; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0), r = CONNECT(fd, server);

		close(fd);
		if (r == 0)
			return;
		usleep(100000);
	}
	perror("tsi mix: the other one");
	exit(1);
}

int mix_main(int argc, char **argv)
{
	pthread_t threads[WORKERS], t;
	int stream, packet, i;
	long long begun;
	double seconds;

	if (argc < 5) {
		fprintf(stderr, "usage: tsi mix OWN-PORT PEER-PORT ADDR SECONDS\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	seconds = atof(argv[4]);
	server = at(argv[3], atoi(argv[2]));
	nobody = at(argv[3], 1);
	stream = open_socket(SOCK_STREAM, atoi(argv[1]));
	packet = open_socket(SOCK_DGRAM, atoi(argv[1]));
	pthread_create(&t, NULL, serve, &stream);
	pthread_create(&t, NULL, serve_datagrams, &packet);
	await_peer();
	alive_before = sockets_alive();
	printf("mix: with %s\n", show(&server));
	fflush(stdout);
	begun = now_ms();
	until = begun + (long long)(seconds * 1000);
	for (i = 0; i < WORKERS; i++)
		pthread_create(&threads[i], NULL, work, (void *)(long)(i + 1 + atoi(argv[1])));
	for (i = 1; i <= 10; i++) {
		usleep((useconds_t)(seconds * 100000));
		printf("mix: %ld connections, %ld failed, %ld KiB of kernel memory\n", total(), failed, kernel_memory());
		fflush(stdout);
	}
	for (i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	sleep(5); /* the other one's may take longer */
	leftover(alive_before);
	return failed != 0;
}
