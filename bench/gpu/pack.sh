#!/bin/bash
# pack.sh FOLDER: what gpu_run.sh runs, for a machine that has neither FFmpeg nor oneDNN: programs,
# stripped, and the libraries that such a machine lacks. 62 MB, 23 packed, most of it the cuda backend
# and oneDNN, with which block_error compares.
set -eu
cd "$(dirname "$0")/../.."
out=${1:?a folder}

# built FOLDER OPTIONS -- TARGETS
built() {
    local folder=$1 options=()
    shift
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DOVI_MEDIA=OFF "${options[@]}" >/dev/null
    cmake --build "$folder" --target "$@" | tail -1
}

built build-gpu -DOVI_CPU=OFF -- ovi-cli ovi-golden ovi-image test_ops test_peaks ovi_cuda
built build-gpu-ptx -DOVI_CPU=OFF -DOVI_CUDA_TARGETS= -- ovi_cuda
built build-gpu-cpu -DOVI_CUDA=OFF -- block_error

mkdir -p "$out/ptx"
cp build-gpu/ovi build-gpu/ovi-golden build-gpu/bench/ovi-image build-gpu/tests/test_ops build-gpu/tests/test_peaks \
    build-gpu/libovi_cuda.so build-gpu-cpu/tests/block_error "$out"
cp build-gpu-ptx/libovi_cuda.so "$out/ptx"
strip "$out"/ovi* "$out"/test_* "$out/block_error" "$out"/libovi_cuda.so "$out"/ptx/*.so
ldd "$out"/ovi "$out"/test_* "$out/block_error" |
    awk '/libjansson|libutf8proc|libcmocka|libyaml|libdnnl|libgomp|libOpenCL/ { print $3 }' | sort -u |
    xargs -I{} cp -L {} "$out"
du -sh "$out"
