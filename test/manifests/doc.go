// Package manifests renders every base, overlay and component under manifests/
// as `kubectl apply -k` does, and checks what must hold of any change: which
// privilege each DaemonSet has, what it mounts, which API requests its role
// allows, the names that other files rely on. It does not apply them: that is
// test/e2e's part. A module of its own, so that kustomize is no dependency of
// the agent.
package manifests
