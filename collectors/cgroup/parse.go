package cgroup

import "bytes"

// The parsers below read what the kernel wrote, without allocating. They skip
// what they do not know; a value that does not fit into 64 bits is left out.

// number reads an unsigned decimal number that makes up all of b.
func number(b []byte) (v uint64, ok bool) {
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	for _, c := range b {
		d := uint64(c - '0')
		if d > 9 || v > (1<<64-1)/10 || v*10 > 1<<64-1-d {
			return 0, false
		}
		v = v*10 + d
	}
	return v, true
}

// line cuts the first line off b, without its end.
func line(b []byte) (first, rest []byte) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// field cuts the first word off b.
func field(b []byte) (word, rest []byte) {
	i := 0
	for i < len(b) && (b[i] == ' ' || b[i] == '\t') {
		i++
	}
	b = b[i:]
	for i = 0; i < len(b); i++ {
		if b[i] == ' ' || b[i] == '\t' {
			return b[:i], b[i+1:]
		}
	}
	return b, nil
}

// single reads a file with one number; max tells that it says "max".
func single(b []byte) (v uint64, max, ok bool) {
	b = bytes.TrimSpace(b)
	if string(b) == "max" {
		return 0, true, true
	}
	v, ok = number(b)
	return v, false, ok
}

// pairs calls f for each line "key number".
func pairs(b []byte, f func(key []byte, v uint64)) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		key, rest := field(l)
		word, _ := field(rest)
		if v, ok := number(word); ok {
			f(key, v)
		}
	}
}

// ioCounts are one device's.
type ioCounts struct {
	readBytes, writeBytes uint64
	reads, writes         uint64
}

type device struct{ major, minor uint32 }

func parseDevice(b []byte) (d device, ok bool) {
	i := bytes.IndexByte(b, ':')
	if i < 0 {
		return d, false
	}
	major, ok1 := number(b[:i])
	minor, ok2 := number(b[i+1:])
	if !ok1 || !ok2 || major >= 1<<12 || minor >= 1<<20 { // MAJOR and MINOR of a dev_t
		return d, false
	}
	return device{uint32(major), uint32(minor)}, true
}

// parseIOStat reads io.stat of cgroup2: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …".
// Lines without a count are devices that saw no I/O.
func parseIOStat(b []byte, f func(device, ioCounts)) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		name, rest := field(l)
		d, ok := parseDevice(name)
		if !ok {
			continue
		}
		var c ioCounts
		found := false
		for len(rest) > 0 {
			var kv []byte
			kv, rest = field(rest)
			i := bytes.IndexByte(kv, '=')
			if i < 0 {
				continue
			}
			v, ok := number(kv[i+1:])
			if !ok {
				continue
			}
			switch string(kv[:i]) {
			case "rbytes":
				c.readBytes, found = v, true
			case "wbytes":
				c.writeBytes, found = v, true
			case "rios":
				c.reads, found = v, true
			case "wios":
				c.writes, found = v, true
			}
		}
		if found {
			f(d, c)
		}
	}
}

// parseBlkio reads a v1 blkio file: "8:0 Read 123". f is called for Read and
// Write lines.
func parseBlkio(b []byte, f func(d device, write bool, v uint64)) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		name, rest := field(l)
		d, ok := parseDevice(name)
		if !ok {
			continue
		}
		op, rest := field(rest)
		word, _ := field(rest)
		v, ok := number(word)
		if !ok {
			continue
		}
		switch string(op) {
		case "Read":
			f(d, false, v)
		case "Write":
			f(d, true, v)
		}
	}
}

// parsePressure reads "some avg10=… total=1\nfull … total=2", in microseconds.
func parsePressure(b []byte, f func(full bool, micros uint64)) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		kind, rest := field(l)
		if string(kind) != "some" && string(kind) != "full" {
			continue
		}
		i := bytes.Index(rest, []byte("total="))
		if i < 0 {
			continue
		}
		word, _ := field(rest[i+len("total="):])
		if v, ok := number(word); ok {
			f(string(kind) == "full", v)
		}
	}
}

// parseProcs counts the lines of cgroup.procs and calls f with each pid. Pids of
// another pid namespace are shown as 0.
func parseProcs(b []byte, f func(pid uint64)) (n int) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		if pid, ok := number(l); ok {
			n++
			f(pid)
		}
	}
	return n
}

// netCounts are one interface's, as /proc/net/dev has them.
type netCounts struct {
	rxBytes, rxPackets, rxErrors, rxDropped uint64
	txBytes, txPackets, txErrors, txDropped uint64
}

// parseNetDev reads /proc/net/dev. The name is f's for the call alone.
func parseNetDev(b []byte, f func(name []byte, c netCounts)) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		i := bytes.LastIndexByte(l, ':') // a name may have one (eth0:1)
		if i < 0 {
			continue
		}
		name, rest := bytes.TrimSpace(l[:i]), l[i+1:]
		var v [16]uint64
		ok := len(name) > 0
		for j := range v {
			var word []byte
			word, rest = field(rest)
			var good bool
			v[j], good = number(word)
			ok = ok && good
		}
		if ok {
			f(name, netCounts{v[0], v[1], v[2], v[3], v[8], v[9], v[10], v[11]})
		}
	}
}

// parseStartTime returns field 22 of /proc/<pid>/stat: clock ticks from boot to
// the start of the process. The command may hold anything, ")" too.
func parseStartTime(b []byte) (ticks uint64, ok bool) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, false
	}
	rest := b[i+1:]
	var word []byte
	for range 20 { // fields 3 to 22
		word, rest = field(rest)
	}
	return number(word)
}
