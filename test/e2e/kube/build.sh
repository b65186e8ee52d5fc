#!/bin/bash
# Builds, once, what up.sh runs, through the ordinary Go client: every
# Kubernetes program and etcd in one executable, CoreDNS, a pause program and
# the eBPF probe. Needs go; the result stays in $KUBE_CACHE.
set -euo pipefail
. "$(dirname "$0")/env.sh"
unset GOFLAGS
export CGO_ENABLED=0 GOWORK=off
mkdir -p "$BIN" "$KUBE_CACHE/images"

stale() { # OUT SOURCEDIR LDFLAGS: is OUT missing, or built from something else?
	local sum
	sum=$(cd "$HERE/src/$2" && { cat ./*.go go.mod go.sum 2>/dev/null; echo "$3"; } | sha256sum | cut -d' ' -f1)
	[ -x "$BIN/$1" ] && [ "$(cat "$BIN/.$1.sum" 2>/dev/null)" = "$sum" ] && return 1
	echo "$sum" >"$BIN/.$1.next"
}
build() { # OUT SOURCEDIR LDFLAGS
	stale "$@" || return 0
	say "building $1"
	(cd "$HERE/src/$2" && nice -n 10 go build -trimpath -ldflags "$3" -o "$BIN/$1" .) || die "building $1 failed"
	mv "$BIN/.$1.next" "$BIN/.$1.sum"
	say "built $1: $(stat -c %s "$BIN/$1") bytes"
}

v=${KUBE_VERSION#v}
x=k8s.io/component-base/version
build kube kube "-s -w -X $x.gitVersion=$KUBE_VERSION -X $x.gitMajor=${v%%.*} -X $x.gitMinor=$(echo "$v" | cut -d. -f2) -X $x.gitTreeState=clean"
for n in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl cri; do ln -sf kube "$BIN/$n"; done
build ktool ktool "-s -w"
build pause pause "-s -w"
build bpfprobe bpfprobe "" # its own uprobe needs the symbols
[ "$KUBE_DNS" = 0 ] || build coredns coredns "-s -w -X github.com/coredns/coredns/coremain.GitCommit=local"

for i in pause bpfprobe coredns; do
	[ -x "$BIN/$i" ] || continue
	[ "$KUBE_CACHE/images/$i.tar" -nt "$BIN/$i" ] || "$BIN/ktool" image -name "localhost/kt/$i:1" -o "$KUBE_CACHE/images/$i.tar" "$BIN/$i:/$i"
done
