//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// These come after the others, for they look at all that those made, and before
// the overlays, whose agents read the logs of the agents before them.

// What the agent asks of the API server is what manifests/README.md says.
func TestAPIRequestsAreTheDocumentedOnes(t *testing.T) {
	readme, err := os.ReadFile("../../manifests/README.md")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(kubeState, "log", "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := map[string]int{}
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<24)
	for sc.Scan() {
		var e struct {
			Verb, RequestURI string
			User             struct{ Username string }
			ObjectRef        struct{ Resource, Namespace, Name, Subresource string }
			ResponseStatus   struct{ Code int }
		}
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.User.Username != "system:serviceaccount:nodetap:nodetap" {
			continue
		}
		u, err := url.Parse(e.RequestURI)
		if err != nil {
			t.Fatal(err)
		}
		what := e.Verb + " " + e.ObjectRef.Resource
		if e.ObjectRef.Resource == "" {
			what = e.Verb + " " + u.Path
		}
		if e.ObjectRef.Subresource != "" {
			what += "/" + e.ObjectRef.Subresource
		}
		if e.ObjectRef.Name == node {
			what += " <its own>"
		} else if e.ObjectRef.Name != "" {
			what += " " + e.ObjectRef.Name
		}
		if s := u.Query().Get("fieldSelector"); s != "" {
			what += " " + strings.Replace(s, node, "<its own>", 1)
		}
		if e.ResponseStatus.Code >= 400 {
			t.Errorf("%s: refused with %d", what, e.ResponseStatus.Code)
		}
		seen[what]++
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	for what, n := range seen {
		if !strings.Contains(string(readme), "`"+what+"`") {
			t.Errorf("%d × %s, which manifests/README.md does not name", n, what)
		}
	}
	for _, must := range []string{"watch pods spec.nodeName=<its own>", "get nodes <its own>", "watch services", "watch endpointslices"} {
		if seen[must] == 0 {
			t.Errorf("no %s in the audit log: %v", must, seen)
		}
	}
	t.Logf("requests: %v", seen)
}

// While nothing happens nothing is said: not about the agent's own log, its
// exports, its scrapes, its probes. Nor has anything been said before.
func TestIdleSaysNothingAboutTheAgent(t *testing.T) {
	idle, err := time.ParseDuration(cmpOr(os.Getenv("E2E_IDLE"), "45s"))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second) // what earlier tests made is delivered
	refresh := func() {
		for _, in := range []*inbox{viaOTLP, viaForward} {
			if err := in.refresh(); err != nil {
				t.Fatal(err)
			}
		}
	}
	refresh()
	logs, spans, forwarded := len(viaOTLP.records), len(viaOTLP.spans), len(viaForward.records)
	before := agentScrape(t, "/metrics")
	time.Sleep(idle)
	after := agentScrape(t, "/metrics")
	refresh()
	// What is no pod of this cluster is another program's test on this machine,
	// unless it is the agent under another name.
	self := agent(t).Containers["nodetap"].ID
	other := func(resource map[string]string) bool {
		return resource["k8s.pod.name"] == "" && resource["container.id"] != "" && resource["container.id"] != self
	}
	for _, r := range viaOTLP.records[logs:] {
		if !other(r.resource) {
			t.Errorf("a record after idle: %v %.200s", r.resource, r.body)
		}
	}
	for _, r := range viaForward.records[forwarded:] {
		t.Errorf("a forwarded record after idle: %v %.200s", r.attrs, r.body)
	}
	for _, s := range viaOTLP.spans[spans:] {
		if !other(s.resource) {
			t.Errorf("a span after idle: %v %v", s, s.resource)
		}
	}
	for _, s := range viaOTLP.spans {
		if s.resource["k8s.namespace.name"] == "nodetap" {
			t.Errorf("a span of the agent: %v", s)
		}
	}
	for _, r := range viaOTLP.records {
		if r.resource["k8s.namespace.name"] == "nodetap" {
			t.Errorf("a record of the agent: %.200s", r.body)
		}
	}
	for _, r := range viaForward.records {
		if r.attrs["kubernetes.namespace_name"] == "nodetap" {
			t.Errorf("a forwarded record of the agent: %.200s", r.body)
		}
	}
	t.Logf("idle for %s; %d spans and %d records before", idle, spans, logs)
	const cpu, rss = "process_cpu_seconds_total{}", "process_resident_memory_bytes{}"
	t.Logf("the agent, scraped every 2 s three times: %.2f %% of a core, %.1f MiB resident", 100*(after[cpu].value-before[cpu].value)/idle.Seconds(), after[rss].value/(1<<20))
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// A pod of the agent that takes another's place finds that one's log, and leaves
// it where it is.
func TestANewAgentDoesNotCollectItsPredecessorsLog(t *testing.T) {
	old := agent(t)
	if _, err := kubectl("-n", "nodetap", "delete", "pod", old.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := kubectl("-n", "nodetap", "rollout", "status", "ds/nodetap", "--timeout=90s"); err != nil {
		t.Fatal(err)
	}
	if agent(t).Name == old.Name {
		t.Fatal("the agent was not replaced")
	}
	time.Sleep(10 * time.Second) // longer than a log waits for its pod's labels
	for _, in := range []*inbox{viaOTLP, viaForward} {
		if err := in.refresh(); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range viaOTLP.records {
		if r.resource["k8s.namespace.name"] == "nodetap" {
			t.Errorf("a record of an agent: %v %.200s", r.resource, r.body)
		}
	}
	for _, r := range viaForward.records {
		if r.attrs["kubernetes.namespace_name"] == "nodetap" {
			t.Errorf("a forwarded record of an agent: %.200s", r.body)
		}
	}
}
