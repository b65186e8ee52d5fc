//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
)

// pod is what the API server says of one.
type pod struct {
	Namespace, Name, UID, IP string
	Labels                   map[string]string
	Containers               map[string]container
}

type container struct {
	ID       string // without the runtime's prefix
	Restarts int
}

// pods lists by label selector; "" for all.
func pods(namespace, selector string) ([]pod, error) {
	s, err := kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct {
				Namespace, Name, UID string
				Labels               map[string]string
				DeletionTimestamp    string
			}
			Status struct {
				PodIP             string
				ContainerStatuses []struct {
					Name, ContainerID string
					RestartCount      int
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(s), &list); err != nil {
		return nil, err
	}
	var out []pod
	for _, i := range list.Items {
		if i.Metadata.DeletionTimestamp != "" {
			continue
		}
		p := pod{i.Metadata.Namespace, i.Metadata.Name, i.Metadata.UID, i.Status.PodIP, i.Metadata.Labels, map[string]container{}}
		for _, c := range i.Status.ContainerStatuses {
			id := c.ContainerID
			if len(id) > 64 {
				id = id[len(id)-64:]
			}
			p.Containers[c.Name] = container{id, c.RestartCount}
		}
		out = append(out, p)
	}
	return out, nil
}

// onePod is the only one that the selector finds.
func onePod(t *testing.T, namespace, selector string) pod {
	t.Helper()
	ps, err := pods(namespace, selector)
	if err == nil && len(ps) != 1 {
		err = fmt.Errorf("%d pods", len(ps))
	}
	if err != nil {
		t.Fatalf("%s %s: %v", namespace, selector, err)
	}
	return ps[0]
}

func agent(t *testing.T) pod {
	t.Helper()
	return onePod(t, "nodetap", "app.kubernetes.io/component=agent")
}

// call is what the demo's front says of a request that it made.
type call struct {
	Backend, Method, Path string
	Status                int
	Start, End            int64
	TraceID, ParentID     string
}

// front has the demo make n rounds of requests: to every service, and to the
// first one's pod by its own address.
func front(n int) (calls []call, err error) {
	ps, err := pods("shop", "app="+languages[0])
	if err != nil || len(ps) != 1 {
		return nil, fmt.Errorf("%d pods of %s: %w", len(ps), languages[0], err)
	}
	s, err := get(fmt.Sprintf("http://%s0/run?n=%d&direct=%s:8080", serviceNet, n, ps[0].IP))
	if err == nil {
		err = json.Unmarshal([]byte(s), &calls)
	}
	return calls, err
}
