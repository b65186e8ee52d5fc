// Command nodetap is a Kubernetes node agent: container logs, cgroup metrics
// and eBPF traces of one node, with one identity on all of them.
//
// This package is the program: commands and flags, the list of components, the
// order in which they start and stop. What they do is theirs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"nodetap/agent/config"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = "dev"

const usage = `nodetap collects the logs, metrics and traces of one Kubernetes node.

Usage:
  nodetap run      [--config FILE]   collect and send until SIGTERM
  nodetap validate [--config FILE]   check the configuration and exit
  nodetap doctor   [--config FILE]   say what this node allows, and what that switches off
  nodetap version                    print the version

Without --config everything has its default. Exit codes: 0 success, 1 an error
in the configuration or while running, 2 wrong usage. doctor also exits with 1
when something that the configuration asks for is off.
`

func main() { os.Exit(command(os.Args[1:], os.Stdout, os.Stderr)) }

// command runs one command and returns the exit code.
func command(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	name, rest := args[0], args[1:]
	switch name {
	case "version", "--version", "-version":
		fmt.Fprintf(stdout, "nodetap %s (%s, %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return 0
	case "help", "--help", "-help", "-h":
		fmt.Fprint(stdout, usage)
		return 0
	case "run", "validate", "doctor":
	default:
		fmt.Fprintf(stderr, "nodetap: unknown command %q\n\n%s", name, usage)
		return 2
	}

	flags := flag.NewFlagSet("nodetap "+name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", "", "the YAML `file`; empty: every default")
	if err := flags.Parse(rest); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "nodetap %s: unexpected argument %q\n", name, flags.Arg(0))
		return 2
	}
	cfg, err := loadConfig(*path)
	if err != nil {
		fmt.Fprintln(stderr, err)
		if errs, ok := errors.AsType[config.Errors](err); ok {
			fmt.Fprintf(stderr, "nodetap: %d error(s) in the configuration\n", len(errs))
		}
		return 1
	}

	switch name {
	case "validate":
		fmt.Fprintln(stdout, "the configuration is valid")
		return 0
	case "doctor":
		return doctor(cfg, stdout)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() { // a second signal ends it at once, without draining
		<-ctx.Done()
		stop()
	}()
	if err := run(ctx, cfg, newLogger(cfg.settings.LogLevel, cfg.settings.LogFormat, os.Stderr)); err != nil {
		fmt.Fprintln(stderr, "nodetap:", err)
		return 1
	}
	return 0
}

// buildVersion is the linker's, or else the module's, with the revision where
// the build knows it.
func buildVersion() string {
	if version != "dev" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return version + "-" + s.Value[:12]
			}
		}
	}
	return version
}
