#!/bin/bash
# Installs what the tests need from Debian's packages, where it is missing:
# servers and clients in other languages for the tracing tests. With -clang also
# what regenerates the BPF objects. Without root it says what is missing.
set -euo pipefail
need=()
have() { command -v "$1" >/dev/null || need+=("$2"); }
have curl curl
have python3 python3
have node nodejs
have nginx nginx-light
if [ "${1:-}" = -clang ]; then
	have clang-16 clang-16
	have llvm-strip-16 llvm-16
fi
[ ${#need[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "missing: ${need[*]}; install them, or run this as root" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -y -q --no-install-recommends "${need[@]}" >/dev/null
