// SPDX-License-Identifier: GPL-2.0-only
//
// Which cgroups come and go: agent/containers follows the life of containers by
// it. Needs nothing but the fields below, relocated by the kernel's own BTF.
//
// Kernel: 5.8 (ring buffer, bpf_ktime_get_boot_ns), with BTF.

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

enum { MAP_ARRAY_PERCPU = 6, MAP_RINGBUF = 27 };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct kernfs_node {
	__u64 id;
};
struct cgroup;
struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};
struct cgroup_root {
	int hierarchy_id;
};
struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};
#pragma clang attribute pop

// The v1 hierarchy that is followed beside cgroup2, which is number 0; 0 for none.
const volatile __u32 main_hierarchy = 0;

enum { OP_MKDIR = 1, OP_RMDIR = 2 };

#define PATH_SIZE 512

struct event {
	__u64 id;	// of the cgroup: the inode of its directory
	__u64 parent;	// of the cgroup above
	__u64 time;	// CLOCK_BOOTTIME, ns
	__u32 hierarchy;
	__u8 op;
	__u8 pad;
	__u16 len;	// of path with its 0; PATH_SIZE when it was cut
	char path[PATH_SIZE]; // from the hierarchy's root
};
const struct event *unused_event __attribute__((unused));

struct {
	__uint(type, MAP_RINGBUF);
	__uint(max_entries, 512 * 1024);
} events SEC(".maps");

struct {
	__uint(type, MAP_ARRAY_PERCPU);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");

static __always_inline int emit(__u64 *ctx, __u8 op)
{
	struct cgroup *cg = (void *)ctx[0];
	__u32 hierarchy = cg->root->hierarchy_id;

	// A container's cgroup is made in every v1 hierarchy: a dozen times.
	if (hierarchy != 0 && hierarchy != main_hierarchy)
		return 0;
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		__u32 zero = 0;
		__u64 *n = bpf_map_lookup_elem(&drops, &zero);
		if (n)
			*n += 1;
		return 0;
	}
	e->id = cg->kn->id;
	e->parent = 0;
	struct cgroup_subsys_state *up = cg->self.parent;
	if (up)
		e->parent = up->cgroup->kn->id;
	e->time = bpf_ktime_get_boot_ns();
	e->hierarchy = hierarchy;
	e->op = op;
	e->pad = 0;
	long n = bpf_probe_read_kernel_str(e->path, sizeof(e->path), (const void *)ctx[1]);
	e->len = n > 0 ? n : 0;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

// tp_btf, since it needs no tracefs, which no container has, and no kprobes.
// Both hooks run under cgroup_mutex: in the order of the changes themselves.
SEC("tp_btf/cgroup_mkdir")
int on_mkdir(__u64 *ctx)
{
	return emit(ctx, OP_MKDIR);
}

SEC("tp_btf/cgroup_rmdir")
int on_rmdir(__u64 *ctx)
{
	return emit(ctx, OP_RMDIR);
}
