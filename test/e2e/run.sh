#!/bin/bash
# Runs the end-to-end tests: builds what they need (once, into $KUBE_CACHE),
# starts a cluster, runs the tests and takes everything back. Root, Debian, Go.
#   run.sh [-soak | -build-only] [-run REGEXP ...]     further arguments go to go test
# -soak: five idle minutes and receivers dead for three (not in CI).
# -build-only: what takes long, and no cluster.
# E2E_LANGUAGES (go python node java), E2E_IDLE (45s: how long nothing may be
# said about the agent itself), E2E_KEEP=1 leaves the cluster up.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# rotation within seconds, requests on record, no DNS to build
export KUBE_DNS=0 KUBE_AUDIT=1 KUBE_LOG_MAX_SIZE=${KUBE_LOG_MAX_SIZE:-100Ki} KUBE_LOG_MAX_FILES=${KUBE_LOG_MAX_FILES:-5}
. "$here/kube/env.sh"
export KUBE_CACHE KUBE_STATE KUBE_RUN KUBE_NODE E2E_LANGUAGES=${E2E_LANGUAGES:-go python node java}
case ${1:-} in
-soak)
	shift
	export E2E_IDLE=5m E2E_DEAD=3m
	;;
-build-only)
	"$here/kube/build.sh"
	exec "$here/receivers/build.sh"
	;;
esac
export E2E_OUT=${E2E_OUT:-$(mktemp -d)}
mkdir -p "$E2E_OUT"

finish() {
	local rc=$?
	trap - EXIT
	if [ $rc != 0 ]; then
		for f in "$E2E_OUT"/*.log "$KUBE_STATE"/log/kubelet.log; do
			[ -s "$f" ] && { echo "--- the end of $f" >&2; tail -n 40 "$f" | cut -c1-400 >&2; }
		done
	fi
	for f in "$E2E_OUT"/*.pid; do # receivers that a test which died has left
		[ -e "$f" ] && [[ "$(readlink "/proc/$(cat "$f")/exe")" = "$KUBE_CACHE/receivers/"* ]] && kill -KILL "$(cat "$f")"
	done
	[ "${E2E_KEEP:-0}" = 1 ] || "$here/kube/down.sh" || true
	say "end to end: exit $rc; records of the receivers in $E2E_OUT"
	exit $rc
}
trap finish EXIT

"$here/receivers/build.sh"
"$here/kube/up.sh"
"$here/images.sh"
(cd "$here/../.." && go run ./manifests/image -arch "$(go env GOARCH)" -o "$E2E_OUT/nodetap.tar")
ctrk images import --digests=false "$E2E_OUT/nodetap.tar" >/dev/null
say "image imported"
cd "$here/../.."
go test -tags e2e -count=1 -timeout 40m -v ./test/e2e "$@"
