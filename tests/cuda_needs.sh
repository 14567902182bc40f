#!/bin/sh
# cuda_needs.sh LIBRARY: of NVIDIA's the cuda backend needs cuBLASLt alone: no driver, no runtime
# library, no cuDNN, which are opened where they are.
set -eu
needs=$(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p')
ours=$(echo "$needs" | grep -E '^lib(cu|nv)' || true)
[ "$ours" = libcublasLt.so.13 ] && exit 0
echo "$1: of NVIDIA's libraries expected libcublasLt.so.13 alone, found" $ours
exit 1
