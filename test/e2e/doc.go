// Package e2e holds the end-to-end tests: the built image, applied from
// manifests/ to a real one-node Kubernetes (kube/), watching a demo in several
// languages (demo/) and sending to receivers that are not ours (receivers/).
//
// The tests have the build tag e2e, need root, and are run by run.sh, which
// builds and starts all of it and takes it back. They share one cluster and run
// one after the other; each tells its own lines and requests from the others'.
package e2e
