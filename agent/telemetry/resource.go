// Package telemetry holds what flows from collectors to exporters: the
// Resource that says where something comes from, and batches of log records
// and spans about it.
//
// It imports the standard library alone and does no work of its own: no
// queues, no encoding, no lookups.
//
// Invariants: a Resource never changes once it is shared; new facts about a
// container are a new *Resource, so an exporter may cache what it renders by
// the pointer. A batch never changes after Send.
package telemetry

// Resource says which container (or pod, host file, process on the node)
// telemetry comes from. All fields may be empty: an empty field is unknown or
// does not apply, never a placeholder. Labels and Annotations are shared and
// must not be written to.
type Resource struct {
	Cluster   string // k8s.cluster.name, from the configuration
	Node      string // k8s.node.name
	Namespace string // k8s.namespace.name
	Pod       string // k8s.pod.name
	PodUID    string // k8s.pod.uid, as the API server writes it (with dashes)
	PodIP     string // k8s.pod.ip

	Container    string // k8s.container.name; "" on a pod's own rows
	ContainerID  string // 64 hex digits, without "containerd://"
	Image        string // as the status of the container names it, as cAdvisor does: registry/name:tag
	ImageID      string // repository digest, as the container's status gives it
	RestartCount int    // k8s.container.restart_count; the number in <n>.log

	WorkloadKind string // Deployment, StatefulSet, DaemonSet, CronJob, Job, ReplicaSet, Node (static pod)
	WorkloadName string
	OwnerKind    string // the pod's direct controller: ReplicaSet, Job, ...
	OwnerName    string

	// By the order of the OpenTelemetry specification for Kubernetes:
	// https://opentelemetry.io/docs/specs/semconv/non-normative/k8s-attributes/
	ServiceName       string
	ServiceNamespace  string
	ServiceVersion    string
	ServiceInstanceID string

	Labels      map[string]string // the pod's labels
	Annotations map[string]string // the pod's annotations that the configuration lets through

	// Attributes are further resource attributes by their OpenTelemetry names
	// (resource.opentelemetry.io/* annotations), sorted by key.
	Attributes []Attr

	// Partial is set while only the path or the cgroup has been seen, not the
	// pod itself: labels, workload and image are then unknown.
	Partial bool
}
