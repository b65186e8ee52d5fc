//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Each overlay, applied as it is, comes to be ready and collects what it says.
func TestOverlaysRun(t *testing.T) {
	t.Cleanup(func() {
		for _, args := range [][]string{
			{"delete", "--ignore-not-found", "-k", "manifests/overlays/shadow"},
			{"delete", "--ignore-not-found", "-k", "manifests/overlays/split/apm"},
			{"apply", "-k", "test/e2e/nodetap"},
			{"-n", "nodetap", "rollout", "status", "ds/nodetap", "--timeout=90s"},
		} {
			if _, err := kubectl(args...); err != nil {
				t.Error(err)
			}
		}
	})
	type agentOf struct{ namespace, daemonset, component string }
	for _, o := range []struct {
		dir  string
		want map[agentOf]map[string]string // collector: up
	}{
		{"shadow", map[agentOf]map[string]string{
			{"nodetap-shadow", "nodetap-shadow", "agent"}: {"cgroup": "1", "apm": "1"},
			{"nodetap", "nodetap", "agent"}:               {"logs": "1", "cgroup": "1", "apm": "1"}, // beside it
		}},
		{"split", map[agentOf]map[string]string{
			{"nodetap", "nodetap", "agent"}:   {"cgroup": "1"},
			{"nodetap", "nodetap-apm", "apm"}: {"apm": "1"},
		}},
		{"restricted", map[agentOf]map[string]string{{"nodetap", "nodetap", "agent"}: {"cgroup": "1"}}},
	} {
		t.Run(o.dir, func(t *testing.T) {
			if _, err := kubectl("apply", "-k", "manifests/overlays/"+o.dir); err != nil {
				t.Fatal(err)
			}
			for a, want := range o.want {
				if _, err := kubectl("-n", a.namespace, "rollout", "status", "ds/"+a.daemonset, "--timeout=90s"); err != nil {
					t.Fatal(err)
				}
				if err := eventually(60*time.Second, func() error { return collects(a.namespace, a.component, want) }); err != nil {
					t.Errorf("%s: %v", a.daemonset, err)
				}
			}
		})
	}
}

// collects tells whether the agent's collectors are as they should be, and show
// something of the demo.
func collects(namespace, component string, want map[string]string) error {
	ps, err := pods(namespace, "app.kubernetes.io/component="+component)
	if err != nil || len(ps) != 1 {
		return fmt.Errorf("%d pods: %w", len(ps), err)
	}
	base := "http://" + ps[0].IP + ":9400"
	self, err := get(base + "/metrics")
	if err != nil {
		return err
	}
	got := map[string]string{}
	for l := range strings.Lines(self) {
		if name, ok := strings.CutPrefix(l, `nodetap_collector_up{collector="`); ok {
			c, up, _ := strings.Cut(strings.TrimSpace(name), `"} `)
			got[c] = up
		}
	}
	for c, up := range want {
		if got[c] != up {
			return fmt.Errorf("collectors up: %v, want %v", got, want)
		}
	}
	if want["cgroup"] == "1" {
		m, err := get(base + "/metrics/cadvisor")
		if err != nil {
			return err
		}
		if !strings.Contains(m, `container_cpu_usage_seconds_total{`) || !strings.Contains(m, `namespace="shop"`) {
			return fmt.Errorf("no CPU of the demo in %d bytes", len(m))
		}
	}
	if want["apm"] == "1" {
		if _, err := front(1); err != nil {
			return err
		}
		m, err := get(base + "/metrics/apm")
		if err != nil {
			return err
		}
		if !strings.Contains(m, "http_server_request_duration_seconds_count{") {
			return fmt.Errorf("no request in %d bytes", len(m))
		}
	}
	return nil
}
