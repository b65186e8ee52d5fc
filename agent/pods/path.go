package pods

import (
	"strconv"
	"strings"
)

// LogFile is what the path of a container's log tells.
type LogFile struct {
	Namespace string
	Pod       string
	UID       string // as kubelet knows it: of a static pod the hash of its manifest
	Container string
	Restart   int
}

// ParsePodDir reads the name of a directory under /var/log/pods,
// <namespace>_<pod>_<uid>. It refuses what no kubelet would have written.
func ParsePodDir(name string) (namespace, pod, uid string, ok bool) {
	namespace, rest, ok1 := strings.Cut(name, "_")
	pod, uid, ok2 := strings.Cut(rest, "_")
	if !ok1 || !ok2 || !isDNS(namespace, 63) || !isDNS(pod, 253) || !isUID(uid) {
		return "", "", "", false
	}
	return namespace, pod, uid, true
}

// ParseLogPath reads the path of a container's current log,
// [...]/<namespace>_<pod>_<uid>/<container>/<restart>.log. Only its last three
// elements count.
func ParseLogPath(path string) (f LogFile, ok bool) {
	path, file := cutLast(path)
	path, container := cutLast(path)
	_, dir := cutLast(path)
	num, isLog := strings.CutSuffix(file, ".log")
	if !isLog || len(num) == 0 || len(num) > 9 || !isDNS(container, 63) {
		return LogFile{}, false
	}
	n, err := strconv.ParseUint(num, 10, 31)
	if err != nil {
		return LogFile{}, false
	}
	f = LogFile{Container: container, Restart: int(n)}
	if f.Namespace, f.Pod, f.UID, ok = ParsePodDir(dir); !ok {
		return LogFile{}, false
	}
	return f, true
}

// ParseLink reads the name of a link in /var/log/containers,
// <pod>_<namespace>_<container>-<container id>.log. Kubelet cuts names at 255
// bytes: what has lost its id that way is refused.
func ParseLink(name string) (pod, namespace, container, id string, ok bool) {
	name, isLog := strings.CutSuffix(name, ".log")
	i := strings.LastIndexByte(name, '-')
	if !isLog || i < 0 || !IsContainerID(name[i+1:]) {
		return "", "", "", "", false
	}
	id = name[i+1:]
	pod, rest, ok1 := strings.Cut(name[:i], "_")
	namespace, container, ok2 := strings.Cut(rest, "_")
	if !ok1 || !ok2 || !isDNS(pod, 253) || !isDNS(namespace, 63) || !isDNS(container, 63) {
		return "", "", "", "", false
	}
	return pod, namespace, container, id, true
}

// IsContainerID tells whether s is a runtime's container id: 64 lower-case hex
// digits.
func IsContainerID(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func cutLast(path string) (dir, last string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// isDNS tells whether s is a DNS name as Kubernetes takes it for names.
func isDNS(s string, limit int) bool {
	if len(s) == 0 || len(s) > limit {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (c != '-' && c != '.' || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return true
}

// isUID takes UUIDs and the hashes of static pods.
func isUID(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
