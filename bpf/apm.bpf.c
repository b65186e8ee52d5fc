// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * HTTP/1 traffic of this node's containers, as a stream of system calls.
 *
 * The kernel side decides whose traffic it is (policy by cgroup), whether a
 * connection speaks HTTP/1 (by the first bytes of a system call), and copies a
 * bounded prefix of each message with its place in the TCP stream. Everything
 * else is done in Go, which can be tested without a kernel.
 *
 * What is said about a piece of data: the TCP sequence number of its first
 * byte (seq) and how far the other direction had come (ack). So Go sees data
 * that was lost (ring full), skipped (sendfile, splice, io_uring) or sent again
 * (a partial write) as gaps and overlaps of exact size, and nothing has to be
 * remembered from entry to exit of a system call: sends are taken at entry,
 * receives at exit, each by one program.
 *
 * Tracepoints only, from Linux 5.17 (bpf_loop); tested from 6.1.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define MAX_CAPTURE 8192 /* twice this and the header fit a per-CPU value, 32 KiB */
#define UIO_MAXIOV 1024
#define PEEK 16   /* bytes that decide whether a message starts */
#define CONT_CAP 64 /* bytes of each system call after a message's capture is used up */

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define SOCK_STREAM 1
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define MSG_OOB 1
#define MSG_PEEK 2
#define MSG_ERRQUEUE 0x2000
#define MSG_FASTOPEN 0x20000000
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_FIN_WAIT1 4
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_CLOSING 11
#define TCP_SYN_RECV 3

enum event_type {
	EV_DATA = 1,
	EV_STATE = 2,  /* len is the new TCP state, seq and ack as for a send */
	EV_CGROUP = 3, /* a cgroup without a policy was seen */
};

enum direction {
	DIR_RECV = 0,
	DIR_SEND = 1,
};

enum event_flag {
	F_START = 1,  /* the data begins as a message does */
	F_CLIENT = 2, /* ... and makes this end the client */
	F_NEW = 4,    /* the first event of this connection */
};

enum policy {
	POLICY_PENDING = 0, /* asked for, traced until answered */
	POLICY_TRACE = 1,
	POLICY_DENY = 2,
};

enum counter {
	C_EVENTS = 0,
	C_BYTES,
	C_CONNS,
	C_RING_FULL,       /* data events that found the ring full */
	C_RING_FULL_START, /* ... of which began with a message */
	C_RING_FULL_STATE, /* state events that found it full */
	C_READ_FAULT,      /* user memory that could not be read */
	C_CONN_FULL,       /* the connection map refused an entry */
	C_NOT_TCP,         /* HTTP over a stream that is not plain TCP: MPTCP, SMC */
	C_ULP,             /* HTTP on a socket with an upper layer: kernel TLS */
	C_SELF,            /* connections to the agent itself, not traced */
	C_MAX,
};

/* Settings, written before the programs are loaded. */
const volatile u32 self_tgid;        /* the agent, in the initial pid namespace */
const volatile u32 capture = 4096;   /* bytes kept of each message, ≤ MAX_CAPTURE */
const volatile u64 wake_bytes = 1 << 20; /* data in the ring that wakes the reader */
const volatile u8 trace_unknown = 1; /* POLICY_TRACE for cgroups without a policy */

struct event {
	u64 ts; /* CLOCK_BOOTTIME */
	u64 conn;
	u64 sk;
	u64 cgroup;
	u32 tgid;
	u32 tid;
	u32 seq;
	u32 ack;
	u32 len; /* bytes that the system call moved, or tried to send */
	u32 cap; /* bytes that follow this header */
	u32 netns;
	u16 lport;
	u16 rport;
	u8 laddr[16]; /* IPv4 in the first four bytes */
	u8 raddr[16];
	u8 type;
	u8 dir;
	u8 flags;
	u8 family; /* AF_INET or AF_INET6 */
	u8 tail_len;
	u8 pad[3];
	u8 tail[8]; /* the last bytes of the data where cap < len */
};

/* One HTTP connection. */
struct conn {
	u64 id;
	u32 netns;
	u16 lport;
	u16 rport;
	u8 laddr[16];
	u8 raddr[16];
	u8 family;
	u8 muted; /* written by Go: no events, it does not speak HTTP/1 (any more) */
	u8 skip_on[2]; /* written by Go: data before skip[dir] is body, no events */
	u32 left[2]; /* bytes of the current message that may yet be captured */
	u32 skip[2];
};

/* An address of the agent's own sockets. */
struct endpoint {
	u8 addr[16];
	u32 netns; /* of loopback addresses, else 0: others see it from elsewhere */
	u16 port;
	u16 family;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, u64); /* struct sock * */
	__type(value, struct conn);
} conns SEC(".maps");

/* What is evicted is asked again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64); /* cgroup2 id */
	__type(value, u32);
} cg_policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct endpoint);
	__type(value, u8);
} self_endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, C_MAX);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

/* What would not fit the stack. One per CPU: tracepoint programs do not nest. */
struct scratch {
	struct conn conn;
	struct endpoint endpoint;
	struct {
		u64 iov;
		u64 sum;
		u32 off;
		u32 want;
	} vec; /* state of walks along iovec arrays */
	u8 peek[PEEK];
	struct event ev; /* data follows it, as in the ring */
	u8 data[2 * MAX_CAPTURE];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

struct iovec_user {
	u64 base;
	u64 len;
};

/* The head of the 64-bit struct user_msghdr. */
struct msghdr_user {
	u64 name;
	u64 namelen;
	u64 iov;
	u64 iovlen;
};

/* One call's data as the program was given it. */
struct data {
	u64 base;   /* of the buffer, or of the iovec array */
	u64 iovcnt; /* 0: base is the buffer */
	u64 len;
	s32 fd;
	u32 dir;
};

static __always_inline void count(u32 i, u64 n)
{
	u64 *v = bpf_map_lookup_elem(&counters, &i);

	if (v)
		*v += n;
}

/* The wake-up is what costs: the reader comes by itself every few dozen
 * milliseconds and is woken only when the ring fills. */
static __always_inline long emit(void *rec, u64 size)
{
	u64 flags = BPF_RB_NO_WAKEUP;
	long err;

	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) >= wake_bytes)
		flags = BPF_RB_FORCE_WAKEUP;
	err = bpf_ringbuf_output(&events, rec, size, flags);
	if (!err) {
		count(C_EVENTS, 1);
		count(C_BYTES, size);
	}
	return err;
}

/* file_of: fd → file by the task's own table: no map of descriptors to keep,
 * so what was open before the agent, dup, fork and SCM_RIGHTS need no care. */
static __always_inline struct file *file_of(s32 fd)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct files_struct *files = task->files;
	struct fdtable *fdt;
	struct file **table, *file = NULL;

	if (fd < 0 || !files)
		return NULL;
	fdt = files->fdt;
	if (!fdt || (u32)fd >= fdt->max_fds)
		return NULL;
	table = fdt->fd;
	bpf_probe_read_kernel(&file, sizeof(file), &table[(u32)fd]);
	return file;
}

/* The word behind private_data may be anything while the file is not known to
 * be a socket: it is only compared, never written through. */
static __always_inline u64 maybe_sk(struct file *file)
{
	struct socket *sock = BPF_CORE_READ(file, private_data);

	if (!sock)
		return 0;
	return (u64)BPF_CORE_READ(sock, sk);
}

static __always_inline bool is_stream_socket(struct file *file)
{
	struct socket *sock;

	if ((BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return false;
	sock = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(sock, type) == SOCK_STREAM;
}

#define W(a, b, c, d, e, f, g, h)                                                   \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 | \
	 (u64)(f) << 40 | (u64)(g) << 48 | (u64)(h) << 56)

/* Whether the n ≤ 8 bytes in w are the l-byte word, or a beginning of it. */
static __always_inline bool begins(u64 w, u32 n, u64 word, u32 l)
{
	u64 mask;

	if (n > l)
		n = l;
	mask = n >= 8 ? ~0ULL : (1ULL << (8 * n)) - 1;
	return (w & mask) == (word & mask);
}

enum start {
	NO_START = 0,
	REQUEST,
	RESPONSE,
};

/* starts: whether n bytes begin as an HTTP/1 message does. Less than a word's
 * bytes count when they agree as far as they go. */
static __always_inline enum start starts(const u8 *b, u32 n)
{
	u64 w;
	u32 i;

	__builtin_memcpy(&w, b, 8);
	if (!n)
		return NO_START;
	if (begins(w, n, W('H', 'T', 'T', 'P', '/', '1', '.', 0), 7))
		return RESPONSE; /* "H" alone may be HEAD: the direction tells, in Go */
	if (begins(w, n, W('G', 'E', 'T', ' ', 0, 0, 0, 0), 4) ||
	    begins(w, n, W('P', 'O', 'S', 'T', ' ', 0, 0, 0), 5) ||
	    begins(w, n, W('P', 'U', 'T', ' ', 0, 0, 0, 0), 4) ||
	    begins(w, n, W('H', 'E', 'A', 'D', ' ', 0, 0, 0), 5) ||
	    begins(w, n, W('D', 'E', 'L', 'E', 'T', 'E', ' ', 0), 7) ||
	    begins(w, n, W('P', 'A', 'T', 'C', 'H', ' ', 0, 0), 6) ||
	    begins(w, n, W('O', 'P', 'T', 'I', 'O', 'N', 'S', ' '), 8) ||
	    begins(w, n, W('C', 'O', 'N', 'N', 'E', 'C', 'T', ' '), 8) ||
	    begins(w, n, W('T', 'R', 'A', 'C', 'E', ' ', 0, 0), 6))
		return REQUEST;
	/* any other method: 3 to 12 capitals, a space, a path */
	for (i = 0; i < 13; i++) {
		u8 c = b[i];

		if (c == ' ')
			return i >= 3 && n > i + 1 && b[i + 1] == '/' ? REQUEST : NO_START;
		if (c < 'A' || c > 'Z')
			return NO_START;
	}
	return NO_START;
}

static __always_inline void read_addrs(struct sock *sk, u16 family, u8 *laddr, u8 *raddr)
{
	__builtin_memset(laddr, 0, 16);
	__builtin_memset(raddr, 0, 16);
	if (family == AF_INET) {
		__be32 l = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		__be32 r = BPF_CORE_READ(sk, __sk_common.skc_daddr);

		__builtin_memcpy(laddr, &l, 4);
		__builtin_memcpy(raddr, &r, 4);
	} else {
		BPF_CORE_READ_INTO((struct in6_addr *)laddr, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO((struct in6_addr *)raddr, sk, __sk_common.skc_v6_daddr);
	}
}

static __always_inline void fill_endpoint(struct endpoint *e, const u8 *addr, u16 port, u16 family,
					  u32 netns)
{
	bool mapped = family == AF_INET6 && !addr[0] && !addr[8] && addr[10] == 0xff;

	__builtin_memset(e, 0, sizeof(*e));
	if (mapped) { /* ::ffff:a.b.c.d: the other end may see it as IPv4 */
		__builtin_memcpy(e->addr, addr + 12, 4);
		family = AF_INET;
	} else {
		__builtin_memcpy(e->addr, addr, 16);
	}
	e->port = port;
	e->family = family;
	if (family == AF_INET ? e->addr[0] == 127 : !e->addr[0] && !e->addr[8] && e->addr[15] == 1)
		e->netns = netns;
}

/* own: the agent itself uses the socket. Its address is noted, so that the
 * other end of its connections is not traced either: a trace of the request
 * that carries traces would never end. */
static __noinline int own(struct data *d)
{
	struct file *file = file_of(d->fd);
	u8 laddr[16], raddr[16], one = 1;
	struct endpoint e;
	struct sock *sk;
	u16 family;

	if (!file || !is_stream_socket(file))
		return 0;
	sk = (struct sock *)maybe_sk(file);
	if (!sk)
		return 0;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return 0;
	read_addrs(sk, family, laddr, raddr);
	fill_endpoint(&e, laddr, BPF_CORE_READ(sk, __sk_common.skc_num), family,
		      BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum));
	if (!bpf_map_lookup_elem(&self_endpoints, &e))
		bpf_map_update_elem(&self_endpoints, &e, &one, BPF_ANY);
	return 0;
}

static __always_inline struct conn *new_conn(struct scratch *s, struct file *file, struct sock *sk,
					     u64 now)
{
	struct endpoint *e = &s->endpoint;
	struct conn *c = &s->conn;
	u64 key = (u64)sk;
	u16 family;

	if (!is_stream_socket(file))
		return NULL;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return NULL; /* unix sockets among others: not traced, by design */
	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP) {
		count(C_NOT_TCP, 1);
		return NULL;
	}
	if (BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_ulp_ops)) {
		count(C_ULP, 1);
		return NULL;
	}
	__builtin_memset(c, 0, sizeof(*c));
	c->id = now << 8 | (bpf_get_smp_processor_id() & 0xff);
	c->family = family;
	c->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	c->lport = BPF_CORE_READ(sk, __sk_common.skc_num);
	c->rport = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	read_addrs(sk, family, c->laddr, c->raddr);
	fill_endpoint(e, c->raddr, c->rport, family, c->netns);
	if (bpf_map_lookup_elem(&self_endpoints, e)) {
		c->muted = 1;
		count(C_SELF, 1);
	}
	if (bpf_map_update_elem(&conns, &key, c, BPF_ANY)) {
		count(C_CONN_FULL, 1);
		return NULL;
	}
	count(C_CONNS, 1);
	return bpf_map_lookup_elem(&conns, &key);
}

/* ask: a cgroup that Go has not said anything about. */
static __always_inline void ask(struct event *ev, u64 cgroup)
{
	u32 pending = POLICY_PENDING;

	if (bpf_map_update_elem(&cg_policy, &cgroup, &pending, BPF_NOEXIST))
		return; /* another CPU asked */
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->type = EV_CGROUP;
	ev->ts = bpf_ktime_get_boot_ns();
	ev->cgroup = cgroup;
	ev->tgid = bpf_get_current_pid_tgid() >> 32;
	if (emit(ev, sizeof(*ev))) {
		count(C_RING_FULL_STATE, 1);
		bpf_map_delete_elem(&cg_policy, &cgroup);
	}
}

/* gather_step copies one element of an iovec array. Its state lies in a map, so
 * that the verifier looks at it once, whatever the number of elements. */
static long gather_step(u32 i, void *unused)
{
	u32 zero = 0, at;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	struct iovec_user v;
	u64 n;

	if (!s || s->vec.off >= s->vec.want)
		return 1;
	if (bpf_probe_read_user(&v, sizeof(v), (void *)(s->vec.iov + i * sizeof(v))))
		goto fault;
	n = v.len;
	if (!n)
		return 0;
	if (n > s->vec.want - s->vec.off)
		n = s->vec.want - s->vec.off;
	/* both hold already: off < want ≤ MAX_CAPTURE. For the verifier. */
	at = s->vec.off & (MAX_CAPTURE - 1);
	barrier_var(at);
	barrier_var(n);
	if (n > MAX_CAPTURE)
		return 1;
	if (bpf_probe_read_user(s->data + at, n, (void *)v.base))
		goto fault;
	s->vec.off += n;
	return 0;
fault:
	count(C_READ_FAULT, 1);
	return 1;
}

/* gather copies the first `want` bytes of an iovec array to the scratch. */
static __always_inline u32 gather(struct scratch *s, const struct data *d, u32 want)
{
	s->vec.iov = d->base;
	s->vec.off = 0;
	s->vec.want = want;
	bpf_loop(d->iovcnt & 0x7ff, gather_step, NULL, 0);
	return s->vec.off;
}

static long sum_step(u32 i, void *unused)
{
	u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	u64 len;

	if (!s)
		return 1;
	if (bpf_probe_read_user(&len, sizeof(len), (void *)(s->vec.iov + i * 16 + 8)))
		return 1;
	s->vec.sum += len;
	return 0;
}

/* tail keeps the last bytes of data that is not captured whole: they tell the
 * end of a chunked body whose chunk headers were not seen. */
static __always_inline void tail(struct event *ev, const struct data *d)
{
	u64 base = d->base, len = d->len;

	ev->tail_len = 0;
	__builtin_memset(ev->tail, 0, sizeof(ev->tail));
	if (d->iovcnt) {
		struct iovec_user v;

		/* what was received may end in any of several buffers: one only */
		if (d->dir == DIR_RECV && d->iovcnt != 1)
			return;
		if (bpf_probe_read_user(&v, sizeof(v), (void *)(base + (d->iovcnt - 1) * sizeof(v))))
			return;
		base = v.base;
		len = d->iovcnt == 1 ? len : v.len;
	}
	if (len >= 8) {
		if (!bpf_probe_read_user(ev->tail, 8, (void *)(base + len - 8)))
			ev->tail_len = 8;
	} else if (len >= 5) {
		if (!bpf_probe_read_user(ev->tail, 5, (void *)(base + len - 5)))
			ev->tail_len = 5;
	}
}

static __noinline int trace(struct data *d)
{
	u64 cgroup, now, sk, id, size;
	enum start start;
	struct scratch *s;
	struct file *file;
	struct event *ev;
	struct conn *c;
	u32 *policy, zero = 0, want, got, seq, ack;
	u8 *peek, fresh = 0, state;
	u32 dir = d->dir & 1;

	id = bpf_get_current_pid_tgid();
	if (id >> 32 == self_tgid)
		return own(d);

	s = bpf_map_lookup_elem(&scratches, &zero);
	if (!s)
		return 0;
	ev = &s->ev;
	peek = s->peek;

	/* Whose is it? Decided first, by the cheapest means. */
	cgroup = bpf_get_current_cgroup_id();
	policy = bpf_map_lookup_elem(&cg_policy, &cgroup);
	if (!policy)
		ask(ev, cgroup);
	else if (*policy == POLICY_DENY)
		return 0;
	if ((!policy || *policy == POLICY_PENDING) && !trace_unknown)
		return 0;

	file = file_of(d->fd);
	if (!file)
		return 0;
	sk = maybe_sk(file);
	if (!sk)
		return 0;
	c = bpf_map_lookup_elem(&conns, &sk);
	if (c && c->muted)
		return 0;

	/* Does a message begin here? */
	{
		u64 base = d->base, n = d->len;

		__builtin_memset(peek, 0, PEEK);
		if (d->iovcnt) {
			struct iovec_user v = {};

			if (bpf_probe_read_user(&v, sizeof(v), (void *)base)) {
				if (c)
					count(C_READ_FAULT, 1);
				return 0;
			}
			base = v.base;
			if (n > v.len)
				n = v.len;
		}
		if (n >= PEEK) {
			if (bpf_probe_read_user(peek, PEEK, (void *)base)) {
				if (c)
					count(C_READ_FAULT, 1);
				return 0;
			}
			n = PEEK;
		} else if (n) {
			u32 m = n & (PEEK - 1);

			if (bpf_probe_read_user(peek, m, (void *)base)) {
				if (c)
					count(C_READ_FAULT, 1);
				return 0;
			}
		}
		start = starts(peek, n);
	}
	if (!c && start == NO_START)
		return 0;

	now = bpf_ktime_get_boot_ns();
	if (!c) {
		c = new_conn(s, file, (struct sock *)sk, now);
		if (!c || c->muted)
			return 0;
		fresh = 1;
	}

	/* Where in the stream? */
	{
		struct tcp_sock *tp = (struct tcp_sock *)sk;
		u32 written = BPF_CORE_READ(tp, write_seq);
		u32 copied = BPF_CORE_READ(tp, copied_seq);

		state = BPF_CORE_READ((struct sock *)sk, __sk_common.skc_state);
		if (dir == DIR_SEND) {
			if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT && state != TCP_SYN_RECV)
				return 0; /* it will fail, or wait for the handshake and come again */
			seq = written;
			ack = copied;
		} else {
			/* a FIN that was consumed with the data counts as one */
			if (state != TCP_ESTABLISHED && copied == BPF_CORE_READ(tp, rcv_nxt) &&
			    (state == TCP_CLOSE_WAIT || state == TCP_LAST_ACK || state == TCP_CLOSING ||
			     state == TCP_CLOSE))
				copied--;
			seq = copied - (u32)d->len;
			ack = written;
		}
	}
	if (c->skip_on[dir]) {
		if ((s32)(seq + (u32)d->len - c->skip[dir]) < 0)
			return 0; /* all of it is body that Go knows the length of */
		c->skip_on[dir] = 0;
	}

	if (start != NO_START)
		c->left[dir] = capture;
	want = c->left[dir];
	if (want < CONT_CAP)
		want = CONT_CAP;
	if (want > d->len)
		want = d->len;
	if (want > MAX_CAPTURE)
		want = MAX_CAPTURE;

	if (d->iovcnt) {
		got = gather(s, d, want);
	} else {
		got = want;
		if (want && bpf_probe_read_user(s->data, want, (void *)d->base)) {
			count(C_READ_FAULT, 1);
			got = 0;
		}
	}
	barrier_var(got);
	if (got > MAX_CAPTURE) /* never: for the verifier */
		return 0;
	size = sizeof(*ev) + got;
	c->left[dir] = c->left[dir] > got ? c->left[dir] - got : 0;

	ev->ts = now;
	ev->conn = c->id;
	ev->sk = sk;
	ev->cgroup = cgroup;
	ev->tgid = id >> 32;
	ev->tid = (u32)id;
	ev->seq = seq;
	ev->ack = ack;
	ev->len = d->len;
	ev->cap = got;
	ev->netns = c->netns;
	ev->lport = c->lport;
	ev->rport = c->rport;
	__builtin_memcpy(ev->laddr, c->laddr, 16);
	__builtin_memcpy(ev->raddr, c->raddr, 16);
	ev->type = EV_DATA;
	ev->dir = dir;
	ev->family = c->family;
	ev->flags = fresh ? F_NEW : 0;
	if (start != NO_START)
		ev->flags |= F_START;
	if ((start == REQUEST) == (dir == DIR_SEND))
		ev->flags |= F_CLIENT;
	__builtin_memset(ev->pad, 0, sizeof(ev->pad));
	if (got < d->len) {
		tail(ev, d);
	} else {
		ev->tail_len = 0;
		__builtin_memset(ev->tail, 0, sizeof(ev->tail));
	}
	if (emit(ev, size)) {
		count(C_RING_FULL, 1);
		if (start != NO_START)
			count(C_RING_FULL_START, 1);
	}
	return 0;
}

/* wanted: the policy alone, before what is dear. trace asks it again. */
static __always_inline bool wanted(void)
{
	u64 cgroup = bpf_get_current_cgroup_id();
	u32 *policy = bpf_map_lookup_elem(&cg_policy, &cgroup);

	return !policy || *policy != POLICY_DENY;
}

static __always_inline int send_buf(struct sys_enter_ctx *ctx)
{
	struct data d = {
		.fd = (s32)ctx->args[0], .base = ctx->args[1], .len = ctx->args[2], .dir = DIR_SEND
	};

	if (!d.len)
		return 0;
	if (d.len > 0x7fffffff)
		d.len = 0x7fffffff;
	return trace(&d);
}

static __always_inline int send_vec(s32 fd, u64 iov, u64 cnt)
{
	struct data d = { .fd = fd, .base = iov, .iovcnt = cnt, .dir = DIR_SEND };
	struct scratch *s;
	u32 zero = 0;

	if (!cnt || cnt > UIO_MAXIOV || !wanted())
		return 0;
	s = bpf_map_lookup_elem(&scratches, &zero);
	if (!s)
		return 0;
	s->vec.iov = iov;
	s->vec.sum = 0;
	bpf_loop(cnt, sum_step, NULL, 0);
	d.len = s->vec.sum;
	if (!d.len || d.len > 0x7fffffff)
		return 0;
	return trace(&d);
}

static __always_inline int recv_buf(struct sys_exit_ctx *ctx, bool flags)
{
	struct data d = { .dir = DIR_RECV };
	struct pt_regs *regs;

	if (ctx->ret <= 0)
		return 0;
	regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	if (flags && (SYSCALL_ARG3(regs) & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE)))
		return 0;
	d.fd = (s32)SYSCALL_ARG0(regs);
	d.base = SYSCALL_ARG1(regs);
	d.len = ctx->ret;
	return trace(&d);
}

/* Sends, at entry: the data is there, and nothing has been answered yet. What
 * is then sent in part or not at all comes again and overlaps. */
SEC("tracepoint/syscalls/sys_enter_write")
int enter_write(struct sys_enter_ctx *ctx)
{
	return send_buf(ctx);
}

SEC("tracepoint/syscalls/sys_enter_sendto")
int enter_sendto(struct sys_enter_ctx *ctx)
{
	if (ctx->args[3] & (MSG_OOB | MSG_FASTOPEN))
		return 0;
	return send_buf(ctx);
}

SEC("tracepoint/syscalls/sys_enter_writev")
int enter_writev(struct sys_enter_ctx *ctx)
{
	return send_vec((s32)ctx->args[0], ctx->args[1], ctx->args[2]);
}

SEC("tracepoint/syscalls/sys_enter_sendmsg")
int enter_sendmsg(struct sys_enter_ctx *ctx)
{
	struct msghdr_user m;

	if (ctx->args[2] & (MSG_OOB | MSG_FASTOPEN))
		return 0;
	if (bpf_probe_read_user(&m, sizeof(m), (void *)ctx->args[1]))
		return 0;
	return send_vec((s32)ctx->args[0], m.iov, m.iovlen);
}

/* Receives, at exit: only then is there data. The arguments are still in the
 * task's saved registers, so that nothing is kept from entry. */
SEC("tracepoint/syscalls/sys_exit_read")
int exit_read(struct sys_exit_ctx *ctx)
{
	return recv_buf(ctx, false);
}

SEC("tracepoint/syscalls/sys_exit_recvfrom")
int exit_recvfrom(struct sys_exit_ctx *ctx)
{
	return recv_buf(ctx, true);
}

SEC("tracepoint/syscalls/sys_exit_readv")
int exit_readv(struct sys_exit_ctx *ctx)
{
	struct data d = { .dir = DIR_RECV };
	struct pt_regs *regs;

	if (ctx->ret <= 0)
		return 0;
	regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	d.fd = (s32)SYSCALL_ARG0(regs);
	d.base = SYSCALL_ARG1(regs);
	d.iovcnt = SYSCALL_ARG2(regs);
	d.len = ctx->ret;
	return trace(&d);
}

SEC("tracepoint/syscalls/sys_exit_recvmsg")
int exit_recvmsg(struct sys_exit_ctx *ctx)
{
	struct data d = { .dir = DIR_RECV };
	struct msghdr_user m;
	struct pt_regs *regs;

	if (ctx->ret <= 0)
		return 0;
	regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	if (SYSCALL_ARG2(regs) & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE))
		return 0;
	if (bpf_probe_read_user(&m, sizeof(m), (void *)SYSCALL_ARG1(regs)))
		return 0;
	d.fd = (s32)SYSCALL_ARG0(regs);
	d.base = m.iov;
	d.iovcnt = m.iovlen;
	d.len = ctx->ret;
	return trace(&d);
}

/* sendfile moves bodies: no bytes to see, only how many, so that the end of a
 * response has its time. Other calls without bytes (splice, sendmmsg, recvmmsg,
 * io_uring) show as gaps in the sequence numbers alone. */
SEC("tracepoint/syscalls/sys_exit_sendfile64")
int exit_sendfile(struct sys_exit_ctx *ctx)
{
	struct event ev = {};
	struct pt_regs *regs;
	struct file *file;
	struct conn *c;
	u32 *policy;
	u64 sk, id;

	if (ctx->ret <= 0)
		return 0;
	id = bpf_get_current_pid_tgid();
	if (id >> 32 == self_tgid)
		return 0;
	ev.cgroup = bpf_get_current_cgroup_id();
	policy = bpf_map_lookup_elem(&cg_policy, &ev.cgroup);
	if (policy && *policy == POLICY_DENY)
		return 0;
	regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	file = file_of((s32)SYSCALL_ARG0(regs));
	if (!file)
		return 0;
	sk = maybe_sk(file);
	c = bpf_map_lookup_elem(&conns, &sk);
	if (!c || c->muted)
		return 0;
	ev.ts = bpf_ktime_get_boot_ns();
	ev.conn = c->id;
	ev.sk = sk;
	ev.tgid = id >> 32;
	ev.tid = (u32)id;
	ev.len = ctx->ret;
	ev.seq = BPF_CORE_READ((struct tcp_sock *)sk, write_seq) - (u32)ctx->ret;
	ev.ack = BPF_CORE_READ((struct tcp_sock *)sk, copied_seq);
	if (c->skip_on[DIR_SEND] && (s32)(ev.seq + ev.len - c->skip[DIR_SEND]) < 0)
		return 0;
	ev.netns = c->netns;
	ev.lport = c->lport;
	ev.rport = c->rport;
	__builtin_memcpy(ev.laddr, c->laddr, 16);
	__builtin_memcpy(ev.raddr, c->raddr, 16);
	ev.family = c->family;
	ev.type = EV_DATA;
	ev.dir = DIR_SEND;
	if (emit(&ev, sizeof(ev)))
		count(C_RING_FULL, 1);
	return 0;
}

/* The end of a connection ends what was under way on it; its beginning makes
 * an entry of a former socket at the same address void. A stable tracepoint
 * since Linux 4.16. It may run in softirq: no use of the current task. */
SEC("tracepoint/sock/inet_sock_set_state")
int set_state(struct inet_sock_set_state_ctx *ctx)
{
	struct event ev = {};
	struct conn *c;
	u64 sk = (u64)ctx->skaddr;
	int state = ctx->newstate;

	switch (state) {
	case TCP_ESTABLISHED:
	case TCP_SYN_SENT:
		bpf_map_delete_elem(&conns, &sk);
		return 0;
	case TCP_FIN_WAIT1:
	case TCP_LAST_ACK:
	case TCP_CLOSE:
		break;
	default:
		return 0;
	}
	c = bpf_map_lookup_elem(&conns, &sk);
	if (!c)
		return 0;
	if (!c->muted) {
		ev.ts = bpf_ktime_get_boot_ns();
		ev.conn = c->id;
		ev.sk = sk;
		ev.type = EV_STATE;
		ev.len = state;
		ev.seq = BPF_CORE_READ((struct tcp_sock *)sk, write_seq);
		ev.ack = BPF_CORE_READ((struct tcp_sock *)sk, copied_seq);
		if (emit(&ev, sizeof(ev)))
			count(C_RING_FULL_STATE, 1);
	}
	/* While a process holds it, what was received can still be read. */
	if (state == TCP_CLOSE && !BPF_CORE_READ((struct sock *)sk, sk_socket))
		bpf_map_delete_elem(&conns, &sk);
	return 0;
}

/* Run once by the agent through BPF_PROG_TEST_RUN: who am I, as the kernel sees
 * it? That is not os.Getpid() in a pid namespace. */
SEC("raw_tp/sys_enter")
int whoami(void *ctx)
{
	return bpf_get_current_pid_tgid() >> 32;
}
