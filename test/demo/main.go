// Command demo shows nodetap at work with no Kubernetes and no backend: three
// small HTTP services that call each other and log, each in a cgroup of its own,
// laid out as kubelet lays out pods, with the agent beside them that prints what
// it sees.
//
// It plays the parts of kubelet (cgroups, directories) and of the container
// runtime (the log files). Everything it makes is below one temporary directory
// and cgroups that carry its pid, and it takes all of it back when it ends.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "service" {
		service(os.Args[2:])
		return
	}
	agent := flag.String("agent", "bin/nodetap", "the agent's `binary`")
	listen := flag.String("listen", "127.0.0.1:9400", "`address` of the agent's scrape endpoints")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx, *agent, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, agent, listen string) error {
	if _, err := os.Stat(agent); err != nil {
		return fmt.Errorf("the agent is not built (run make build): %w", err)
	}
	dir, err := os.MkdirTemp("", "nodetap-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	say("everything is under %s and is removed at the end; end it with Ctrl-C", dir)

	pods := []*pod{
		newPod("front", "http://"+addrOrders), newPod("orders", "http://"+addrStock), newPod("stock", ""),
	}
	cgroups, err := makeCgroups(pods)
	defer cgroups.remove()
	if err != nil {
		say("OFF: cgroup metrics and traces, for no cgroup could be made: %v", err)
		say("     run it as root; the logs go on without")
		cgroups.remove()
	}
	for _, p := range pods {
		if err := p.start(ctx, dir, cgroups); err != nil {
			return fmt.Errorf("start %s: %w", p.name, err)
		}
		defer p.stop()
	}

	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, []byte(agentConfig(dir, listen)), 0o600); err != nil {
		return err
	}
	cmd := exec.Command(agent, "run", "--config", config) // its end is ours to order, after the services'
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	say("the agent runs; scrape it at http://%s/metrics/cadvisor and /metrics/apm", listen)
	visit(ctx)

	select {
	case err := <-ended:
		return fmt.Errorf("the agent has ended: %w", err)
	case <-ctx.Done():
	}
	say("ending")
	for _, p := range pods {
		p.stop()
	}
	cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-ended
	}
	return nil
}

func agentConfig(dir, listen string) string {
	return fmt.Sprintf(`# what the demo runs the agent with
node_name: demo-node
state_dir: %[1]s/state
drain_timeout: 3s
pprof: ""
host: {log: %[1]s/log}
exporters:
  prom: {listen: "%[2]s"}
  stdout:
    metrics:
      interval: 10s
      include: [container_cpu_usage_seconds_total, container_memory_working_set_bytes, http_server_request_duration_seconds]
`, dir, listen)
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "demo: "+format+"\n", args...)
}
