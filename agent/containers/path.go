package containers

import "strings"

// identity is what a cgroup's path tells of it.
type identity struct {
	kind    Kind // 0: neither a container nor a pod
	id      string
	podUID  string
	runtime string
	nested  bool
}

// maxPath bounds what is looked at: the kernel's PATH_MAX.
const maxPath = 4096

// identify reads the path of a cgroup from the root of its hierarchy. The last
// component decides what the cgroup is; the pod may stand anywhere above, for
// example under the scope of a node that is itself a container (kind). The
// schemes are those of kubelet's two cgroup drivers and of the runtimes:
//
//	/kubepods/burstable/pod<uid>/<id>                                        cgroupfs
//	/kubepods.slice/…/kubepods-burstable-pod<uid_>.slice/cri-containerd-<id>.scope
//	…/crio-<id>.scope, …/docker-<id>.scope, …/libpod-<id>.scope              systemd
//	…/kubepods-besteffort-pod<uid_>.slice:cri-containerd:<id>                containerd, drivers mixed up
//
// conmon's own cgroups (crio-conmon-<id>.scope) and systemd's mount units named
// after overlays are no containers.
func identify(path string) identity {
	if len(path) > maxPath {
		return identity{}
	}
	path = strings.TrimRight(path, "/")
	dir, last := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, last = path[:i], path[i+1:]
	}
	if uid := podOf(last); uid != "" && !strings.Contains(last, ":") {
		return identity{kind: KindPod, podUID: uid}
	}
	prefix, id := containerOf(last)
	if id == "" {
		return identity{}
	}
	out := identity{kind: KindContainer, id: id, runtime: runtimeOf(prefix)}
	if i := strings.IndexByte(last, ':'); i > 0 {
		out.podUID = podOf(last[:i])
	}
	for rest := dir; rest != "" && out.podUID == ""; {
		part := rest
		if i := strings.LastIndexByte(rest, '/'); i >= 0 {
			rest, part = rest[:i], rest[i+1:]
		} else {
			rest = ""
		}
		if out.podUID = podOf(part); out.podUID == "" {
			_, between := containerOf(part)
			out.nested = out.nested || between != ""
		}
	}
	out.nested = out.nested && out.podUID != ""
	if out.runtime == "" {
		switch parent := dir[strings.LastIndexByte(dir, '/')+1:]; parent {
		case "docker":
			out.runtime = "docker"
		case "libpod_parent":
			out.runtime = "podman"
		}
	}
	return out
}

const idLen = 64

// containerOf splits a component into the runtime's prefix and the container's
// id; id is "" when it names no container.
func containerOf(part string) (prefix, id string) {
	name := strings.TrimSuffix(part, ".scope")
	if len(name) < idLen {
		return "", ""
	}
	at := len(name) - idLen
	id = name[at:]
	if !isHex(id) {
		return "", ""
	}
	if at == 0 {
		return "", id
	}
	if sep := name[at-1]; sep != '-' && sep != ':' {
		return "", ""
	}
	prefix = name[:at-1]
	if i := strings.LastIndexByte(prefix, ':'); i >= 0 {
		prefix = prefix[i+1:]
	}
	if strings.HasSuffix(prefix, "conmon") {
		return "", ""
	}
	return prefix, id
}

func runtimeOf(prefix string) string {
	switch prefix {
	case "cri-containerd", "nerdctl":
		return "containerd"
	case "crio":
		return "cri-o"
	case "docker":
		return "docker"
	case "libpod":
		return "podman"
	}
	return ""
}

// podOf returns the pod's UID, with dashes, from a component that is a pod's
// cgroup; "" for any other. Static pods' UIDs are 32 hex digits without dashes.
func podOf(part string) string {
	part = strings.TrimSuffix(part, ".slice")
	i := strings.LastIndex(part, "pod")
	if i < 0 || i > 0 && part[i-1] != '-' {
		return ""
	}
	uid := part[i+len("pod"):]
	switch len(uid) {
	case 32:
		if isHex(uid) {
			return uid
		}
	case 36:
		b := []byte(uid)
		for j := range b {
			switch {
			case j == 8 || j == 13 || j == 18 || j == 23:
				if b[j] != '-' && b[j] != '_' {
					return ""
				}
				b[j] = '-'
			case !hexDigit(b[j]):
				return ""
			}
		}
		return string(b)
	}
	return ""
}

func isHex(s string) bool {
	for i := range len(s) {
		if !hexDigit(s[i]) {
			return false
		}
	}
	return true
}

func hexDigit(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }
