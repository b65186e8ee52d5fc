//go:build vm

package probe

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
)

// counting is a program that adds one to the only element of an array.
func counting(t *testing.T, spec ebpf.ProgramSpec) (*ebpf.Program, func() uint64, error) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	spec.License = "GPL"
	spec.Instructions = asm.Instructions{
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4), asm.StoreImm(asm.R2, 0, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, m.FD()), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1), asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return(),
	}
	prog, err := ebpf.NewProgram(&spec)
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { prog.Close() })
	return prog, func() (n uint64) {
		if err := m.Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}, nil
}

// fires makes a cgroup and checks that the attached program saw it.
func fires(t *testing.T, count func() uint64) {
	t.Helper()
	before := count()
	dir := filepath.Join("/sys/fs/cgroup", "probe")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if count() == before {
		t.Error("the program is attached and did not run")
	}
}

func TestTracepointFires(t *testing.T) {
	prog, count, err := counting(t, ebpf.ProgramSpec{Type: ebpf.TracePoint})
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.Tracepoint("cgroup", "cgroup_mkdir", prog, nil)
	if locked() {
		// tracefs, where a tracepoint's id is, is there but the kernel fills
		// nothing in.
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("attaching a tracepoint under lockdown=confidentiality: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fires(t, count)
}

func TestRawTracepointFires(t *testing.T) {
	prog, count, err := counting(t, ebpf.ProgramSpec{Type: ebpf.RawTracepoint})
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "cgroup_mkdir", Program: prog})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fires(t, count)
}

func TestBTFTracepointFires(t *testing.T) {
	prog, count, err := counting(t, ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "cgroup_mkdir"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: prog})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fires(t, count)
}

// What lockdown takes away is the reading of kernel memory by helper: CO-RE
// walks are built on it. The library then takes the kernel for one older than
// 5.5 and asks for the helper of those days, which reads user memory too: so
// programs that only read user memory are refused with it.
func TestKernelReadsAreAllowedUnlessLocked(t *testing.T) {
	for _, fn := range []asm.BuiltinFunc{asm.FnProbeReadKernel, asm.FnProbeReadKernelStr, asm.FnProbeReadUser} {
		err := features.HaveProgramHelper(ebpf.RawTracepoint, fn)
		switch {
		case !locked() && err != nil:
			t.Errorf("%v: %v", fn, err)
		case locked() && (err == nil || !strings.Contains(err.Error(), "cannot use helper")):
			t.Errorf("%v under lockdown=confidentiality: %v", fn, err)
		}
	}
}

func TestRingBuffer(t *testing.T) {
	if err := features.HaveMapType(ebpf.RingBuf); err != nil {
		t.Error(err)
	}
}
