/* Sockets shared by processes, threads and descriptors. */
#include "tsi.h"

#include <sys/un.h>

static char buf[64];

TCP_CASE(share_dup)
{
	struct end e;
	int s = connection(&e), d = FD(dup(s));

	R(close(s));
	R(send(d, "abc", 3, 0));
	V(end_recv(&e, 3));
	V(end_send(&e, 2));
	R(recv(d, buf, 2, MSG_WAITALL));
	R(nonblock(d));
	s = FD(dup3(d, 100, O_CLOEXEC));
	B(fcntl(s, F_GETFL) & O_NONBLOCK);
	R(close(d));
	R(close(s));
	V(end_drain(&e));
}

TCP_CASE(share_fork)
{
	struct end e;
	int s = connection(&e);
	pid_t pid;

	if ((pid = fork()) == 0) {
		R(recv(s, buf, 3, MSG_WAITALL));
		R(send(s, "from child", 10, 0));
		_exit(0);
	}
	end_send(&e, 3);
	waitpid(pid, NULL, 0);
	V(end_recv(&e, 10));
	if ((pid = fork()) == 0) {
		R(close(s));
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	R(send(s, "still", 5, 0));
	V(end_recv(&e, 5));
	if ((pid = fork()) == 0) {
		end_release(&e);
		R(shutdown(s, SHUT_WR));
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	V(end_drain(&e));
	R(send(s, "x", 1, MSG_NOSIGNAL));
}

static void pass(int via, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { "x", 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	R(sendmsg(via, &m, 0));
}

static int take(int via)
{
	char control[CMSG_SPACE(sizeof(int))], x;
	struct iovec iov = { &x, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	int fd = -1;

	if (recvmsg(via, &m, 0) == 1 && CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

TCP_CASE(share_rights)
{
	struct end e;
	int pair[2], s = connection(&e), t, status;
	pid_t pid;

	R(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	if ((pid = fork()) == 0) {
		close(s);
		end_release(&e);
		t = take(pair[1]);
		if (t < 0)
			_exit(1);
		if (send(t, "hello", 5, 0) != 5)
			_exit(2);
		_exit(recv(t, buf, 2, MSG_WAITALL) == 2 ? 0 : 3);
	}
	pass(pair[0], s);
	R(close(s));
	V(end_recv(&e, 5));
	V(end_send(&e, 2));
	waitpid(pid, &status, 0);
	V(WEXITSTATUS(status));
	V(end_drain(&e));
	/* In flight, and nobody takes it. */
	s = connection(&e);
	pass(pair[0], s);
	close(s);
	close(pair[0]);
	close(pair[1]);
	V(end_drain(&e));
}

struct job { int fd; struct end *e; };

static void *receiver(void *arg)
{
	struct job *j = arg;

	R(recv(j->fd, buf, 10, 0));
	return NULL;
}

TCP_CASE(share_close_while_blocked)
{
	struct end e;
	struct job j = { connection(&e), &e };
	pthread_t t;

	pthread_create(&t, NULL, receiver, &j);
	settle();
	R(close(j.fd));
	settle();
	end_send(&e, 4);
	pthread_join(t, NULL);
	V(end_recv(&e, 1));
}

TCP_CASE(share_shutdown_while_blocked)
{
	struct end e;
	struct job j = { connection(&e), &e };
	pthread_t t;

	pthread_create(&t, NULL, receiver, &j);
	settle();
	shutdown(j.fd, SHUT_RD);
	pthread_join(t, NULL);
	R(send(j.fd, "abc", 3, 0));
	V(end_recv(&e, 3));
}

static void *sender(void *arg)
{
	struct job *j = arg;
	static char big[1 << 20];
	long n, total = 0;

	while ((n = send(j->fd, big, sizeof(big), MSG_NOSIGNAL)) > 0 && total < 1L << 30)
		total += n;
	text("blocked send ended with", n < 0 ? strerrorname_np(errno) : "no error");
	return NULL;
}

/* A blocked send keeps nobody from receiving, and the other end's reset ends it. */
TCP_CASE(share_full_duplex)
{
	struct end e;
	struct job j = { connection(&e), &e };
	pthread_t t;

	pthread_create(&t, NULL, sender, &j);
	settle();
	V(end_send(&e, 5));
	R(recv(j.fd, buf, 5, MSG_WAITALL));
	end_reset(&e);
	pthread_join(t, NULL);
}

static void noop(int sig) { (void)sig; }

TCP_CASE(share_signal)
{
	struct end e;
	int s = connection(&e);
	struct sigaction sa = { .sa_handler = noop };
	struct itimerspec it = { .it_value = { 0, 200000000 } };
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	timer_t timer;
	pid_t pid;

	sigaction(SIGUSR1, &sa, NULL);
	timer_create(CLOCK_MONOTONIC, &ev, &timer);
	timer_settime(timer, 0, &it, NULL);
	R(recv(s, buf, 1, 0));
	sa.sa_flags = SA_RESTART;
	sigaction(SIGUSR1, &sa, NULL);
	timer_settime(timer, 0, &it, NULL);
	if ((pid = fork()) == 0) {
		usleep(600000);
		end_send(&e, 1);
		_exit(0);
	}
	R(recv(s, buf, 1, 0));
	waitpid(pid, NULL, 0);
}

TCP_CASE(share_exec)
{
	struct end e;
	int s = connection(&e);
	pid_t pid;

	if ((pid = fork()) == 0) {
		char path[64];

		dup2(s, 200);
		fcntl(s, F_SETFD, FD_CLOEXEC);
		snprintf(path, sizeof(path), "%d", 200);
		execl("/proc/self/exe", "tsi", "inherited", path, NULL);
		_exit(9);
	}
	V(end_send(&e, 4));
	V(end_recv(&e, 4));
	V(waitpid(pid, &(int){ 0 }, 0) == pid);
	R(send(s, "x", 1, 0));
	V(end_recv(&e, 1));
}

int inherited_main(int fd)
{
	long n = recv(fd, buf, 4, MSG_WAITALL);

	return n == 4 && send(fd, buf, 4, 0) == 4 ? 0 : 1;
}

CASE(share_accept)
{
	struct ad a = at("127.0.0.1", 0);
	int l = FD(socket(AF_INET, SOCK_STREAM, 0)), i, good = 0;
	pid_t pid[3];

	R(BIND(l, a));
	R(listen(l, 16));
	a = local_of(l);
	for (i = 0; i < 3; i++)
		if ((pid[i] = fork()) == 0) {
			int s = accept(l, NULL, NULL);

			send(s, "x", 1, 0);
			_exit(0);
		}
	R(close(l));
	for (i = 0; i < 3; i++) {
		int c = socket(AF_INET, SOCK_STREAM, 0);

		if (CONNECT(c, a) == 0 && recv(c, buf, 1, 0) == 1)
			good++;
	}
	V(good);
	for (i = 0; i < 3; i++)
		waitpid(pid[i], NULL, 0);
	settle();
	i = FD(socket(AF_INET, SOCK_STREAM, 0));
	R(CONNECT(i, a));
}

CASE(share_async)
{
	struct ad a = at("127.0.0.1", 0);
	int u = FD(socket(AF_INET, SOCK_DGRAM, 0)), n = 1;
	sigset_t set;
	struct timespec t = { 5, 0 };

	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	R(BIND(u, a));
	a = local_of(u);
	R(fcntl(u, F_SETOWN, getpid()));
	B(fcntl(u, F_GETOWN) == getpid());
	R(ioctl(u, FIOASYNC, &n));
	R(SENDTO(u, "x", 1, 0, a));
	V(sigtimedwait(&set, NULL, &t) == SIGIO);
	R(ioctl(u, FIONBIO, &n));
	R(recv_soon(u, buf, 10, 0));
	R(recv(u, buf, 10, 0));
}
