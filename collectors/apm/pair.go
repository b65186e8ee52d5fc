package apm

import "net/netip"

const maxPairs = 8192 // requests of which the serving end is remembered, twice

// pairs tells a client who serves it behind the address of a Service. The
// translation of that address happens below the socket, where the client does
// not see it; but on one node both ends of the connection are seen, and they
// agree on the client's own address and on where in its stream a request begins.
//
// An end is remembered when a request arrives there, so before its response can
// reach the client. Of two generations the older one is forgotten as a whole.
type pairs struct {
	young, old map[pairKey]uint64 // to the cgroup of the server
}

type pairKey struct {
	client netip.AddrPort
	seq    uint32
}

// arrived remembers who serves a request.
func (p *pairs) arrived(x *exchange) {
	if x.role != roleServer || x.conn.remote.Addr().IsLoopback() {
		return // loopback addresses are those of every pod
	}
	if p.young == nil || len(p.young) >= maxPairs {
		p.old, p.young = p.young, make(map[pairKey]uint64)
	}
	p.young[pairKey{x.conn.remote, x.first}] = x.cgroup
}

// server returns the cgroup that serves a client's request; 0 when it is not on
// this node.
func (p *pairs) server(x *exchange) uint64 {
	k := pairKey{x.conn.local, x.first}
	if cgroup, ok := p.young[k]; ok {
		return cgroup
	}
	return p.old[k]
}
