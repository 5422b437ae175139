/* Connected TCP sockets, in every topology. */
#include "tsi.h"

#include <linux/sockios.h>
#include <sys/sendfile.h>

static unsigned char buf[1 << 20];

/* The state after one that passes when the other end's kernel says so. */
static int left(int s, int state)
{
	int i;

	for (i = 0; i < 50 && tcp_state(s) == state; i++)
		usleep(100000);
	return tcp_state(s);
}

TCP_CASE(stream_names)
{
	struct end e;
	int s = connection(&e);
	struct ad self = local_of(s), other = peer_of(s), a = at("127.0.0.1", 9);
	socklen_t len;

	T(show(&self));
	T(show(&other));
	MASK(s);
	V(so_error(s));
	V(tcp_state(s));
	V(get_int(s, SOL_SOCKET, SO_TYPE));
	V(get_int(s, SOL_SOCKET, SO_DOMAIN));
	V(get_int(s, SOL_SOCKET, SO_PROTOCOL));
	V(get_int(s, SOL_SOCKET, SO_ACCEPTCONN));
	R(CONNECT(s, other));
	R(BIND(s, self));
	R(listen(s, 1));
	R(accept(s, NULL, NULL));
	R(CONNECT(s, a));
	len = 3;
	R(getsockname(s, &a.sa, &len));
	V(len);
	len = (socklen_t)-1;
	R(getsockname(s, &a.sa, &len));
	len = sizeof(a.any);
	R(getpeername(s, &a.sa, NULL));
	R(getpeername(s, NULL, &len));
	len = 0;
	R(getpeername(s, NULL, &len));
	V(len);
}

TCP_CASE(stream_data)
{
	struct end e;
	int s = connection(&e), n;
	struct ad a = { .len = sizeof(a.any) };
	struct iovec iov[3] = { { buf, 2 }, { buf + 2, 0 }, { buf + 2, 100 } };

	R(send(s, "hello", 5, 0));
	V(end_recv(&e, 5));
	R(recv(s, buf, 1, MSG_DONTWAIT));
	V(end_send(&e, 10));
	B(await(s, POLLIN));
	MASK(s);
	R(ioctl(s, FIONREAD, &n));
	V(n);
	R(recv(s, buf, 4, MSG_PEEK));
	R(recv(s, buf, 100, MSG_PEEK));
	R(recv(s, buf, 0, 0));
	R(recv(s, buf, 4, 0));
	R(recvfrom(s, buf, 3, 0, &a.sa, &a.len));
	V(a.len);
	R(readv(s, iov, 3));
	R(recv(s, buf, 1, MSG_DONTWAIT));
	R(ioctl(s, FIONREAD, &n));
	V(n);
	R(send(s, buf, 0, 0));
	R(write(s, buf, 0));
	R(writev(s, iov, 3));
	V(end_recv(&e, 102));
	R(sendto(s, "x", 1, 0, NULL, 0));
	a = at("127.0.0.1", 9);
	R(SENDTO(s, "y", 1, 0, a));
	V(end_recv(&e, 2));
	settle();
	R(ioctl(s, SIOCOUTQ, &n));
	V(n);
	MASK(s);
}

TCP_CASE(stream_flags)
{
	struct end e;
	int s = connection(&e), n;

	V(end_send(&e, 8));
	settle();
	R(recv(s, NULL, 3, MSG_TRUNC));
	R(ioctl(s, FIONREAD, &n));
	V(n);
	R(recv(s, buf, 5, MSG_WAITALL));
	V(end_send(&e, 3));
	settle();
	R(recv(s, buf, 4, MSG_WAITALL | MSG_DONTWAIT));
	R(recv(s, buf, 4, MSG_WAITALL | MSG_DONTWAIT));
	R(recv(s, buf, 4, MSG_ERRQUEUE));
	R(send(s, "a", 1, MSG_MORE));
	R(send(s, "b", 1, MSG_DONTWAIT | MSG_NOSIGNAL));
	V(end_recv(&e, 2));
	R(send(s, "c", 1, MSG_DONTROUTE));
	R(send(s, "c", 1, MSG_CONFIRM | MSG_EOR));
	R(end_recv(&e, 1));
	R(recv(s, buf, 1, MSG_OOB));
}

static void *later(void *arg)
{
	struct end *e = arg;

	settle();
	end_send(e, 3);
	settle();
	end_send(e, 3);
	return NULL;
}

TCP_CASE(stream_blocking)
{
	struct end e;
	int s = connection(&e);
	pthread_t t;

	pthread_create(&t, NULL, later, &e);
	R(recv(s, buf, 6, MSG_WAITALL));
	pthread_join(t, NULL);
	pthread_create(&t, NULL, later, &e);
	R(recv(s, buf, 3, 0));
	R(recv(s, buf, 3, 0));
	pthread_join(t, NULL);
}

TCP_CASE(stream_their_fin)
{
	struct end e;
	int s = connection(&e);

	V(end_send(&e, 3));
	end_shutdown(&e, SHUT_WR);
	MASK(s);
	V(tcp_state(s));
	R(recv(s, buf, 10, MSG_WAITALL));
	R(recv(s, buf, 10, 0));
	R(recv(s, buf, 10, MSG_DONTWAIT));
	R(recv(s, buf, 10, MSG_PEEK));
	R(send(s, "abc", 3, 0));
	V(end_recv(&e, 3));
	V(so_error(s));
	R(shutdown(s, SHUT_WR));
	V(end_drain(&e));
	MASK(s);
	V(tcp_state(s));
	R(recv(s, buf, 10, 0));
	R(send(s, "abc", 3, MSG_NOSIGNAL));
	R(peer_name(s));
	R(shutdown(s, SHUT_RDWR));
}

TCP_CASE(stream_our_fin)
{
	struct end e;
	int s = connection(&e);

	R(send(s, "abc", 3, 0));
	R(shutdown(s, SHUT_WR));
	R(send(s, "abc", 3, MSG_NOSIGNAL));
	V(so_error(s));
	V(end_drain(&e));
	MASK(s);
	V(left(s, TCP_FIN_WAIT1));
	R(shutdown(s, SHUT_WR));
	V(end_send(&e, 4));
	B(await(s, POLLIN));
	R(recv(s, buf, 10, 0));
	end_close(&e);
	MASK(s);
	R(recv(s, buf, 10, 0));
	R(recv(s, buf, 10, 0));
	V(so_error(s));
	R(shutdown(s, SHUT_RDWR));
	R(peer_name(s));
}

TCP_CASE(stream_shut_read)
{
	struct end e;
	int s = connection(&e);

	R(shutdown(s, SHUT_RD));
	MASK(s);
	R(recv(s, buf, 10, 0));
	V(end_send(&e, 4));
	settle();
	MASK(s);
	R(recv(s, buf, 10, MSG_DONTWAIT));
	R(recv(s, buf, 10, MSG_DONTWAIT));
	R(send(s, "abc", 3, 0));
	V(end_recv(&e, 3));
	R(shutdown(s, SHUT_RD));
	R(shutdown(s, SHUT_WR));
	V(end_drain(&e));
	R(shutdown(s, 3));
	R(shutdown(s, -1));
}

TCP_CASE(stream_shut_both)
{
	struct end e;
	int s = connection(&e);

	R(shutdown(s, SHUT_RDWR));
	MASK(s);
	R(recv(s, buf, 10, 0));
	R(send(s, "abc", 3, MSG_NOSIGNAL));
	V(end_drain(&e));
	end_close(&e);
	MASK(s);
	R(recv(s, buf, 10, 0));
	R(shutdown(s, SHUT_RDWR));
	V(tcp_state(s));
	V(so_error(s));
}

TCP_CASE(stream_reset_recv)
{
	struct end e;
	int s = connection(&e);

	end_reset(&e);
	MASK(s);
	R(recv(s, buf, 10, 0));
	MASK(s);
	R(recv(s, buf, 10, 0));
	R(send(s, "abc", 3, MSG_NOSIGNAL));
	R(peer_name(s));
	R(shutdown(s, SHUT_WR));
	V(tcp_state(s));
}

TCP_CASE(stream_reset_send)
{
	struct end e;
	int s = connection(&e);

	end_reset(&e);
	settle();
	R(send(s, "abc", 3, MSG_NOSIGNAL));
	R(send(s, "abc", 3, MSG_NOSIGNAL));
	R(recv(s, buf, 10, 0));
}

TCP_CASE(stream_reset_error)
{
	struct end e;
	int s = connection(&e);

	end_reset(&e);
	settle();
	V(so_error(s));
	V(so_error(s));
	MASK(s);
	R(recv(s, buf, 10, 0));
	R(send(s, "abc", 3, MSG_NOSIGNAL));
}

TCP_CASE(stream_reset_after_data)
{
	struct end e;
	int s = connection(&e);

	V(end_send(&e, 5));
	settle();
	end_reset(&e);
	settle();
	R(recv(s, buf, 10, 0));
	R(recv(s, buf, 10, 0));
}

TCP_CASE(stream_we_reset)
{
	struct end e;
	int s = connection(&e);
	struct linger l = { 1, 0 }, got;
	socklen_t len = sizeof(got);

	R(setsockopt(s, SOL_SOCKET, SO_LINGER, &l, sizeof(l)));
	R(getsockopt(s, SOL_SOCKET, SO_LINGER, &got, &len));
	V(got.l_onoff);
	V(got.l_linger);
	R(close(s));
	settle();
	V(end_recv(&e, 1));
}

TCP_CASE(stream_close_unread)
{
	struct end e;
	int s = connection(&e);

	V(end_send(&e, 5));
	settle();
	R(close(s));
	settle();
	V(end_recv(&e, 1));
}

TCP_CASE(stream_close_linger)
{
	struct end e;
	int s = connection(&e);
	struct linger l = { 1, 5 };

	R(setsockopt(s, SOL_SOCKET, SO_LINGER, &l, sizeof(l)));
	R(send(s, "abc", 3, 0));
	R(close(s));
	V(end_drain(&e));
}

TCP_CASE(stream_close_delivers)
{
	struct end e;
	int s = connection(&e);

	set_int(s, SOL_SOCKET, SO_SNDBUF, 1 << 20);
	memset(buf, 'x', sizeof(buf));
	V(send(s, buf, 100000, 0) > 0);
	R(send(s, "abc", 3, 0));
	R(close(s));
	V(end_drain(&e) >= 4);
}

static volatile sig_atomic_t signals;

static void count(int sig) { (void)sig; signals++; }

TCP_CASE(stream_sigpipe)
{
	struct end e;
	int s = connection(&e);

	signal(SIGPIPE, count);
	end_close(&e);
	settle();
	R(send(s, "abc", 3, 0));
	settle();
	V(signals);
	R(send(s, "abc", 3, MSG_NOSIGNAL));
	V(signals);
	R(send(s, "abc", 3, 0));
	V(signals);
	R(write(s, "abc", 3));
	V(signals);
	R(recv(s, buf, 1, 0));
	MASK(s);
}

TCP_CASE(stream_full)
{
	struct end e;
	int s = connection(&e);
	long n, total = 0;

	R(nonblock(s));
	/* More than all the buffers on the way. */
	for (n = 0; n < 400; n++) {
		long sent = send(s, buf, 100000, 0);
		int tries;

		/* What is on the way may still find room. */
		for (tries = 0; sent < 0 && tries < 5; tries++) {
			settle();
			sent = send(s, buf, 100000, 0);
		}
		if (sent < 0)
			break;
		total += sent;
	}
	R(send(s, buf, 1, 0));
	B(total > 0);
	MASK(s);
	B(end_recv(&e, (size_t)total) == total);
	B(await(s, POLLOUT));
	R(send(s, buf, 1, 0));
	V(end_recv(&e, 1));
}

TCP_CASE(stream_timeouts)
{
	struct end e;
	int s = connection(&e), i;
	struct timeval tv = { 0, 200000 }, got;
	socklen_t len = sizeof(got);
	long long before;
	long sent = 0;

	R(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	R(setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)));
	R(getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &got, &len));
	V(got.tv_sec);
	V(got.tv_usec);
	before = now_ms();
	R(recv(s, buf, 1, 0));
	B(now_ms() - before >= 190);
	V(end_send(&e, 2));
	settle();
	R(recv(s, buf, 4, MSG_WAITALL));
	for (i = 0; i < 400 && sent >= 0; i++)
		sent = send(s, buf, sizeof(buf), 0);
	V(sent);
	text("errno", strerrorname_np(errno));
	tv = (struct timeval){ 0, 1000000 };
	R(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
}

TCP_CASE(stream_bulk)
{
	struct end e;
	int s = connection(&e), fd[2], n;
	size_t size = 3 << 20, done = 0;
	unsigned sum = 0;

	if (fork() == 0) {
		for (done = 0; done < size; done += (size_t)n)
			if ((n = (int)send(s, buf, size - done < sizeof(buf) ? size - done : sizeof(buf), 0)) < 0)
				_exit(1);
		shutdown(s, SHUT_WR);
		_exit(0);
	}
	V(end_drain(&e));
	B(wait(NULL) > 0);
	if (pipe(fd) < 0 || fork() == 0) {
		end_send(&e, size);
		end_shutdown(&e, SHUT_WR);
		_exit(0);
	}
	while ((n = (int)recv(s, buf, sizeof(buf), 0)) > 0) {
		int i;

		for (i = 0; i < n; i++)
			sum = sum * 31 + buf[i];
		done += (size_t)n;
	}
	V(n);
	V(done);
	V(sum);
}

TCP_CASE(stream_urgent)
{
	struct end e;
	int s = connection(&e), n;

	V(end_send(&e, 3));
	end_urgent(&e);
	V(end_send(&e, 2));
	MASK(s);
	R(ioctl(s, SIOCATMARK, &n));
	V(n);
	R(recv(s, buf, 100, 0));
	R(ioctl(s, SIOCATMARK, &n));
	V(n);
	R(recv(s, buf, 1, MSG_OOB));
	R(recv(s, buf, 1, MSG_OOB));
	R(recv(s, buf, 100, MSG_DONTWAIT));
	R(send(s, "!", 1, MSG_OOB));
	R(set_int(s, SOL_SOCKET, SO_OOBINLINE, 1));
	V(get_int(s, SOL_SOCKET, SO_OOBINLINE));
}

TCP_CASE(stream_disconnect)
{
	struct end e;
	int s = connection(&e);
	struct ad none = { .len = sizeof(none.in) };

	none.sa.sa_family = AF_UNSPEC;
	R(CONNECT(s, none));
	settle();
	V(end_recv(&e, 1));
	MASK(s);
	R(send(s, "x", 1, MSG_NOSIGNAL));
	R(recv(s, buf, 1, 0));
	R(peer_name(s));
	V(tcp_state(s));
}

TCP_CASE(stream_epoll_level)
{
	struct end e;
	int s = connection(&e), ep = epoll_create1(0);
	struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP | EPOLLOUT, .data.u32 = 7 }, got;

	R(epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev));
	R(epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev));
	R(epoll_wait(ep, &got, 1, 0));
	V(got.events);
	ev.events = EPOLLIN | EPOLLRDHUP;
	R(epoll_ctl(ep, EPOLL_CTL_MOD, s, &ev));
	R(epoll_wait(ep, &got, 1, 0));
	V(end_send(&e, 2));
	R(epoll_wait(ep, &got, 1, 10000));
	V(got.events);
	R(epoll_wait(ep, &got, 1, 0));
	R(recv(s, buf, 2, 0));
	R(epoll_wait(ep, &got, 1, 0));
	end_close(&e);
	settle();
	R(epoll_wait(ep, &got, 1, 10000));
	V(got.events);
	R(close(s));
	R(epoll_wait(ep, &got, 1, 0));
}

TCP_CASE(stream_epoll_edge)
{
	struct end e;
	int s = connection(&e), ep = epoll_create1(0);
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET }, got;

	R(nonblock(s));
	R(epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev));
	R(epoll_wait(ep, &got, 1, 0));
	V(got.events);
	R(epoll_wait(ep, &got, 1, 0));
	V(end_send(&e, 2));
	settle();
	R(epoll_wait(ep, &got, 1, 10000));
	V(got.events);
	R(epoll_wait(ep, &got, 1, 0));
	R(recv(s, buf, 1, 0));
	R(epoll_wait(ep, &got, 1, 0));
	V(end_send(&e, 2));
	settle();
	R(epoll_wait(ep, &got, 1, 10000));
	R(recv(s, buf, 100, 0));
	R(recv(s, buf, 100, 0));
	end_shutdown(&e, SHUT_WR);
	settle();
	R(epoll_wait(ep, &got, 1, 10000));
	V(got.events);
	R(epoll_wait(ep, &got, 1, 0));
	end_reset(&e);
	settle();
	R(epoll_wait(ep, &got, 1, 10000));
	V(got.events);
}

TCP_CASE(stream_sendfile)
{
	struct end e;
	int s = connection(&e), fd = open("/proc/self/exe", O_RDONLY), p[2];
	off_t from = 100;

	R(sendfile(s, fd, &from, 5000));
	V(from);
	V(end_recv(&e, 5000));
	if (pipe(p) < 0)
		exit(1);
	R(write(p[1], buf, 3000));
	R(splice(p[0], NULL, s, NULL, 3000, 0));
	V(end_recv(&e, 3000));
	V(end_send(&e, 2000));
	settle();
	R(nonblock(s));
	R(splice(s, NULL, p[1], NULL, 10000, SPLICE_F_NONBLOCK));
	R(read(p[0], buf, sizeof(buf)));
	R(splice(s, NULL, p[1], NULL, 10000, SPLICE_F_NONBLOCK));
	end_close(&e);
	settle();
	R(splice(s, NULL, p[1], NULL, 10000, SPLICE_F_NONBLOCK));
}
