#!/bin/bash
# gpu_run.sh [BIN]: builds, checks and measures on a machine with a GPU, and leaves $OUT/gpu.json,
# from which bench/report.py writes the tables of docs/PERFORMANCE.md.
#
# BIN holds programs that were built elsewhere (ovi, ovi-golden, ovi-image, test_ops, test_peaks, block_error,
# libovi_cuda.so and libraries that the machine lacks; in BIN/ptx a libovi_cuda.so of PTX alone:
# gpu/pack.sh makes it). Without it all of that is built first (gpu/build.sh). Full-size random models
# are made in MODELS (about 40 GB). GOLDEN: a folder of golden files beside those of the clone.
# STEPS: of the timed clips; LONG_STEPS: of the model of 10 seconds.
#
# PARTS, in the order in which they run, and about how many seconds each takes on an H100 with 16
# processors; making the models takes 50 s; the first three run side by side, beside that too:
#   check 150      golden files and operations, as the card is and as lesser ones; a block; small clips
#   sanitize 300   memcheck and racecheck                  peaks 300   every way, planned and measured
#   reference 60   the published model in PyTorch          ops 31      ovi bench
#   clip 13        a clip, resident                        whole 76    50 steps, and in fp8
#   fp8 24         products in fp8                         stream 27   4 GiB and 6 GB
#   decode 11      whole frames and split                  modes 26    from an image; 12 GiB
#   ballast 22     beside a program that holds all but 6 GiB of the card
#   long 67        960x960_10s resident and in 6 GiB       long-more 66  in 8 and 12 GiB
#   long-reference 70  960x960_10s in PyTorch              ways 90     of bringing in weights, 4 GiB
# Every command is told and noted with its exit code (gpu/pieces.sh); the exit code is the worst.
set -u
cd "$(dirname "$0")/.." || exit 1
OUT=${OUT:-bench/out} MODELS=${MODELS:-/dev/shm/ovi-models} STEPS=${STEPS:-8} LONG_STEPS=${LONG_STEPS:-4}
DEVICE=${DEVICE:-cuda} PRESET=${PRESET:-720x720_5s} GOLDEN=${GOLDEN:-}
PARTS=${PARTS:-check sanitize peaks reference ops clip whole fp8 stream decode modes ballast long long-more long-reference ways}
WORK=$(mktemp -d)
mkdir -p "$OUT"
trap 'rm -rf "$WORK"' EXIT

wanted() { [[ " $PARTS " == *" $1 "* ]]; }
# What is there so far is kept, should the rest be cut off.
at() {
    python3 bench/gpu_collect.py "$WORK" >"$WORK/gpu.json" && cp "$WORK/gpu.json" "$OUT/gpu.json"
    echo "### $1: $SECONDS s"
}

. bench/gpu/pieces.sh
. bench/gpu/build.sh
. bench/gpu/checks.sh
. bench/gpu/clips.sh

build "${1:-}" || exit 1
nvidia-smi --query-gpu=name,driver_version,memory.used,clocks.sm,clocks.max.sm,power.limit --format=csv,noheader |
    tee "$WORK/device.txt"
echo "$PARTS" >"$WORK/parts.txt"

(noted models 300 make_models; echo $? >"$WORK/models.rc") &
MODELS_MADE=$!
wanted peaks && peaks # the slowest first
wanted sanitize && sanitize
wanted check && check
wait $MODELS_MADE
[ "$(cat "$WORK/models.rc")" = 0 ] || exit 1
wanted check && check_block
settle
at checks

for part in reference ops clip whole fp8 stream decode modes ballast long long-more long-reference ways; do
    wanted $part || continue
    "part_${part//-/_}"
    at $part
done

python3 bench/report.py --show "$OUT/gpu.json"
python3 bench/gpu_verdict.py "$OUT/gpu.json"
