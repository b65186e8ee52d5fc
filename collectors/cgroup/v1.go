package cgroup

// ticks is USER_HZ, which is 100 on every architecture that we build for.
const ticks = 100

// v1Sources are the files of cgroup v1
// (Documentation/admin-guide/cgroup-v1 in the kernel's tree).
var v1Sources = []source{
	{controller: "cpuacct", name: "cpuacct.usage", when: tierFast, owns: []metric{cpuUsage}, parse: value(cpuUsage, 1e9)},
	{controller: "cpu", name: "cpu.stat", when: tierFast, quota: true,
		owns: []metric{cfsPeriods, cfsThrottledPeriods, cfsThrottledSeconds, cfsBurstPeriods, cfsBurstSeconds},
		parse: func(r *reading, b []byte) {
			pairs(b, func(key []byte, v uint64) {
				switch string(key) {
				case "nr_periods":
					r.set(cfsPeriods, float64(v))
				case "nr_throttled":
					r.set(cfsThrottledPeriods, float64(v))
				case "throttled_time":
					r.set(cfsThrottledSeconds, float64(v)/1e9)
				case "nr_bursts":
					r.set(cfsBurstPeriods, float64(v))
				case "burst_time":
					r.set(cfsBurstSeconds, float64(v)/1e9)
				}
			})
		}},
	{controller: "memory", name: "memory.usage_in_bytes", when: tierFast, owns: []metric{memUsage}, parse: value(memUsage, 1)},
	{controller: "cpuacct", name: "cpuacct.stat", idle: true, owns: []metric{cpuUser, cpuSystem},
		parse: func(r *reading, b []byte) {
			pairs(b, func(key []byte, v uint64) {
				switch string(key) {
				case "user":
					r.set(cpuUser, float64(v)/ticks)
				case "system":
					r.set(cpuSystem, float64(v)/ticks)
				}
			})
		}},
	{controller: "memory", name: "memory.stat", idle: true,
		owns:  []metric{memCache, memRSS, memMapped, memSwap, memActiveFile, memInactiveFile, pgfault, pgmajfault, pgfaultAll, pgmajfaultAll},
		parse: memoryStatV1},
	{controller: "memory", name: "memory.max_usage_in_bytes", idle: true, owns: []metric{memMax}, parse: value(memMax, 1)},
	{controller: "memory", name: "memory.failcnt", idle: true, owns: []metric{memFailcnt}, parse: value(memFailcnt, 1)},
	{controller: "memory", name: "memory.kmem.usage_in_bytes", idle: true, owns: []metric{memKernel}, parse: value(memKernel, 1)},
	{controller: "memory", name: "memory.oom_control", idle: true, owns: []metric{oomKills},
		parse: func(r *reading, b []byte) {
			pairs(b, func(key []byte, v uint64) {
				if string(key) == "oom_kill" { // kernel 4.13
					r.set(oomKills, float64(v))
				}
			})
		}},
	{controller: "memory", name: "memory.limit_in_bytes", when: tierSpec, owns: []metric{specLimit}, parse: limit(specLimit)},
	{controller: "memory", name: "memory.memsw.limit_in_bytes", when: tierSpec, owns: []metric{specSwapLimit}, parse: limit(specSwapLimit)},
	{controller: "memory", name: "memory.soft_limit_in_bytes", when: tierSpec, owns: []metric{specReservation}, parse: limit(specReservation)},
	{controller: "cpu", name: "cpu.cfs_quota_us", when: tierSpec, owns: []metric{specQuota}, parse: value(specQuota, 1)}, // -1, no number, is none
	{controller: "cpu", name: "cpu.cfs_period_us", when: tierSpec, owns: []metric{specPeriod}, parse: value(specPeriod, 1)},
	{controller: "cpu", name: "cpu.shares", when: tierSpec, owns: []metric{specShares}, parse: value(specShares, 1)},
	// The throttling layer sees all I/O whatever scheduler the device has.
	{controller: "blkio", name: "blkio.throttle.io_service_bytes_recursive",
		parse: func(r *reading, b []byte) {
			parseBlkio(b, func(d device, write bool, v uint64) {
				if c := r.device(d); write {
					c.writeBytes = v
				} else {
					c.readBytes = v
				}
			})
		}},
	{controller: "blkio", name: "blkio.throttle.io_serviced_recursive",
		parse: func(r *reading, b []byte) {
			parseBlkio(b, func(d device, write bool, v uint64) {
				if c := r.device(d); write {
					c.writes = v
				} else {
					c.reads = v
				}
			})
		}},
	{controller: "pids", name: "pids.current", idle: true, owns: []metric{threads}, parse: value(threads, 1)},
	{controller: "pids", name: "pids.max", when: tierSpec, owns: []metric{threadsMax}, parse: limit(threadsMax)},
	{controller: "memory", name: "cgroup.procs", idle: true, many: true, owns: []metric{processes}, parse: procs},
}

// memoryStatV1 takes the totals, which hold the cgroups below too: a pod's row
// has no pages of its own.
func memoryStatV1(r *reading, b []byte) {
	pairs(b, func(key []byte, v uint64) {
		f := float64(v)
		switch string(key) {
		case "total_cache":
			r.set(memCache, f)
		case "total_rss":
			r.set(memRSS, f)
		case "total_mapped_file":
			r.set(memMapped, f)
		case "total_swap":
			r.set(memSwap, f)
		case "total_active_file":
			r.set(memActiveFile, f)
		case "total_inactive_file":
			r.set(memInactiveFile, f)
		case "pgfault":
			r.set(pgfault, f)
		case "pgmajfault":
			r.set(pgmajfault, f)
		case "total_pgfault":
			r.set(pgfaultAll, f)
		case "total_pgmajfault":
			r.set(pgmajfaultAll, f)
		}
	})
}
