/*
 * Conformance of sockets: sequences of calls, and every return value and errno
 * in lines that do not depend on time. The same program runs natively and in a
 * guest; what differs between the two outputs is a difference of the guest.
 *
 *   tsi [-4 ADDR] [-6 ADDR] [-s MS] [-l] [CASE...]
 *   tsi peer            the process outside, in the same network namespace
 *   tsi stress N        opens and closes N sockets of each kind
 *   tsi mix OWN-PORT PEER-PORT ADDR SECONDS
 *                       short connections of every kind, with another one
 *   tsi speed ADDR      measures connections to the peer at ADDR
 *
 * ADDR are the addresses of a device of the namespace. The first word of a
 * CASE's name, up to the first underscore, runs all that begin so.
 */
#include "tsi.h"

#include <grp.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

const char *peer4 = "127.0.0.1", *peer6 = "::1";
const struct topology *topology;

static struct testcase *cases, **cases_end = &cases;
static int settle_ms = 150;
static char prefix[128];
static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;

enum { CASE_SECONDS = 120 };

int stress_main(int argc, char **argv);
int inherited_main(int fd);
int speed_main(int argc, char **argv);
int mix_main(int argc, char **argv);

void add_case(struct testcase *c)
{
	*cases_end = c;
	cases_end = &c->next;
}

void say(const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&output);
	va_start(args, format);
	printf("%s: ", prefix);
	vprintf(format, args);
	putchar('\n');
	fflush(stdout);
	va_end(args);
	pthread_mutex_unlock(&output);
}

long result(const char *step, long ret)
{
	int err = errno;

	if (ret < 0)
		say("%s -> %ld %s", step, ret, err ? strerrorname_np(err) : "no errno");
	else
		say("%s -> %ld", step, ret);
	errno = err;
	return ret;
}

int descriptor(const char *step, int fd)
{
	int err = errno;

	if (fd < 0)
		say("%s -> %d %s", step, fd, strerrorname_np(err));
	else
		say("%s -> fd", step);
	errno = err;
	return fd;
}

void value(const char *step, long long v) { say("%s = %lld", step, v); }
void text(const char *step, const char *v) { say("%s = %s", step, v); }
void truth(const char *step, bool v) { say("%s: %s", step, v ? "yes" : "no"); }

static const char *mask_text(short m)
{
	static const struct { short bit; const char *name; } bits[] = {
		{ POLLIN, "IN" }, { POLLPRI, "PRI" }, { POLLOUT, "OUT" },
		{ POLLRDHUP, "RDHUP" }, { POLLERR, "ERR" }, { POLLHUP, "HUP" },
		{ POLLNVAL, "NVAL" },
	};
	static char s[64];
	size_t i;

	s[0] = 0;
	for (i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
		if (m & bits[i].bit) {
			if (s[0])
				strcat(s, "|");
			strcat(s, bits[i].name);
		}
	return s[0] ? s : "0";
}

void mask(const char *step, int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN | POLLPRI | POLLOUT | POLLRDHUP };
	int n;

	settle();
	n = poll(&p, 1, 0);
	if (n < 0)
		say("%s -> -1 %s", step, strerrorname_np(errno));
	else
		say("%s = %s", step, mask_text(n ? p.revents : 0));
}

long long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

void settle(void) { usleep(settle_ms * 1000); }

bool await(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	return poll(&p, 1, 10000) == 1;
}

long recv_soon(int fd, void *p, size_t n, int flags)
{
	await(fd, POLLIN);
	return recv(fd, p, n, flags | MSG_DONTWAIT);
}

struct ad at(const char *host, int port)
{
	struct ad a;

	memset(&a, 0, sizeof(a));
	if (strchr(host, ':')) {
		a.len = sizeof(a.in6);
		a.in6.sin6_family = AF_INET6;
		a.in6.sin6_port = htons(port);
		if (inet_pton(AF_INET6, host, &a.in6.sin6_addr) != 1)
			abort();
	} else {
		a.len = sizeof(a.in);
		a.in.sin_family = AF_INET;
		a.in.sin_port = htons(port);
		if (inet_pton(AF_INET, host, &a.in.sin_addr) != 1)
			abort();
	}
	return a;
}

struct ad local_of(int fd)
{
	struct ad a = { .len = sizeof(a.any) };

	if (getsockname(fd, &a.sa, &a.len) < 0)
		memset(&a, 0, sizeof(a));
	return a;
}

struct ad peer_of(int fd)
{
	struct ad a = { .len = sizeof(a.any) };

	if (getpeername(fd, &a.sa, &a.len) < 0)
		memset(&a, 0, sizeof(a));
	return a;
}

int peer_name(int fd)
{
	struct ad a = { .len = sizeof(a.any) };

	return getpeername(fd, &a.sa, &a.len);
}

int port_of(int fd)
{
	struct ad a = local_of(fd);

	return ntohs(a.in.sin_port);
}

static int named_ports[64], named_count;

void forget_ports(void) { named_count = 0; }

const char *show(const struct ad *a)
{
	static char lines[4][128];
	static int turn;
	char host[INET6_ADDRSTRLEN], *s = lines[turn++ % 4];
	int port, i;

	if (a->len == 0)
		return "none";
	if (a->sa.sa_family == AF_INET) {
		inet_ntop(AF_INET, &a->in.sin_addr, host, sizeof(host));
		port = ntohs(a->in.sin_port);
	} else if (a->sa.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof(host));
		port = ntohs(a->in6.sin6_port);
	} else {
		sprintf(s, "family %d (%u)", a->sa.sa_family, a->len);
		return s;
	}
	if (port < 20000) {
		sprintf(s, "%s %d (%u)", host, port, a->len);
		return s;
	}
	for (i = 0; i < named_count && named_ports[i] != port; i++)
		;
	if (i == named_count && named_count < 64)
		named_ports[named_count++] = port;
	sprintf(s, "%s p%d (%u)", host, i + 1, a->len);
	return s;
}

int set_int(int fd, int level, int name, int v) { return setsockopt(fd, level, name, &v, sizeof(v)); }

int get_int(int fd, int level, int name)
{
	int v = -12345;
	socklen_t len = sizeof(v);

	if (getsockopt(fd, level, name, &v, &len) < 0)
		return -1;
	return len == 1 ? *(unsigned char *)&v : v;
}

int so_error(int fd) { return get_int(fd, SOL_SOCKET, SO_ERROR); }

int tcp_state(int fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	memset(&info, 0, sizeof(info));
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return -1;
	return info.tcpi_state;
}

int nonblock(int fd) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

static struct topology topologies[] = {
	{ "local4", "127.0.0.1", AF_INET, false, false },
	{ "accepted4", "127.0.0.1", AF_INET, false, true },
	{ "local6", "::1", AF_INET6, false, false },
	{ "mapped", "::ffff:127.0.0.1", AF_INET6, false, false },
	{ "out4", NULL, AF_INET, true, false },
	{ "out6", NULL, AF_INET6, true, false },
	{ "outlo", "127.0.0.1", AF_INET, true, false },
	{ "in4", NULL, AF_INET, true, true },
	{ "in6", NULL, AF_INET6, true, true },
};

/* The same privileges everywhere: what a container has that needs few. */
static void drop_privileges(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	unsigned keep = 1u << CAP_NET_BIND_SERVICE | 1u << CAP_SETUID | 1u << CAP_SETGID | 1u << CAP_KILL;

	memset(data, 0, sizeof(data));
	data[0].effective = data[0].permitted = keep;
	if (syscall(SYS_capset, &header, data) < 0) {
		perror("tsi: capset");
		exit(2);
	}
}

static void run(const struct testcase *c, const struct topology *t)
{
	int status;
	pid_t pid;

	topology = t;
	snprintf(prefix, sizeof(prefix), t ? "%s/%s" : "%s", c->name, t ? t->name : "");
	pid = fork();
	if (pid < 0) {
		perror("tsi: fork");
		exit(2);
	}
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		signal(SIGPIPE, SIG_IGN);
		alarm(CASE_SECONDS);
		c->run();
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	kill(-pid, SIGKILL);
	if (WIFSIGNALED(status))
		say("ended by %s", sigabbrev_np(WTERMSIG(status)));
	else if (WEXITSTATUS(status))
		say("exited with %d", WEXITSTATUS(status));
}

static bool chosen(const char *name, int argc, char **argv)
{
	int i;

	for (i = 0; i < argc; i++) {
		size_t n = strlen(argv[i]);

		if (strncmp(name, argv[i], n) == 0 && (name[n] == 0 || name[n] == '_'))
			return true;
	}
	return argc == 0;
}

int main(int argc, char **argv)
{
	bool list = false;
	struct testcase *c;
	size_t i;
	int opt;

	if (argc > 1 && strcmp(argv[1], "peer") == 0)
		return peer_main(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "speed") == 0)
		return speed_main(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "mix") == 0)
		return mix_main(argc - 1, argv + 1);
	if (argc > 2 && strcmp(argv[1], "inherited") == 0)
		return inherited_main(atoi(argv[2]));
	if (argc > 1 && strcmp(argv[1], "stress") == 0)
		return stress_main(argc - 1, argv + 1);
	while ((opt = getopt(argc, argv, "4:6:s:l")) != -1) {
		switch (opt) {
		case '4': peer4 = optarg; break;
		case '6': peer6 = optarg; break;
		case 's': settle_ms = atoi(optarg); break;
		case 'l': list = true; break;
		default: return 2;
		}
	}
	for (i = 0; i < sizeof(topologies) / sizeof(topologies[0]); i++)
		if (!topologies[i].host)
			topologies[i].host = topologies[i].family == AF_INET ? peer4 : peer6;
	closefrom(3);
	umask(022);
	drop_privileges();
	for (c = cases; c; c = c->next) {
		if (list) {
			puts(c->name);
		} else if (!chosen(c->name, argc - optind, argv + optind)) {
			continue;
		} else if (!c->tcp) {
			run(c, NULL);
		} else {
			for (i = 0; i < sizeof(topologies) / sizeof(topologies[0]); i++)
				run(c, &topologies[i]);
		}
	}
	return 0;
}
