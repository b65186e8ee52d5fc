//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// peerPod is the attribute that names the pod at the other end.
const peerPod = "nodetap.peer.k8s.pod.name"

// apps gives the demo's pods by their label app.
func apps(t *testing.T) map[string]pod {
	t.Helper()
	ps, err := pods("shop", "app")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]pod{}
	for _, p := range ps {
		out[p.Labels["app"]] = p
	}
	return out
}

// expect is what one span must say.
type expect struct {
	kind           int
	of, peer       pod
	service        string // by whose address the peer was called; "" for its own
	method, status string
}

// expected gives the spans that one call of front must make.
func expected(c call, app map[string]pod) []expect {
	status := fmt.Sprint(c.Status)
	front, service := app["front"], c.Backend
	back := app[service]
	if c.Backend == "direct" {
		back, service = app[languages[0]], ""
	}
	out := []expect{{3, front, back, service, c.Method, status}, {2, back, front, "", c.Method, status}}
	if c.Path == "/chain" {
		next := languages[(slices.Index(languages, back.Labels["app"])+1)%len(languages)]
		out = append(out, expect{3, back, app[next], next, "GET", "200"}, expect{2, app[next], back, "", "GET", "200"})
	}
	return out
}

// slack is what the clocks of front (wall) and kernel (boot time, converted) may
// differ by; calls are further apart.
const slack = int64(4 * time.Millisecond)

func within(s span, c call) bool { return s.Start >= c.Start-slack && s.Start <= c.End+slack }

func ofShop(s span) bool { return s.resource["k8s.namespace.name"] == "shop" }

func TestEachRequestGivesOneClientAndOneServerSpan(t *testing.T) {
	app := apps(t)
	const rounds = 5
	calls, err := front(rounds)
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for _, c := range calls {
		want += len(expected(c, app))
	}
	first, last := calls[0].Start-slack, calls[len(calls)-1].End+slack
	var spans []span
	err = eventually(30*time.Second, func() error {
		if err := viaOTLP.refresh(); err != nil {
			return err
		}
		spans = spans[:0]
		for _, s := range viaOTLP.spans {
			if ofShop(s) && s.Start >= first && s.Start <= last {
				spans = append(spans, s)
			}
		}
		// the request that started it all is front's server span too
		if len(spans) < want {
			return fmt.Errorf("%d spans of %d", len(spans), want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	bad := 0
	routes := map[string]map[string]bool{}
	for _, c := range calls {
		var mine []span
		for _, s := range spans {
			if within(s, c) && !strings.HasPrefix(s.attrs["http.route"]+s.attrs["url.path"], "/run") {
				mine = append(mine, s)
			}
		}
		problems := compare(c, mine, expected(c, app))
		for _, s := range mine {
			if strings.HasPrefix(c.Path, "/items/") && s.attrs["http.route"] != "" {
				key := fmt.Sprintf("%s kind %d", s.resource["k8s.pod.name"], s.Kind)
				if routes[key] == nil {
					routes[key] = map[string]bool{}
				}
				routes[key][s.attrs["http.route"]] = true
			}
		}
		if len(problems) > 0 {
			if bad++; bad <= 10 {
				t.Errorf("%s %s %s: %s\nspans: %v", c.Backend, c.Method, c.Path, strings.Join(problems, "; "), mine)
			}
		}
	}
	for who, r := range routes {
		if len(r) != 1 {
			t.Errorf("%s: the same endpoint has %d routes: %v", who, len(r), r)
		}
	}
	t.Logf("%d calls, %d spans wanted, %d seen, %d calls with a problem", len(calls), want, len(spans), bad)
}

// compare says what is wrong with the spans of one call.
func compare(c call, got []span, want []expect) (problems []string) {
	used := make([]bool, len(got))
	for _, w := range want {
		i := slices.IndexFunc(got, func(s span) bool { return s.Kind == w.kind && s.resource["k8s.pod.uid"] == w.of.UID })
		for i >= 0 && used[i] {
			j := slices.IndexFunc(got[i+1:], func(s span) bool { return s.Kind == w.kind && s.resource["k8s.pod.uid"] == w.of.UID })
			if j < 0 {
				i = -1
				break
			}
			i += j + 1
		}
		if i < 0 {
			problems = append(problems, fmt.Sprintf("no span of kind %d of %s", w.kind, w.of.Name))
			continue
		}
		used[i] = true
		s := got[i]
		bad := func(what, got, want string) {
			if got != want {
				problems = append(problems, fmt.Sprintf("%s of %s kind %d is %q, want %q", what, w.of.Name, w.kind, got, want))
			}
		}
		bad("method", s.attrs["http.request.method"], w.method)
		bad("status", s.attrs["http.response.status_code"], w.status)
		bad("peer", s.attrs[peerPod], w.peer.Name)
		if w.service != "" {
			bad("service", s.attrs["nodetap.peer.k8s.service.name"], w.service)
		}
		// what was not found has no endpoint, and its path is anybody's choice
		if s.attrs["http.route"] == "" && s.Kind == 2 && w.status != "404" {
			problems = append(problems, "no route")
		}
		for _, part := range strings.Split(c.Path, "/") {
			if len(part) == 4 && part[0] == '1' && strings.Contains(s.Name+s.attrs["http.route"]+s.attrs["url.template"], part) {
				problems = append(problems, "the id is in the name: "+s.Name)
			}
		}
		if s.End < s.Start || s.End > c.End+slack {
			problems = append(problems, fmt.Sprintf("ends %d µs after the call", (s.End-c.End)/1000))
		}
		if c.Path == "/slow" && s.End-s.Start < 50e6 {
			problems = append(problems, fmt.Sprintf("lasts %d µs, the service waited 50,000", (s.End-s.Start)/1000))
		}
		isError := s.Kind == 2 && w.status == "500" || s.Kind == 3 && w.status >= "400"
		if (s.Status == 2) != isError {
			problems = append(problems, fmt.Sprintf("status code %d of a %s", s.Status, w.status))
		}
		if c.TraceID != "" && w.of.Labels["app"] != "" && (w.peer.Labels["app"] == "front" || w.of.Labels["app"] == "front") && s.TraceID != c.TraceID {
			problems = append(problems, fmt.Sprintf("trace %s, the traceparent said %s", s.TraceID, c.TraceID))
		}
	}
	for i, s := range got {
		if !used[i] {
			problems = append(problems, fmt.Sprintf("one too many: %v", s))
		}
	}
	return problems
}
