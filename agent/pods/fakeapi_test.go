package pods

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
)

// fakeAPI is an API server's list and watch over real HTTPS: the media types that
// client-go asks for, resource versions, watches that go on from one, bookmarks,
// and streamed lists when watchList is set.
type fakeAPI struct {
	t         *testing.T
	watchList bool
	addr      string
	codecs    serializer.CodecFactory

	mu       sync.Mutex
	srv      *httptest.Server
	rv       int
	objects  map[string]map[string]runtime.Object // by resource, by namespace/name
	history  []fakeEvent
	watchers map[chan struct{}]bool
	requests []string // "list pods spec.nodeName=node-1"
	accepts  map[string]bool
	forbid   map[string]bool // resources that are refused with 403
}

type fakeEvent struct {
	rv       int
	resource string
	kind     watch.EventType
	obj      runtime.Object
}

func newFakeAPI(t *testing.T) *fakeAPI {
	t.Helper()
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	f := &fakeAPI{t: t, codecs: serializer.NewCodecFactory(scheme), rv: 100, addr: "127.0.0.1:0", watchList: true,
		objects: map[string]map[string]runtime.Object{}, watchers: map[chan struct{}]bool{}, accepts: map[string]bool{}, forbid: map[string]bool{}}
	f.start()
	t.Cleanup(f.stop)
	return f
}

// start listens, on the same address as before.
func (f *fakeAPI) start() {
	ln, err := net.Listen("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	f.srv = &httptest.Server{Listener: ln, Config: &http.Server{Handler: f, ErrorLog: log.New(io.Discard, "", 0)}, EnableHTTP2: true}
	f.srv.StartTLS()
}

// stop ends every connection; then connections are refused.
func (f *fakeAPI) stop() {
	f.mu.Lock()
	srv := f.srv
	f.srv = nil
	f.mu.Unlock()
	if srv != nil {
		srv.CloseClientConnections()
		srv.Close()
	}
}

// kubeconfig writes a file that leads here.
func (f *fakeAPI) kubeconfig() string {
	path := filepath.Join(f.t.TempDir(), "kubeconfig")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.srv.Certificate().Raw})
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"https://%s\", certificate-authority-data: %s}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: secret}}]\ncurrent-context: c\n", f.addr, base64.StdEncoding.EncodeToString(ca))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

func resourceOf(o runtime.Object) string {
	switch o.(type) {
	case *corev1.Pod:
		return "pods"
	case *corev1.Service:
		return "services"
	case *discoveryv1.EndpointSlice:
		return "endpointslices"
	case *corev1.Node:
		return "nodes"
	}
	panic(fmt.Sprintf("%T", o))
}

func (f *fakeAPI) set(o runtime.Object) { f.change(o, false) }
func (f *fakeAPI) del(o runtime.Object) { f.change(o, true) }

func (f *fakeAPI) change(o runtime.Object, remove bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o = o.DeepCopyObject()
	acc, err := meta.Accessor(o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.rv++
	acc.SetResourceVersion(strconv.Itoa(f.rv))
	r := resourceOf(o)
	if f.objects[r] == nil {
		f.objects[r] = map[string]runtime.Object{}
	}
	key := acc.GetNamespace() + "/" + acc.GetName()
	kind := watch.Modified
	if f.objects[r][key] == nil {
		kind = watch.Added
	}
	if remove {
		kind = watch.Deleted
		delete(f.objects[r], key)
	} else {
		f.objects[r][key] = o
	}
	f.history = append(f.history, fakeEvent{f.rv, r, kind, o})
	for w := range f.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

func (f *fakeAPI) seen(request string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.requests, request)
}

func matches(o runtime.Object, selector string) bool {
	p, ok := o.(*corev1.Pod)
	if !ok || selector == "" {
		return true
	}
	if node, ok := strings.CutPrefix(selector, "spec.nodeName!="); ok {
		return p.Spec.NodeName != node
	}
	return p.Spec.NodeName == strings.TrimPrefix(selector, "spec.nodeName=")
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/api/v1/"), "/apis/discovery.k8s.io/v1/")
	resource, name, _ := strings.Cut(path, "/")
	q := r.URL.Query()
	verb := "list"
	if name != "" {
		verb = "get"
	} else if q.Get("watch") == "true" || q.Get("watch") == "1" {
		verb = "watch"
	}
	f.mu.Lock()
	f.requests = append(f.requests, strings.TrimSpace(verb+" "+path+" "+q.Get("fieldSelector")))
	f.accepts[r.Header.Get("Accept")] = true
	forbidden := f.forbid[resource]
	f.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer secret" {
		f.fail(w, r, http.StatusUnauthorized, metav1.StatusReasonUnauthorized)
		return
	}
	if forbidden {
		f.fail(w, r, http.StatusForbidden, metav1.StatusReasonForbidden)
		return
	}
	switch verb {
	case "get":
		f.mu.Lock()
		o := f.objects[resource]["/"+name]
		f.mu.Unlock()
		if o == nil {
			f.fail(w, r, http.StatusNotFound, metav1.StatusReasonNotFound)
			return
		}
		f.write(w, r, http.StatusOK, o)
	case "list":
		f.list(w, r, resource, q)
	case "watch":
		f.watch(w, r, resource, q)
	}
}

// info returns how client-go wants it: protobuf when it asks for that first.
func (f *fakeAPI) info(r *http.Request) runtime.SerializerInfo {
	want := strings.TrimSpace(strings.Split(strings.Split(r.Header.Get("Accept"), ",")[0], ";")[0])
	for _, i := range f.codecs.SupportedMediaTypes() {
		if i.MediaType == want {
			return i
		}
	}
	f.t.Errorf("Accept: %q", r.Header.Get("Accept"))
	return f.codecs.SupportedMediaTypes()[0]
}

func (f *fakeAPI) encode(i runtime.SerializerInfo, w io.Writer, o runtime.Object) error {
	gv := corev1.SchemeGroupVersion
	switch o.(type) {
	case *discoveryv1.EndpointSlice, *discoveryv1.EndpointSliceList:
		gv = discoveryv1.SchemeGroupVersion
	}
	return f.codecs.EncoderForVersion(i.Serializer, gv).Encode(o, w)
}

func (f *fakeAPI) write(w http.ResponseWriter, r *http.Request, code int, o runtime.Object) {
	i := f.info(r)
	w.Header().Set("Content-Type", i.MediaType)
	w.WriteHeader(code)
	if err := f.encode(i, w, o); err != nil && r.Context().Err() == nil {
		f.t.Error(err)
	}
}

func (f *fakeAPI) fail(w http.ResponseWriter, r *http.Request, code int, reason metav1.StatusReason) {
	f.write(w, r, code, &metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: string(reason)})
}

func (f *fakeAPI) list(w http.ResponseWriter, r *http.Request, resource string, q url.Values) {
	f.mu.Lock()
	lm := metav1.ListMeta{ResourceVersion: strconv.Itoa(f.rv)}
	var out runtime.Object
	pl, sl, el := &corev1.PodList{ListMeta: lm}, &corev1.ServiceList{ListMeta: lm}, &discoveryv1.EndpointSliceList{ListMeta: lm}
	for _, o := range f.objects[resource] {
		if !matches(o, q.Get("fieldSelector")) {
			continue
		}
		switch o := o.(type) {
		case *corev1.Pod:
			pl.Items = append(pl.Items, *o)
		case *corev1.Service:
			sl.Items = append(sl.Items, *o)
		case *discoveryv1.EndpointSlice:
			el.Items = append(el.Items, *o)
		}
	}
	out = map[string]runtime.Object{"pods": pl, "services": sl, "endpointslices": el}[resource]
	f.mu.Unlock()
	f.write(w, r, http.StatusOK, out)
}

func (f *fakeAPI) watch(w http.ResponseWriter, r *http.Request, resource string, q url.Values) {
	initial := q.Get("sendInitialEvents") == "true"
	if initial && !f.watchList { // what an API server before 1.32 says
		f.fail(w, r, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
		return
	}
	i := f.info(r)
	w.Header().Set("Content-Type", i.MediaType+";stream=watch")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush() // as an API server does, before there is an event
	frames := i.StreamSerializer.Framer.NewFrameWriter(w)
	send := func(kind watch.EventType, o runtime.Object) {
		var raw strings.Builder
		if err := f.encode(i, &raw, o); err != nil {
			f.t.Error(err)
		}
		ev := &metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: []byte(raw.String())}}
		if err := i.StreamSerializer.Serializer.Encode(ev, frames); err != nil {
			return // the client is gone
		}
		w.(http.Flusher).Flush()
	}
	news := make(chan struct{}, 1)
	f.mu.Lock()
	f.watchers[news] = true
	from, _ := strconv.Atoi(q.Get("resourceVersion"))
	var first []runtime.Object
	if initial || from == 0 {
		for _, o := range f.objects[resource] {
			if matches(o, q.Get("fieldSelector")) {
				first = append(first, o)
			}
		}
		from = f.rv
	}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.watchers, news)
		f.mu.Unlock()
	}()
	for _, o := range first {
		send(watch.Added, o)
	}
	if initial {
		m := metav1.ObjectMeta{ResourceVersion: strconv.Itoa(from), Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}
		send(watch.Bookmark, map[string]runtime.Object{"pods": &corev1.Pod{ObjectMeta: m}, "services": &corev1.Service{ObjectMeta: m},
			"endpointslices": &discoveryv1.EndpointSlice{ObjectMeta: m}}[resource])
	}
	for {
		f.mu.Lock()
		var now []fakeEvent
		for _, e := range f.history {
			if e.rv > from && e.resource == resource && matches(e.obj, q.Get("fieldSelector")) {
				now = append(now, e)
			}
		}
		from = f.rv
		f.mu.Unlock()
		for _, e := range now {
			send(e.kind, e.obj)
		}
		select {
		case <-r.Context().Done():
			return
		case <-news:
		}
	}
}
