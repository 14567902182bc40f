#!/bin/sh
# run.sh BUILD SECONDS [NAME]: every fuzzer (or one) for that long, from the corpus. What they
# learn stays in BUILD/fuzz, what they find in BUILD/fuzz/found: it becomes a file of
# tests/corpus/bad and a line in its LIST.
set -eu
build=$1 seconds=$2 only=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
work=$build/fuzz
mkdir -p "$work/found"
python3 "$here/seeds.py" "$work/seeds"
while read -r name kinds; do
    [ -z "$only" ] || [ "$only" = "$name" ] || continue
    mkdir -p "$work/$name"
    seeds=""
    for kind in $(echo "$kinds" | tr , ' '); do seeds="$seeds $work/seeds/$kind"; done
    echo "== $name, $seconds s"
    # shellcheck disable=SC2086  # a list of folders
    if ! "$build/tests/fuzz/$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -malloc_limit_mb=1024 -max_len=65536 -artifact_prefix="$work/found/$name-" -print_final_stats=1 \
        "$work/$name" $seeds >"$work/$name.log" 2>&1; then
        tail -40 "$work/$name.log"
        echo "$name found something: see $work/found"
        exit 1
    fi
    grep -aE 'number_of_executed_units|peak_rss|DONE' "$work/$name.log" | sed 's/^/    /'
done <"$build/fuzzers.txt"
