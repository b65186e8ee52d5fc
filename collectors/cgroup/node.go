package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"nodetap/agent/component"
	"nodetap/agent/metrics"
)

// sampleNode adds to the row "/" what a root cgroup does not say. cgroup2's has
// no memory.current: what v1 shows there is the sum of anonymous and file pages,
// without the kernel's own (kubernetes#118916).
func (c *Collector) sampleNode(u *unit, detail bool) {
	r := &u.read
	if detail {
		c.sampleHostNetwork()
		if b, err := c.readFile(filepath.Join(c.env.Host.Proc, "meminfo")); err == nil {
			c.fillMeminfo(r, b)
		}
		for name, ms := range map[string][2]metric{
			"cpu": {psiCPUSome, psiCPUFull}, "memory": {psiMemorySome, psiMemoryFull}, "io": {psiIOSome, psiIOFull},
		} {
			if _, ok := r.get(ms[0]); ok {
				continue
			}
			if b, err := c.readFile(filepath.Join(c.env.Host.Proc, "pressure", name)); err == nil {
				pressure(ms[0], ms[1])(r, b)
			}
		}
	}
	if _, ok := r.get(memUsage); !ok {
		rss, ok1 := r.get(memRSS)
		cache, ok2 := r.get(memCache)
		if ok1 && ok2 {
			r.set(memUsage, rss+cache)
		}
	}
}

func (c *Collector) fillMeminfo(r *reading, b []byte) {
	var swapTotal, swapFree, anon, cached, buffers float64
	pairs(b, func(key []byte, v uint64) {
		f := float64(v) * 1024
		switch string(key) {
		case "MemTotal:":
			c.machine.memory = f
		case "SwapTotal:":
			c.machine.swap, swapTotal = f, f
		case "SwapFree:":
			swapFree = f
		case "AnonPages:":
			anon = f
		case "Cached:":
			cached = f
		case "Buffers:":
			buffers = f
		}
	})
	if _, ok := r.get(memSwap); !ok {
		r.set(memSwap, swapTotal-swapFree)
	}
	if _, ok := r.get(memRSS); !ok {
		r.set(memRSS, anon)
		r.set(memCache, cached+buffers)
	}
	r.set(specLimit, c.machine.memory)
}

// machine is what machine_* tells.
type machine struct {
	labels       *metrics.Labels
	cores        int
	memory, swap float64
}

type machineRow struct {
	desc  *metrics.Desc
	value float64
}

func readMachine(h component.Host, idPaths ...string) machine {
	text := func(paths ...string) string {
		for _, p := range paths {
			if b, err := os.ReadFile(p); err == nil {
				return strings.TrimSpace(string(b))
			}
		}
		return ""
	}
	m := machine{labels: metrics.NewLabels([]metrics.Label{
		{Name: "boot_id", Value: text(filepath.Join(h.Proc, "sys/kernel/random/boot_id"))},
		{Name: "machine_id", Value: text(idPaths...)},
		{Name: "system_uuid", Value: text(filepath.Join(h.Sys, "class/dmi/id/product_uuid"), filepath.Join(h.Proc, "device-tree/vm,uuid"))},
	}, "boot_id", "machine_id", "system_uuid")}
	m.cores = countCPUs(text(filepath.Join(h.Sys, "devices/system/cpu/online")))
	return m
}

// countCPUs counts a kernel's list of CPUs: "0-3,8". 0 when it is none.
func countCPUs(list string) int {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return 0
		}
		b := a
		if isRange {
			if b, err = strconv.ParseUint(to, 10, 16); err != nil || b < a {
				return 0
			}
		}
		n += int(b-a) + 1
	}
	return n
}

func (m machine) rows() []machineRow {
	var out []machineRow
	if m.cores > 0 {
		out = append(out, machineRow{descCores, float64(m.cores)})
	}
	if m.memory > 0 {
		out = append(out, machineRow{descMachineMemory, m.memory}, machineRow{descMachineSwap, m.swap})
	}
	return out
}

// devices names block devices.
type devices struct {
	sys   string
	names map[device]string
}

type deviceRow struct {
	labels *metrics.Labels
	ioCounts
}

const maxDeviceNames = 4096

// name returns the device's path as cAdvisor writes it: /dev/sda. udev's
// /dev/block/8:0 where the kernel does not name it (any more).
func (d *devices) name(dev device) string {
	if name, ok := d.names[dev]; ok {
		return name
	}
	number := strconv.Itoa(int(dev.major)) + ":" + strconv.Itoa(int(dev.minor))
	name := "/dev/block/" + number
	if b, err := os.ReadFile(filepath.Join(d.sys, "dev/block", number, "uevent")); err == nil {
		for l := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(l), "DEVNAME="); ok && v != "" {
				name = "/dev/" + v
			}
		}
	}
	if len(d.names) < maxDeviceNames {
		d.names[dev] = name
	}
	return name
}
