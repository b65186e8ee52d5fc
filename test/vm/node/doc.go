// Package node is a small Kubernetes node inside a guest of test/vm: pods as
// kubelet and containerd lay them out (cgroups, log directories, the symbolic
// links that name containers), workloads whose truth is known, and the built
// agent beside them.
//
// It checks what comes out of the agent against that truth: logs, cgroup
// metrics, HTTP spans, and what doctor says. There is no API server; identity
// comes from the paths alone. It runs as root in a guest and nowhere else.
package node
