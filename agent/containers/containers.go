// Package containers knows which containers live on this node: the one owner of
// a container's life. It is fed by BPF at cgroup_mkdir and cgroup_rmdir, and by
// inotify on the cgroup tree where BPF is not to be had; every collector learns
// of containers here.
//
// It does not know pods' names: a Container has the ids that its cgroup path
// gives, agent/pods joins them.
package containers

import "time"

// Kind tells what a cgroup stands for.
type Kind uint8

// The kinds of cgroups that the registry follows.
const (
	KindContainer Kind = iota + 1 // one container, the pause container (sandbox) among them
	KindPod                       // a pod's own cgroup, parent of its containers
)

// Container is one container's or pod's cgroup. It is immutable.
type Container struct {
	Kind Kind
	// ID is the runtime's id, 64 hex digits; "" for KindPod.
	ID string
	// PodUID has dashes, as the API server writes it; "" outside Kubernetes.
	PodUID string
	// Runtime is "containerd", "cri-o", "docker", "podman", or "" where the path
	// does not tell.
	Runtime string
	// Nested: it runs inside another container of its pod (docker in docker), so
	// that container's counters hold this one's too.
	Nested bool
	// Path is the cgroup's path from the root of the mounted hierarchy, as the
	// host sees it: /kubepods/burstable/pod<uid>/<id>. The same in every v1
	// hierarchy.
	Path string
	// CgroupID is the cgroup2 id, as bpf_get_current_cgroup_id() gives it (the
	// inode of its directory); 0 where no cgroup2 is mounted.
	CgroupID uint64
	// FirstSeen is when the registry learnt of it: its creation, unless Existing.
	FirstSeen time.Time
	// Existing: it was there before the registry started.
	Existing bool
}

// Event is a container that came or went. A second event for a path that came
// already replaces the Container: its CgroupID became known, which on v1 hosts
// may be a little later than the cgroup itself.
type Event struct {
	Container *Container
	Removed   bool
}
