package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"nodetap/agent/component"
)

func TestCommandExitCodes(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(good, "exporters: {stdout: {}}\n")
	write(bad, "exporters: {stdot: {}}\nroutes: [{exporters: [nobody]}]\nlog_levl: x\n")
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"nothing", nil, 2, "", "Usage:"},
		{"unknown command", []string{"rnu"}, 2, "", `unknown command "rnu"`},
		{"unknown flag", []string{"validate", "--nope"}, 2, "", "nope"},
		{"stray argument", []string{"validate", good}, 2, "", "unexpected argument"},
		{"version", []string{"version"}, 0, "nodetap ", ""},
		{"help", []string{"--help"}, 0, "Usage:", ""},
		{"defaults are valid", []string{"validate"}, 0, "valid", ""},
		{"good file", []string{"validate", "--config", good}, 0, "valid", ""},
		{"bad file", []string{"validate", "--config", bad}, 1, "", bad + ":1:13: unknown key \"stdot\" in exporters (did you mean \"stdout\"?)\n" + bad + ":2:23: routes[0].exporters[0]: there is no enabled exporter \"nobody\"\n" + bad + ":3:1: unknown key \"log_levl\""},
		{"run refuses the same", []string{"run", "--config", bad}, 1, "", "3 error(s) in the configuration"},
		{"no such file", []string{"validate", "--config", filepath.Join(dir, "none")}, 1, "", "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := command(c.args, &stdout, &stderr); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
			}
		})
	}
}

func TestWhatOnlyTheWholeFileShowsIsAMistakeWithItsPlace(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"route to nothing", "exporters: {stdout/a: {}}\nroutes:\n- exporters: [stdout/b]\n",
			`:3:15: routes[0].exporters[0]: there is no enabled exporter "stdout/b" (did you mean "stdout/a"?)`},
		{"beside other mistakes", "exporters: {stdout/a: {}}\nroutes:\n- exporters: [stdout/b]\nnode_nam: x\n",
			`:3:15: routes[0].exporters[0]: there is no enabled exporter "stdout/b" (did you mean "stdout/a"?)`},
		{"route to what takes nothing", "exporters: {prom: {}}\nroutes:\n- exporters: [prom]\n",
			`:3:15: routes[0].exporters[0]: "prom" does not take logs or traces: leave it out of this route`},
		{"route of a signal that is not taken", "exporters: {forward: {endpoint: \"x:1\"}}\nroutes:\n- {match: {signals: [traces]}, exporters: [forward]}\n",
			`:3:44: routes[0].exporters[0]: "forward" does not take traces: leave it out of this route`},
		{"one address twice", "exporters:\n  prom/a: {listen: \":9\"}\n  prom/b: {listen: \":9\"}\n",
			`:3:20: exporters.prom/b.listen: exporters.prom/a listens on :9 already`},
		{"a queue where nothing waits", "exporters: {prom: {required: true}}\n",
			`:1:20: unknown key "required" in exporters.prom`},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "c.yaml")
			if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := loadConfig(path); err == nil || !strings.Contains(err.Error(), path+c.want) {
				t.Errorf("err = %v, want %s", err, path+c.want)
			}
		})
	}
}

func TestStateDirectoryBelongsToOneAgent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	unlock, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockState(dir); err == nil || !strings.Contains(err.Error(), "belongs to an agent that runs") {
		t.Errorf("second lock: %v", err)
	}
	unlock()
	again, err := lockState(dir)
	if err != nil {
		t.Fatalf("after unlock: %v", err)
	}
	again()
}

func TestLogIsLimitedPerKindAndCountsWhatItLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := newLogger("info", "json", &out)
		for range 100 {
			log.With("component", "a").Warn("storm")
		}
		log.With("component", "b").Warn("storm")
		log.Debug("unseen")
		if got := strings.Count(out.String(), "storm"); got != limitBurst+1 {
			t.Errorf("%d lines, want %d of one component and 1 of the other", got, limitBurst+1)
		}
		out.Reset()
		time.Sleep(limitEvery)
		log.With("component", "a").Warn("storm")
		if !strings.Contains(out.String(), `"suppressed":90`) {
			t.Errorf("no count of what was left out: %s", out.String())
		}
	})
}

func testSupervisor() (*supervisor, *prometheus.Registry) {
	reg := prometheus.NewRegistry()
	return newSupervisor(slog.New(slog.DiscardHandler), reg), reg
}

func TestSupervisorRestartsWhatFailsAndPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := testSupervisor()
		ctx, cancel := context.WithCancel(t.Context())
		runs := 0
		s.keep(ctx, "x", ignore, func(ctx context.Context) error {
			switch runs++; runs {
			case 1:
				return errors.New("broken")
			case 2:
				panic("worse")
			case 3:
				return nil // returning while it should run is a failure too
			}
			cancel()
			<-ctx.Done()
			return nil
		})
		if got := testutil.ToFloat64(s.restarts.WithLabelValues("x")); runs != 4 || got != 3 {
			t.Errorf("%d runs, %v restarts counted", runs, got)
		}
	})
}

func TestSupervisorLeavesWhatIsNotSupportedOff(t *testing.T) {
	s, _ := testSupervisor()
	runs, states := 0, []bool{}
	s.keep(t.Context(), "apm", func(up bool) { states = append(states, up) }, func(context.Context) error {
		runs++
		return &component.Unsupported{Missing: "CAP_BPF"}
	})
	if runs != 1 || len(states) != 2 || states[1] {
		t.Errorf("%d runs, states %v", runs, states)
	}
}

func TestAComponentMadeAnewCanRegisterItsMetricsAgain(t *testing.T) {
	scope := &scopedRegisterer{Registerer: prometheus.NewRegistry()}
	for range 2 {
		scope.reset()
		scope.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "n", Help: "h"}))
	}
}
