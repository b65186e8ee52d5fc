//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"
)

// What run.sh says.
var (
	out       = os.Getenv("E2E_OUT")
	kubeCache = os.Getenv("KUBE_CACHE")
	kubeState = os.Getenv("KUBE_STATE")
	node      = os.Getenv("KUBE_NODE")
	languages = strings.Fields(os.Getenv("E2E_LANGUAGES"))
)

// The addresses of the services; the first is the front's.
const serviceNet = "10.96.0.10"

func TestMain(m *testing.M) {
	if out == "" || kubeState == "" || os.Getenv("KUBECONFIG") == "" {
		fmt.Fprintln(os.Stderr, "e2e: run test/e2e/run.sh")
		os.Exit(1)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// run starts the demo, has it talk, and only then starts the agent, so that
// there are lines and connections older than the agent is.
func run(m *testing.M) (code int, err error) {
	defer stopAll()
	kubectl("create", "namespace", "shop")
	var backends []string
	for i, l := range languages {
		next := languages[(i+1)%len(languages)]
		args := ""
		if l == "go" {
			args = "serve"
		}
		ip := fmt.Sprintf("%s%d", serviceNet, i+1)
		if err := apply("service.yaml", map[string]any{"Name": l, "Image": l, "Args": args, "IP": ip,
			"Next": fmt.Sprintf("%s%d", serviceNet, (i+1)%len(languages)+1), "Backends": ""}); err != nil {
			return 1, fmt.Errorf("service %s, next %s: %w", l, next, err)
		}
		backends = append(backends, l+"="+ip)
	}
	if err := apply("service.yaml", map[string]any{"Name": "front", "Image": "go", "Args": "front", "IP": serviceNet + "0", "Next": "", "Backends": strings.Join(backends, ",")}); err != nil {
		return 1, err
	}
	if err := apply("burner.yaml", nil); err != nil {
		return 1, err
	}
	for _, l := range append([]string{"front"}, languages...) {
		if _, err := kubectl("-n", "shop", "rollout", "status", "deploy/"+l, "--timeout=90s"); err != nil {
			return 1, err
		}
	}
	if err := startReceivers(); err != nil {
		return 1, err
	}
	if err := eventually(60*time.Second, func() error { _, err := front(1); return err }); err != nil {
		return 1, fmt.Errorf("the demo does not work: %w", err)
	}
	if _, err := kubectl("apply", "-k", "test/e2e/nodetap"); err != nil {
		return 1, err
	}
	if _, err := kubectl("-n", "nodetap", "rollout", "status", "ds/nodetap", "--timeout=60s"); err != nil {
		saveLogs()
		return 1, fmt.Errorf("the agent is not ready: %w", err)
	}
	code = m.Run()
	saveLogs()
	return code, nil
}

// saveLogs keeps what run.sh shows after a failure.
func saveLogs() {
	now, _ := kubectl("-n", "nodetap", "logs", "ds/nodetap", "--tail=2000")
	before, _ := kubectl("-n", "nodetap", "logs", "ds/nodetap", "--previous", "--tail=200")
	pods, _ := kubectl("get", "pods", "-A", "-o", "wide")
	events, _ := kubectl("-n", "nodetap", "get", "events")
	for name, s := range map[string]string{"nodetap.log": now, "nodetap-previous.log": before, "pods.log": pods, "events.log": events} {
		os.WriteFile(filepath.Join(out, name), []byte(s), 0o600)
	}
}

// kubectl runs in the repository's root and returns what it says.
func kubectl(args ...string) (string, error) { return kubectlIn("", args...) }

func kubectlIn(stdin string, args ...string) (string, error) {
	cmd := exec.Command("kubectl", args...)
	cmd.Dir = "../.."
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// apply applies a file of workloads/ with its values.
func apply(file string, values any) error {
	text, err := render(file, values)
	if err != nil {
		return err
	}
	_, err = kubectlIn(text, "apply", "-f", "-")
	return err
}

func render(file string, values any) (string, error) {
	t, err := template.ParseFiles("workloads/" + file)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, values)
	return b.String(), err
}

// eventually calls f until it returns nil, and gives its last error when the
// time is over.
func eventually(limit time.Duration, f func() error) error {
	for end := time.Now().Add(limit); ; time.Sleep(250 * time.Millisecond) {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %s: %w", limit, err)
		}
	}
}

func get(url string) (string, error) {
	c := http.Client{Timeout: 60 * time.Second}
	r, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", url, r.Status, b)
	}
	return string(b), err
}
