//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// bridge is the machine's address on the pods' network: receivers listen there
// and nowhere else.
const bridge = "10.244.0.1"

// receiver is a process that takes what the agent sends.
type receiver struct {
	name, config string
	ready        string // a URL, or host:port
	args         []string
	bin          string
	cmd          *exec.Cmd
	done         chan struct{}
}

var (
	otlp    = &receiver{name: "otlp", bin: "otelcol", ready: "http://" + bridge + ":4318"}
	fluentd = &receiver{name: "forward", bin: "otelcol", ready: ""}
	prom    = &receiver{name: "prometheus", bin: "prometheus", ready: "http://127.0.0.1:9490/-/ready"}
)

func startReceivers() error {
	file := func(name string) string {
		return "{path: " + filepath.Join(out, name) + ", append: true, flush_interval: 200ms}"
	}
	otlp.config = `receivers:
  otlp: {protocols: {grpc: {endpoint: "` + bridge + `:4317"}, http: {endpoint: "` + bridge + `:4318"}}}
exporters:
  file/logs: ` + file("otlp-logs.jsonl") + `
  file/traces: ` + file("otlp-traces.jsonl") + `
  file/metrics: ` + file("otlp-metrics.jsonl") + `
service:
  pipelines:
    logs: {receivers: [otlp], exporters: [file/logs]}
    traces: {receivers: [otlp], exporters: [file/traces]}
    metrics: {receivers: [otlp], exporters: [file/metrics]}
`
	fluentd.config = `receivers:
  fluent_forward: {endpoint: "` + bridge + `:24224"}
exporters:
  file: ` + file("forward-logs.jsonl") + `
service:
  pipelines:
    logs: {receivers: [fluent_forward], exporters: [file]}
`
	for _, r := range []*receiver{otlp, fluentd} {
		path := filepath.Join(out, r.name+".yaml")
		if err := os.WriteFile(path, []byte(r.config), 0o600); err != nil {
			return err
		}
		r.args = []string{"--config=file:" + path}
		if err := r.start(); err != nil {
			return err
		}
	}
	return startPrometheus()
}

// startPrometheus gives it manifests/prometheus/scrape.yaml, which is made for a
// Prometheus in the cluster: ours is beside it and needs to be told where.
func startPrometheus() error {
	b, err := os.ReadFile("../../manifests/prometheus/scrape.yaml")
	if err != nil {
		return err
	}
	scrape := strings.ReplaceAll(string(b), "{role: pod,", "{role: pod, kubeconfig_file: "+os.Getenv("KUBECONFIG")+",")
	if strings.Count(scrape, "kubeconfig_file") != 3 {
		return errors.New("manifests/prometheus/scrape.yaml has another form than this test knows")
	}
	if err := os.WriteFile(filepath.Join(out, "scrape.yaml"), []byte(scrape), 0o600); err != nil {
		return err
	}
	path := filepath.Join(out, "prometheus.yml")
	if err := os.WriteFile(path, []byte("global: {scrape_interval: 2s}\nscrape_config_files: [scrape.yaml]\n"), 0o600); err != nil {
		return err
	}
	prom.args = []string{"--config.file=" + path, "--storage.tsdb.path=" + filepath.Join(out, "tsdb"), "--web.listen-address=127.0.0.1:9490", "--log.level=warn"}
	return prom.start()
}

func (r *receiver) start() error {
	log, err := os.OpenFile(filepath.Join(out, r.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	r.cmd = exec.Command(filepath.Join(kubeCache, "receivers", r.bin), r.args...)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	if err := r.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", r.name, err)
	}
	// for run.sh, should this program not come to end it
	if err := os.WriteFile(filepath.Join(out, r.name+".pid"), fmt.Appendln(nil, r.cmd.Process.Pid), 0o600); err != nil {
		return err
	}
	r.done = make(chan struct{})
	go func(c *exec.Cmd, done chan struct{}) { c.Wait(); close(done) }(r.cmd, r.done)
	return eventually(30*time.Second, func() error {
		select {
		case <-r.done:
			return fmt.Errorf("%s has ended: %s", r.name, r.cmd.ProcessState)
		default:
		}
		if r == prom {
			_, err := get(r.ready)
			return err
		}
		b, err := os.ReadFile(filepath.Join(out, r.name+".log"))
		if err == nil && !strings.Contains(string(b), "Everything is ready") {
			err = fmt.Errorf("%s is not ready", r.name)
		}
		return err
	})
}

// kill ends it at once, as a node that is gone does.
func (r *receiver) kill() {
	if r.cmd != nil {
		r.cmd.Process.Kill()
		<-r.done
		r.cmd = nil
	}
}

func stopAll() {
	for _, r := range []*receiver{otlp, fluentd, prom} {
		r.kill()
	}
}
