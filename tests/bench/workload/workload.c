/*
 * Does work inside a container and says how long it took:
 *
 *   workload DIRECTORY [NAME...]
 *
 * DIRECTORY has what the work is on: the tree to walk, tree.tar, the files read
 * and random, the C program src. One line a measurement: its name, a number, its
 * unit, with tabs between. Without a NAME, everything is done.
 *
 * In C, because threads of a language's runtime that wake up now and then would
 * be measured too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	BLOCK = 1 << 20, /* of sequential reads */
	PAGE = 4 << 10,	 /* of random ones */
	READS = 500,
	SPAWNS = 10,
	STEPS = 30 << 20, /* of a computation */
	NUMBERS = 500000, /* to be sorted */
	PROCESSORS = 64,
};

static const char *dir;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void say(const char *name, double value, const char *unit)
{
	printf("%s\t%.3f\t%s\n", name, value, unit);
	fflush(stdout);
}

static void must(const char *what, int ok)
{
	if (ok)
		return;
	fprintf(stderr, "workload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static const char *in(const char *name)
{
	static char path[4096];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	return path;
}

/* Runs a program and waits for it. */
static void run(const char *program, ...)
{
	const char *args[16] = { program };
	int n = 0, status = 0;
	va_list list;
	pid_t pid;

	va_start(list, program);
	do
		args[++n] = va_arg(list, const char *);
	while (args[n] && n < 15);
	va_end(list);
	pid = fork();
	must("fork", pid >= 0);
	if (pid == 0) {
		execvp(program, (char *const *)args);
		_exit(127);
	}
	must("wait", waitpid(pid, &status, 0) == pid);
	if (status != 0) {
		fprintf(stderr, "workload: %s: status %#x\n", program, status);
		exit(1);
	}
}

static uint64_t next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	return *x ^= *x << 17;
}

static void *compute(void *arg)
{
	volatile uint64_t *result = arg;
	uint64_t x = 88172645463325252;
	int i;

	for (i = 0; i < STEPS; i++)
		next(&x);
	return (void *)(uintptr_t)(*result = x);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* No system calls: registers, then memory, then all processors. */
static void cpu(void)
{
	static uint64_t numbers[NUMBERS], results[PROCESSORS];
	pthread_t threads[PROCESSORS];
	cpu_set_t set;
	uint64_t x = 1;
	double begun;
	int i, n;

	begun = now();
	compute(&results[0]);
	say("compute in registers", now() - begun, "ms");
	for (i = 0; i < NUMBERS; i++)
		numbers[i] = next(&x);
	begun = now();
	qsort(numbers, NUMBERS, sizeof numbers[0], compare);
	say("sort 4 MiB", now() - begun, "ms");
	must("sched_getaffinity", sched_getaffinity(0, sizeof set, &set) == 0);
	n = CPU_COUNT(&set) < 2 ? 1 : 2;
	begun = now();
	for (i = 0; i < n; i++)
		must("pthread_create", pthread_create(&threads[i], NULL, compute, &results[i]) == 0);
	for (i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	say("compute in two threads", now() - begun, "ms");
}

static void spawn(void)
{
	double begun = now();
	int i;

	for (i = 0; i < SPAWNS; i++)
		run("/bin/true", NULL);
	say("fork, exec and wait", (now() - begun) / SPAWNS, "ms");
}

static int visit(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)path, (void)st, (void)ftw;
	return type == FTW_NS || type == FTW_DNR;
}

static void walk(void)
{
	const char *names[] = { "walk and stat, first time", "walk and stat, again" };
	double begun;
	int i;

	for (i = 0; i < 2; i++) {
		begun = now();
		must("walk", nftw(in("tree"), visit, 32, FTW_PHYS) == 0);
		say(names[i], now() - begun, "ms");
	}
}

static void sequential(void)
{
	const char *names[] = { "sequential read, first time", "sequential read, again" };
	static char buffer[BLOCK];
	double begun, total;
	ssize_t n;
	int fd, i;

	for (i = 0; i < 2; i++) {
		must("open", (fd = open(in("read"), O_RDONLY)) >= 0);
		begun = now();
		for (total = 0; (n = read(fd, buffer, sizeof buffer)) > 0; total += (double)n)
			;
		must("read", n == 0);
		say(names[i], total / BLOCK / (now() - begun) * 1e3, "MiB/s");
		close(fd);
	}
}

/* In an order that is the same every time, and that no reader ahead knows. */
static void random_reads(void)
{
	const char *names[] = { "random read of 4 KiB, first time", "random read of 4 KiB, again" };
	char buffer[PAGE];
	struct stat st;
	double begun;
	uint64_t x;
	int fd, i, k;

	must("open", (fd = open(in("random"), O_RDONLY)) >= 0);
	must("fstat", fstat(fd, &st) == 0);
	for (i = 0; i < 2; i++) {
		x = 7;
		begun = now();
		for (k = 0; k < READS; k++)
			must("pread", pread(fd, buffer, PAGE, (off_t)(next(&x) % (uint64_t)(st.st_size / PAGE)) * PAGE) == PAGE);
		say(names[i], (now() - begun) * 1e3 / READS, "us");
	}
	close(fd);
}

static void untar(void)
{
	char to[4096], archive[4096];
	double begun;

	snprintf(to, sizeof to, "%s", in("unpacked"));
	snprintf(archive, sizeof archive, "%s", in("tree.tar"));
	must("mkdir", mkdir(to, 0755) == 0);
	begun = now();
	run("tar", "--no-same-owner", "-C", to, "-xf", archive, NULL);
	say("untar", now() - begun, "ms");
	begun = now();
	run("rm", "-r", to, NULL);
	say("remove what untar made", now() - begun, "ms");
}

static void build(void)
{
	char src[4096];
	double begun = now();

	snprintf(src, sizeof src, "%s", in("src"));
	run("make", "-s", "-C", src, "-j4", NULL);
	say("make -j4 of a C program", now() - begun, "ms");
	run("make", "-s", "-C", src, "clean", NULL);
}

static const struct {
	const char *name;
	void (*run)(void);
} all[] = {
	{ "cpu", cpu }, { "spawn", spawn }, { "walk", walk }, { "read", sequential },
	{ "random", random_reads }, { "untar", untar }, { "make", build },
};

int main(int argc, char **argv)
{
	size_t i;
	int k, asked, known = 0;

	for (i = 0; i < sizeof all / sizeof all[0]; i++)
		for (k = 2; k < argc; k++)
			known += !strcmp(argv[k], all[i].name);
	if (argc < 2 || known != argc - 2) {
		fprintf(stderr, "usage: workload DIRECTORY [cpu|spawn|walk|read|random|untar|make]...\n");
		return 2;
	}
	dir = argv[1];
	for (i = 0; i < sizeof all / sizeof all[0]; i++) {
		asked = argc == 2;
		for (k = 2; k < argc; k++)
			asked |= !strcmp(argv[k], all[i].name);
		if (asked)
			all[i].run();
	}
	return 0;
}
