package cgroup

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"nodetap/agent/metrics"
)

// network is what was read of one network namespace.
type network struct {
	fresh      bool // not read yet
	interfaces []netInterface
}

type netInterface struct {
	name string
	netCounts
}

type interfaceRow struct {
	labels *metrics.Labels
	netCounts
}

// maxInterfaces bounds the rows of one network namespace: a pod may make
// interfaces as it likes.
const maxInterfaces = 64

// ignoredInterface tells what cAdvisor leaves out: loopback and the node's ends
// of containers' interfaces, which repeat their counts.
func ignoredInterface(name []byte) bool {
	for _, p := range []string{"lo", "veth", "docker", "nerdctl"} {
		if bytes.HasPrefix(name, []byte(p)) {
			return true
		}
	}
	return false
}

// fill takes the text of /proc/<pid>/net/dev.
func (n *network) fill(b []byte) {
	old := n.interfaces
	n.interfaces = n.interfaces[:0]
	parseNetDev(b, func(name []byte, counts netCounts) {
		i := len(n.interfaces)
		if i >= maxInterfaces || ignoredInterface(name) {
			return
		}
		if i < len(old) && old[i].name == string(name) {
			n.interfaces = append(n.interfaces, netInterface{old[i].name, counts})
			return
		}
		n.interfaces = append(n.interfaces, netInterface{string(name), counts})
	})
}

func (n *network) appendRows(rows []interfaceRow, l *rowLabels) []interfaceRow {
	for _, i := range n.interfaces {
		rows = append(rows, interfaceRow{l.network(i.name), i.netCounts})
	}
	return rows
}

// sampleNetwork reads a pod's interfaces through one of its processes, the
// oldest container's by choice: that is the sandbox's, which lives as long as
// the pod.
func (c *Collector) sampleNetwork(p *pod) {
	p.net.interfaces = p.net.interfaces[:0]
	var from *unit
	for _, u := range p.containers {
		if len(u.read.pids) > 0 && (from == nil || u.inode < from.inode) {
			from = u
		}
	}
	if from == nil {
		return
	}
	p.net.fresh = false
	if c.onHostNetwork(p, from.read.pids[0]) {
		return
	}
	b, err := c.readFile(c.procPath(from.read.pids[0], "net/dev"))
	if err != nil {
		return // its process ended meanwhile
	}
	p.net.fill(b)
}

// onHostNetwork tells whether the process is on the node's own network, or may
// be: then its interfaces are the node's, and not to be counted again.
func (c *Collector) onHostNetwork(p *pod, pid uint64) bool {
	if p.uid != "" && c.pods.HostNetwork(p.uid) {
		return true
	}
	ns, err := os.Readlink(c.procPath(pid, "ns/net"))
	if err == nil && c.host.ns != "" {
		return ns == c.host.ns
	}
	// We may not compare. The pod's spec tells, once it is known.
	return p.uid == "" || c.pods.Pod(p.uid) == nil
}

// hostNet is the node's own network, seen through a process that is in it.
type hostNet struct {
	dir string // of the process in /proc; "" when there is none to see
	ns  string // of its network namespace; "" when it may not be read
	net network
}

// findHostNet looks for a process on the node's network: a kernel thread, or
// process 1 of the node. Without hostPID neither is to be seen.
func findHostNet(proc string) hostNet {
	var h hostNet
	comm, err := os.ReadFile(filepath.Join(proc, "2/comm"))
	switch {
	case err == nil && strings.TrimSpace(string(comm)) == "kthreadd":
		h.dir = filepath.Join(proc, "2")
	case os.Getpid() != 1:
		h.dir = filepath.Join(proc, "1")
	default:
		return h
	}
	h.ns, _ = os.Readlink(filepath.Join(h.dir, "ns/net"))
	return h
}

func (c *Collector) sampleHostNetwork() {
	if c.host.dir == "" {
		return
	}
	if b, err := c.readFile(filepath.Join(c.host.dir, "net/dev")); err == nil {
		c.host.net.fill(b)
	}
}
