// Command nodetap is a Kubernetes node agent: container logs, cgroup metrics
// and eBPF traces of one node, with one identity on all of them.
package main

func main() {}
