// Sockets of the host's, asked for in the words of kernel/tsi/PROTOCOL.md: lies
// in every field, tokens that were never given, addresses that are not for the
// guest under all their names, and replies that nobody takes.
#include "packet.h"

#define PORT 1026
enum {
	SOCKET = 1, BIND, LISTEN, CONNECT, SETSOCKOPT, GETSOCKOPT, ATTACH, SHUT, ABORT, CONTROL, DATA = 16,
	ACCEPT = 0x4001, ERROR = 0x4002, REPLY = 0x8000,
};
enum { NOREPLY = 1, LOCAL = 2, CONFIRM = 4 };
enum { INET = 2, INET6 = 10 };
enum { TCP = 6, UDP = 17, ICMP = 1, ICMPV6 = 58 };
enum { SOCK_STREAM = 1, SOCK_DGRAM };
enum { EPERM = 1, ENFILE = 23, ECONNABORTED = 103, ECONNREFUSED = 111, EINPROGRESS = 115, ENOPROTOOPT = 92 };
#define MAX_SOCKETS 32 // of the server in this test
#define UNSET 0xffffffffu

struct address {
	u16 family, port;
	u32 scope, flow;
	u8 ip[16];
	u32 zero;
} PACKED;

struct message {
	u32 len;
	u16 op, flags;
	u32 id, value;
	u8 body[4080];
} PACKED;

struct data {
	struct address remote, local;
	u32 tos, ttl;
	u8 payload[64];
} PACKED;

static struct message m;  // the one that is sent
static struct message in; // the one that was received
static u32 in_len;

// A connection to the server. Its id is also its socket's.
struct conn {
	u32 port;
	u16 type;
};

static struct address inet(u8 a, u8 b, u8 c, u8 d, u16 port)
{
	return (struct address){.family = INET, .port = port, .ip = {a, b, c, d}};
}

static void message(u16 op, u32 id, u32 value, const void *body, u32 n)
{
	CHECK(n <= sizeof(m.body));
	m = (struct message){.len = 16 + n, .op = op, .id = id, .value = value};
	memcpy(m.body, body, n);
}

static u32 consumed[4096]; // bytes of a connection, by its port

static struct header to(struct conn c, u16 op)
{
	struct header h = packet(op, c.port, PORT);
	h.type = c.type;
	h.fwd_cnt = consumed[c.port % LEN(consumed)];
	return h;
}

// tell_bytes sends n bytes on a connection: for SEQPACKET, a message.
static void tell_bytes(struct conn c, const void *p, u32 n)
{
	struct header h = to(c, RW);
	h.len = n;
	h.flags = c.type == SEQPACKET ? SEQ_EOM | SEQ_EOR : 0;
	memcpy(vs.tx_data + sizeof(h), p, n);
	send(h, n);
}
static void tell(struct conn c) { tell_bytes(c, &m, m.len); }

// hear waits for a packet of a connection other than of credit, and keeps what
// it brought.
static u16 hear(struct conn c)
{
	for (;;) {
		struct header *h = received();
		u16 op = h->op;
		int ours = h->dst_port == c.port && op != CREDIT_UPDATE && op != CREDIT_REQUEST;
		if (ours) {
			in_len = h->len < sizeof(in) ? h->len : sizeof(in);
			memcpy(&in, h + 1, in_len);
			consumed[c.port % LEN(consumed)] += h->len;
		}
		back(h);
		if (ours)
			return op;
	}
}

// dial opens a connection. The device has few, and those that were just reset
// take a moment to go.
static struct conn dial(u16 type)
{
	static u32 port = 20000;
	for (int i = 0; i < 5000; i++) {
		struct conn c = {++port, type};
		consumed[port % LEN(consumed)] = 0;
		send(to(c, REQUEST), 0);
		if (hear(c) == RESPONSE)
			return c;
		sleep_ms(1);
	}
	fail(__FILE__, __LINE__, "no connection");
}

static void hang_up(struct conn c) { send(to(c, RST), 0); }

// answer waits for the reply to m, and has its errno.
static u32 answer(struct conn c)
{
	do
		CHECK_EQUAL(hear(c), RW);
	while (in.op == ERROR && c.type == SEQPACKET); // of a datagram before
	CHECK_EQUAL(in.op, m.op | REPLY);
	CHECK_EQUAL(in.id, m.id);
	return in.value;
}

static u32 request(struct conn c, u16 op, u32 value, const void *body, u32 n)
{
	message(op, c.port, value, body, n);
	tell(c);
	return answer(c);
}

static u32 make_socket(struct conn c, u16 family, u32 protocol)
{
	u16 body[4] = {family, c.type == STREAM ? SOCK_STREAM : SOCK_DGRAM};
	return request(c, SOCKET, protocol, body, sizeof(body));
}

static struct conn socket(u16 type, u16 family)
{
	struct conn c = dial(type);
	CHECK_EQUAL(make_socket(c, family, type == STREAM ? TCP : UDP), 0);
	return c;
}

static u32 connect(struct conn c, struct address a)
{
	u32 e = request(c, CONNECT, 0, &a, sizeof(a));
	return e == EINPROGRESS && c.type == STREAM ? answer(c) : e;
}

static u32 datagram(struct conn c, struct address remote, u16 flags)
{
	struct data d = {.remote = remote, .tos = UNSET, .ttl = UNSET, .payload = "hello"};
	message(DATA, c.port, 0, &d, sizeof(d) - sizeof(d.payload) + 5);
	m.flags = flags;
	tell(c);
	return flags & CONFIRM ? answer(c) : 0;
}

static void no_sockets(void)
{
	for (int i = 0; ask(ASK_SOCKETS); i++) {
		CHECK(i < 10000); // sockets stay
		sleep_ms(1);
	}
}

// serves connects over TCP and UDP to where it may, and is answered.
static void serves(void)
{
	struct address echo = inet(127, 0, 0, 1, ask(ASK_ECHO_PORT));
	struct conn c = socket(STREAM, INET);
	CHECK_EQUAL(connect(c, echo), 0);
	tell_bytes(c, "hello", 5);
	CHECK_EQUAL(hear(c), RW);
	CHECK(in_len == 5 && !memcmp(&in, "hello", 5));
	hang_up(c);
	c = socket(SEQPACKET, INET);
	datagram(c, echo, 0);
	CHECK_EQUAL(hear(c), RW);
	CHECK_EQUAL(in.op, DATA);
	CHECK(!memcmp(((struct data *)in.body)->payload, "hello", 5));
	hang_up(c);
	no_sockets();
	expect_alive(vs.dev);
	CHECK_EQUAL(ask(ASK_TRAPPED), 0);
}

static void works(void)
{
	vsock_start(F_SEQPACKET);
	give();
	serves();
}

static void begin(void)
{
	vsock_start(F_SEQPACKET);
	give();
}

// unheard is a connection of a guest that gives no buffer for what is said on it.
static struct conn unheard(u16 type)
{
	struct conn c = {19999, type};
	vsock_start(F_SEQPACKET);
	give_one();
	send(to(c, REQUEST), 0);
	expect(RESPONSE);
	return c;
}

static const u16 ops[] = {SOCKET, BIND, LISTEN, CONNECT, SETSOCKOPT, GETSOCKOPT, ATTACH, SHUT, ABORT, CONTROL, DATA};

// proper makes a message of an op that is as it should be.
static void proper(struct conn c, u16 op)
{
	struct address any = inet(127, 0, 0, 1, 0);
	u16 kind[4] = {INET, c.type == STREAM ? SOCK_STREAM : SOCK_DGRAM};
	u32 option[3] = {1, 2, 1};
	struct data d = {.remote = inet(127, 0, 0, 1, 9), .tos = UNSET, .ttl = UNSET};
	switch (op) {
	case SOCKET: message(op, c.port, c.type == STREAM ? TCP : UDP, kind, sizeof(kind)); break;
	case BIND: case CONNECT: message(op, c.port, 0, &any, sizeof(any)); break;
	case SETSOCKOPT: message(op, c.port, 0, option, 12); break;
	case GETSOCKOPT: message(op, c.port, 4, option, 8); break;
	case DATA: message(op, c.port, 0, &d, sizeof(d)); break;
	case CONTROL: message(op, 0, 1, 0, 0); break;
	default: message(op, c.port, 0, 0, 0);
	}
}

CASE(fields, "every message, with every 16 bits of it at their limits", "")
{
	static const u16 values[] = {0, 1, 0x7fff, 0xffff};
	begin();
	for (u16 type = STREAM; type <= SEQPACKET; type++)
		for (u32 i = 0; i < LEN(ops); i++)
			for (u32 at = 0; at < 32; at += 2)
				for (u32 v = 0; v < LEN(values); v++) {
					struct conn c = dial(type);
					if (ops[i] != SOCKET) {
						proper(c, SOCKET);
						tell(c);
					}
					proper(c, ops[i]);
					u32 n = m.len;
					// No packet is to leave the machine.
					int abroad = (ops[i] == CONNECT || ops[i] == DATA) && at >= 28;
					if (at < n && !abroad) {
						memcpy((u8 *)&m + at, &values[v], 2);
						tell_bytes(c, &m, n);
					}
					hang_up(c);
				}
	no_sockets();
	serves();
}

CASE(lengths, "messages that are longer or shorter than they say, or too long", "")
{
	static const u32 lens[] = {0, 1, 15, 17, 23, 25, 4097, 0x10000, 0x7fffffff, 0xffffffff};
	begin();
	for (u16 type = STREAM; type <= SEQPACKET; type++)
		for (u32 i = 0; i < LEN(lens); i++) {
			struct conn c = dial(type);
			proper(c, SOCKET);
			u32 n = m.len;
			m.len = lens[i];
			tell_bytes(c, &m, type == STREAM && lens[i] == 25 ? 25 : n);
			if (type == STREAM && lens[i] == 25)
				CHECK_EQUAL(hear(c), RST);
			else if (type == SEQPACKET || lens[i] < 16 || lens[i] > 4096)
				CHECK_EQUAL(hear(c), RST);
			else
				hang_up(c); // its rest is to come
		}
	no_sockets();
	serves();
}

CASE(kinds, "sockets of families, types and protocols that are not for a guest", "")
{
	static const u16 families[] = {0, 1, 3, 16, 17, 29, 31, 38, 40, 44, 0x102, 0xffff};
	static const u32 protocols[] = {0, 2, 4, 41, 47, 50, 132, 136, 255, 256, 262, 0xffffffff};
	begin();
	for (u16 type = STREAM; type <= SEQPACKET; type++) {
		for (u32 i = 0; i < LEN(families); i++)
			for (u32 protocol = 0; protocol < 2; protocol++) {
				struct conn c = dial(type);
				CHECK(make_socket(c, families[i], protocol ? TCP : 0) != 0);
				hang_up(c);
			}
		for (u32 i = 0; i < LEN(protocols); i++) {
			struct conn c = dial(type);
			CHECK(make_socket(c, INET, protocols[i]) != 0);
			hang_up(c);
			c = dial(type);
			CHECK(make_socket(c, INET6, protocols[i]) != 0);
			hang_up(c);
		}
		for (u16 kind = 0; kind < 12; kind++) {
			struct conn c = dial(type);
			u16 body[4] = {INET, kind};
			if (kind == (type == STREAM ? SOCK_STREAM : SOCK_DGRAM))
				continue;
			message(SOCKET, c.port, 0, body, sizeof(body));
			tell(c);
			CHECK_EQUAL(hear(c), RST);
		}
	}
	no_sockets();
	serves();
}

// refused: there is nobody, or it is forbidden; and no other error would say
// that the host was asked.
static int refused(u32 e) { return e == ECONNREFUSED || e == EPERM; }

CASE(deputy, "the host's loopback, link-local and metadata addresses by all their names", "")
{
	u16 trap = ask(ASK_TRAP_PORT);
	static const u8 v4[][4] = {
		{127, 0, 0, 1}, {127, 1, 2, 3}, {127, 255, 255, 255}, {0, 0, 0, 0}, {0, 0, 0, 1}, {0, 255, 255, 255},
		{169, 254, 169, 254}, {169, 254, 170, 2}, {169, 254, 0, 1}, {100, 100, 100, 200}, {168, 63, 129, 16}, {192, 0, 0, 192},
	};
	static const u8 v6[][16] = {
		{0}, {[15] = 1}, {[15] = 2}, {0xfe, 0x80, [15] = 1}, {0xfe, 0xbf, [15] = 1},
		{0xfd, 0, 0x0e, 0xc2, [14] = 2, 0x54},
	};
	begin();
	for (u16 type = STREAM; type <= SEQPACKET; type++) {
		for (u32 i = 0; i < LEN(v4); i++) {
			struct address forms[5] = {inet(v4[i][0], v4[i][1], v4[i][2], v4[i][3], trap)};
			static const u8 prefixes[][12] = {
				{[10] = 0xff, 0xff}, {0}, {0, 0x64, 0xff, 0x9b}, {0x20, 0x02},
			};
			for (u32 f = 1; f < 5; f++) {
				forms[f] = (struct address){.family = INET6, .port = trap};
				memcpy(forms[f].ip, prefixes[f - 1], 12);
				memcpy(forms[f].ip + (f == 4 ? 2 : 12), v4[i], 4);
			}
			for (u32 f = 0; f < 5; f++) {
				struct conn c = socket(type, forms[f].family);
				CHECK(refused(connect(c, forms[f])));
				if (type == SEQPACKET) {
					datagram(c, forms[f], 0);
					u32 e = datagram(c, forms[f], CONFIRM);
					CHECK(e == 0 || refused(e));
				}
				hang_up(c);
			}
		}
		for (u32 i = 0; i < LEN(v6); i++)
			for (u32 scope = 0; scope < 3; scope++) {
				struct address a = {.family = INET6, .port = trap, .scope = scope, .flow = scope << 20};
				memcpy(a.ip, v6[i], 16);
				struct conn c = socket(type, INET6);
				CHECK(refused(connect(c, a)));
				hang_up(c);
			}
	}
	// Bound to loopback first, where the guest is on its own.
	for (u16 type = STREAM; type <= SEQPACKET; type++) {
		struct address a = inet(127, 0, 0, 1, 0);
		struct conn c = socket(type, INET);
		CHECK_EQUAL(request(c, BIND, 0, &a, sizeof(a)), 0);
		CHECK(in.flags & LOCAL);
		CHECK(connect(c, inet(127, 0, 0, 1, trap)) != 0);
		if (type == STREAM) {
			CHECK_EQUAL(request(c, LISTEN, 5, 0, 0), 0);
			CHECK(in.flags & LOCAL);
		}
		hang_up(c);
	}
	// A source address in the message itself, and a peer that there is not.
	struct conn c = socket(SEQPACKET, INET);
	struct data d = {.remote = inet(127, 0, 0, 1, trap), .local = inet(127, 0, 0, 1, trap), .tos = UNSET, .ttl = UNSET};
	for (int i = 0; i < 3; i++) {
		message(DATA, c.port, 0, &d, sizeof(d));
		tell(c);
		memset(&d.remote, 0, sizeof(d.remote));
	}
	hang_up(c);
	sleep_ms(50); // for what was sent to arrive
	CHECK_EQUAL(ask(ASK_TRAPPED), 0);
	serves();
}

CASE(options, "every socket option there might be, with values of every size", "")
{
	static const u32 levels[] = {0, 1, 6, 17, 41, 58, 255, 263, 0xffffffff};
	static const u32 sizes[] = {0, 1, 4, 8, 16, 512};
	begin();
	for (u16 type = STREAM; type <= SEQPACKET; type++) {
		struct conn c = socket(type, INET6);
		for (u32 l = 0; l < LEN(levels); l++)
			for (u32 name = 0; name < 90; name++) {
				u32 body[2 + 512 / 4] = {levels[l], name};
				u32 size = sizes[name % LEN(sizes)];
				memset(body + 2, name & 1 ? 0xff : 1, 512);
				// SO_BINDTODEVICE, SO_MARK, SO_ATTACH_FILTER, SO_RCVBUFFORCE, TCP_REPAIR, TCP_ULP, IP_TRANSPARENT ...
				u32 e = request(c, SETSOCKOPT, 0, body, 8 + size);
				int forbidden = (levels[l] == 1 && (name == 25 || name == 36 || name == 26 || name == 33)) ||
						(levels[l] == 6 && (name == 19 || name == 31)) || (levels[l] == 0 && name == 19);
				CHECK(!forbidden || e == ENOPROTOOPT);
				request(c, GETSOCKOPT, size, body, 8);
			}
		hang_up(c);
	}
	no_sockets();
	serves();
}

CASE(too_many, "more sockets than a guest may have", "")
{
	begin();
	struct conn all[MAX_SOCKETS + 8];
	for (u32 i = 0; i < LEN(all); i++) {
		all[i] = dial(STREAM);
		CHECK_EQUAL(make_socket(all[i], INET, TCP), i < MAX_SOCKETS ? 0 : ENFILE);
	}
	CHECK_EQUAL(ask(ASK_SOCKETS), MAX_SOCKETS);
	for (u32 i = 0; i < LEN(all); i++)
		hang_up(all[i]);
	no_sockets();
	serves();
}

CASE(silent, "connections that say nothing, and halves of messages", "")
{
	begin();
	struct conn all[16]; // the device lets no more than 8 of SEQPACKET be
	for (u32 i = 0; i < LEN(all); i++) {
		all[i] = dial(i & 1 ? SEQPACKET : STREAM);
		if (i & 2) {
			proper(all[i], SOCKET);
			if (all[i].type == STREAM)
				tell_bytes(all[i], &m, 1 + i % 23);
		}
	}
	for (u32 i = 0; i < LEN(all); i++) {
		struct header *h = received(); // in any order
		CHECK_EQUAL(h->op, RST);
		back(h);
	}
	serves();
}

CASE(pieces, "a message in packets of one byte, and twenty in one packet", "")
{
	begin();
	struct conn c = dial(STREAM);
	proper(c, SOCKET);
	for (u32 i = 0; i < m.len; i++)
		tell_bytes(c, (u8 *)&m + i, 1);
	CHECK_EQUAL(answer(c), 0);
	u8 many[20 * 28];
	proper(c, SETSOCKOPT);
	m.flags = NOREPLY;
	for (u32 i = 0; i < 20; i++) {
		if (i == 19)
			m.flags = 0;
		memcpy(many + i * 28, &m, 28);
	}
	tell_bytes(c, many, sizeof(many));
	CHECK_EQUAL(answer(c), 0);
	hang_up(c);
	serves();
}

CASE(mute, "3000 requests, and no buffer for a reply", "")
{
	struct conn c = unheard(STREAM);
	proper(c, SOCKET);
	tell(c);
	u32 option[2] = {6, 11}; // TCP_INFO
	for (u32 i = 0; i < 3000; i++) {
		message(GETSOCKOPT, c.port, 512, option, 8);
		tell(c);
	}
	expect_alive(vs.dev);
	works();
}

CASE(tokens, "connections that nobody announced, and one that is taken twice", "")
{
	begin();
	for (u32 i = 0; i < 200; i++) {
		struct conn c = dial(STREAM);
		CHECK_EQUAL(request(c, ATTACH, i < 100 ? i : random32(), 0, 0), ECONNABORTED);
		hang_up(c);
	}
	struct conn l = socket(STREAM, INET);
	struct address any = inet(0, 0, 0, 0, 0);
	CHECK_EQUAL(request(l, BIND, 0, &any, sizeof(any)), 0);
	u32 port = ((struct address *)in.body)->port;
	CHECK_EQUAL(request(l, LISTEN, 0xffffffff, 0, 0), 0);
	CHECK_EQUAL(request(l, LISTEN, 0x7fffffff, 0, 0), 0);
	for (u32 i = 0; i < 10; i++) {
		asked(ASK_VISIT, port);
		CHECK_EQUAL(hear(l), RW);
		CHECK_EQUAL(in.op, ACCEPT);
		u32 token = in.value;
		struct conn c = dial(STREAM), twice = dial(STREAM), wrong = dial(STREAM);
		CHECK_EQUAL(request(wrong, ATTACH, token + 1, 0, 0), ECONNABORTED);
		CHECK_EQUAL(request(c, ATTACH, token, 0, 0), 0);
		CHECK_EQUAL(request(twice, ATTACH, token, 0, 0), ECONNABORTED);
		hang_up(wrong);
		hang_up(twice);
		hang_up(c);
	}
	// Announced, and never taken.
	for (u32 i = 0; i < 30; i++)
		asked(ASK_VISIT, port);
	hang_up(l);
	no_sockets();
	serves();
}

CASE(controls, "many control connections, and what is said there of sockets that are not", "")
{
	begin();
	struct conn c = dial(STREAM);
	for (u32 i = 0; i < 100; i++) {
		struct conn next = dial(STREAM);
		message(CONTROL, 0, 1, 0, 0);
		tell(next);
		CHECK_EQUAL(answer(next), 0);
		hang_up(c); // the last one was ended
		c = next;
	}
	for (u32 i = 0; i < 2000; i++) {
		u32 option[3] = {1, i & 1 ? 4 : 2, 1};
		message(i % 3 ? ABORT : SETSOCKOPT, random32(), 0, option, i % 3 ? 0 : 12);
		m.flags = NOREPLY;
		tell(c);
	}
	u32 error[2] = {1, 4}; // SO_ERROR of nobody
	message(GETSOCKOPT, 12345, 4, error, 8);
	tell(c);
	CHECK_EQUAL(answer(c), 0);
	hang_up(c);
	c = dial(STREAM);
	message(CONTROL, 0, 99, 0, 0);
	tell(c);
	CHECK(answer(c) != 0);
	CHECK_EQUAL(hear(c), RST);
	serves();
}

CASE(ids, "a socket's id that another one has", "")
{
	begin();
	struct conn first = socket(STREAM, INET);
	for (u32 i = 0; i < 100; i++) {
		struct conn c = dial(i & 1 ? SEQPACKET : STREAM);
		proper(c, SOCKET);
		m.id = first.port;
		tell(c);
		CHECK_EQUAL(hear(c), RST);
	}
	CHECK_EQUAL(ask(ASK_SOCKETS), 1);
	struct address any = inet(0, 0, 0, 0, 0);
	CHECK_EQUAL(request(first, BIND, 0, &any, sizeof(any)), 0);
	hang_up(first);
	serves();
}

CASE(datagrams, "5000 datagrams to who answers, and no buffer for what comes back", "")
{
	struct conn c = unheard(SEQPACKET);
	proper(c, SOCKET);
	m.flags = NOREPLY;
	tell(c);
	struct address echo = inet(127, 0, 0, 1, ask(ASK_ECHO_PORT));
	for (u32 i = 0; i < 5000; i++)
		datagram(c, echo, 0);
	expect_alive(vs.dev);
	works();
}

CASE(sizes, "datagrams of every size, and beyond the largest", "")
{
	static u8 whole[88 + 65600];
	static const u32 sizes[] = {0, 1, 1472, 9000, 65507, 65508, 65527, 65528, 65600};
	begin();
	for (u16 family = INET; family <= INET6; family += INET6 - INET) {
		for (u32 i = 0; i < LEN(sizes); i++) {
			struct conn c = socket(SEQPACKET, family);
			struct data d = {.remote = inet(127, 0, 0, 1, ask(ASK_ECHO_PORT)), .tos = UNSET, .ttl = UNSET};
			if (family == INET6) {
				struct address v4 = d.remote;
				d.remote = (struct address){.family = INET6, .port = v4.port, .ip = {[10] = 0xff, 0xff, 127, 0, 0, 1}};
			}
			message(DATA, c.port, 0, &d, 72);
			m.len = 88 + sizes[i];
			m.flags = CONFIRM;
			memcpy(whole, &m, 88);
			tell_bytes(c, whole, 88 + sizes[i]);
			if (sizes[i] > 65527)
				CHECK_EQUAL(hear(c), RST);
			else {
				u16 op = hear(c);
				CHECK_EQUAL(op, RW);
			}
			hang_up(c);
		}
	}
	serves();
}

CASE(reset_in_flight, "reset of the device with connections in every state", "")
{
	for (int i = 0; i < 10; i++) {
		begin();
		struct conn l = socket(STREAM, INET), c = socket(STREAM, INET);
		CHECK_EQUAL(request(l, LISTEN, 5, 0, 0), 0);
		CHECK_EQUAL(connect(c, inet(127, 0, 0, 1, ask(ASK_ECHO_PORT))), 0);
		static u8 bytes[64 << 10];
		tell_bytes(c, bytes, sizeof(bytes));
		struct conn u = socket(SEQPACKET, INET);
		datagram(u, inet(127, 0, 0, 1, ask(ASK_ECHO_PORT)), 0);
		proper(dial(STREAM), SOCKET);
		tell((struct conn){m.id, STREAM});
	}
	works();
}
