package pods

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// api is the connection to the API server: one HTTP client, and a lean REST
// client for each of the two groups that are read. client-go's clientset would
// add ten megabytes of memory for groups that nobody asks for.
type api struct {
	core, discovery rest.Interface
	http            *http.Client
	self            *selfMetrics

	mu   sync.Mutex
	down map[string]bool // resources whose last request failed
}

func newAPI(cfg Config, o Options, self *selfMetrics) (*api, error) {
	rc, err := restConfig(cfg)
	if rc == nil || err != nil {
		return nil, err
	}
	if o.NodeName == "" {
		return nil, errors.New("the node's name is not known, so its pods cannot be asked for: set NODE_NAME from spec.nodeName")
	}
	rc.UserAgent = "nodetap/" + first(o.Version, "dev")
	client, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	group := func(path string, gv schema.GroupVersion) (rest.Interface, error) {
		c := rest.CopyConfig(rc)
		c.APIPath, c.GroupVersion, c.NegotiatedSerializer = path, &gv, codecs
		c.ContentType = "application/vnd.kubernetes.protobuf"
		c.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
		return rest.RESTClientForConfigAndClient(c, client)
	}
	a := &api{http: client, self: self, down: map[string]bool{}}
	if a.core, err = group("/api", corev1.SchemeGroupVersion); err != nil {
		return nil, err
	}
	if a.discovery, err = group("/apis", discoveryv1.SchemeGroupVersion); err != nil {
		return nil, err
	}
	return a, nil
}

// restConfig finds the API server. It returns nil when there is none.
func restConfig(cfg Config) (*rest.Config, error) {
	if cfg.API == "off" {
		return nil, nil
	}
	if cfg.Kubeconfig != "" {
		rc, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("kubeconfig: %w", err)
		}
		return rc, nil
	}
	rc, err := rest.InClusterConfig()
	if err != nil {
		return nil, nil // noAPIReason says why
	}
	return rc, nil
}

func noAPIReason(cfg Config) string {
	if cfg.API == "off" {
		return "pods.api is off"
	}
	if _, err := rest.InClusterConfig(); err != nil && !errors.Is(err, rest.ErrNotInCluster) {
		return err.Error() // in a pod, but without its service account's token
	}
	return "not in a pod, and no kubeconfig"
}

func (a *api) close() { a.http.CloseIdleConnections() }

// note keeps count of a request's outcome and logs when it turns.
func (a *api) note(ctx context.Context, s *Store, resource string, err error) {
	if ctx.Err() != nil {
		return
	}
	a.mu.Lock()
	was := a.down[resource]
	a.down[resource] = err != nil
	a.mu.Unlock()
	if err != nil {
		a.self.watchErrors.WithLabelValues(resource).Inc()
		if !was {
			s.o.Logger.Warn("API server does not answer: going on with what is known", "resource", resource, "err", err)
		}
	} else if was {
		s.o.Logger.Info("API server answers again", "resource", resource)
	}
	if resource == "pods" {
		if err != nil {
			a.self.apiUp.Set(0)
		} else {
			a.self.apiUp.Set(1)
		}
	}
}

// watchAll starts the watches; they end with ctx.
func (s *Store) watchAll(ctx context.Context, wg *sync.WaitGroup) {
	// Failures are logged and counted by note: client-go's own lines are not.
	ctx = klog.NewContext(ctx, logr.Discard())
	own := fields.OneTermEqualSelector("spec.nodeName", s.o.NodeName).String()
	s.watch(ctx, wg, s.api.core, "pods", "pods", own, &corev1.Pod{}, &mirror[*pod]{
		from: func(o runtime.Object) (*pod, bool) {
			p, ok := o.(*corev1.Pod)
			if !ok {
				return nil, false
			}
			return newPod(p, &s.keep), true
		},
		set:     func(p *pod) { s.upsert(p, true) },
		remove:  func(p *pod) { s.remove(p.UID) },
		replace: s.replace,
	})
	wg.Go(func() { s.askNode(ctx) })
	if s.cfg.Peers == "none" {
		return
	}
	s.watch(ctx, wg, s.api.core, "services", "services", "", &corev1.Service{}, s.peers.servicesMirror())
	s.watch(ctx, wg, s.api.discovery, "endpointslices", "endpointslices", "", &discoveryv1.EndpointSlice{}, s.peers.slicesMirror())
	if s.cfg.Peers == "pods" {
		others := fields.OneTermNotEqualSelector("spec.nodeName", s.o.NodeName).String()
		s.watch(ctx, wg, s.api.core, "peers", "pods", others, &corev1.Pod{}, s.peers.podsMirror())
	}
}

// watch lists and watches one resource; name stands for it in logs and metrics.
// Reflector alone: an informer would keep
// a second copy and a queue.
func (s *Store) watch(ctx context.Context, wg *sync.WaitGroup, client rest.Interface, name, resource, selector string, example runtime.Object, store cache.ReflectorStore) {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			list, err := client.Get().Resource(resource).VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Get()
			s.api.note(ctx, s, name, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector, o.Watch = selector, true
			w, err := client.Get().Resource(resource).VersionedParams(&o, metav1.ParameterCodec).Watch(ctx)
			s.api.note(ctx, s, name, err)
			return w, err
		},
	}
	r := cache.NewReflectorWithOptions(lw, example, store, cache.ReflectorOptions{
		Name: "nodetap/" + name, Clock: endingClock{done: ctx}, Backoff: s.o.backoff,
		Logger: new(logr.Discard()),
	})
	wg.Go(func() { r.RunWithContext(ctx) })
}

// askNode reads the Node once, for its addresses.
func (s *Store) askNode(ctx context.Context) {
	wait := time.Second
	for {
		obj, err := s.api.core.Get().Resource("nodes").Name(s.o.NodeName).Do(ctx).Get()
		s.api.note(ctx, s, "nodes", err)
		if n, ok := obj.(*corev1.Node); ok && err == nil {
			s.mu.Lock()
			for _, a := range n.Status.Addresses {
				for _, ip := range addrs(a.Address, 0, nil) {
					s.nodeIPs[ip] = true
				}
			}
			s.mu.Unlock()
			return
		}
		if apierrors.IsNotFound(err) {
			s.o.Logger.Warn("the API server has no node of this name: no pod will be found", "node", s.o.NodeName)
			return
		}
		if apierrors.IsForbidden(err) {
			return // pods' host addresses tell most of it
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			wait = min(2*wait, time.Minute)
		}
	}
}
