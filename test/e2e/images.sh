#!/bin/bash
# Makes the images of the demo (demo/) for the languages in $E2E_LANGUAGES, each
# from this machine's own interpreter and the libraries it names, and imports
# them into the cluster's containerd. Installs what is missing.
set -euo pipefail
. "$(dirname "$0")/kube/env.sh"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
languages=${E2E_LANGUAGES:-go python node java}
out=$KUBE_CACHE/demo
mkdir -p "$out"

need=()
for l in $languages; do
	case $l in
	python) /usr/bin/python3 -c 'import http.server' 2>/dev/null || need+=(python3) ;;
	node) [ -x /usr/bin/node ] || need+=(nodejs) ;;
	java) [ -x /usr/bin/java ] || need+=(default-jre-headless) ;;
	esac
done
if [ ${#need[@]} -gt 0 ]; then
	say "apt-get install ${need[*]}"
	apt-cache show "${need[0]}" >/dev/null 2>&1 || apt-get -o DPkg::Lock::Timeout=300 update -q >/dev/null || die "apt-get update failed"
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "${need[@]}" >/dev/null ||
		die "cannot install ${need[*]}: leave the language out of E2E_LANGUAGES"
fi

image() { # LANGUAGE ENTRYPOINT... -- FILES...: an image, made again only when a file is newer
	local l=$1 entry=(); shift
	while [ "$1" != -- ]; do entry+=(-entrypoint "$1"); shift; done; shift
	if [ ! -e "$out/$l.tar" ] || [ -n "$(find "$here/demo" "$BIN/ktool" -newer "$out/$l.tar")" ]; then
		ktool image -name "localhost/nodetap-demo/$l:1" -libs "${entry[@]}" -o "$out/$l.tar.new" "$@" || die "image of $l failed"
		mv "$out/$l.tar.new" "$out/$l.tar"
	fi
	ctrk images import --digests=false "$out/$l.tar" >/dev/null || die "importing $l failed"
}
for l in $languages; do
	case $l in
	go)
		CGO_ENABLED=0 go build -C "$here/../.." -trimpath -o "$out/demo" ./test/e2e/demo
		image go /demo -- "$out/demo:/demo"
		;;
	python)
		py=$(readlink -f /usr/bin/python3)
		image python "$py" -u /service.py -- "$py" "/usr/lib/$(basename "$py")" "$here/demo/service.py:/service.py"
		;;
	node)
		extra=(); [ -d /usr/share/nodejs ] && extra=(/usr/share/nodejs)
		image node /usr/bin/node /service.js -- /usr/bin/node "${extra[@]}" "$here/demo/service.js:/service.js"
		;;
	java)
		java=$(readlink -f /usr/bin/java)
		home=${java%/bin/java}
		image java "$java" -XX:TieredStopAtLevel=1 -Xmx64m /Service.java -- "$java" "$home/lib" "$home/conf" "$here/demo/Service.java:/Service.java"
		;;
	*) die "unknown language $l" ;;
	esac
done
say "demo images: $languages"
