//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"nodetap/collectors/cgroup"
)

// sample is one series' value. at is 0 where the exposition has no time.
type sample struct {
	value   float64
	at      int64 // ms
	counter bool
}

// scrape is what an exposition says, by series: name{label="value",...}.
type scrape map[string]sample

func parse(text string) (scrape, error) {
	p := expfmt.NewTextParser(model.UTF8Validation)
	fams, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	out := scrape{}
	for name, f := range fams {
		for _, m := range f.Metric {
			s := sample{at: m.GetTimestampMs()}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				s.value, s.counter = m.GetCounter().GetValue(), true
			case dto.MetricType_GAUGE:
				s.value = m.GetGauge().GetValue()
			case dto.MetricType_UNTYPED:
				s.value = m.GetUntyped().GetValue()
			default:
				continue
			}
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			slices.Sort(labels)
			out[name+"{"+strings.Join(labels, ",")+"}"] = s
		}
	}
	return out, nil
}

func kubeletScrape(t *testing.T) scrape {
	t.Helper()
	text, err := kubectl("get", "--raw", "/api/v1/nodes/"+node+"/proxy/metrics/cadvisor")
	if err != nil {
		t.Fatal(err)
	}
	s, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func agentScrape(t *testing.T, path string) scrape {
	t.Helper()
	text, err := get("http://" + agent(t).IP + ":9400" + path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func family(series string) string { return series[:strings.IndexByte(series, '{')] }

// steady keeps the series of pods that stay as they are while tests run.
func steady(s scrape) scrape {
	out := scrape{}
	for k, v := range s {
		for _, l := range append([]string{"burner", "front"}, languages...) {
			if strings.Contains(k, `namespace="shop"`) && strings.Contains(k, `pod="`+l) {
				out[k] = v
			}
		}
	}
	return out
}

// row is a family on one kind of row.
type row struct{ family, kind string }

// rowOf tells a container's row from a sandbox's and a pod's: the pod's own has
// neither container nor image.
func rowOf(series string) row {
	r := row{family(series), "container"}
	if strings.Contains(series, `container=""`) {
		if r.kind = "sandbox"; strings.Contains(series, `image=""`) {
			r.kind = "pod"
		}
	}
	return r
}

// What dashboards made for cAdvisor query of containers and pods: kubelet has to
// have these, or there is nothing to compare with. What else it has is compared
// too; container_fs_* it has of containers where their I/O goes to devices that
// cAdvisor knows, which is not so on every machine.
var wanted = []string{
	"container_cpu_usage_seconds_total", "container_cpu_user_seconds_total", "container_cpu_system_seconds_total",
	"container_cpu_cfs_periods_total", "container_cpu_cfs_throttled_periods_total", "container_cpu_cfs_throttled_seconds_total",
	"container_memory_usage_bytes", "container_memory_working_set_bytes", "container_memory_rss", "container_memory_cache", "container_memory_swap",
	"container_memory_mapped_file", "container_memory_max_usage_bytes", "container_memory_failcnt", "container_memory_failures_total",
	"container_network_receive_bytes_total", "container_network_transmit_bytes_total",
	"container_network_receive_packets_total", "container_network_transmit_packets_total",
	"container_network_receive_packets_dropped_total", "container_network_transmit_packets_dropped_total",
	"container_network_receive_errors_total", "container_network_transmit_errors_total",
	"container_spec_memory_limit_bytes", "container_spec_cpu_quota", "container_spec_cpu_period", "container_spec_cpu_shares",
	"container_start_time_seconds", "container_oom_events_total", "container_processes", "container_threads", "container_threads_max",
}

// left are the families of kubelet's that nodetap does not have, with the reason.
var left = map[string]string{
	"container_cpu_load_average_10s":   "kubelet reads it by netlink, off by default, and drops it in 1.37",
	"container_cpu_load_d_average_10s": "likewise",
	"container_tasks_state":            "likewise",
	"container_file_descriptors":       "counting needs a walk over /proc for every process",
	"container_sockets":                "likewise",
	"container_ulimits_soft":           "of the first process alone, and not a measurement",

	"container_fs_inodes_free":                    "of the node's file systems, on the row / alone: node_exporter's",
	"container_fs_inodes_total":                   "likewise",
	"container_fs_limit_bytes":                    "likewise",
	"container_fs_usage_bytes":                    "likewise; of a container only the runtime knows it",
	"container_fs_io_current":                     "of the node's disks, on the row / alone: node_exporter's",
	"container_fs_io_time_seconds_total":          "likewise",
	"container_fs_io_time_weighted_seconds_total": "likewise",
	"container_fs_read_seconds_total":             "likewise",
	"container_fs_write_seconds_total":            "likewise",
	"container_fs_reads_merged_total":             "likewise",
	"container_fs_writes_merged_total":            "likewise",
	"container_fs_sector_reads_total":             "likewise",
	"container_fs_sector_writes_total":            "likewise",

	"cadvisor_version_info":              "of cAdvisor itself",
	"container_scrape_error":             "of cAdvisor itself",
	"machine_cpu_physical_cores":         "no measurement of containers, and no dashboard of the mixins asks it",
	"machine_cpu_sockets":                "likewise",
	"machine_nvm_avg_power_budget_watts": "likewise",
	"machine_nvm_capacity":               "likewise",
	"machine_scrape_error":               "of cAdvisor itself",
}

// Each family of kubelet's cAdvisor is one of ours, or left out for a reason.
func TestEveryFamilyOfKubeletIsOursOrLeftOutForAReason(t *testing.T) {
	ours := map[string]bool{}
	for _, d := range cgroup.Families() {
		ours[d.Name] = true
	}
	theirs := map[string]bool{}
	for k := range kubeletScrape(t) {
		theirs[family(k)] = true
	}
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		if !ours[name] && left[name] == "" {
			t.Errorf("only kubelet has %s", name)
		}
	}
	for name := range left {
		if ours[name] {
			t.Errorf("%s is ours: it is left out no longer", name)
		}
	}
	for _, name := range wanted {
		if !theirs[name] {
			t.Errorf("kubelet has no %s", name)
		}
	}
}

// comparison is what was compared of what kubelet has.
type comparison struct {
	has      map[row]string // a series of each row that kubelet has
	compared map[row]int
	missing  map[string]bool // series that only kubelet has
}

func newComparison() comparison {
	return comparison{map[row]string{}, map[row]int{}, map[string]bool{}}
}

// check fails the test for what only kubelet has, for a kind of row of which
// nothing was compared, and for a wanted family, of those that mine picks, that
// kubelet does not have of the demo.
func (c comparison) check(t *testing.T, mine func(family string) bool) {
	t.Helper()
	for _, k := range slices.Sorted(maps.Keys(c.missing)) {
		t.Errorf("only kubelet has %s", k)
	}
	families := map[string]bool{}
	for r, k := range c.has {
		families[r.family] = true
		if c.compared[r] == 0 {
			t.Errorf("%s of no %s was compared; kubelet has %s", r.family, r.kind, k)
		}
	}
	for _, name := range wanted {
		if mine(name) && !families[name] {
			t.Errorf("kubelet has no %s of the demo", name)
		}
	}
	t.Logf("compared: %v", c.compared)
}

func counters(family string) bool {
	return strings.HasSuffix(family, "_total") || family == "container_memory_failcnt"
}
func gauges(family string) bool { return !counters(family) }

// notRead tells whether kubelet shows a 0 for what it does not read on cgroup
// v1: pressure, which has no file there, and the page faults of a pod's
// containers together (it gives the pod's own processes, of which there are none,
// as the hierarchy's).
func notRead(series string) bool {
	return strings.HasPrefix(series, "container_pressure_") || strings.HasPrefix(series, "container_memory_failures_total") && strings.Contains(series, `scope="hierarchy"`)
}

// Each counter that kubelet's cAdvisor shows of the demo stands, under the same
// name and labels, between kubelet's sample before ours and the one after.
func TestCountersLieBetweenKubeletsSamples(t *testing.T) {
	before := steady(kubeletScrape(t))
	time.Sleep(12 * time.Second) // ours are 5 s old at most, and more on a node that has no CPU to spare
	at := time.Now().UnixMilli() - 10000
	ours := steady(agentScrape(t, "/metrics/cadvisor"))
	done := time.Now().UnixMilli()
	// Kubelet samples when it likes and says when: wait until each series is newer than ours.
	after := scrape{}
	if err := eventually(90*time.Second, func() error {
		for k, v := range steady(kubeletScrape(t)) {
			if v.at > done && after[k].at == 0 {
				after[k] = v
			}
		}
		for k, b := range before {
			if b.counter && after[k].at == 0 {
				return fmt.Errorf("kubelet has no newer sample of %s", k)
			}
		}
		return nil
	}); err != nil {
		t.Log(err) // a container that kubelet has forgotten; what has two samples is compared
	}
	c := newComparison()
	for k, b := range before {
		a, ok := after[k]
		if !b.counter || left[family(k)] != "" || notRead(k) && a.value == 0 && b.value == 0 {
			continue
		}
		c.has[rowOf(k)] = k
		if !ok || b.at > at {
			continue
		}
		o, ok := ours[k]
		if !ok {
			c.missing[k] = true
			continue
		}
		c.compared[rowOf(k)]++
		// a counter in seconds is a float of nanoseconds on either side
		slack := 1e-9 * math.Abs(a.value)
		if o.value < b.value-slack || o.value > a.value+slack {
			t.Errorf("%s = %v, kubelet had %v before and %v after", k, o.value, b.value, a.value)
		}
	}
	c.check(t, counters)
}

// pages is how far two readings of a cgroup's memory may be apart without any
// meaning: the kernel counts pages on each CPU and adds them up in batches, and
// reclaims single ones. A pause process has no more than that in some gauges.
const pages = 16 * 4096

// Each gauge is within 5 % of kubelet's, as the median of 20 samples.
func TestGaugesAgreeWithKubelet(t *testing.T) {
	off := map[string][]float64{}
	c := newComparison()
	for range 20 {
		k, o := steady(kubeletScrape(t)), steady(agentScrape(t, "/metrics/cadvisor"))
		for name, v := range k {
			if v.counter || left[family(name)] != "" || family(name) == "container_last_seen" { // each one's own clock
				continue
			}
			c.has[rowOf(name)] = name
			w, ok := o[name]
			if !ok {
				c.missing[name] = true
				continue
			}
			d := math.Abs(w.value - v.value)
			if strings.HasPrefix(name, "container_memory_") && d <= pages {
				d = 0
			}
			off[name] = append(off[name], d/math.Max(math.Abs(v.value), 1))
		}
		time.Sleep(2 * time.Second)
	}
	for name, d := range off {
		if len(d) < 20 {
			continue
		}
		c.compared[rowOf(name)]++
		slices.Sort(d)
		median := (d[len(d)/2-1] + d[len(d)/2]) / 2
		if median > 0.05 {
			t.Errorf("%s is %.1f %% off (median of %d)", name, 100*median, len(d))
		}
	}
	c.check(t, gauges)
}
