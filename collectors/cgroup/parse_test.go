package cgroup

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNumber(t *testing.T) {
	for in, want := range map[string]uint64{"0": 0, "18446744073709551615": math.MaxUint64, "007": 7} {
		if got, ok := number([]byte(in)); !ok || got != want {
			t.Errorf("number(%q) = %d, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "-1", "18446744073709551616", "99999999999999999999", "1 ", "max", "0x1"} {
		if got, ok := number([]byte(in)); ok {
			t.Errorf("number(%q) = %d, want none", in, got)
		}
	}
}

func TestParseIOStat(t *testing.T) {
	got := map[device]ioCounts{}
	parseIOStat([]byte("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:1 \n253:0 cost.usage=1\nnonsense\n259:1 rbytes=x wios=9\n"),
		func(d device, c ioCounts) { got[d] = c })
	want := map[device]ioCounts{{8, 0}: {1, 2, 3, 4}, {259, 1}: {0, 0, 0, 9}}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(ioCounts{}, device{})); d != "" {
		t.Error(d)
	}
}

func TestParseBlkio(t *testing.T) {
	var r reading
	for _, s := range v1Sources {
		switch s.name {
		case "blkio.throttle.io_service_bytes_recursive":
			s.parse(&r, []byte("254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 12288\n254:0 Total 12288\nTotal 12288\n"))
		case "blkio.throttle.io_serviced_recursive":
			s.parse(&r, []byte("254:0 Read 1\n254:0 Write 2\nTotal 3\n"))
		}
	}
	if len(r.io) != 1 || r.io[0] != (deviceIO{device{254, 0}, ioCounts{4096, 8192, 1, 2}}) {
		t.Errorf("io = %+v", r.io)
	}
}

func TestParsePressure(t *testing.T) {
	got := map[bool]uint64{}
	parsePressure([]byte("some avg10=0.00 avg60=1.00 avg300=0.00 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=678\n"),
		func(full bool, v uint64) { got[full] = v })
	if d := cmp.Diff(map[bool]uint64{false: 12345, true: 678}, got); d != "" {
		t.Error(d)
	}
}

func TestParseNetDev(t *testing.T) {
	var n network
	n.fill([]byte(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:   10   1    0    0    0     0          0         0   10   1    0    0    0     0       0          0
  eth0: 3718      49    1    2    0     0          0         0      612       8    3    4    0     0       0          0
eth0:1:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
vethab: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
short: 1 2 3
`))
	want := []netInterface{{"eth0", netCounts{3718, 49, 1, 2, 612, 8, 3, 4}}, {"eth0:1", netCounts{1, 2, 3, 4, 9, 10, 11, 12}}}
	if d := cmp.Diff(want, n.interfaces, cmp.AllowUnexported(netInterface{}, netCounts{})); d != "" {
		t.Error(d)
	}
}

func TestParseStartTime(t *testing.T) {
	got, ok := parseStartTime([]byte("42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1000 2 18446744073709551615"))
	if !ok || got != 123456 {
		t.Errorf("start = %d, %v", got, ok)
	}
	if _, ok := parseStartTime([]byte("42 (x) S 1")); ok {
		t.Error("a short line has a start")
	}
}

func TestCountCPUs(t *testing.T) {
	for in, want := range map[string]int{"0": 1, "0-3": 4, "0-1,4,8-9": 5, "": 0, "3-1": 0, "a": 0} {
		if got := countCPUs(in); got != want {
			t.Errorf("countCPUs(%q) = %d, want %d", in, got, want)
		}
	}
}

// No file of a cgroup, whatever it says, makes a value that is not a number or
// is negative, or more rows than the bounds allow.
func FuzzSources(f *testing.F) {
	f.Add([]byte("some avg10=0.00 total=1\nfull total=2\n"))
	f.Add([]byte("8:0 rbytes=1 wbytes=2 rios=3 wios=4\n8:1 Read 5\n"))
	f.Add([]byte("total_rss 1\nanon 2\nusage_usec 3\nnr_periods 4\noom_kill 5\n"))
	f.Add([]byte("max 100000\n"))
	f.Add([]byte("1\n2\n0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, s := range append(append([]source(nil), v1Sources...), v2Sources...) {
			var r reading
			s.parse(&r, b)
			r.derive()
			for m := range numMetrics {
				if v, ok := r.get(m); ok && (math.IsNaN(v) || v < 0) {
					t.Errorf("%s: metric %d = %g", s.name, m, v)
				}
			}
			if len(r.io) > maxDevices || len(r.pids) > maxPids {
				t.Errorf("%s: %d devices, %d pids", s.name, len(r.io), len(r.pids))
			}
			var owned uint64
			for _, m := range s.owns {
				owned |= 1 << m
			}
			if derived := uint64(1 << memWorkingSet); r.has&^owned&^derived != 0 {
				t.Errorf("%s sets more than it owns: %b", s.name, r.has&^owned)
			}
		}
	})
}

func FuzzNetDev(f *testing.F) {
	f.Add([]byte("eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var n network
		n.fill(b)
		n.fill(b)
		if len(n.interfaces) > maxInterfaces {
			t.Errorf("%d interfaces", len(n.interfaces))
		}
	})
}

func FuzzStartTime(f *testing.F) {
	f.Add([]byte("42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1000"))
	f.Add([]byte("1 (short) S 1 2"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ticks, ok := parseStartTime(b); ok && !bytes.Contains(b, strconv.AppendUint(nil, ticks, 10)) {
			t.Errorf("%d does not stand there", ticks)
		} else if !ok && ticks != 0 {
			t.Errorf("%d, and yet not found", ticks)
		}
		// A process may call itself anything.
		stat := slices.Concat([]byte("42 ("), b, []byte(") S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1000"))
		if ticks, ok := parseStartTime(stat); ticks != 123456 || !ok {
			t.Errorf("a process of this name started at %d, %v", ticks, ok)
		}
	})
}
