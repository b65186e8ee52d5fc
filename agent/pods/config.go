package pods

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Config is the section `pods` of the configuration.
type Config struct {
	API                string        `yaml:"api" doc:"Where pods are learnt from: auto (kubeconfig if set, else the pod's service account, else paths alone) or off (paths alone)."`
	Kubeconfig         string        `yaml:"kubeconfig" doc:"File that says how to reach the API server from outside a pod. Empty: the service account of the agent's own pod."`
	KeepDeleted        time.Duration `yaml:"keep_deleted" doc:"How long a deleted pod stays known after its last use. It stays longer while its log directory exists."`
	Annotations        []string      `yaml:"annotations" doc:"Annotations that go into the identity, as globs in which * stands for any characters. nodetap.io/* and fluentbit.io/* are always kept."`
	AnnotationsExclude []string      `yaml:"annotations_exclude" doc:"Globs of annotations that are left out although annotations lets them in."`
	AnnotationMaxBytes int           `yaml:"annotation_max_bytes" doc:"An annotation with a longer value is left out, and counted."`
	ServiceFromLabels  bool          `yaml:"service_from_labels" doc:"Take service.name from the labels app.kubernetes.io/instance and app.kubernetes.io/name, and service.version from app.kubernetes.io/version, before the workload's name and the image's tag. The semantic conventions make this an option."`
	Peers              string        `yaml:"peers" doc:"How the other end of a connection gets its name: services (Services and EndpointSlices), pods (all pods of the cluster too: small clusters only) or none (this node's pods alone)."`
	MaxPeers           int           `yaml:"max_peers" doc:"Addresses of other nodes' pods and of Services that are remembered. What is beyond is left out, and counted."`
}

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		API:                "auto",
		KeepDeleted:        5 * time.Minute,
		Annotations:        []string{"*"},
		AnnotationsExclude: []string{"kubectl.kubernetes.io/last-applied-configuration"},
		AnnotationMaxBytes: 8 << 10,
		Peers:              "services",
		MaxPeers:           65536,
	}
}

// Validate returns every error of the configuration, joined. Each has a method
// FieldKey that names its key.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, &fieldError{key: key, msg: fmt.Sprintf(format, args...)})
	}
	if c.API != "auto" && c.API != "off" {
		bad("api", "%q is not one of auto, off", c.API)
	}
	if c.API == "off" && c.Kubeconfig != "" {
		bad("kubeconfig", "has no effect with api: off; remove one of the two")
	}
	if c.KeepDeleted < time.Minute || c.KeepDeleted > 24*time.Hour {
		bad("keep_deleted", "%s is not between 1m and 24h", c.KeepDeleted)
	}
	for _, g := range c.Annotations {
		if strings.TrimSpace(g) == "" {
			bad("annotations", "an empty glob matches nothing; remove it")
		}
	}
	for _, g := range c.AnnotationsExclude {
		if strings.TrimSpace(g) == "" {
			bad("annotations_exclude", "an empty glob matches nothing; remove it")
		}
	}
	if c.AnnotationMaxBytes < 0 || c.AnnotationMaxBytes > 256<<10 {
		bad("annotation_max_bytes", "%d is not between 0 and 262144, which is Kubernetes' own limit", c.AnnotationMaxBytes)
	}
	switch c.Peers {
	case "services", "pods", "none":
	default:
		bad("peers", "%q is not one of services, pods, none", c.Peers)
	}
	if c.MaxPeers < 0 || c.MaxPeers > 4<<20 {
		bad("max_peers", "%d is not between 0 and 4194304", c.MaxPeers)
	}
	return errors.Join(errs...)
}

// fieldError is agent/component's FieldError, which this package may not import.
type fieldError struct{ key, msg string }

func (e *fieldError) Error() string        { return e.key + ": " + e.msg }
func (e *fieldError) FieldKey() string     { return e.key }
func (e *fieldError) FieldMessage() string { return e.msg }
