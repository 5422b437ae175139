/*
 * How fast sockets are between this program and the peer:
 *
 *   tsi speed ADDR [SECONDS [NAME...]]
 *
 * One line a measurement: its name, a number, its unit. More is better, but for
 * a unit of time. Without a NAME, all are made. CPU time is that of the peer's
 * machine, whatever it went to.
 */
#include "tsi.h"

enum { STREAMS = 8, BUFFER = 128 << 10, SMALL = 64 };

static const char *host;
static double seconds = 2;
static char buffer[BUFFER];

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void report(const char *name, double number, const char *unit)
{
	printf("%s\t%.1f\t%s\n", name, number, unit);
	fflush(stdout);
}

static void must(const char *what, bool ok)
{
	if (ok)
		return;
	fprintf(stderr, "tsi speed: %s: %s\n", what, strerrorname_np(errno));
	exit(1);
}

static int family(void) { return strchr(host, ':') ? 6 : 4; }

/* A connection to the peer, and the one that commands the other end. */
static int dial(int *control)
{
	struct ad a;
	int fd;

	*control = peer_control(host);
	a = at(host, (int)peer_tell(*control, "L%d", family()));
	fd = socket(a.sa.sa_family, SOCK_STREAM, 0);
	must("connect", fd >= 0 && CONNECT(fd, a) == 0);
	must("accept", peer_tell(*control, "A") == 0);
	set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	return fd;
}

struct stream { pthread_t thread; bool up; double until; long long bytes; int fd, control; };

static void *pump(void *arg)
{
	struct stream *s = arg;
	char own[BUFFER];
	long n;

	while (now() < s->until) {
		n = s->up ? send(s->fd, buffer, sizeof(buffer), MSG_NOSIGNAL) : recv(s->fd, own, sizeof(own), 0);
		must("transfer", n > 0);
		s->bytes += n;
	}
	return NULL;
}

static void streams(const char *name, int count, bool up)
{
	int control = peer_control(host), i;
	struct stream s[STREAMS];
	double begun, took, cpu;
	long long bytes = 0;
	char line[64];

	for (i = 0; i < count; i++) {
		s[i] = (struct stream){ .up = up };
		s[i].fd = dial(&s[i].control);
		/* Without waiting for what it comes to. */
		must("command", write(s[i].control, up ? "E\n" : "I\n", 2) == 2);
	}
	cpu = (double)peer_tell(control, "J");
	begun = now();
	for (i = 0; i < count; i++) {
		s[i].until = begun + seconds;
		must("thread", pthread_create(&s[i].thread, NULL, pump, &s[i]) == 0);
	}
	for (i = 0; i < count; i++) {
		pthread_join(s[i].thread, NULL);
		bytes += s[i].bytes;
	}
	took = now() - begun;
	cpu = (double)peer_tell(control, "J") - cpu;
	report(name, (double)bytes / took / (1 << 20), "MiB/s");
	snprintf(line, sizeof(line), "%s, CPU time", name);
	report(line, cpu / 1e3 / ((double)bytes / (1 << 30)), "s/GiB");
	close(control);
	for (i = 0; i < count; i++) {
		close(s[i].fd);
		close(s[i].control);
	}
}

static void requests(const char *name)
{
	int control, fd = dial(&control);
	double begun = now();
	long count = 0;

	must("command", write(control, "Q\n", 2) == 2);
	for (; now() - begun < seconds; count++) {
		must("request", send(fd, buffer, SMALL, 0) == SMALL);
		must("response", recv(fd, buffer, SMALL, MSG_WAITALL) == SMALL);
	}
	report(name, (now() - begun) / (double)count * 1e6, "us");
	close(fd);
	close(control);
}

static void connections(const char *name)
{
	int control = peer_control(host), fd;
	struct ad a = at(host, (int)peer_tell(control, "L%d", family()));
	double begun;
	long count = 0;

	must("command", write(control, "N\n", 2) == 2);
	for (begun = now(); now() - begun < seconds; count++) {
		char c;

		fd = socket(a.sa.sa_family, SOCK_STREAM, 0);
		must("connect", fd >= 0 && CONNECT(fd, a) == 0);
		must("EOF", recv(fd, &c, 1, 0) == 0);
		close(fd);
	}
	report(name, (double)count / (now() - begun), "1/s");
	close(control);
}

static void datagrams(const char *name)
{
	int control = peer_control(host), fd;
	struct ad a = at(host, (int)peer_tell(control, "U%d", family()));
	long count = 0, got;
	char line[64];
	double begun;

	fd = socket(a.sa.sa_family, SOCK_DGRAM, 0);
	must("connect", fd >= 0 && CONNECT(fd, a) == 0);
	must("command", write(control, "V\n", 2) == 2);
	for (begun = now(); now() - begun < seconds; count++)
		if (send(fd, buffer, SMALL, 0) < 0 && errno != ENOBUFS && errno != EAGAIN)
			must("send", false);
	got = peer_tell(control, "X");
	snprintf(line, sizeof(line), "%s sent", name);
	report(line, (double)count / seconds, "1/s");
	snprintf(line, sizeof(line), "%s arrived", name);
	report(line, (double)got / seconds, "1/s");
	close(fd);
	close(control);
}

static void one_out(const char *name) { streams(name, 1, true); }
static void one_in(const char *name) { streams(name, 1, false); }
static void many_out(const char *name) { streams(name, STREAMS, true); }
static void many_in(const char *name) { streams(name, STREAMS, false); }

static const struct { const char *name; void (*run)(const char *name); } measurements[] = {
	{ "1 stream out", one_out }, { "1 stream in", one_in },
	{ "8 streams out", many_out }, { "8 streams in", many_in },
	{ "request and response", requests }, { "connections", connections }, { "datagrams", datagrams },
};

int speed_main(int argc, char **argv)
{
	bool chosen;
	size_t i;
	int j;

	if (argc < 2) {
		fprintf(stderr, "usage: tsi speed ADDR [SECONDS [NAME...]]\n");
		return 2;
	}
	host = argv[1];
	if (argc > 2)
		seconds = atof(argv[2]);
	signal(SIGPIPE, SIG_IGN);
	for (i = 0; i < sizeof(measurements) / sizeof(measurements[0]); i++) {
		chosen = argc <= 3;
		for (j = 3; j < argc; j++)
			chosen = chosen || strcmp(argv[j], measurements[i].name) == 0;
		if (chosen)
			measurements[i].run(measurements[i].name);
	}
	return 0;
}
