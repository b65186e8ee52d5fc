package pods

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// mirrorOf makes a mirror out of set and unset and the map that holds what is
// there now.
func mirrorOf[T any](p *peers, now map[string]*T, key func(*T) string, from func(runtime.Object) (*T, bool), set, unset func(*T)) *mirror[*T] {
	remove := func(v *T) {
		p.mu.Lock()
		defer p.mu.Unlock()
		unset(v)
	}
	return &mirror[*T]{from: from, set: set, remove: remove, replace: func(list []*T) {
		seen := make(map[string]bool, len(list))
		for _, v := range list {
			seen[key(v)] = true
		}
		p.mu.Lock()
		for k, v := range now {
			if !seen[k] {
				unset(v)
			}
		}
		p.mu.Unlock()
		for _, v := range list {
			set(v)
		}
	}}
}

func (p *peers) servicesMirror() *mirror[*service] {
	return mirrorOf(p, p.services, func(s *service) string { return s.namespace + "/" + s.name }, newService, p.setService, p.unsetService)
}

func (p *peers) slicesMirror() *mirror[*slice] {
	return mirrorOf(p, p.slices, func(s *slice) string { return s.namespace + "/" + s.name }, newSlice, p.setSlice, p.unsetSlice)
}

func (p *peers) podsMirror() *mirror[*remote] {
	return mirrorOf(p, p.pods, func(r *remote) string { return r.uid }, newRemote, p.setPod, p.unsetPod)
}

func newService(o runtime.Object) (*service, bool) {
	svc, ok := o.(*corev1.Service)
	if !ok {
		return nil, false
	}
	s := &service{namespace: strings.Clone(svc.Namespace), name: strings.Clone(svc.Name)}
	add := func(ip string) {
		for _, a := range addrs(ip, 0, nil) {
			if !slices.Contains(s.ips, a) {
				s.ips = append(s.ips, a)
			}
		}
	}
	add(svc.Spec.ClusterIP) // "None" is no address
	for _, list := range [][]string{svc.Spec.ClusterIPs, svc.Spec.ExternalIPs} {
		for _, ip := range list {
			add(ip)
		}
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		add(in.IP)
	}
	for _, port := range svc.Spec.Ports {
		s.ports = append(s.ports, uint16(port.Port))
	}
	return s, true
}

func newSlice(o runtime.Object) (*slice, bool) {
	es, ok := o.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, false
	}
	s := &slice{namespace: strings.Clone(es.Namespace), name: strings.Clone(es.Name),
		service: strings.Clone(es.Labels[discoveryv1.LabelServiceName])}
	for _, port := range es.Ports {
		if port.Port == nil {
			s.ports = nil
			break
		}
		s.ports = append(s.ports, uint16(*port.Port))
	}
	for i := range es.Endpoints {
		e := &es.Endpoints[i]
		for _, addr := range e.Addresses {
			for _, ip := range addrs(addr, 0, nil) { // FQDN slices have none
				ep := &endpoint{ip: ip, slice: s}
				if e.NodeName != nil {
					ep.node = strings.Clone(*e.NodeName)
				}
				if t := e.TargetRef; t != nil && t.Kind == "Pod" {
					ep.pod, ep.namespace = strings.Clone(t.Name), strings.Clone(first(t.Namespace, es.Namespace))
					ep.uid = strings.Clone(string(t.UID))
				}
				s.endpoints = append(s.endpoints, ep)
			}
		}
	}
	return s, true
}

func newRemote(o runtime.Object) (*remote, bool) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return nil, false
	}
	q := newPod(p, &keep{}) // workload wants labels; nothing else of it is kept
	r := &remote{uid: q.UID, namespace: q.Namespace, name: q.Name, node: q.Node, hostNetwork: q.HostNetwork,
		done: q.Done, workload: q.Workload, owner: q.Owner}
	if !q.Done {
		r.ips = q.IPs
	}
	return r, true
}
