package pods

import (
	"bufio"
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestPathsOfARealNodeAreRead(t *testing.T) {
	f, err := os.Open("testdata/var-log-tree.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	links, files := 0, 0
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := sc.Text()
		if rest, ok := strings.CutPrefix(line, "containers/"); ok {
			name, target, _ := strings.Cut(rest, " -> ")
			pod, ns, ctr, id, ok := ParseLink(name)
			lf, ok2 := ParseLogPath(target)
			if !ok || !ok2 || lf.Pod != pod || lf.Namespace != ns || lf.Container != ctr || len(id) != 64 {
				t.Errorf("%s -> %s: %q %q %q %q %v, %+v %v", name, target, pod, ns, ctr, id, ok, lf, ok2)
			}
			links++
			continue
		}
		path, _, _ := strings.Cut(line, " ")
		if lf, ok := ParseLogPath(path); !ok || lf.UID == "" || lf.Restart > 2 {
			t.Errorf("%s: %+v %v", path, lf, ok)
		}
		files++
	}
	if links != 16 || files != 17 {
		t.Errorf("%d links and %d files, the sample has 16 and 17", links, files)
	}
}

func TestPathsThatNoKubeletWritesAreRefused(t *testing.T) {
	id := strings.Repeat("0a", 32)
	for _, p := range []string{
		"", "/", "//", "0.log", "c/0.log", "ns_pod/c/0.log", "ns_pod_uid_more/c/0.log", "ns_pod_uid/c/.log",
		"ns_pod_uid/c/x.log", "ns_pod_uid/c/-1.log", "ns_pod_uid/c/0.log.20260101-000000", "ns_pod_uid/../0.log",
		"ns_pod_uid/c/99999999999.log", "NS_pod_uid/c/0.log", "ns__uid/c/0.log", "ns_po\x00d_uid/c/0.log",
		"ns_" + strings.Repeat("p", 254) + "_uid/c/0.log",
	} {
		if f, ok := ParseLogPath(p); ok {
			t.Errorf("ParseLogPath(%q) = %+v", p, f)
		}
	}
	for _, p := range []string{"", "a_b_c.log", "a_b_c-" + id, "a_b-" + id + ".log", "a_b_c-" + id[1:] + ".log", "a_b_c-" + strings.ToUpper(id) + ".log", "_b_c-" + id + ".log"} {
		if _, _, _, _, ok := ParseLink(p); ok {
			t.Errorf("ParseLink(%q) is taken", p)
		}
	}
	if _, _, uid, ok := ParsePodDir("kube-system_etcd-node-1_0123456789abcdef0123456789abcdef"); !ok || uid != "0123456789abcdef0123456789abcdef" {
		t.Error("a static pod's directory is refused")
	}
}

func FuzzParseLogPath(f *testing.F) {
	f.Add("/var/log/pods/demo_web-5cddbf469b-5r45s_f9bf4ce8-40f8-43a0-afe7-c39ab889b4b3/web/1.log")
	f.Add("a_b_c/d/000.log")
	f.Fuzz(func(t *testing.T, s string) {
		l, ok := ParseLogPath(s)
		if !ok {
			return
		}
		if l.Restart < 0 || strings.ContainsAny(l.Namespace+l.Pod+l.UID+l.Container, "/_\x00") || l.UID == "" || l.Container == "" || l.Pod == "" || l.Namespace == "" {
			t.Errorf("%q gave %+v", s, l)
		}
		if !strings.Contains(s, l.Namespace+"_"+l.Pod+"_"+l.UID+"/"+l.Container+"/") {
			t.Errorf("%q does not hold %+v", s, l)
		}
	})
}

func FuzzParseLink(f *testing.F) {
	f.Add("ticker-0_demo_fast-" + strings.Repeat("c0", 32) + ".log")
	f.Fuzz(func(t *testing.T, s string) {
		pod, ns, ctr, id, ok := ParseLink(s)
		if ok && pod+"_"+ns+"_"+ctr+"-"+id+".log" != s {
			t.Errorf("%q gave %q %q %q %q", s, pod, ns, ctr, id)
		}
	})
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"version":1,"node":"node-1","pods":[{"pod":{"uid":"u","namespace":"n","name":"p","ips":["10.0.0.1",""],"containers":[{"name":"c","id":"x"}]},"runs":[{"id":"y","name":"c","restart":-1}],"deleted":5}]}`))
	f.Add([]byte(`{"version":1,"pods":[{}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseState(b)
		if err != nil {
			return
		}
		s := newStore(t, offline(), Options{})
		s.recall(st)
		for uid, e := range s.pods { // whatever was believed must answer, and be written again
			if r := s.Pod(uid); r == nil || r.PodUID != uid {
				t.Errorf("%q = %+v", uid, r)
			}
			for _, r := range e.runs {
				s.Container(r.id)
			}
			for _, ip := range e.pod.IPs {
				s.Peer(netip.AddrPortFrom(ip, 1))
			}
		}
		if _, err := json.Marshal(s.state()); err != nil {
			t.Error(err)
		}
	})
}
