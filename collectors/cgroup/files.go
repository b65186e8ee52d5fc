package cgroup

import (
	"path/filepath"

	"nodetap/agent/containers"
)

// source is one file of a cgroup and what its text says.
type source struct {
	controller string // whose hierarchy has it; "" for cgroup2 itself, wherever the controllers are
	unified    bool
	name       string
	when       tier
	idle       bool // changes only while its tasks run or its memory does
	quota      bool // says nothing without a CPU quota
	many       bool // the kernel gives it in pieces
	owns       []metric
	parse      func(r *reading, b []byte)
}

// tier says how often a source is read.
type tier uint8

const (
	tierDetail tier = iota // every detail interval
	tierFast               // every interval
	tierSpec               // every few detail intervals: what someone has to set
)

// specEvery is how many detail intervals pass between two looks at limits, and
// at what has no reason to have changed.
const specEvery = 6

// reading is where parsers put what they find.
type reading struct {
	values
	io   []deviceIO
	pids []uint64 // the first few in the cgroup
}

type deviceIO struct {
	device
	ioCounts
}

const (
	maxDevices = 64 // per cgroup
	maxPids    = 16 // looked at for the start time and the network
)

func (r *reading) device(d device) *ioCounts {
	for i := range r.io {
		if r.io[i].device == d {
			return &r.io[i].ioCounts
		}
	}
	if len(r.io) >= maxDevices {
		return &ioCounts{}
	}
	r.io = append(r.io, deviceIO{device: d})
	return &r.io[len(r.io)-1].ioCounts
}

// value makes the parser of a file with one number, in units of which one
// second or byte has per.
func value(m metric, per float64) func(*reading, []byte) {
	return func(r *reading, b []byte) {
		if v, max, ok := single(b); ok && !max {
			r.set(m, float64(v)/per)
		}
	}
}

// limit is value where "max", or from unlimited on, means none, which cAdvisor
// shows as 0.
func limit(m metric) func(*reading, []byte) {
	return func(r *reading, b []byte) {
		v, max, ok := single(b)
		if !ok {
			return
		}
		if max || v >= unlimited {
			v = 0
		}
		r.set(m, float64(v))
	}
}

func pressure(some, full metric) func(*reading, []byte) {
	return func(r *reading, b []byte) {
		parsePressure(b, func(isFull bool, micros uint64) {
			if isFull {
				r.set(full, float64(micros)/1e6)
			} else {
				r.set(some, float64(micros)/1e6)
			}
		})
	}
}

func procs(r *reading, b []byte) {
	r.pids = r.pids[:0]
	n := parseProcs(b, func(pid uint64) {
		if pid != 0 && len(r.pids) < maxPids {
			r.pids = append(r.pids, pid)
		}
	})
	r.set(processes, float64(n))
}

// resolved is a source on this node.
type resolved struct {
	source
	dir string // of its hierarchy
}

// sourcesOf picks the files that this node's hierarchies have, the fast ones
// first.
func sourcesOf(l containers.Layout) []resolved {
	var out []resolved
	for _, when := range []tier{tierFast, tierSpec, tierDetail} { // limits before what depends on them
		for _, s := range append(append([]source(nil), v1Sources...), v2Sources...) {
			if s.when != when {
				continue
			}
			dir, unified := l.Dir(s.controller)
			if s.controller == "" {
				dir, unified = l.Unified, true
			}
			if s.name == "cgroup.procs" { // of the hierarchy that every container is in
				dir, unified = procsDir(l)
			}
			if dir != "" && unified == s.unified {
				out = append(out, resolved{s, dir})
			}
		}
	}
	return out
}

func procsDir(l containers.Layout) (dir string, unified bool) {
	for _, c := range []string{"memory", "cpu", "cpuacct", "pids"} {
		if dir := l.V1[c]; dir != "" {
			return dir, false
		}
	}
	return l.Unified, true
}

func (r *resolved) path(cgroup string) string { return filepath.Join(r.dir, cgroup, r.name) }
