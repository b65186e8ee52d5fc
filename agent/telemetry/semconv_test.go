package telemetry

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAttrsNameAContainerByTheConventions(t *testing.T) {
	r := &Resource{
		Node: "n", Namespace: "shop", Pod: "say-1", PodUID: "u", PodIP: "10.0.0.1",
		Container: "say", ContainerID: "c1", RestartCount: 2,
		Image: "reg:5000/say:1@sha256:aa", ImageID: "reg:5000/say@sha256:aa",
		WorkloadKind: "Deployment", WorkloadName: "say", OwnerKind: "ReplicaSet", OwnerName: "say-9",
		ServiceName: "say", ServiceNamespace: "shop",
		Labels: map[string]string{"b": "2", "a": "1"}, Annotations: map[string]string{"x": "y"},
		Attributes: []Attr{String("service.namespace", "own"), String("team", "t")},
	}
	want := []Attr{
		String("service.name", "say"), String("k8s.namespace.name", "shop"), String("k8s.pod.name", "say-1"),
		String("k8s.pod.uid", "u"), String("k8s.container.name", "say"), String("k8s.deployment.name", "say"),
		String("k8s.node.name", "n"), String("service.namespace", "own"), String("k8s.pod.ip", "10.0.0.1"),
		String("k8s.replicaset.name", "say-9"), Int("k8s.container.restart_count", 2), String("container.id", "c1"),
		String("container.image.name", "reg:5000/say"), Strings("container.image.tags", "1"),
		Strings("container.image.repo_digests", "reg:5000/say@sha256:aa"),
		String("k8s.pod.label.a", "1"), String("k8s.pod.label.b", "2"), String("k8s.pod.annotation.x", "y"),
		String("team", "t"),
	}
	if d := cmp.Diff(want, r.AppendAttrs(nil)); d != "" {
		t.Error(d)
	}
	if got := (&Resource{}).AppendAttrs(nil); len(got) != 0 {
		t.Errorf("an empty resource has attributes: %v", got)
	}
}

func TestImageNameAndTag(t *testing.T) {
	for image, want := range map[string][2]string{
		"":                            {"", ""},
		"nginx":                       {"nginx", ""},
		"nginx:1.2":                   {"nginx", "1.2"},
		"reg:5000/nginx":              {"reg:5000/nginx", ""},
		"reg:5000/a/nginx:1@sha256:x": {"reg:5000/a/nginx", "1"},
	} {
		if name, tag := splitImage(image); name != want[0] || tag != want[1] {
			t.Errorf("%q = %q, %q, want %q", image, name, tag, want)
		}
	}
}
