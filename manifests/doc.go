// Package manifests holds how nodetap is deployed: a kustomize base, overlays
// and components. It contains no program; its tests render each of them and
// check what must hold of any change: privilege, mounts, the API requests that
// are allowed, names that other files rely on.
package manifests
