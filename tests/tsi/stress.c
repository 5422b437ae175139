/*
 * Many sockets: what leaks or breaks down does so here. Prints how many calls
 * came out as they should, and how many sockets are left over.
 */
#include "tsi.h"

enum { THREADS = 8, EXCHANGES = 200 };

static struct ad where;
static int sum;

static void *exchange(void *arg)
{
	long seed = (long)arg;
	char x[64];
	int i;

	for (i = 0; i < EXCHANGES; i++) {
		int c = socket(AF_INET, SOCK_STREAM, 0);
		long n = 1 + (seed * 31 + i) % 64;

		if (c >= 0 && CONNECT(c, where) == 0 && send(c, x, (size_t)n, MSG_NOSIGNAL) == n &&
		    shutdown(c, SHUT_WR) == 0 && recv(c, x, sizeof(x), MSG_WAITALL) == n)
			__atomic_add_fetch(&sum, 1, __ATOMIC_RELAXED);
		close(c);
	}
	return NULL;
}

static void *echo(void *arg)
{
	int s = (int)(long)arg;
	char x[64];
	long n, total = 0;

	while ((n = recv(s, x + total, sizeof(x) - (size_t)total, 0)) > 0)
		total += n;
	send(s, x, (size_t)total, MSG_NOSIGNAL);
	close(s);
	return NULL;
}

static void *serve(void *arg)
{
	int l = *(int *)arg, s;

	while ((s = accept(l, NULL, NULL)) >= 0) {
		pthread_t t;

		pthread_create(&t, NULL, echo, (void *)(long)s);
		pthread_detach(t);
	}
	return NULL;
}

int sockets_alive(void)
{
	FILE *f = fopen("/proc/net/sockstat", "r");
	int n;

	if (!f || fscanf(f, "sockets: used %d", &n) != 1) {
		perror("tsi: /proc/net/sockstat");
		exit(1);
	}
	fclose(f);
	return n;
}

void leftover(int before)
{
	long long begun = now_ms();
	int after;

	while ((after = sockets_alive()) > before && now_ms() - begun < 60000)
		usleep(100000);
	printf("sockets: %d left\n", after > before ? after - before : 0);
}

int stress_main(int argc, char **argv)
{
	static const struct { int family, type; const char *name, *host; } kinds[] = {
		{ AF_INET, SOCK_STREAM, "TCP", "127.0.0.1" }, { AF_INET, SOCK_DGRAM, "UDP", "127.0.0.1" },
		{ AF_INET6, SOCK_STREAM, "TCP over IPv6", "::1" }, { AF_INET6, SOCK_DGRAM, "UDP over IPv6", "::1" },
	};
	int n = argc > 1 ? atoi(argv[1]) : 1000, before, i, l;
	pthread_t server, threads[THREADS];
	size_t k;

	signal(SIGPIPE, SIG_IGN);
	l = socket(AF_INET, SOCK_STREAM, 0);
	where = at("127.0.0.1", 0);
	if (BIND(l, where) < 0 || listen(l, 128) < 0) {
		perror("tsi stress");
		return 1;
	}
	where = local_of(l);
	before = sockets_alive();
	for (k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		int opened = 0, bound = 0;

		for (i = 0; i < n; i++) {
			struct ad a = at(kinds[k].host, 0);
			int fd = socket(kinds[k].family, kinds[k].type, 0);

			opened += fd >= 0;
			/* Every tenth also exists outside. */
			if (i % 10 == 0)
				bound += BIND(fd, a) == 0;
			close(fd);
		}
		printf("%s: %d opened, %d bound\n", kinds[k].name, opened, bound);
		fflush(stdout);
	}
	pthread_create(&server, NULL, serve, &l);
	for (i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, exchange, (void *)(long)i);
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	printf("exchanges: %d of %d\n", sum, THREADS * EXCHANGES);
	leftover(before);
	return 0;
}
