//go:build vm

package node

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// Doctor has to say of a locked kernel that tracing is what it costs, and to
// find nothing wrong with any other of ours.
func TestDoctorSaysWhatTheKernelAllows(t *testing.T) {
	var out bytes.Buffer
	cmd := exec.Command(program, "doctor", "--config", writeConfig(t))
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	t.Logf("\n%s", out.String())

	off := map[string]string{} // what is off, and what that loses
	last := ""
	for line := range strings.Lines(out.String()) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && f[0] == "OFF":
			last = f[1]
			off[last] = ""
		case len(f) > 0 && (f[0] == "ok" || f[0] == "note"):
			last = ""
		case last != "" && strings.Contains(line, "without it:"):
			_, off[last], _ = strings.Cut(line, "without it:")
		}
	}
	if !locked() {
		if err != nil || len(off) > 0 {
			t.Errorf("doctor: %v, off: %v", err, off)
		}
		return
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("doctor ended with %v, want exit code 1 where something asked for cannot run", err)
	}
	for _, want := range []string{"HTTP spans", "request metrics", "logs and container metrics run"} {
		if !strings.Contains(off["tracing"], want) {
			t.Errorf("doctor says of tracing that it loses %q; want it to contain %q", off["tracing"], want)
		}
	}
	if !strings.Contains(out.String(), "lockdown=confidentiality") {
		t.Error("doctor does not name the reason, lockdown=confidentiality")
	}
	delete(off, "tracing")
	if len(off) > 0 {
		t.Errorf("off besides tracing: %v", off)
	}
}
