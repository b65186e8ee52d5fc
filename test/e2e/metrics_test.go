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

// What dashboards made for cAdvisor query of containers and pods, and this
// machine's cAdvisor has.
var wanted = []string{
	"container_cpu_usage_seconds_total", "container_cpu_user_seconds_total", "container_cpu_system_seconds_total",
	"container_cpu_cfs_periods_total", "container_cpu_cfs_throttled_periods_total", "container_cpu_cfs_throttled_seconds_total",
	"container_memory_usage_bytes", "container_memory_working_set_bytes", "container_memory_rss", "container_memory_cache", "container_memory_swap",
	"container_network_receive_bytes_total", "container_network_transmit_bytes_total",
	"container_network_receive_packets_total", "container_network_transmit_packets_total",
	"container_network_receive_packets_dropped_total", "container_network_transmit_packets_dropped_total",
	"container_spec_memory_limit_bytes", "container_spec_cpu_quota", "container_spec_cpu_period", "container_spec_cpu_shares",
	"container_start_time_seconds", "container_oom_events_total",
}

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
	compared, missing := map[string]int{}, map[string]string{}
	for k, b := range before {
		a, ok := after[k]
		if !b.counter || !ok || b.at > at || notRead(k) && a.value == 0 {
			continue
		}
		o, ok := ours[k]
		if !ok {
			missing[family(k)] = k
			continue
		}
		compared[family(k)]++
		// a counter in seconds is a float of nanoseconds on either side
		slack := 1e-9 * math.Abs(a.value)
		if o.value < b.value-slack || o.value > a.value+slack {
			t.Errorf("%s = %v, kubelet had %v before and %v after", k, o.value, b.value, a.value)
		}
	}
	for _, name := range wanted {
		if strings.HasSuffix(name, "_total") && compared[name] == 0 {
			t.Errorf("%s was not compared; missing: %q", name, missing[name])
		}
	}
	t.Logf("compared: %v", compared)
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		if slices.Contains(wanted, name) {
			t.Errorf("ours has no %s", missing[name])
		} else {
			t.Logf("only kubelet has %s", missing[name])
		}
	}
}

// pages is how far two readings of a cgroup's memory may be apart without any
// meaning: the kernel counts pages on each CPU and adds them up in batches, and
// reclaims single ones. A pause process has no more than that in some gauges.
const pages = 16 * 4096

// Each gauge is within 5 % of kubelet's, as the median of 20 samples.
func TestGaugesAgreeWithKubelet(t *testing.T) {
	off := map[string][]float64{}
	missing := map[string]string{}
	last := map[string]int64{}
	for range 20 {
		k, o := steady(kubeletScrape(t)), steady(agentScrape(t, "/metrics/cadvisor"))
		for name, v := range k {
			if v.counter || family(name) == "container_last_seen" {
				continue
			}
			w, ok := o[name]
			if !ok {
				missing[family(name)] = name
				continue
			}
			d := math.Abs(w.value - v.value)
			if strings.HasPrefix(name, "container_memory_") && d <= pages {
				d = 0
			}
			off[name] = append(off[name], d/math.Max(math.Abs(v.value), 1))
			last[name] = v.at
		}
		time.Sleep(2 * time.Second)
	}
	compared := map[string]int{}
	for name, d := range off {
		if len(d) < 20 {
			continue
		}
		compared[family(name)]++
		slices.Sort(d)
		median := (d[len(d)/2-1] + d[len(d)/2]) / 2
		if median > 0.05 {
			t.Errorf("%s is %.1f %% off (median of %d)", name, 100*median, len(d))
		}
	}
	for _, name := range wanted {
		if !strings.HasSuffix(name, "_total") && compared[name] == 0 {
			t.Errorf("%s was not compared; missing: %q", name, missing[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		if slices.Contains(wanted, name) {
			t.Errorf("ours has no %s", missing[name])
		} else {
			t.Logf("only kubelet has %s", missing[name])
		}
	}
	t.Logf("compared: %v", compared)
}
