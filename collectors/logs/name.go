package logs

import (
	"path/filepath"
	"strconv"
	"strings"
)

// podName is what the name of a pod's log directory tells.
type podName struct{ namespace, pod, uid string }

// parsePodName splits <namespace>_<pod>_<uid>. None of the three can hold an
// underscore.
func parsePodName(dir string) (p podName, ok bool) {
	parts := strings.Split(dir, "_")
	if len(parts) != 3 {
		return p, false
	}
	for _, s := range parts {
		if !cleanName(s) {
			return p, false
		}
	}
	return podName{parts[0], parts[1], parts[2]}, true
}

// cleanName tells whether s can be part of a name that kubelet made: it goes
// into tags, paths and the checkpoint file.
func cleanName(s string) bool {
	if s == "" || len(s) > 255 || s[0] == '.' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == '/' || c == '\\' || c == '"' || c >= 0x7f {
			return false
		}
	}
	return true
}

// fileName is what the name of a log file tells: <restart>.log is written to,
// <restart>.log.<stamp> was rotated, <restart>.log.<stamp>.gz was compressed
// afterwards.
type fileName struct {
	restart int
	stamp   string // "" on the file that is written to
	gz      bool
}

// parseFileName is false for all that is no log: temporary files of a
// compression in progress among them.
func parseFileName(name string) (f fileName, ok bool) {
	num, rest, found := strings.Cut(name, ".log")
	if !found || len(num) == 0 || len(num) > 9 || !cleanName(name) {
		return f, false
	}
	n, err := strconv.ParseUint(num, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != num {
		return f, false
	}
	return parseSuffix(int(n), rest)
}

// parseSuffix reads what follows ".log".
func parseSuffix(restart int, rest string) (f fileName, ok bool) {
	f.restart = restart
	if rest == "" {
		return f, true
	}
	if rest[0] != '.' {
		return f, false
	}
	f.stamp, f.gz = strings.CutSuffix(rest[1:], ".gz")
	if f.stamp == "" || strings.HasSuffix(f.stamp, ".tmp") || f.stamp == "tmp" || f.stamp == "gz" {
		return f, false
	}
	return f, true
}

// older tells whether a was written before b: both belong to one restart.
// Kubelet stamps with the time (20060102-150405), docker and logrotate count
// upwards into the past (.1 is the newest), and what is written to comes last.
func (a fileName) older(b fileName) bool {
	if a.stamp == b.stamp {
		return false
	}
	if a.stamp == "" || b.stamp == "" {
		return b.stamp == ""
	}
	na, nb := smallNumber(a.stamp), smallNumber(b.stamp)
	switch {
	case na >= 0 && nb >= 0:
		return na > nb
	case na >= 0 || nb >= 0:
		return na >= 0
	}
	return a.stamp < b.stamp
}

func smallNumber(s string) int {
	if len(s) > 4 {
		return -1
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return -1
	}
	return int(n)
}

// dockerLink splits the target of a link in a pod's log directory,
// <root>/<id>/<id>-json.log, into the container's directory and the file. ok is
// false for every other target.
func dockerLink(root, target string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(target, strings.TrimSuffix(filepath.Clean(root), "/")+"/")
	if !ok {
		return "", false
	}
	id, file, ok := strings.Cut(rest, "/")
	if !ok || len(id) != 64 || file != id+"-json.log" {
		return "", false
	}
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", false
		}
	}
	return id, true
}
