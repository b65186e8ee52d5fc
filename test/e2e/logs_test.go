//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// line is one numbered line of a writer as a receiver has it, in one form for
// both protocols.
type line struct {
	stream, namespace, pod, uid, container, id, node string
	kind, workload                                   string // OTLP alone: Fluent Bit's record has none
	labels                                           map[string]string
	bodyPod, bodyContainer                           string // who wrote it, as the line says
	n                                                int
	whole                                            bool // a long line came in one piece
}

var written = regexp.MustCompile(`^run=(\S+) pod=(\S+) container=(\S+) (n|e)=(\d+) of=\d+`)

func (r record) line(forward bool) (line, string, bool) {
	m := written.FindStringSubmatch(r.body)
	if m == nil {
		return line{}, "", false
	}
	l := line{bodyPod: m[2], bodyContainer: m[3], whole: true, labels: map[string]string{}}
	l.n, _ = strconv.Atoi(m[5])
	if m[4] == "n" && l.n%500 == 0 {
		l.whole = strings.HasSuffix(r.body, strings.Repeat("0123456789", 4000)+" END")
	}
	labels := "k8s.pod.label."
	if forward {
		k := func(s string) string { return r.attrs["kubernetes."+s] }
		l.stream, l.namespace, l.pod, l.uid, l.container, l.id, l.node = r.attrs["stream"], k("namespace_name"), k("pod_name"), k("pod_id"), k("container_name"), k("docker_id"), k("host")
		labels = "kubernetes.labels."
	} else {
		k := func(s string) string { return r.resource[s] }
		l.stream, l.namespace, l.pod, l.uid, l.container, l.id, l.node = r.attrs["log.iostream"], k("k8s.namespace.name"), k("k8s.pod.name"), k("k8s.pod.uid"), k("k8s.container.name"), k("container.id"), k("k8s.node.name")
		for _, kind := range []string{"deployment", "statefulset", "job", "daemonset", "cronjob"} {
			if n := k("k8s." + kind + ".name"); n != "" {
				l.kind, l.workload = kind, n
			}
		}
	}
	for _, m := range []map[string]string{r.attrs, r.resource} {
		for k, v := range m {
			if name, ok := strings.CutPrefix(k, labels); ok {
				l.labels[name] = v
			}
		}
	}
	return l, m[1], true
}

// lines gives those of one run in the order of their arrival.
func (in *inbox) lines(run string) (out []line) {
	for _, r := range in.records {
		if l, of, ok := r.line(in == viaForward); ok && of == run {
			out = append(out, l)
		}
	}
	return out
}

// writers starts lines.yaml and waits until its pods run.
func writers(t *testing.T, run string, n, rate int) []pod {
	t.Helper()
	v := map[string]any{"Run": run, "Lines": n, "Rate": rate}
	if err := apply("lines.yaml", v); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		text, err := render("lines.yaml", v)
		if err == nil {
			_, err = kubectlIn(text, "delete", "--wait=false", "-f", "-")
		}
		if err != nil {
			t.Error(err)
		}
	})
	var ps []pod
	if err := eventually(60*time.Second, func() (err error) {
		ps, err = pods("shop", "run="+run)
		ids := 0
		for _, p := range ps {
			for _, c := range p.Containers {
				if c.ID != "" {
					ids++
				}
			}
		}
		if err == nil && (len(ps) != 5 || ids != 6) {
			err = fmt.Errorf("%d pods, %d containers of run %s", len(ps), ids, run)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return ps
}

type source struct{ pod, container, stream string }

// check says what is missing, came twice or out of order, or is wrongly tagged.
func check(ls []line, ps []pod, n int) (lost, twice, disordered int, wrong []string) {
	got := map[source][]int{}
	for _, l := range ls {
		got[source{l.bodyPod, l.bodyContainer, l.stream}] = append(got[source{l.bodyPod, l.bodyContainer, l.stream}], l.n)
	}
	for _, p := range ps {
		for c := range p.Containers {
			for stream, want := range map[string]int{"stdout": n, "stderr": n / 100} {
				s := source{p.Name, c, stream}
				seen, last := map[int]bool{}, 0
				for _, k := range got[s] {
					if seen[k] {
						twice++
					} else if k < last {
						disordered++
					}
					seen[k] = true
					last = max(last, k)
				}
				if miss := want - len(seen); miss > 0 {
					lost += miss
					first := 1
					for seen[first] {
						first++
					}
					wrong = append(wrong, fmt.Sprintf("%v: %d of %d lines are missing, the first is %d", s, miss, want, first))
				}
				delete(got, s)
			}
		}
	}
	for s := range got {
		wrong = append(wrong, fmt.Sprintf("lines of a writer that is not there: %v", s))
	}
	return lost, twice, disordered, wrong
}

// checkTags compares every line with what the API server says of its pod.
func checkTags(t *testing.T, ls []line, ps []pod, workloads bool) {
	t.Helper()
	byName := map[string]pod{}
	for _, p := range ps {
		byName[p.Name] = p
	}
	bad := map[string]int{}
	for _, l := range ls {
		p := byName[l.bodyPod]
		for what, ok := range map[string]bool{
			"namespace": l.namespace == "shop", "pod": l.pod == p.Name, "uid": l.uid == p.UID, "node": l.node == node,
			"container": l.container == l.bodyContainer, "container id": l.id == p.Containers[l.bodyContainer].ID,
			"labels": maps.Equal(l.labels, p.Labels), "one piece": l.whole,
		} {
			if !ok {
				bad[fmt.Sprintf("%s of %s", what, l.bodyPod)]++
				if bad[fmt.Sprintf("%s of %s", what, l.bodyPod)] == 1 {
					t.Logf("wrong %s: line %+v, pod %+v", what, l, p)
				}
			}
		}
		if workloads {
			kind := p.Labels["kind"]
			name := map[string]string{"deployment": "writer-", "statefulset": "set-", "job": "job-"}[kind] + p.Labels["run"]
			if l.kind != kind || l.workload != name {
				bad[fmt.Sprintf("workload of %s: %s %s, want %s %s", p.Name, l.kind, l.workload, kind, name)]++
			}
		}
	}
	for _, what := range slices.Sorted(maps.Keys(bad)) {
		t.Errorf("wrong: %s (%d lines)", what, bad[what])
	}
}

// complete waits until the receiver has all lines of the run.
func (in *inbox) complete(run string, ps []pod, n int, limit time.Duration) error {
	return eventually(limit, func() error {
		if err := in.refresh(); err != nil {
			return err
		}
		if lost, _, _, wrong := check(in.lines(run), ps, n); lost > 0 {
			return fmt.Errorf("%d lines have not arrived: %v", lost, wrong)
		}
		return nil
	})
}

func (in *inbox) name() string {
	if in == viaForward {
		return "forward"
	}
	return "otlp"
}

func TestEveryLineArrivesOnceInOrderAndTagged(t *testing.T) {
	const n = 2000
	ps := writers(t, "lines", n, 150)
	for _, in := range []*inbox{viaOTLP, viaForward} {
		t.Run(in.name(), func(t *testing.T) {
			if err := in.complete("lines", ps, n, 60*time.Second); err != nil {
				t.Fatal(err)
			}
			ls := in.lines("lines")
			_, twice, disordered, _ := check(ls, ps, n)
			if twice > 0 || disordered > 0 {
				t.Errorf("%d lines came twice, %d out of order, though nothing had to be sent again", twice, disordered)
			}
			checkTags(t, ls, ps, in == viaOTLP)
			t.Logf("%d lines of %d writers", len(ls), len(ps)+1)
		})
	}
}

func TestNoLineIsLostWhenTheAgentIsKilledWhileFilesRotate(t *testing.T) {
	const n = 4500 // 45 s: kubelet rotates every 10
	ps := writers(t, "killed", n, 100)
	for i := range 2 {
		time.Sleep(8 * time.Second) // lines are written all the time; when it happens is of no importance
		a := agent(t)
		before := a.Containers["nodetap"]
		if err := killContainer(before.ID); err != nil {
			t.Fatal(err)
		}
		if err := eventually(60*time.Second, func() error {
			if c := agent(t).Containers["nodetap"]; c.Restarts <= before.Restarts {
				return fmt.Errorf("restarts: %d", c.Restarts)
			}
			return nil
		}); err != nil {
			t.Fatalf("kill %d: %v", i+1, err)
		}
	}
	for _, in := range []*inbox{viaOTLP, viaForward} {
		if err := in.complete("killed", ps, n, 120*time.Second); err != nil {
			t.Errorf("%s: %v", in.name(), err)
		}
		ls := in.lines("killed")
		lost, twice, _, wrong := check(ls, ps, n)
		for _, w := range wrong {
			t.Error(w)
		}
		checkTags(t, ls, ps, in == viaOTLP)
		t.Logf("%s: %d lines, %d lost, %d sent twice", in.name(), len(ls), lost, twice)
	}
	rotated := 0
	for _, p := range ps {
		fs, _ := filepath.Glob("/var/log/pods/shop_" + p.Name + "_" + p.UID + "/*/*.log.*")
		rotated += len(fs)
	}
	if rotated < len(ps)-1 { // the Job's may be gone
		t.Errorf("%d rotated files: the test did not do what it is for", rotated)
	}
}

// killContainer ends each process of a container at once.
func killContainer(id string) error {
	procs, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return err
	}
	killed := 0
	for _, f := range procs {
		b, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(b), id) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return err
		}
		killed++
	}
	if killed == 0 {
		return fmt.Errorf("container %.12s has no process", id)
	}
	return nil
}

func TestADeadRequiredReceiverDoesNotDelayTheOther(t *testing.T) {
	n := 3000 // 30 s
	if d, err := time.ParseDuration(os.Getenv("E2E_DEAD")); err == nil {
		n = 100 * int(d.Seconds())
	}
	fluentd.kill()
	up := false
	t.Cleanup(func() {
		if !up {
			fluentd.start()
		}
	})
	ps := writers(t, "dead", n, 100)
	// 3 MB of text, many times what forward's queue may hold
	if err := viaOTLP.complete("dead", ps, n, 90*time.Second+time.Duration(n)*10*time.Millisecond); err != nil {
		t.Errorf("while forward is dead: %v", err)
	}
	if err := viaForward.refresh(); err != nil {
		t.Fatal(err)
	}
	if got := len(viaForward.lines("dead")); got != 0 {
		t.Fatalf("the dead receiver has %d lines: the test did not do what it is for", got)
	}
	if err := fluentd.start(); err != nil {
		t.Fatal(err)
	}
	up = true
	if err := viaForward.complete("dead", ps, n, 120*time.Second); err != nil {
		t.Errorf("after forward's return: %v", err)
	}
	for _, in := range []*inbox{viaOTLP, viaForward} {
		ls := in.lines("dead")
		lost, twice, disordered, wrong := check(ls, ps, n)
		for _, w := range wrong {
			t.Error(w)
		}
		checkTags(t, ls, ps, in == viaOTLP)
		t.Logf("%s: %d lines, %d lost, %d sent twice, %d out of order", in.name(), len(ls), lost, twice, disordered)
		if in == viaOTLP && cmp.Compare(twice+disordered, 0) != 0 {
			t.Errorf("otlp: %d twice, %d out of order, though it never failed", twice, disordered)
		}
	}
}
