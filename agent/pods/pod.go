package pods

import (
	"net/netip"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
)

// pod is what is kept of a Pod: about a kilobyte, where the API object takes
// ten. It is immutable, and is what the state file holds.
type pod struct {
	UID         string            `json:"uid"`
	PathUID     string            `json:"path_uid,omitempty"` // static pods: the UID in paths and cgroups
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	Node        string            `json:"node,omitempty"`
	IPs         []netip.Addr      `json:"ips,omitempty"`
	HostIPs     []netip.Addr      `json:"host_ips,omitempty"`
	HostNetwork bool              `json:"host_network,omitempty"`
	Done        bool              `json:"done,omitempty"`    // Succeeded or Failed: its address may be another's by now
	Created     int64             `json:"created,omitempty"` // unix seconds
	Owner       owner             `json:"owner,omitzero"`
	Workload    owner             `json:"workload,omitzero"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Resource    map[string]string `json:"resource,omitempty"` // resource.opentelemetry.io/*, without the prefix
	Containers  []container       `json:"containers,omitempty"`
}

// container is one container of a pod, init and ephemeral ones among them.
type container struct {
	Name    string `json:"name"`
	Image   string `json:"image,omitempty"`    // as the status resolves it, else as the spec names it
	ImageID string `json:"image_id,omitempty"` // repository digest or the runtime's image id
	Version string `json:"version,omitempty"`  // service.version by the image reference
	ID      string `json:"id,omitempty"`       // of the run that Restarts counts
	LastID  string `json:"last_id,omitempty"`  // of the run before
	Restart int    `json:"restart,omitempty"`
}

const resourcePrefix = "resource.opentelemetry.io/"

// keep says which annotations stay.
type keep struct {
	allow, deny []string
	maxBytes    int
	dropped     func(n int) // counts those that were too long
}

func (k *keep) takes(name string) bool {
	if strings.HasPrefix(name, "nodetap.io/") || strings.HasPrefix(name, "fluentbit.io/") {
		return true
	}
	return anyGlob(k.allow, name) && !anyGlob(k.deny, name)
}

// newPod takes what is needed from p. Strings are copied: p's may share large
// buffers, and most of them are other pods' too. Workloads are guessed from names, see workload.
func newPod(p *corev1.Pod, k *keep) *pod {
	out := &pod{
		UID:         strings.Clone(string(p.UID)),
		Namespace:   intern(p.Namespace),
		Name:        strings.Clone(p.Name),
		Node:        intern(p.Spec.NodeName),
		HostNetwork: p.Spec.HostNetwork,
		Done:        p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
		Labels:      cloneMap(p.Labels),
	}
	if !p.CreationTimestamp.IsZero() {
		out.Created = p.CreationTimestamp.Unix()
	}
	for _, a := range []string{"kubernetes.io/config.mirror", "kubernetes.io/config.hash"} {
		if h := p.Annotations[a]; isUID(h) && h != out.UID {
			out.PathUID = strings.Clone(h)
			break
		}
	}
	var tooLong int
	for name, value := range p.Annotations {
		if key, ok := strings.CutPrefix(name, resourcePrefix); ok && key != "" && len(value) <= k.maxBytes {
			if out.Resource == nil {
				out.Resource = map[string]string{}
			}
			out.Resource[strings.Clone(key)] = strings.Clone(value)
		}
		if !k.takes(name) {
			continue
		}
		if len(value) > k.maxBytes {
			tooLong++
			continue
		}
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[intern(name)] = intern(value)
	}
	if tooLong > 0 && k.dropped != nil {
		k.dropped(tooLong)
	}
	for i := range p.OwnerReferences {
		if o := &p.OwnerReferences[i]; o.Controller != nil && *o.Controller {
			out.Owner = owner{Kind: intern(o.Kind), Name: intern(o.Name)}
			break
		}
	}
	out.Workload = workload(out)
	out.IPs = addrs(p.Status.PodIP, len(p.Status.PodIPs), func(i int) string { return p.Status.PodIPs[i].IP })
	out.HostIPs = addrs(p.Status.HostIP, len(p.Status.HostIPs), func(i int) string { return p.Status.HostIPs[i].IP })
	out.Containers = containersOf(p)
	return out
}

func containersOf(p *corev1.Pod) []container {
	out := make([]container, 0, len(p.Spec.Containers)+len(p.Spec.InitContainers)+len(p.Spec.EphemeralContainers))
	add := func(name, image string) {
		image = intern(image)
		out = append(out, container{Name: intern(name), Image: image, Version: imageVersion(image)})
	}
	for i := range p.Spec.Containers {
		add(p.Spec.Containers[i].Name, p.Spec.Containers[i].Image)
	}
	for i := range p.Spec.InitContainers {
		add(p.Spec.InitContainers[i].Name, p.Spec.InitContainers[i].Image)
	}
	for i := range p.Spec.EphemeralContainers {
		add(p.Spec.EphemeralContainers[i].Name, p.Spec.EphemeralContainers[i].Image)
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range list {
			for j := range out {
				if out[j].Name == list[i].Name {
					out[j].status(&list[i])
				}
			}
		}
	}
	return out
}

func (c *container) status(s *corev1.ContainerStatus) {
	c.Restart = int(s.RestartCount)
	c.ID = containerID(s.ContainerID)
	if t := s.LastTerminationState.Terminated; t != nil {
		// Of a container that waits in a crash loop both are the run that ended last.
		if id := containerID(t.ContainerID); id != c.ID {
			c.LastID = id
		}
	}
	// The status has the reference with its registry, as the runtime and cAdvisor
	// name it; of an image without a tag only the runtime's id.
	if s.Image != "" && !strings.HasPrefix(s.Image, "sha256:") && s.Image != c.Image {
		c.Image = intern(s.Image)
	}
	c.ImageID = intern(strings.TrimPrefix(s.ImageID, "docker-pullable://"))
}

// containerID removes the runtime's scheme.
func containerID(s string) string {
	_, id, ok := strings.Cut(s, "://")
	if !ok {
		return ""
	}
	return strings.Clone(id)
}

func addrs(first string, n int, at func(int) string) []netip.Addr {
	var out []netip.Addr
	for i := range n {
		if a, err := netip.ParseAddr(at(i)); err == nil {
			out = append(out, a.Unmap())
		}
	}
	if len(out) == 0 {
		if a, err := netip.ParseAddr(first); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// intern returns a copy of s that other pods of the same list share.
func intern(s string) string { return unique.Make(s).Value() }

func cloneMap(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[intern(k)] = intern(v)
	}
	return out
}

func anyGlob(globs []string, s string) bool {
	for _, g := range globs {
		if glob(g, s) {
			return true
		}
	}
	return false
}

// glob matches with * for any run of characters, "/" among them.
func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	last := len(parts) - 1
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for _, p := range parts[1:last] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, parts[last])
}
