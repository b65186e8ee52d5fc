package telemetry

import (
	"slices"
	"strings"
)

// workloadKeys are the attributes that name a workload by its kind.
var workloadKeys = map[string]string{
	"Deployment":            "k8s.deployment.name",
	"ReplicaSet":            "k8s.replicaset.name",
	"StatefulSet":           "k8s.statefulset.name",
	"DaemonSet":             "k8s.daemonset.name",
	"CronJob":               "k8s.cronjob.name",
	"Job":                   "k8s.job.name",
	"ReplicationController": "k8s.replicationcontroller.name",
}

// AppendIdentity appends the attributes that name where the telemetry comes
// from, by the semantic conventions: service, namespace, pod, container,
// workload, node. Empty fields are left out. It is what a person wants to read;
// AppendAttrs is what a backend wants to store.
func (r *Resource) AppendIdentity(dst []Attr) []Attr {
	if r == nil {
		return dst
	}
	dst = appendString(dst, "service.name", r.ServiceName)
	dst = appendString(dst, "k8s.namespace.name", r.Namespace)
	dst = appendString(dst, "k8s.pod.name", r.Pod)
	dst = appendString(dst, "k8s.pod.uid", r.PodUID)
	dst = appendString(dst, "k8s.container.name", r.Container)
	if key, ok := workloadKeys[r.WorkloadKind]; ok {
		dst = appendString(dst, key, r.WorkloadName)
	}
	return appendString(dst, "k8s.node.name", r.Node)
}

// AppendAttrs appends all that is known of the resource, as attributes by the
// semantic conventions, each key once. Labels and annotations come sorted under
// k8s.pod.label.* and k8s.pod.annotation.*; Attributes win over what is derived
// from the other fields.
func (r *Resource) AppendAttrs(dst []Attr) []Attr {
	if r == nil {
		return dst
	}
	from := len(dst)
	dst = r.AppendIdentity(dst)
	dst = appendString(dst, "service.namespace", r.ServiceNamespace)
	dst = appendString(dst, "service.version", r.ServiceVersion)
	dst = appendString(dst, "service.instance.id", r.ServiceInstanceID)
	dst = appendString(dst, "k8s.cluster.name", r.Cluster)
	dst = appendString(dst, "k8s.pod.ip", r.PodIP)
	if key, ok := workloadKeys[r.OwnerKind]; ok && r.OwnerKind != r.WorkloadKind {
		dst = appendString(dst, key, r.OwnerName)
	}
	if r.Container != "" {
		dst = append(dst, Int("k8s.container.restart_count", int64(r.RestartCount)))
	}
	dst = appendString(dst, "container.id", r.ContainerID)
	if name, tag := splitImage(r.Image); name != "" {
		dst = append(dst, String("container.image.name", name))
		if tag != "" {
			dst = append(dst, Strings("container.image.tags", tag))
		}
	}
	if strings.Contains(r.ImageID, "@") {
		dst = append(dst, Strings("container.image.repo_digests", r.ImageID))
	} else {
		dst = appendString(dst, "container.image.id", r.ImageID)
	}
	dst = appendMap(dst, "k8s.pod.label.", r.Labels)
	dst = appendMap(dst, "k8s.pod.annotation.", r.Annotations)
	for _, a := range r.Attributes {
		if i := slices.IndexFunc(dst[from:], func(b Attr) bool { return b.Key == a.Key }); i >= 0 {
			dst[from+i] = a
		} else {
			dst = append(dst, a)
		}
	}
	return dst
}

func appendString(dst []Attr, key, value string) []Attr {
	if value == "" {
		return dst
	}
	return append(dst, String(key, value))
}

func appendMap(dst []Attr, prefix string, m map[string]string) []Attr {
	from := len(dst)
	for k, v := range m {
		dst = append(dst, String(prefix+k, v))
	}
	slices.SortFunc(dst[from:], func(a, b Attr) int { return strings.Compare(a.Key, b.Key) })
	return dst
}

// splitImage takes registry:5000/name:tag@sha256:... apart.
func splitImage(image string) (name, tag string) {
	name, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, tag = name[:i], name[i+1:]
	}
	return name, tag
}
