//go:build vm

package node

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	program  = "/bin/nodetap"
	endpoint = "http://127.0.0.1:9464"
)

// config is what a guest's agent runs with.
const config = `
node_name: vm-node
pprof: ""
exporters:
  prom: {listen: "127.0.0.1:9464"}
  stdout: {metrics: {interval: 0s}}
`

func writeConfig(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "nodetap.yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// record is a line of the stdout exporter: a log record or a span.
type record struct {
	Signal     string         `json:"signal"`
	Body       string         `json:"body"`
	Kind       string         `json:"kind"`
	Name       string         `json:"name"`
	Millis     float64        `json:"duration_ms"`
	Attributes map[string]any `json:"attributes"`
	Resource   map[string]any `json:"resource"`
}

// of says whether the record's resource names the pod and its container.
func (r record) of(p *pod) bool {
	return r.Resource["k8s.namespace.name"] == p.namespace && r.Resource["k8s.pod.name"] == p.name &&
		r.Resource["k8s.pod.uid"] == p.uid && r.Resource["k8s.container.name"] == p.container
}

// agent is the built program, running in a pod of its own.
type agent struct {
	cmd    *exec.Cmd
	exited chan error

	mu      sync.Mutex
	printed []record
	foreign []string // lines that are no record
}

// startAgent starts the agent and waits until it is ready.
func startAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{exited: make(chan error, 1)}
	a.cmd = exec.Command(program, "run", "--config", writeConfig(t))
	a.cmd.Stderr = os.Stderr
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	a.cmd.Stdout = w
	newPod(t, "nodetap", "nodetap-x7k2p", "nodetap", false).start(t, a.cmd)
	go func() {
		a.read(r)
		a.exited <- a.cmd.Wait()
	}()
	eventually(t, "the agent is ready", func() error {
		_, err := get("/readyz")
		return err
	})
	return a
}

func (a *agent) read(r io.Reader) {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n')
		if err != nil {
			return
		}
		var rec record
		bad := json.Unmarshal(line, &rec) != nil
		a.mu.Lock()
		if bad {
			a.foreign = append(a.foreign, string(line))
		} else {
			a.printed = append(a.printed, rec)
		}
		a.mu.Unlock()
	}
}

// records returns what the agent printed of one signal for one pod up to now.
func (a *agent) records(signal string, p *pod) (out []record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.printed {
		if r.Signal == signal && r.of(p) {
			out = append(out, r)
		}
	}
	return out
}

// count returns how many records of the signal there are for any pod.
func (a *agent) count(signal string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.printed {
		if r.Signal == signal {
			n++
		}
	}
	return n
}

// stop ends the agent as kubelet does and returns how it ended.
func (a *agent) stop(t *testing.T) error {
	t.Helper()
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-a.exited:
		return err
	case <-time.After(patience):
		return fmt.Errorf("still running %v after SIGTERM", patience)
	}
}

// get asks the agent's own endpoints.
func get(path string) (string, error) {
	res, err := http.Get(endpoint + path)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", path, res.Status, b)
	}
	return string(b), err
}

// families scrapes one path.
func families(path string) (map[string]*dto.MetricFamily, error) {
	body, err := get(path)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(strings.NewReader(body))
}

// sample returns the sum of a family's samples that carry all the labels, and
// how many they are.
func sample(all map[string]*dto.MetricFamily, name string, labels map[string]string) (sum float64, n int) {
	for _, m := range all[name].GetMetric() {
		have := map[string]string{}
		for _, l := range m.GetLabel() {
			have[l.GetName()] = l.GetValue()
		}
		if maps.Equal(labels, subset(have, labels)) {
			n++
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
		}
	}
	return sum, n
}

// subset returns what have says of the keys of want.
func subset(have, want map[string]string) map[string]string {
	out := map[string]string{}
	for k := range want {
		if v, ok := have[k]; ok {
			out[k] = v
		}
	}
	return out
}

// patience is how long something may take that has to happen. A guest is
// emulated on a machine that does other things too; nothing here is timed.
const patience = 60 * time.Second

// eventually waits until f has no error, and fails the test with f's last one.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(250 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Errorf("not within %v: %s: %v", patience, what, err)
}
