package pods

import (
	"strconv"
	"strings"
	"time"
)

// owner names a controller.
type owner struct {
	Kind string `json:"kind,omitempty"`
	Name string `json:"name,omitempty"`
}

// workload tells what a user deployed, from the names that the built-in
// controllers give, so that no ReplicaSet and no Job needs to be watched:
//
//   - a ReplicaSet is named <deployment>-<pod-template-hash>, and its pods carry
//     the hash as a label;
//   - a CronJob's Job is named <cronjob>-<minutes>, the scheduled time in minutes
//     since 1970 (seconds before Kubernetes 1.21). It is a heuristic: the number
//     must lie near the pod's creation, so that a Job named after a date is not
//     taken for one;
//   - a static pod's controller is its Node, and its name ends in the node's.
//
// Any other controller is the workload itself.
func workload(p *pod) owner {
	switch p.Owner.Kind {
	case "ReplicaSet":
		// Argo Rollouts does as Deployments do, with a label of its own.
		for _, l := range []struct{ label, kind string }{
			{"pod-template-hash", "Deployment"}, {"rollouts-pod-template-hash", "Rollout"},
		} {
			if hash := p.Labels[l.label]; hash != "" {
				if name, ok := strings.CutSuffix(p.Owner.Name, "-"+hash); ok && name != "" {
					return owner{Kind: l.kind, Name: intern(name)}
				}
			}
		}
	case "Job":
		if name, ok := cronJob(p.Owner.Name, p.Created); ok {
			return owner{Kind: "CronJob", Name: intern(name)}
		}
	case "Node":
		if name, ok := strings.CutSuffix(p.Name, "-"+p.Owner.Name); ok && name != "" {
			return owner{Kind: "Node", Name: intern(name)}
		}
		return owner{Kind: "Node", Name: p.Name}
	}
	return p.Owner
}

func cronJob(job string, created int64) (string, bool) {
	i := strings.LastIndexByte(job, '-')
	if i <= 0 {
		return "", false
	}
	digits := job[i+1:]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || digits[0] == '+' || digits[0] == '0' {
		return "", false
	}
	var at time.Time
	switch len(digits) {
	case 8:
		at = time.Unix(n*60, 0)
	case 10:
		at = time.Unix(n, 0)
	default:
		return "", false
	}
	if created != 0 {
		// startingDeadlineSeconds, backoff and suspended Jobs let pods come late;
		// clocks differ a little the other way.
		if age := time.Unix(created, 0).Sub(at); age < -time.Hour || age > 30*24*time.Hour {
			return "", false
		}
	}
	return job[:i], true
}
