#!/bin/bash
# Runs every fuzz target for a while, those of the nested modules too: fuzz.sh
# [TIME]. Stops at the first finding, which go test leaves in the package's
# testdata.
set -euo pipefail
time=${1:-30s}
cd "$(dirname "$0")/.."
grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u | while read -r dir; do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$dir"/*_test.go); do
		echo "== ${dir#./} $target"
		(cd "$dir" && go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" .)
	done
done
