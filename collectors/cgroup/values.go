package cgroup

import "math"

// metric numbers the values that a row may have, each at most once.
type metric uint8

const (
	cpuUsage metric = iota
	cpuUser
	cpuSystem
	cfsPeriods
	cfsThrottledPeriods
	cfsThrottledSeconds
	cfsBurstPeriods
	cfsBurstSeconds
	memUsage
	memWorkingSet
	memRSS
	memCache
	memMapped
	memSwap
	memKernel
	memActiveFile
	memInactiveFile
	memMax
	memFailcnt
	pgfault
	pgmajfault
	pgfaultAll
	pgmajfaultAll
	oomKills
	processes
	threads
	threadsMax
	psiCPUSome
	psiCPUFull
	psiMemorySome
	psiMemoryFull
	psiIOSome
	psiIOFull
	specPeriod
	specQuota
	specShares
	specLimit
	specSwapLimit
	specReservation
	startTime
	lastSeen
	numMetrics
)

// values are what is known of one row. What was not read is absent.
type values struct {
	v   [numMetrics]float64
	has uint64 // bit per metric
}

func (s *values) set(m metric, v float64) {
	s.v[m] = v
	s.has |= 1 << m
}

func (s *values) clear(ms ...metric) {
	for _, m := range ms {
		s.has &^= 1 << m
	}
}

func (s *values) get(m metric) (float64, bool) { return s.v[m], s.has&(1<<m) != 0 }

// derive computes what follows from the rest: the working set is what is in use
// without the file pages that the kernel would give back first, as kubelet has
// it (k8s.io/kubernetes pkg/kubelet/stats, cAdvisor's libcontainer handler).
func (s *values) derive() {
	usage, ok1 := s.get(memUsage)
	inactive, ok2 := s.get(memInactiveFile)
	if ok1 && ok2 {
		s.set(memWorkingSet, max(0, usage-inactive))
	} else {
		s.clear(memWorkingSet)
	}
	// Without a quota there are no periods: the counters stand still at 0.
	if _, ok := s.get(specQuota); !ok {
		s.clear(cfsPeriods, cfsThrottledPeriods, cfsThrottledSeconds, cfsBurstPeriods, cfsBurstSeconds)
	}
}

// unlimited is from where on a v1 limit means none: the kernel writes the
// largest number of pages, which depends on the page size.
const unlimited = 1 << 62

// sharesOf turns cpu.weight back into cpu.shares, by the linear formula with
// which runc made it until 1.3.2 and cAdvisor reads it still. Later runtimes
// use a curve; kubelet's figure is then wrong in the same way as ours.
func sharesOf(weight float64) float64 {
	return math.Trunc(2 + (weight-1)*262142/9999)
}
