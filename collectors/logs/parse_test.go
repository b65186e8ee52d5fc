package logs

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"nodetap/agent/telemetry"
)

func nano(s string) int64 {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return t.UnixNano()
}

func TestParse(t *testing.T) {
	const at = "2026-11-22T12:37:58.447786933Z"
	ns := nano(at)
	for _, c := range []struct {
		name, in string
		want     line // body as text
		body     string
		bad      bool
	}{
		{name: "cri", in: at + " stdout F holding 10 MB", want: line{time: ns, stream: telemetry.Stdout}, body: "holding 10 MB"},
		{name: "cri partial", in: at + " stderr P half", want: line{time: ns, stream: telemetry.Stderr, partial: true}, body: "half"},
		{name: "cri empty body", in: at + " stderr F ", want: line{time: ns, stream: telemetry.Stderr}},
		{name: "cri empty body without a space", in: at + " stderr F", want: line{time: ns, stream: telemetry.Stderr}},
		{name: "cri leading spaces are the body's", in: at + " stdout F   x", want: line{time: ns, stream: telemetry.Stdout}, body: "  x"},
		{name: "cri further tags", in: at + " stdout P:a:b body", want: line{time: ns, stream: telemetry.Stdout, partial: true}, body: "body"},
		{name: "cri trimmed fraction", in: "2026-11-22T12:37:59.9664668Z stdout F x", want: line{time: nano("2026-11-22T12:37:59.9664668Z"), stream: telemetry.Stdout}, body: "x"},
		{name: "cri no fraction", in: "2026-11-22T12:37:59Z stdout F x", want: line{time: nano("2026-11-22T12:37:59Z"), stream: telemetry.Stdout}, body: "x"},
		{name: "cri zone, as CRI-O writes", in: "2026-11-22T12:37:59.5+05:30 stdout F x", want: line{time: nano("2026-11-22T12:37:59.5+05:30"), stream: telemetry.Stdout}, body: "x"},
		{name: "cri zone west", in: "2026-11-22T12:37:59.5-08:00 stdout F x", want: line{time: nano("2026-11-22T12:37:59.5-08:00"), stream: telemetry.Stdout}, body: "x"},
		{name: "cri leap day", in: "2024-02-29T00:00:00Z stdout F x", want: line{time: nano("2024-02-29T00:00:00Z"), stream: telemetry.Stdout}, body: "x"},
		{name: "cri before 1970", in: "1969-12-31T23:59:59.5Z stdout F x", want: line{time: -5e8, stream: telemetry.Stdout}, body: "x"},
		{name: "cri unknown stream", in: at + " stdlog F x", bad: true},
		{name: "cri unknown tag", in: at + " stdout X x", bad: true},
		{name: "cri tag too long", in: at + " stdout FF x", bad: true},
		{name: "cri no time", in: "stdout F x", bad: true},
		{name: "cri month 13", in: "2026-13-22T12:37:59Z stdout F x", bad: true},
		{name: "cri year that no int64 holds", in: "2500-01-22T12:37:59Z stdout F x", bad: true},
		{name: "empty", in: "", bad: true},
		{name: "docker", in: `{"log":"hello\n","stream":"stdout","time":"` + at + `"}`, want: line{time: ns, stream: telemetry.Stdout}, body: "hello"},
		{name: "docker partial", in: `{"log":"hal","stream":"stderr","time":"` + at + `"}`, want: line{time: ns, stream: telemetry.Stderr, partial: true}, body: "hal"},
		{name: "docker escapes", in: `{"log":"\u003ca href=\"x\"\u003e\t\\n \ud83d\ude00 \ud83d é\r\n","stream":"stdout","time":"` + at + `"}`, want: line{time: ns, stream: telemetry.Stdout}, body: "<a href=\"x\">\t\\n 😀 \ufffd é\r"},
		{name: "docker backslash before n is no newline", in: `{"log":"c:\\n","stream":"stdout","time":"` + at + `"}`, want: line{time: ns, stream: telemetry.Stdout, partial: true}, body: `c:\n`},
		{name: "docker attrs and any order", in: `{ "attrs": {"a":["}",{"b":null}], "c":-1.5e3}, "time":"` + at + `", "stream":"stderr", "log":"x\n" }`, want: line{time: ns, stream: telemetry.Stderr}, body: "x"},
		{name: "docker cut off", in: `{"log":"x\n","stream":"stdout","time":"` + at, bad: true},
		{name: "docker no time", in: `{"log":"x\n","stream":"stdout"}`, bad: true},
		{name: "docker trailing rubbish", in: `{"log":"x\n","stream":"stdout","time":"` + at + `"}}`, bad: true},
		{name: "json of somebody else", in: `{"level":"info"}`, bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p parser
			var l line
			if ok := p.parse([]byte(c.in), &l); ok == c.bad {
				t.Fatalf("ok = %t", ok)
			}
			if c.bad {
				c.body = c.in
			}
			if string(l.body) != c.body {
				t.Errorf("body = %q, want %q", l.body, c.body)
			}
			if l.time != c.want.time || l.stream != c.want.stream || l.partial != c.want.partial {
				t.Errorf("got %+v, want %+v", l, c.want)
			}
		})
	}
}

// The lines of a real containerd, among them one of 40,000 bytes in parts.
func TestParseRealLines(t *testing.T) {
	b, err := os.ReadFile("testdata/cri/web-partial.log")
	if err != nil {
		t.Fatal(err)
	}
	var p parser
	var parts []int
	for raw := range bytes.SplitSeq(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) {
		var l line
		if !p.parse(raw, &l) {
			t.Fatalf("refused %.80q", raw)
		}
		if l.partial {
			parts = append(parts, len(l.body))
		}
	}
	same(t, parts, []int{16384, 16384})
}

// FuzzParse holds the parser to the standard library's where both accept.
func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-11-22T12:37:58.447786933Z stdout F body"))
	f.Add([]byte("2026-11-22T12:37:58+01:00 stderr P:x body"))
	f.Add([]byte(`{"log":"a\u003cb\\\n","stream":"stdout","time":"2026-11-22T12:37:58.447786933Z"}`))
	f.Add([]byte(`{"attrs":{"x":[1,{"y":"}"}]},"log":"","stream":"stderr","time":"2026-11-22T12:37:58Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.Clone(b)
		var p parser
		var l line
		ok := p.parse(b, &l)
		if !bytes.Equal(b, in) {
			t.Fatal("the parser wrote to its input")
		}
		if !ok {
			if !bytes.Equal(l.body, b) || l.time != 0 {
				t.Fatal("what is refused is not handed on as it is")
			}
			return
		}
		var again line
		if !p.parse(b, &again) || again.time != l.time || !bytes.Equal(again.body, l.body) {
			t.Fatal("a second time differs")
		}
		if b[0] != '{' {
			word, _, _ := strings.Cut(string(b), " ")
			if want, err := time.Parse(time.RFC3339Nano, word); err == nil && want.UnixNano() != l.time {
				t.Fatalf("time %d, the standard library says %d", l.time, want.UnixNano())
			}
			return
		}
		var v struct {
			Log    *string `json:"log"`
			Stream string  `json:"stream"`
			Time   string  `json:"time"`
		}
		if json.Unmarshal(b, &v) != nil || v.Log == nil {
			return // ours takes more: a line is not worth losing for it
		}
		seen := map[string]int{}
		for _, k := range []string{`"log"`, `"stream"`, `"time"`} {
			seen[k] = strings.Count(strings.ToLower(string(b)), k)
		}
		if seen[`"log"`] != 1 || seen[`"stream"`] != 1 || seen[`"time"`] != 1 {
			return // the standard library matches names in any case, and the last one wins
		}
		if !utf8.Valid(b) || strings.Contains(*v.Log, "\ufffd") {
			return // bytes stay as they are here; the standard library replaces them
		}
		if want, whole := strings.CutSuffix(*v.Log, "\n"); string(l.body) != want || l.partial == whole {
			t.Fatalf("body %q, the standard library says %q", l.body, want)
		}
	})
}

func TestParsePodName(t *testing.T) {
	for in, want := range map[string]podName{
		"kube-system_coredns-689f6799d4-kpp44_a3eff1f8-a71b-4cdb-bdf5-c72c625fa5a2": {"kube-system", "coredns-689f6799d4-kpp44", "a3eff1f8-a71b-4cdb-bdf5-c72c625fa5a2"},
		"kube-system_etcd-node.example_0123456789abcdef0123456789abcdef":            {"kube-system", "etcd-node.example", "0123456789abcdef0123456789abcdef"},
		"a_b": {}, "a_b_c_d": {}, "_b_c": {}, "a_b c_d": {}, "a_.._c": {}, "a_b\n_c": {},
	} {
		got, ok := parsePodName(in)
		if ok != (want != podName{}) || ok && got != want {
			t.Errorf("%q: got %+v, %t", in, got, ok)
		}
	}
}

func TestFileNamesInTimeOrder(t *testing.T) {
	for _, name := range []string{"0.log.tmp", "0.log.20261122-100000.tmp", "0.log.20261122-100000.gz.tmp", "x.log", "01.log", "-1.log", ".log", "0.logs", "0.log.", "0.log.gz", "0.txt", "9999999999.log"} {
		if _, ok := parseFileName(name); ok {
			t.Errorf("%q was taken for a log", name)
		}
	}
	for _, order := range [][]string{
		{"3.log.20261121-235959.gz", "3.log.20261122-100000", "3.log"},
		{"0.log.10.gz", "0.log.2.gz", "0.log.1", "0.log"},
	} {
		for i := range order {
			for j := range order {
				a, ok1 := parseFileName(order[i])
				b, ok2 := parseFileName(order[j])
				if !ok1 || !ok2 {
					t.Fatalf("%q or %q was refused", order[i], order[j])
				}
				if a.older(b) != (i < j) {
					t.Errorf("%q older than %q: %t", order[i], order[j], a.older(b))
				}
			}
		}
	}
}

func TestDockerLink(t *testing.T) {
	id := strings.Repeat("0a", 32)
	for target, want := range map[string]bool{
		"/var/lib/docker/containers/" + id + "/" + id + "-json.log":    true,
		"/var/lib/docker/containers/" + id + "/../" + id + "-json.log": false,
		"/var/lib/docker/containers/" + id + "/shadow":                 false,
		"/var/lib/docker/containers/../../../etc/shadow":               false,
		"/etc/shadow": false,
		"../../../../lib/docker/containers/" + id + "/" + id + "-json.log": false,
	} {
		if _, ok := dockerLink("/var/lib/docker/containers/", target); ok != want {
			t.Errorf("%s: %t", target, ok)
		}
	}
}
