package cgroup

// v2Sources are the files of cgroup2
// (Documentation/admin-guide/cgroup-v2.rst in the kernel's tree). Its memory.stat
// and memory.events count the cgroups below too.
var v2Sources = []source{
	{controller: "cpu", unified: true, name: "cpu.stat", when: tierFast,
		owns:  []metric{cpuUsage, cpuUser, cpuSystem, cfsPeriods, cfsThrottledPeriods, cfsThrottledSeconds, cfsBurstPeriods, cfsBurstSeconds},
		parse: cpuStatV2},
	{controller: "memory", unified: true, name: "memory.current", when: tierFast, owns: []metric{memUsage}, parse: value(memUsage, 1)},
	{controller: "memory", unified: true, name: "memory.stat", idle: true,
		owns:  []metric{memCache, memRSS, memMapped, memKernel, memActiveFile, memInactiveFile, pgfault, pgmajfault, pgfaultAll, pgmajfaultAll},
		parse: memoryStatV2},
	{controller: "memory", unified: true, name: "memory.swap.current", idle: true, owns: []metric{memSwap}, parse: value(memSwap, 1)},
	{controller: "memory", unified: true, name: "memory.peak", idle: true, owns: []metric{memMax}, parse: value(memMax, 1)}, // kernel 5.19
	{controller: "memory", unified: true, name: "memory.events", idle: true, owns: []metric{memFailcnt, oomKills},
		parse: func(r *reading, b []byte) {
			pairs(b, func(key []byte, v uint64) {
				switch string(key) {
				case "max": // what failcnt counted
					r.set(memFailcnt, float64(v))
				case "oom_kill":
					r.set(oomKills, float64(v))
				}
			})
		}},
	{controller: "memory", unified: true, name: "memory.max", when: tierSpec, owns: []metric{specLimit}, parse: limit(specLimit)},
	{controller: "memory", unified: true, name: "memory.swap.max", when: tierSpec, owns: []metric{specSwapLimit}, parse: limit(specSwapLimit)},
	{controller: "memory", unified: true, name: "memory.min", when: tierSpec, owns: []metric{specReservation}, parse: limit(specReservation)},
	{controller: "cpu", unified: true, name: "cpu.max", when: tierSpec, owns: []metric{specQuota, specPeriod},
		parse: func(r *reading, b []byte) {
			l, _ := line(b)
			quota, rest := field(l)
			period, _ := field(rest)
			if v, ok := number(quota); ok { // "max" is no quota
				r.set(specQuota, float64(v))
			}
			if v, ok := number(period); ok {
				r.set(specPeriod, float64(v))
			}
		}},
	{controller: "cpu", unified: true, name: "cpu.weight", when: tierSpec, owns: []metric{specShares},
		parse: func(r *reading, b []byte) {
			if v, _, ok := single(b); ok && v >= 1 {
				r.set(specShares, sharesOf(float64(v)))
			}
		}},
	{controller: "io", unified: true, name: "io.stat",
		parse: func(r *reading, b []byte) {
			parseIOStat(b, func(d device, c ioCounts) { *r.device(d) = c })
		}},
	{controller: "pids", unified: true, name: "pids.current", idle: true, owns: []metric{threads}, parse: value(threads, 1)},
	{controller: "pids", unified: true, name: "pids.max", when: tierSpec, owns: []metric{threadsMax}, parse: limit(threadsMax)},
	{controller: "memory", unified: true, name: "cgroup.procs", idle: true, many: true, owns: []metric{processes}, parse: procs},
	// Pressure is cgroup2's own: hybrid hosts have it beside the v1 controllers.
	{unified: true, name: "cpu.pressure", owns: []metric{psiCPUSome, psiCPUFull}, parse: pressure(psiCPUSome, psiCPUFull)},
	{unified: true, name: "memory.pressure", owns: []metric{psiMemorySome, psiMemoryFull}, parse: pressure(psiMemorySome, psiMemoryFull)},
	{unified: true, name: "io.pressure", owns: []metric{psiIOSome, psiIOFull}, parse: pressure(psiIOSome, psiIOFull)},
}

func cpuStatV2(r *reading, b []byte) {
	pairs(b, func(key []byte, v uint64) {
		f := float64(v)
		switch string(key) {
		case "usage_usec":
			r.set(cpuUsage, f/1e6)
		case "user_usec":
			r.set(cpuUser, f/1e6)
		case "system_usec":
			r.set(cpuSystem, f/1e6)
		case "nr_periods":
			r.set(cfsPeriods, f)
		case "nr_throttled":
			r.set(cfsThrottledPeriods, f)
		case "throttled_usec":
			r.set(cfsThrottledSeconds, f/1e6)
		case "nr_bursts":
			r.set(cfsBurstPeriods, f)
		case "burst_usec":
			r.set(cfsBurstSeconds, f/1e6)
		}
	})
}

func memoryStatV2(r *reading, b []byte) {
	pairs(b, func(key []byte, v uint64) {
		f := float64(v)
		switch string(key) {
		case "file":
			r.set(memCache, f)
		case "anon":
			r.set(memRSS, f)
		case "file_mapped":
			r.set(memMapped, f)
		case "kernel": // kernel 5.18
			r.set(memKernel, f)
		case "active_file":
			r.set(memActiveFile, f)
		case "inactive_file":
			r.set(memInactiveFile, f)
		case "pgfault": // there is no count without the cgroups below
			r.set(pgfault, f)
			r.set(pgfaultAll, f)
		case "pgmajfault":
			r.set(pgmajfault, f)
			r.set(pgmajfaultAll, f)
		}
	})
}
