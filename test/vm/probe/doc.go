// Package probe checks that a guest of test/vm is the machine its entry in
// the matrix says: release, architecture, lockdown, cgroup v2 controllers,
// PSI, BTF, and that BPF programs of the types nodetap uses load, attach and
// fire there or are refused for the stated reason.
//
// Without it a matrix can run the wrong kernel four times and be green.
// It tests nothing of nodetap.
package probe
