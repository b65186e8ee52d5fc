package pods

import (
	"sort"
	"strings"

	"nodetap/agent/telemetry"
)

// identity builds Resources: what is the same for all of them on this node.
type identity struct {
	cluster, node string
	fromLabels    bool // Config.ServiceFromLabels
}

// pod returns the Resource of a pod itself.
func (d *identity) pod(p *pod) *telemetry.Resource {
	r := &telemetry.Resource{
		Cluster:      d.cluster,
		Node:         p.Node,
		Namespace:    p.Namespace,
		Pod:          p.Name,
		PodUID:       p.UID,
		WorkloadKind: p.Workload.Kind,
		WorkloadName: p.Workload.Name,
		OwnerKind:    p.Owner.Kind,
		OwnerName:    p.Owner.Name,
		Labels:       p.Labels,
		Annotations:  p.Annotations,
	}
	if r.Node == "" {
		r.Node = d.node
	}
	if len(p.IPs) > 0 {
		r.PodIP = p.IPs[0].String()
	}
	d.service(r, p, "")
	return r
}

// container returns the Resource of one run of a container. The name may be one
// that the pod's spec does not have (yet).
func (d *identity) container(p *pod, name string, restart int, id string) *telemetry.Resource {
	r := d.pod(p)
	r.Container, r.RestartCount, r.ContainerID = name, restart, id
	version := ""
	for i := range p.Containers {
		if c := &p.Containers[i]; c.Name == name {
			r.Image, r.ImageID, version = c.Image, c.ImageID, c.Version
		}
	}
	d.service(r, p, version)
	return r
}

// path returns what a log's path tells.
func (d *identity) path(f LogFile, id string) *telemetry.Resource {
	r := &telemetry.Resource{
		Cluster: d.cluster, Node: d.node,
		Namespace: f.Namespace, Pod: f.Pod, PodUID: f.UID,
		Container: f.Container, ContainerID: id, RestartCount: f.Restart,
		Partial: true,
	}
	d.service(r, &pod{}, "")
	return r
}

// service fills in service.* and the attributes that annotations give, by
// https://opentelemetry.io/docs/specs/semconv/non-normative/k8s-attributes/:
// annotation, then (as an option) the well-known labels, then the workload's
// name, the pod's, the container's. The workload of a controller that the
// convention does not know (a Rollout) counts as a Deployment does.
func (d *identity) service(r *telemetry.Resource, p *pod, imageVersion string) {
	label := func(name string) string {
		if d.fromLabels {
			return p.Labels[name]
		}
		return ""
	}
	workload := r.WorkloadName
	if r.WorkloadKind == "Node" {
		workload = "" // a static pod is its own service
	}
	instance := r.Namespace + "." + r.Pod
	if r.Container != "" {
		instance += "." + r.Container
	}
	r.ServiceName = first(p.Resource["service.name"], label("app.kubernetes.io/instance"),
		label("app.kubernetes.io/name"), workload, r.Pod, r.Container)
	r.ServiceNamespace = first(p.Resource["service.namespace"], r.Namespace)
	r.ServiceVersion = first(p.Resource["service.version"], label("app.kubernetes.io/version"), imageVersion)
	r.ServiceInstanceID = first(p.Resource["service.instance.id"], instance)

	r.Attributes = nil
	for k, v := range p.Resource {
		switch k {
		case "service.name", "service.namespace", "service.version", "service.instance.id":
		default:
			r.Attributes = append(r.Attributes, telemetry.String(k, v))
		}
	}
	sort.Slice(r.Attributes, func(i, j int) bool { return r.Attributes[i].Key < r.Attributes[j].Key })
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// imageVersion returns tag@digest of an image reference, or the one of the two
// that it has.
func imageVersion(image string) string {
	name, digest, _ := strings.Cut(image, "@")
	tag := ""
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		tag = name[i+1:]
	}
	if tag != "" && digest != "" {
		return intern(tag + "@" + digest)
	}
	return intern(first(tag, digest))
}
