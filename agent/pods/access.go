package pods

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
)

// Access is one thing that the agent asks of the API server, and whether it may.
type Access struct {
	Verb     string // get, list, watch
	Resource string // as an RBAC rule names it: pods, nodes, services, endpointslices
	Group    string // the API group of that rule; "" for the core one
	Err      error  // nil: it may
}

// Denied tells whether an RBAC rule is missing, rather than an answer.
func (a Access) Denied() bool { return apierrors.IsForbidden(a.Err) }

// CheckAccess asks the API server once for everything that Run would ask it, and
// returns the answers within ten seconds, nil when the configuration gives no API
// server. It is for a person to read: Run finds out by itself.
func CheckAccess(ctx context.Context, cfg Config, o Options) ([]Access, error) {
	self, err := newSelfMetrics(nil, nil)
	if err != nil {
		return nil, err
	}
	a, err := newAPI(cfg, o, self)
	if a == nil || err != nil {
		return nil, err
	}
	defer a.close()
	var out []Access
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	try := func(client rest.Interface, group, resource, selector string) {
		opts := metav1.ListOptions{FieldSelector: selector, Limit: 1}
		list, err := client.Get().Resource(resource).VersionedParams(&opts, metav1.ParameterCodec).Do(ctx).Get()
		out = append(out, Access{"list", resource, group, err})
		if err != nil {
			return
		}
		version := ""
		if m, ok := list.(metav1.ListInterface); ok {
			version = m.GetResourceVersion()
		}
		second := int64(1)
		opts = metav1.ListOptions{FieldSelector: selector, Watch: true, ResourceVersion: version, TimeoutSeconds: &second}
		w, err := client.Get().Resource(resource).VersionedParams(&opts, metav1.ParameterCodec).Watch(ctx)
		if err == nil {
			w.Stop()
		}
		out = append(out, Access{"watch", resource, group, err})
	}
	try(a.core, "", "pods", fields.OneTermEqualSelector("spec.nodeName", o.NodeName).String())
	err = a.core.Get().Resource("nodes").Name(o.NodeName).Do(ctx).Error()
	out = append(out, Access{"get", "nodes", "", err})
	if cfg.Peers != "none" {
		try(a.core, "", "services", "")
		try(a.discovery, "discovery.k8s.io", "endpointslices", "")
	}
	return out, nil
}
