#!/bin/sh
# run.sh BUILD [OPTIONS]: all measurements, one after the other; options as in bench.h but
# --profile. PyTorch is compared where Debian's python3-torch is installed.
set -eu
cd "$(dirname "$0")/.."
build=$1
shift

"$build/bench/ovi-bench-ops" "$@"
"$build/bench/ovi-bench-models" "$@"
if /usr/bin/python3 -c 'import torch' 2>/dev/null; then
    /usr/bin/python3 bench/compare_pytorch.py --ours "$build/bench/ovi-bench-models" "$@"
else
    echo "PyTorch: not compared (apt-get install python3-torch)" >&2
fi
