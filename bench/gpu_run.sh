#!/bin/bash
# gpu_run.sh [BIN]: checks and measures everything on a machine with a GPU, and leaves
# $OUT/gpu.json, from which bench/report.py writes the tables of docs/PERFORMANCE.md.
#
# BIN holds the programs (ovi, ovi-golden, test_ops, libovi_cuda.so and libraries that the
# machine lacks); default: bin. Full-size random models are made in MODELS (/dev/shm: about
# 40 GB). STEPS: of the timed runs, LONG_STEPS of those of part long. PARTS: any of check reference
# ops clip whole fp8 stream decode long; whole is a clip of 50 steps, long the model of 10 seconds.
# Every part says how it ended; the exit code is that of the worst.
set -u
cd "$(dirname "$0")/.." || exit 1
BIN=$(cd "${1:-bin}" && pwd) || exit 1
export LD_LIBRARY_PATH=$BIN${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
OUT=${OUT:-bench/out} MODELS=${MODELS:-/dev/shm/ovi-models} STEPS=${STEPS:-8}
DEVICE=${DEVICE:-cuda} PRESET=${PRESET:-720x720_5s}
PARTS=${PARTS:-check reference ops clip fp8 stream decode}
WORK=$(mktemp -d) WORST=0
mkdir -p "$OUT"
trap 'rm -rf "$WORK"' EXIT
: >"$WORK/pieces.jsonl"
chmod +x "$BIN"/ovi* "$BIN"/test_ops 2>/dev/null

PROMPT="A dog barks at the sea while waves roll in and a man on the shore turns around and
laughs, warm evening light, hand-held camera. <S>Hello there, old friend.<E> <AUDCAP>Barking,
waves, a man's laughing voice, wind in the microphone.<ENDAUDCAP>"
LONG_PROMPT=$(printf 'the quick brown fox jumps over a lazy dog and %.0s' $(seq 80))

wanted() { [[ " $PARTS " == *" $1 "* ]]; }

# piece NAME LIMIT COMMAND...: runs it with its output in files, and notes seconds, exit code
# and the most device memory that the driver named meanwhile.
piece() {
    local name=$1 limit=$2 start end rc before
    shift 2
    before=$(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -1)
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 50 >"$WORK/$name.used" 2>/dev/null &
    local watch=$!
    start=$(date +%s.%N)
    timeout "$limit" "$@" >"$WORK/$name.out" 2>"$WORK/$name.err"
    rc=$?
    end=$(date +%s.%N)
    kill $watch
    wait $watch 2>/dev/null
    python3 - "$name" "$rc" "$start" "$end" "${before:-0}" "$WORK/$name.used" "$@" >>"$WORK/pieces.jsonl" <<'PY'
import json, sys
name, rc, start, end, before, used = sys.argv[1:7]
most = max((int(x) for x in open(used) if x.strip().isdigit()), default=int(before))
print(json.dumps({"name": name, "rc": int(rc), "wall_s": float(end) - float(start), "command": sys.argv[7:],
                  "before_mib": int(before), "most_mib": most}))
PY
    echo "== $name: exit $rc, $(python3 -c "print('%.1f s' % ($end - $start))")"
    if [ $rc -ne 0 ]; then
        WORST=$rc
        grep -v ENGINE "$WORK/$name.err" | tail -5
    fi
    return $rc
}

# clip NAME LIMIT OPTIONS...: a clip of the full-size model.
clip() {
    local name=$1 limit=$2
    shift 2
    piece "$name" "$limit" "$BIN/ovi" generate "$PROMPT" --models "$MODELS" --device "$DEVICE" --aspect 1:1 --seed 1 --json \
        --log-level debug --memory-report "$WORK/$name.memory.json" --save-latents "$WORK/$name.safetensors" \
        -o "$WORK/$name.y4m" "$@"
    rm -f "$WORK/$name.y4m" "$WORK/$name.wav"
}

make_models() {
    [ -d "$MODELS" ] && return 0
    "$BIN/ovi" make-checkpoint "$MODELS" --preset "$PRESET" --quiet
}

check() {
    for dtype in f32 bf16; do
        piece "golden-$dtype" 100 sh tests/golden.sh "$BIN/ovi-golden" "$DEVICE" $dtype tests/data/golden
        grep -vE '^ok' "$WORK/golden-$dtype.out" | tail -4
    done
    piece ops-check 100 "$BIN/test_ops"
    tail -2 "$WORK/ops-check.err"
}

nvidia-smi --query-gpu=name,driver_version,memory.used,clocks.sm,clocks.max.sm,power.limit --format=csv,noheader |
    tee "$WORK/device.txt"
echo "made $(date +%T)"
(make_models; echo $? >"$WORK/models.rc") 2>&1 &
wanted check && check
wait
[ "$(cat "$WORK/models.rc")" = 0 ] || { echo "no models"; exit 1; }
echo "models there $(date +%T)"

if wanted reference; then
    piece reference 80 python3 bench/compare_gpu.py --json "$WORK/reference.json"
    cat "$WORK/reference.out"
fi
if wanted ops; then
    # Stages that are warm, every operation timed alone, ceilings. The prompt fills all 512 rows.
    piece bench 100 "$BIN/ovi" bench --prompt "$LONG_PROMPT" --models "$MODELS" --device "$DEVICE" --aspect 1:1 \
        --steps 4 --repeat 3 --json --quiet --save "$WORK/speed.json"
fi
wanted clip && clip resident 120 --steps "$STEPS"
# Start of the process to raw frames and WAV, as a user waits for it.
wanted whole && clip whole-50 200 --steps 50
if wanted fp8; then
    clip step-fp8 120 --fp8-products --steps "$STEPS"
    clip step-fp8-4GiB 120 --fp8-products --vram 4GiB --steps "$STEPS"
fi
if wanted stream; then
    clip stream-4GiB 120 --vram 4GiB --steps "$STEPS"
    clip stream-6G 120 --vram 6G --steps "$STEPS"
fi
if wanted decode; then
    latents=$(ls "$WORK"/*.safetensors 2>/dev/null | head -1)
    for vram in 80G 5500M 3G; do
        piece "decode-$vram" 60 "$BIN/ovi" decode "$latents" --models "$MODELS" --device "$DEVICE" --json --log-level debug \
            --vram $vram --memory-report "$WORK/decode-$vram.memory.json" -o "$WORK/decode.y4m" --force
    done
fi
if wanted long; then
    # Published files of this variant have the same tensors, and a name of their own.
    ln -sf "$MODELS/Ovi/model.safetensors" "$WORK/model_960x960_10s.safetensors"
    long="--variant 960x960_10s --fusion $WORK/model_960x960_10s.safetensors"
    piece reference-long 140 python3 bench/compare_gpu.py --presets 960x960_10s --steps 1 --seconds 50 --no-autocast --json "$WORK/reference-long.json"
    cat "$WORK/reference-long.out"
    clip long-resident 140 $long --steps "${LONG_STEPS:-6}"
    clip long-stream-6GiB 180 $long --vram 6GiB --steps "${LONG_STEPS:-6}"
fi
python3 bench/gpu_collect.py "$WORK" >"$OUT/gpu.json" && python3 bench/report.py --show "$OUT/gpu.json"
python3 bench/gpu_overhead.py "$OUT/gpu.json" || WORST=1
exit $WORST
