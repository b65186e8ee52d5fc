package apm

import (
	"net/netip"
	"testing"

	"nodetap/agent/containers"
	"nodetap/agent/pods"
	"nodetap/agent/telemetry"
)

type pairedPods struct{ peer pods.Peer }

func (p pairedPods) Version() uint64 { return 1 }
func (pairedPods) Learns() bool      { return true }
func (p pairedPods) Container(id string) *telemetry.Resource {
	return &telemetry.Resource{Pod: "of " + id}
}
func (p pairedPods) Peer(netip.AddrPort) (pods.Peer, bool) { return p.peer, true }

func TestClientLearnsWhoAnswersForAService(t *testing.T) {
	client, service := netip.MustParseAddrPort("10.244.0.7:47000"), netip.MustParseAddrPort("10.96.0.1:80")
	const serverCgroup = 42
	server := &exchange{role: roleServer, cgroup: serverCgroup, first: 1000, conn: &conn{remote: client}}
	for _, tc := range []struct {
		name   string
		client exchange
		peer   pods.Peer
		want   string
	}{
		{"the same request", exchange{role: roleClient, first: 1000, conn: &conn{local: client, remote: service}}, pods.Peer{Service: "shop"}, "of 42"},
		{"an earlier connection from this address", exchange{role: roleClient, first: 999, conn: &conn{local: client, remote: service}}, pods.Peer{Service: "shop"}, ""},
		{"a server on another node", exchange{role: roleClient, first: 1000, conn: &conn{local: service, remote: service}}, pods.Peer{Service: "shop"}, ""},
		{"a pod's own address", exchange{role: roleClient, first: 1000, conn: &conn{local: client, remote: service}}, pods.Peer{Resource: &telemetry.Resource{Pod: "known"}}, "known"},
		{"no service", exchange{role: roleClient, first: 1000, conn: &conn{local: client, remote: service}}, pods.Peer{Node: "n"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRecorder(Default())
			r.pods = pairedPods{tc.peer}
			r.find = func(cgroup uint64) *containers.Container {
				if cgroup != serverCgroup {
					t.Fatalf("asked for cgroup %d", cgroup)
				}
				return &containers.Container{ID: "42"}
			}
			r.pairs.arrived(server)
			got := ""
			if p := r.behind(&tc.client, r.peer(tc.client.conn)); p.Resource != nil {
				got = p.Resource.Pod
			}
			if got != tc.want {
				t.Errorf("peer pod %q, want %q", got, tc.want)
			}
		})
	}
}

func TestPairsForgetTheOldest(t *testing.T) {
	var p pairs
	c := &conn{remote: netip.MustParseAddrPort("10.0.0.1:1")}
	for i := range uint32(3 * maxPairs) {
		p.arrived(&exchange{role: roleServer, cgroup: uint64(i) + 1, first: i, conn: c})
	}
	if n := len(p.young) + len(p.old); n > 2*maxPairs {
		t.Errorf("%d are remembered", n)
	}
	c.local = c.remote
	if got := p.server(&exchange{first: 0, conn: c}); got != 0 {
		t.Errorf("the first is still there: %d", got)
	}
	if got := p.server(&exchange{first: 3*maxPairs - 1, conn: c}); got != 3*maxPairs {
		t.Errorf("the last is %d", got)
	}
}

func TestLoopbackAddressesPairNothing(t *testing.T) {
	var p pairs
	c := &conn{remote: netip.MustParseAddrPort("127.0.0.1:5000"), local: netip.MustParseAddrPort("127.0.0.1:5000")}
	p.arrived(&exchange{role: roleServer, cgroup: 7, first: 1, conn: c})
	if got := p.server(&exchange{first: 1, conn: c}); got != 0 {
		t.Errorf("cgroup %d, though every pod has this address", got)
	}
}
