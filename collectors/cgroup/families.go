package cgroup

import (
	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

// family is where a metric of a row is written.
type family struct {
	desc *metrics.Desc
	set  set
}

func counter(name, unit, help string) *metrics.Desc {
	return &metrics.Desc{Name: name, Help: help, Type: metrics.Counter, Unit: unit, OTelUnit: ucum[unit]}
}

func gauge(name, unit, help string) *metrics.Desc {
	return &metrics.Desc{Name: name, Help: help, Type: metrics.Gauge, Unit: unit, OTelUnit: ucum[unit]}
}

var ucum = map[string]string{"seconds": "s", "bytes": "By", "": "1"}

// otel gives a description its names by the semantic conventions
// (https://opentelemetry.io/docs/specs/semconv/system/container-metrics/ and
// k8s-metrics): of a container, of a pod, of the node.
func otel(d *metrics.Desc, container, pod, node string, attrs ...telemetry.Attr) *metrics.Desc {
	d.OTelName, d.OTelPodName, d.OTelNodeName, d.OTelAttrs = container, pod, node, attrs
	return d
}

func otelUnit(d *metrics.Desc, u string) *metrics.Desc { d.OTelUnit = u; return d }

func upDown(d *metrics.Desc) *metrics.Desc { d.OTelUpDown = true; return d }

func memory(d *metrics.Desc, what string) *metrics.Desc {
	return upDown(otel(d, "container.memory."+what, "k8s.pod.memory."+what, "k8s.node.memory."+what))
}

// The names and help are those of cAdvisor; what a value means is in
// METRICS.md's terms the file that it is read from.
var (
	descFailures = counter("container_memory_failures_total", "", "Memory allocation failures: page faults, by kind and by whether the cgroups below count.")

	families = [numMetrics]family{
		cpuUsage: {counter("container_cpu_usage_seconds_total", "seconds", "CPU time consumed."), setTotal},
		cpuUser: {otel(counter("container_cpu_user_seconds_total", "seconds", "CPU time consumed in user space."),
			"container.cpu.time", "k8s.pod.cpu.time", "k8s.node.cpu.time", telemetry.String("cpu.mode", "user")), setBase},
		cpuSystem: {otel(counter("container_cpu_system_seconds_total", "seconds", "CPU time consumed in the kernel."),
			"container.cpu.time", "k8s.pod.cpu.time", "k8s.node.cpu.time", telemetry.String("cpu.mode", "system")), setBase},
		cfsPeriods:          {counter("container_cpu_cfs_periods_total", "", "Enforcement periods of the CPU quota that have passed; absent without a quota."), setBase},
		cfsThrottledPeriods: {counter("container_cpu_cfs_throttled_periods_total", "", "Periods in which the CPU quota was used up."), setBase},
		cfsThrottledSeconds: {counter("container_cpu_cfs_throttled_seconds_total", "seconds", "Time for which it was throttled, summed over CPUs."), setBase},
		cfsBurstPeriods:     {counter("container_cpu_cfs_burst_periods_total", "", "Periods in which saved-up quota was used."), setBase},
		cfsBurstSeconds:     {counter("container_cpu_cfs_burst_seconds_total", "seconds", "CPU time beyond the quota out of what was saved up."), setBase},

		memUsage: {memory(gauge("container_memory_usage_bytes", "bytes", "Memory in use, pages of files and the kernel's included."), "usage"), setBase},
		memWorkingSet: {memory(gauge("container_memory_working_set_bytes", "bytes", "Memory in use without inactive pages of files: what kubelet evicts by."),
			"working_set"), setBase},
		memRSS:          {memory(gauge("container_memory_rss", "bytes", "Anonymous memory."), "rss"), setBase},
		memCache:        {gauge("container_memory_cache", "bytes", "Pages of files."), setBase},
		memMapped:       {gauge("container_memory_mapped_file", "bytes", "Pages of files that are mapped."), setBase},
		memSwap:         {gauge("container_memory_swap", "bytes", "Swap in use."), setBase},
		memKernel:       {gauge("container_memory_kernel_usage", "bytes", "Memory of the kernel on its behalf."), setBase},
		memActiveFile:   {gauge("container_memory_total_active_file_bytes", "bytes", "Pages of files used lately."), setBase},
		memInactiveFile: {gauge("container_memory_total_inactive_file_bytes", "bytes", "Pages of files not used lately."), setBase},
		memMax:          {gauge("container_memory_max_usage_bytes", "bytes", "The most memory that was in use; absent where the kernel does not keep it (cgroup2 before 5.19)."), setBase},
		memFailcnt:      {counter("container_memory_failcnt", "", "How often memory in use hit the limit."), setBase},
		pgfault:         {descFailures, setFault},
		pgmajfault:      {descFailures, setMajorFault},
		pgfaultAll:      {descFailures, setFaultAll},
		pgmajfaultAll:   {descFailures, setMajorFaultAll},
		oomKills:        {counter("container_oom_events_total", "", "Processes killed for want of memory."), setBase},

		processes:  {gauge("container_processes", "", "Processes in the cgroup itself."), setBase},
		threads:    {gauge("container_threads", "", "Threads, those in cgroups below included."), setBase},
		threadsMax: {gauge("container_threads_max", "", "Limit of threads; 0 for none."), setBase},

		psiCPUSome:    {counter("container_pressure_cpu_waiting_seconds_total", "seconds", "Time in which some task waited for a CPU."), setBase},
		psiCPUFull:    {counter("container_pressure_cpu_stalled_seconds_total", "seconds", "Time in which all tasks waited for a CPU."), setBase},
		psiMemorySome: {counter("container_pressure_memory_waiting_seconds_total", "seconds", "Time in which some task waited for memory."), setBase},
		psiMemoryFull: {counter("container_pressure_memory_stalled_seconds_total", "seconds", "Time in which all tasks waited for memory."), setBase},
		psiIOSome:     {counter("container_pressure_io_waiting_seconds_total", "seconds", "Time in which some task waited for I/O."), setBase},
		psiIOFull:     {counter("container_pressure_io_stalled_seconds_total", "seconds", "Time in which all tasks waited for I/O."), setBase},

		specPeriod:      {gauge("container_spec_cpu_period", "", "Period of the CPU quota in microseconds."), setBase},
		specQuota:       {gauge("container_spec_cpu_quota", "", "CPU quota in microseconds per period; absent without one."), setBase},
		specShares:      {gauge("container_spec_cpu_shares", "", "CPU shares; computed from cpu.weight on cgroup2."), setBase},
		specLimit:       {gauge("container_spec_memory_limit_bytes", "bytes", "Memory limit; 0 for none."), setBase},
		specSwapLimit:   {gauge("container_spec_memory_swap_limit_bytes", "bytes", "Swap limit (v1: of memory and swap); 0 for none."), setBase},
		specReservation: {gauge("container_spec_memory_reservation_limit_bytes", "bytes", "Memory reservation; 0 for none."), setBase},
		startTime:       {gauge("container_start_time_seconds", "seconds", "When its first process started, unix time."), setBase},
		lastSeen:        {gauge("container_last_seen", "seconds", "When it was last sampled, unix time."), setBase},
	}

	descCores         = gauge("machine_cpu_cores", "", "Logical CPUs online.")
	descMachineMemory = gauge("machine_memory_bytes", "bytes", "Memory installed.")
	descMachineSwap   = gauge("machine_swap_bytes", "bytes", "Swap available.")
)

func diskIO(d *metrics.Desc, direction string) *metrics.Desc {
	return otel(d, "container.disk.io", "", "", telemetry.String("disk.io.direction", direction))
}

func netIO(d *metrics.Desc, what, direction string) *metrics.Desc {
	return otel(d, "container.network."+what, "k8s.pod.network."+what, "k8s.node.network."+what,
		telemetry.String("network.io.direction", direction))
}

// ioFamilies have a series per device.
var ioFamilies = []struct {
	desc *metrics.Desc
	get  func(*ioCounts) uint64
}{
	{diskIO(counter("container_fs_reads_bytes_total", "bytes", "Bytes read from the device."), "read"), func(c *ioCounts) uint64 { return c.readBytes }},
	{diskIO(counter("container_fs_writes_bytes_total", "bytes", "Bytes written to the device."), "write"), func(c *ioCounts) uint64 { return c.writeBytes }},
	{counter("container_fs_reads_total", "", "Reads completed."), func(c *ioCounts) uint64 { return c.reads }},
	{counter("container_fs_writes_total", "", "Writes completed."), func(c *ioCounts) uint64 { return c.writes }},
}

// netFamilies have a series per interface.
var netFamilies = []struct {
	desc *metrics.Desc
	get  func(*netCounts) uint64
}{
	{netIO(counter("container_network_receive_bytes_total", "bytes", "Bytes received."), "io", "receive"), func(c *netCounts) uint64 { return c.rxBytes }},
	{netIO(counter("container_network_transmit_bytes_total", "bytes", "Bytes transmitted."), "io", "transmit"), func(c *netCounts) uint64 { return c.txBytes }},
	{counter("container_network_receive_packets_total", "", "Packets received."), func(c *netCounts) uint64 { return c.rxPackets }},
	{counter("container_network_transmit_packets_total", "", "Packets transmitted."), func(c *netCounts) uint64 { return c.txPackets }},
	{otelUnit(netIO(counter("container_network_receive_errors_total", "", "Errors while receiving."), "errors", "receive"), "{error}"), func(c *netCounts) uint64 { return c.rxErrors }},
	{otelUnit(netIO(counter("container_network_transmit_errors_total", "", "Errors while transmitting."), "errors", "transmit"), "{error}"), func(c *netCounts) uint64 { return c.txErrors }},
	{counter("container_network_receive_packets_dropped_total", "", "Packets dropped while receiving."), func(c *netCounts) uint64 { return c.rxDropped }},
	{counter("container_network_transmit_packets_dropped_total", "", "Packets dropped while transmitting."), func(c *netCounts) uint64 { return c.txDropped }},
}

// Families returns the description of every family that the collector may
// write, for the table in the documentation.
func Families() []*metrics.Desc {
	var out []*metrics.Desc
	seen := map[*metrics.Desc]bool{}
	for _, f := range families {
		if !seen[f.desc] {
			seen[f.desc] = true
			out = append(out, f.desc)
		}
	}
	for _, f := range ioFamilies {
		out = append(out, f.desc)
	}
	for _, f := range netFamilies {
		out = append(out, f.desc)
	}
	return append(out, descCores, descMachineMemory, descMachineSwap)
}
