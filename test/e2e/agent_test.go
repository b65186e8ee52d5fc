//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The same pod UID stands on the log, the metric and the span of one pod.
func TestOneIdentityOnAllSignals(t *testing.T) {
	if _, err := front(1); err != nil {
		t.Fatal(err)
	}
	for name, p := range apps(t) {
		if name == "burner" {
			continue // neither logs nor speaks HTTP
		}
		t.Run(name, func(t *testing.T) {
			if err := eventually(30*time.Second, func() error {
				for _, in := range []*inbox{viaOTLP, viaForward} {
					if err := in.refresh(); err != nil {
						return err
					}
				}
				if !slices.ContainsFunc(viaOTLP.records, func(r record) bool { return r.resource["k8s.pod.uid"] == p.UID }) {
					return fmt.Errorf("no log by OTLP")
				}
				if !slices.ContainsFunc(viaForward.records, func(r record) bool { return r.attrs["kubernetes.pod_id"] == p.UID }) {
					return fmt.Errorf("no log by Forward")
				}
				if !slices.ContainsFunc(viaOTLP.spans, func(s span) bool { return s.resource["k8s.pod.uid"] == p.UID }) {
					return fmt.Errorf("no span")
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			for k := range agentScrape(t, "/metrics/cadvisor") {
				if strings.Contains(k, `pod="`+p.Name+`"`) && strings.Contains(k, "id=") && !strings.Contains(k, p.UID) {
					t.Errorf("the metric's cgroup is of another pod than %s: %s", p.UID, k)
				}
			}
			if err := eventually(90*time.Second, func() error {
				b, err := os.ReadFile(filepath.Join(out, "otlp-metrics.jsonl"))
				if err != nil {
					return err
				}
				for l := range strings.Lines(string(b)) {
					var e envelope
					if json.Unmarshal([]byte(l), &e) != nil {
						continue
					}
					for _, r := range e.ResourceMetrics {
						if a := flatten(r.Resource.Attributes); a["k8s.pod.uid"] == p.UID && a["k8s.pod.name"] == p.Name {
							return nil
						}
					}
				}
				return fmt.Errorf("no metric by OTLP")
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

// A real Prometheus, configured by manifests/prometheus/scrape.yaml, has all
// targets up and finds what dashboards ask.
func TestPrometheusScrapes(t *testing.T) {
	query := func(q string) ([]map[string]string, error) {
		s, err := get("http://127.0.0.1:9490/api/v1/query?query=" + url.QueryEscape(q))
		if err != nil {
			return nil, err
		}
		var r struct {
			Data struct {
				Result []struct{ Metric map[string]string }
			}
		}
		err = json.Unmarshal([]byte(s), &r)
		var out []map[string]string
		for _, x := range r.Data.Result {
			out = append(out, x.Metric)
		}
		return out, err
	}
	if _, err := front(1); err != nil {
		t.Fatal(err)
	}
	if err := eventually(60*time.Second, func() error {
		up, err := query("up == 1")
		if err == nil && len(up) != 3 {
			err = fmt.Errorf("up: %v", up)
		}
		return err
	}); err != nil {
		s, _ := get("http://127.0.0.1:9490/api/v1/targets")
		t.Fatalf("%v\n%.3000s", err, s)
	}
	at := fmt.Sprintf(`{node=%q,instance=%q`, node, node)
	for what, q := range map[string]string{
		"its own metrics":                 `nodetap_build_info` + at + `,job="nodetap",metrics_path="/metrics"}`,
		"a container's CPU":               `rate(container_cpu_usage_seconds_total` + at + `,job="kubelet",metrics_path="/metrics/cadvisor",namespace="shop",container="burner",image!=""}[30s]) > 0`,
		"a pod's network":                 `container_network_receive_bytes_total` + at + `,job="kubelet",namespace="shop",pod=~"front-.*"}`,
		"working set":                     `container_memory_working_set_bytes` + at + `,job="kubelet",namespace="shop",container!=""}`,
		"requests served":                 `http_server_request_duration_seconds_count` + at + `,metrics_path="/metrics/apm"}`,
		"requests made":                   `http_client_request_duration_seconds_bucket` + at + `,metrics_path="/metrics/apm",le="+Inf"}`,
		"a quantile of the server's time": `histogram_quantile(0.9, sum by (le) (http_server_request_duration_seconds_bucket` + at + `})) > 0`,
	} {
		if what == "a quantile of the server's time" {
			q = strings.ReplaceAll(q, "+Inf", "")
		}
		if err := eventually(40*time.Second, func() error {
			r, err := query(q)
			if err == nil && len(r) == 0 {
				err = fmt.Errorf("no result of %s", q)
			}
			return err
		}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
