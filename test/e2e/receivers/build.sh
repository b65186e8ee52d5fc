#!/bin/bash
# Builds, once, the two receivers of the tests through the ordinary Go client:
# an OpenTelemetry Collector from the nested module otelcol/, and Prometheus
# from its own module, as its documentation says, with fewer discovery plugins.
# Needs go; the result stays in $KUBE_CACHE/receivers.
#   build.sh [otelcol] [prometheus]     (default: both)
set -euo pipefail
. "$(dirname "$0")/../kube/env.sh"
PROMETHEUS_VERSION=v0.309.1 # the module version of Prometheus 3.9.1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$KUBE_CACHE/receivers
unset GOFLAGS
export CGO_ENABLED=0 GOWORK=off
mkdir -p "$out"

fresh() { # NAME SUM: is what is there built from the same sources?
	[ -x "$out/$1" ] && [ "$(cat "$out/.$1.sum" 2>/dev/null)" = "$2" ]
}

otelcol() {
	local sum
	sum=$(cd "$here/otelcol" && cat main.go go.mod go.sum | sha256sum | cut -d' ' -f1)
	fresh otelcol "$sum" && return 0
	say "building the collector"
	(cd "$here/otelcol" && nice -n 10 go build -trimpath -ldflags "-s -w" -o "$out/otelcol" .) || die "building the collector failed"
	echo "$sum" >"$out/.otelcol.sum"
	say "built otelcol: $(stat -c %s "$out/otelcol") bytes"
}

prometheus() {
	local sum dir src
	sum=$({ cat "$here/prometheus/plugins.go.txt"; echo $PROMETHEUS_VERSION; } | sha256sum | cut -d' ' -f1)
	fresh prometheus "$sum" && return 0
	say "building prometheus"
	# Its go.mod excludes versions, so it builds as the main module alone, and
	# the module cache is read-only: build in a copy.
	(cd / && go mod download "github.com/prometheus/prometheus@$PROMETHEUS_VERSION") || die "downloading prometheus failed"
	dir=$(cd / && go mod download -json "github.com/prometheus/prometheus@$PROMETHEUS_VERSION" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
	[ -d "$dir" ] || die "no prometheus in the module cache"
	src=$(mktemp -d)
	cp -r --no-preserve=mode "$dir/." "$src"
	cp "$here/prometheus/plugins.go.txt" "$src/plugins/plugins.go"
	(cd "$src" && nice -n 10 go build -trimpath -ldflags "-s -w -X github.com/prometheus/common/version.Version=3.9.1" -o "$out/prometheus" ./cmd/prometheus) || { rm -rf "$src"; die "building prometheus failed"; }
	rm -rf "$src"
	echo "$sum" >"$out/.prometheus.sum"
	say "built prometheus: $(stat -c %s "$out/prometheus") bytes"
}

for p in "${@:-otelcol prometheus}"; do for q in $p; do $q; done; done
