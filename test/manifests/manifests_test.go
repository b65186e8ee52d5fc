package manifests

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

type object map[string]any

// at walks maps by key; nil when something on the way is missing.
func (o object) at(path ...string) any {
	var v any = map[string]any(o)
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func (o object) str(path ...string) string { s, _ := o.at(path...).(string); return s }

func (o object) list(path ...string) []object {
	var out []object
	l, _ := o.at(path...).([]any)
	for _, v := range l {
		out = append(out, v.(map[string]any))
	}
	return out
}

func words(v any) []string {
	var out []string
	l, _ := v.([]any)
	for _, w := range l {
		out = append(out, w.(string))
	}
	return out
}

// root is where base, overlays and components are.
const root = "../../manifests"

// render gives what `kubectl apply -k DIR` sends.
func render(t *testing.T, dir string) []object {
	t.Helper()
	res, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(root, dir))
	if err != nil {
		t.Fatalf("render %s: %v", dir, err)
	}
	b, err := res.AsYaml()
	if err != nil {
		t.Fatalf("render %s: %v", dir, err)
	}
	return decode(t, b)
}

func decode(t *testing.T, b []byte) (out []object) {
	t.Helper()
	for d := yaml.NewDecoder(bytes.NewReader(b)); ; {
		var o map[string]any
		switch err := d.Decode(&o); {
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			t.Fatal(err)
		}
		out = append(out, o)
	}
}

func kind(objects []object, k string) (out []object) {
	for _, o := range objects {
		if o.str("kind") == k {
			out = append(out, o)
		}
	}
	return out
}

// dirs returns the base and every overlay.
func dirs(t *testing.T) []string {
	t.Helper()
	d, err := filepath.Glob(root + "/overlays/*/kustomization.yaml")
	if err != nil || len(d) == 0 {
		t.Fatalf("no overlays: %v", err)
	}
	out := []string{"base"}
	for _, f := range d {
		out = append(out, "overlays/"+filepath.Base(filepath.Dir(f)))
	}
	return out
}

func pod(ds object) object { return ds.at("spec", "template", "spec").(map[string]any) }

func agent(t *testing.T, ds object) object {
	t.Helper()
	cs := pod(ds).list("containers")
	if len(cs) != 1 {
		t.Fatalf("%d containers, want the agent alone", len(cs))
	}
	return cs[0]
}

func TestEveryDaemonSetIsLeastPrivileged(t *testing.T) {
	caps := map[string][]string{ // by DaemonSet, as README.md states them
		"base/nodetap":                   {"BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH"},
		"overlays/podmonitor/nodetap":    {"BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH"},
		"overlays/restricted/nodetap":    nil,
		"overlays/shadow/nodetap-shadow": {"BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH"},
		"overlays/split/nodetap":         {"DAC_READ_SEARCH"},
		"overlays/split/nodetap-apm":     {"BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH"},
	}
	seen := map[string]bool{}
	for _, dir := range dirs(t) {
		for _, ds := range kind(render(t, dir), "DaemonSet") {
			key := dir + "/" + ds.str("metadata", "name")
			seen[key] = true
			t.Run(key, func(t *testing.T) {
				c, p := agent(t, ds), pod(ds)
				want, known := caps[key]
				if !known {
					t.Fatal("a DaemonSet that this test does not know: say here what it may do")
				}
				if diff := cmp.Diff(want, words(c.at("securityContext", "capabilities", "add"))); diff != "" {
					t.Errorf("capabilities (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff([]string{"ALL"}, words(c.at("securityContext", "capabilities", "drop"))); diff != "" {
					t.Errorf("dropped (-want +got):\n%s", diff)
				}
				for k, want := range map[string]any{"privileged": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true} {
					if got := c.at("securityContext", k); got != want {
						t.Errorf("%s = %v, want %v", k, got, want)
					}
				}
				for _, k := range []string{"hostNetwork", "hostIPC"} {
					if v := p.at(k); v != nil && v != false {
						t.Errorf("%s = %v", k, v)
					}
				}
				if got, want := p.at("hostPID"), len(want) > 0; got != want {
					t.Errorf("hostPID = %v, want %v", got, want)
				}
			})
		}
	}
	for k := range caps {
		if !seen[k] {
			t.Errorf("%s is gone", k)
		}
	}
}

// The state directory alone may be written, and the paths are the ones stated.
func TestMounts(t *testing.T) {
	allowed := map[string]bool{ // host path: read-only
		"/var/log/pods": true, "/var/log/containers": true, "/sys/fs/cgroup": true, "/sys/kernel/tracing": true,
		"/var/lib/nodetap": false, "/var/lib/nodetap-apm": false, "/var/lib/nodetap-shadow": false,
	}
	for _, dir := range dirs(t) {
		states := map[string]bool{}
		for _, ds := range kind(render(t, dir), "DaemonSet") {
			paths := map[string]string{}
			for _, v := range pod(ds).list("volumes") {
				paths[v.str("name")] = v.str("hostPath", "path")
			}
			for _, m := range agent(t, ds).list("volumeMounts") {
				path, ok := paths[m.str("name")]
				if !ok {
					t.Errorf("%s: mount %s has no volume", dir, m.str("name"))
				}
				delete(paths, m.str("name"))
				if m.at("subPath") != nil {
					t.Errorf("%s: %s is a subPath, which never changes", dir, m.str("mountPath"))
				}
				ro, _ := m.at("readOnly").(bool)
				want, known := allowed[path]
				if path == "" {
					want, known = true, true
				}
				if !known || ro != want {
					t.Errorf("%s: host path %s mounted, read-only %v", dir, path, ro)
				}
				if !ro {
					if states[path] {
						t.Errorf("%s: two DaemonSets share the state directory %s", dir, path)
					}
					states[path] = true
				}
			}
			for n := range paths {
				t.Errorf("%s: volume %s is mounted nowhere", dir, n)
			}
		}
	}
}

// rules is what README.md promises, and what test/e2e finds in the audit log.
var rules = map[string][]string{
	"/pods": {"list", "watch"}, "/nodes": {"get"}, "/services": {"list", "watch"},
	"discovery.k8s.io/endpointslices": {"list", "watch"},
}

func TestRoleIsLeast(t *testing.T) {
	for _, dir := range dirs(t) {
		objects := render(t, dir)
		got := map[string][]string{}
		for _, r := range kind(objects, "ClusterRole")[0].list("rules") {
			for _, g := range words(r.at("apiGroups")) {
				for _, n := range words(r.at("resources")) {
					got[g+"/"+n] = words(r.at("verbs"))
				}
			}
		}
		if diff := cmp.Diff(rules, got); diff != "" {
			t.Errorf("%s: rules (-want +got):\n%s", dir, diff)
		}
		b, sa := kind(objects, "ClusterRoleBinding")[0], kind(objects, "ServiceAccount")[0]
		if s := b.list("subjects")[0]; s.str("name") != sa.str("metadata", "name") || s.str("namespace") != sa.str("metadata", "namespace") {
			t.Errorf("%s: the binding's subject is %s/%s, the account %s/%s", dir, s.str("namespace"), s.str("name"), sa.str("metadata", "namespace"), sa.str("metadata", "name"))
		}
		if got, want := b.str("roleRef", "name"), kind(objects, "ClusterRole")[0].str("metadata", "name"); got != want {
			t.Errorf("%s: the binding refers to %s, the role is %s", dir, got, want)
		}
		for _, ds := range kind(objects, "DaemonSet") {
			if got := pod(ds).str("serviceAccountName"); got != sa.str("metadata", "name") {
				t.Errorf("%s: account %s", dir, got)
			}
		}
	}
}

func TestLifecycle(t *testing.T) {
	for _, dir := range dirs(t) {
		objects := render(t, dir)
		ns := kind(objects, "Namespace")[0]
		if ns.str("metadata", "labels", "pod-security.kubernetes.io/enforce") != "privileged" {
			t.Errorf("%s: the namespace has no pod-security label", dir)
		}
		maps := map[string]bool{}
		for _, m := range kind(objects, "ConfigMap") {
			maps[m.str("metadata", "name")] = m.str("data", "nodetap.yaml") != ""
		}
		selectors := map[string]bool{}
		for _, ds := range kind(objects, "DaemonSet") {
			c, p := agent(t, ds), pod(ds)
			name := dir + "/" + ds.str("metadata", "name")
			if got := ds.str("metadata", "namespace"); got != ns.str("metadata", "name") {
				t.Errorf("%s is in namespace %s", name, got)
			}
			sel := ds.at("spec", "selector", "matchLabels").(map[string]any)
			key, _ := yaml.Marshal(sel)
			if selectors[string(key)] {
				t.Errorf("%s selects another DaemonSet's pods", name)
			}
			selectors[string(key)] = true
			for k, v := range sel {
				if got := ds.str("spec", "template", "metadata", "labels", k); got != v {
					t.Errorf("%s: selector %s=%v, label %q", name, k, v, got)
				}
			}
			want := map[string]any{"terminationGracePeriodSeconds": 30, "priorityClassName": "system-node-critical"}
			if dir == "overlays/shadow" {
				want["priorityClassName"] = ""
			}
			for k, w := range want {
				if got := p.at(k); got != w {
					t.Errorf("%s: %s = %v, want %v", name, k, got, w)
				}
			}
			if got := p.list("tolerations"); len(got) != 1 || got[0].str("operator") != "Exists" {
				t.Errorf("%s: tolerations %v", name, got)
			}
			if got := ds.at("spec", "updateStrategy", "rollingUpdate", "maxUnavailable"); got != "10%" {
				t.Errorf("%s: maxUnavailable %v", name, got)
			}
			if c.at("resources", "limits", "cpu") != nil {
				t.Errorf("%s: a CPU limit", name)
			}
			for probe, path := range map[string]string{"livenessProbe": "/healthz", "readinessProbe": "/readyz"} {
				if got := c.str(probe, "httpGet", "path"); got != path {
					t.Errorf("%s: %s asks %s", name, probe, got)
				}
			}
			limit, gomem := mebi(t, c.str("resources", "limits", "memory")), 0
			for _, e := range c.list("env") {
				if e.str("name") == "GOMEMLIMIT" {
					gomem = mebi(t, strings.TrimSuffix(e.str("value"), "B"))
				}
			}
			if gomem*10 != limit*8 {
				t.Errorf("%s: GOMEMLIMIT %d MiB is not 80 %% of %d MiB", name, gomem, limit)
			}
			for _, v := range p.list("volumes") {
				if m := v.str("configMap", "name"); m != "" && !maps[m] {
					t.Errorf("%s: no ConfigMap %s with a nodetap.yaml", name, m)
				}
			}
		}
		if len(selectors) == 0 {
			t.Errorf("%s: no DaemonSet", dir)
		}
	}
}

func mebi(t *testing.T, s string) (n int) {
	t.Helper()
	num, ok := strings.CutSuffix(s, "Mi")
	if !ok {
		t.Fatalf("%q is not in Mi", s)
	}
	for _, c := range num {
		n = n*10 + int(c-'0')
	}
	return n
}

func TestPodMonitorSelectsTheAgentAndItsPorts(t *testing.T) {
	objects := render(t, "overlays/podmonitor")
	m, ds := kind(objects, "PodMonitor")[0], kind(objects, "DaemonSet")[0]
	for k, v := range m.at("spec", "selector", "matchLabels").(map[string]any) {
		if got := ds.str("spec", "template", "metadata", "labels", k); got != v {
			t.Errorf("selects %s=%v, the pods have %q", k, v, got)
		}
	}
	var paths []string
	for _, e := range m.list("spec", "podMetricsEndpoints") {
		paths = append(paths, e.str("path"))
		targets := map[string]bool{}
		for _, r := range e.list("relabelings") {
			targets[r.str("targetLabel")] = true
			if r.str("targetLabel") == "metrics_path" && r.str("replacement") != e.str("path") {
				t.Errorf("%s has metrics_path %s", e.str("path"), r.str("replacement"))
			}
		}
		for _, l := range []string{"job", "metrics_path", "node", "instance"} {
			if !targets[l] {
				t.Errorf("%s has no label %s", e.str("path"), l)
			}
		}
		if honor, _ := e.at("honorLabels").(bool); honor != (e.str("path") != "/metrics") {
			t.Errorf("%s: honorLabels %v", e.str("path"), honor)
		}
		if e.str("port") != agent(t, ds).list("ports")[0].str("name") {
			t.Errorf("%s: port %s", e.str("path"), e.str("port"))
		}
	}
	if diff := cmp.Diff([]string{"/metrics", "/metrics/cadvisor", "/metrics/apm"}, paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
}

// Each component changes the base in the one way that it is for.
func TestComponents(t *testing.T) {
	with := func(name string) []object {
		fs, dir := filesys.MakeFsOnDisk(), t.TempDir()
		here, err := filepath.Abs(root)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(dir, here)
		if err != nil {
			t.Fatal(err)
		}
		k := "resources: [" + rel + "/base]\ncomponents: [" + rel + "/components/" + name + "]\nnamespace: nodetap\n"
		if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(k), 0o600); err != nil {
			t.Fatal(err)
		}
		res, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, dir)
		if err != nil {
			t.Fatal(err)
		}
		b, err := res.AsYaml()
		if err != nil {
			t.Fatal(err)
		}
		return decode(t, b)
	}
	if q := kind(with("gke"), "ResourceQuota"); len(q) != 1 || q[0].str("metadata", "namespace") != "nodetap" {
		t.Errorf("gke: quotas %v", q)
	}
	if got := pod(kind(with("selinux"), "DaemonSet")[0]).str("securityContext", "seLinuxOptions", "type"); got != "spc_t" {
		t.Errorf("selinux: type %q", got)
	}
	ds := kind(with("docker"), "DaemonSet")[0]
	if !slices.ContainsFunc(agent(t, ds).list("volumeMounts"), func(m object) bool {
		return m.str("mountPath") == "/var/lib/docker/containers" && m.at("readOnly") == true
	}) {
		t.Error("docker: its directory is not mounted")
	}
}

// The image is the one that `make image` names.
func TestImageName(t *testing.T) {
	for _, dir := range dirs(t) {
		for _, ds := range kind(render(t, dir), "DaemonSet") {
			if got := agent(t, ds).str("image"); got != "localhost/nodetap:dev" {
				t.Errorf("%s: image %s", dir, got)
			}
		}
	}
}
