#!/bin/bash
# Runs every fuzz target for a while: fuzz.sh [TIME]. Stops at the first finding,
# which go test leaves in the package's testdata.
set -euo pipefail
time=${1:-30s}
cd "$(dirname "$0")/.."
go list -f '{{.Dir}}' ./... | while read -r dir; do
	grep -lE '^func Fuzz' "$dir"/*_test.go >/dev/null 2>&1 || continue
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$dir"/*_test.go); do
		echo "== ${dir#"$PWD"/} $target"
		(cd "$dir" && go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" .)
	done
done
